"""Dictionaries that are fitted rather than trained; one file each, all of them a `Basis`."""

from sae_core.baselines.basis import Basis
from sae_core.baselines.identity import Identity, fit_identity
from sae_core.baselines.pca import PCA, fit_pca
from sae_core.baselines.random import Random, fit_random

__all__ = ["PCA", "Basis", "Identity", "Random", "fit_identity", "fit_pca", "fit_random"]
