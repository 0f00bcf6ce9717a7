"""Dictionaries that are fitted rather than trained; one file each, all of them a `Basis`."""

from sae_core.baselines.basis import Basis
from sae_core.baselines.ica import ICA, fit_ica
from sae_core.baselines.identity import Identity, fit_identity
from sae_core.baselines.nmf import NMF, fit_nmf
from sae_core.baselines.pca import PCA, fit_pca
from sae_core.baselines.random import Random, fit_random

__all__ = [
    "ICA",
    "NMF",
    "PCA",
    "Basis",
    "Identity",
    "Random",
    "fit_ica",
    "fit_identity",
    "fit_nmf",
    "fit_pca",
    "fit_random",
]
