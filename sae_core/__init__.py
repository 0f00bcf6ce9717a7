"""The maths of dictionaries: pure torch, over any tensor of activations.

    dictionary = create("topk", d_in=576, n_features=2304, k=32)
    Trainer(dictionary, TrainingConfig(steps=1000, seed=0)).train(batches)
    dictionary.save(directory)

Importing this package registers every method, so that `load_dictionary` knows them all.
"""

from sae_core.architectures import (
    ARCHITECTURES,
    BatchTopK,
    Crosscoder,
    Gated,
    JumpReLU,
    Loss,
    MatryoshkaBatchTopK,
    ReLU,
    TiedReLU,
    TopK,
    TrainableDictionary,
    Transcoder,
    create,
)
from sae_core.baselines import (
    ICA,
    NMF,
    PCA,
    Basis,
    Identity,
    Random,
    fit_ica,
    fit_identity,
    fit_nmf,
    fit_pca,
    fit_random,
)
from sae_core.coactivation import Coactivation
from sae_core.dictionary import DICTIONARIES, Dictionary, load_dictionary
from sae_core.feature_statistics import FeatureStatistics
from sae_core.geometry import capacity
from sae_core.matching import (
    Matching,
    Nearest,
    learned_to_true,
    mmcs,
    mutual_nearest,
    nearest,
    one_to_one,
    true_to_learned,
)
from sae_core.metrics import ReconstructionMetrics
from sae_core.normalization import Normalization, fit_normalization
from sae_core.sweep import train_together
from sae_core.training import Trainer, TrainerState, TrainingConfig

__all__ = [
    "ARCHITECTURES",
    "DICTIONARIES",
    "ICA",
    "NMF",
    "PCA",
    "Basis",
    "BatchTopK",
    "Coactivation",
    "Crosscoder",
    "Dictionary",
    "FeatureStatistics",
    "Gated",
    "Identity",
    "JumpReLU",
    "Loss",
    "Matching",
    "MatryoshkaBatchTopK",
    "Nearest",
    "Normalization",
    "Random",
    "ReLU",
    "ReconstructionMetrics",
    "TiedReLU",
    "TopK",
    "TrainableDictionary",
    "Trainer",
    "TrainerState",
    "TrainingConfig",
    "Transcoder",
    "capacity",
    "create",
    "fit_ica",
    "fit_identity",
    "fit_nmf",
    "fit_normalization",
    "fit_pca",
    "fit_random",
    "learned_to_true",
    "load_dictionary",
    "mmcs",
    "mutual_nearest",
    "nearest",
    "one_to_one",
    "train_together",
    "true_to_learned",
]
