"""The maths of dictionaries: pure torch, over any tensor of activations.

    dictionary = create("topk", d_in=576, n_features=2304, k=32)
    Trainer(dictionary, TrainingConfig(steps=1000, seed=0)).train(batches)
    dictionary.save(directory)

Importing this package registers every method, so that `load_dictionary` knows them all.
"""

from sae_core.architectures import ARCHITECTURES, Loss, TiedReLU, TopK, TrainableDictionary, create
from sae_core.baselines import PCA, Basis, Identity, Random, fit_identity, fit_pca, fit_random
from sae_core.dictionary import DICTIONARIES, Dictionary, load_dictionary
from sae_core.metrics import ReconstructionMetrics, learned_to_true, mmcs, true_to_learned
from sae_core.normalization import Normalization, fit_normalization
from sae_core.training import Trainer, TrainerState, TrainingConfig

__all__ = [
    "ARCHITECTURES",
    "DICTIONARIES",
    "PCA",
    "Basis",
    "Dictionary",
    "Identity",
    "Loss",
    "Normalization",
    "Random",
    "ReconstructionMetrics",
    "TiedReLU",
    "TopK",
    "TrainableDictionary",
    "Trainer",
    "TrainerState",
    "TrainingConfig",
    "create",
    "fit_identity",
    "fit_normalization",
    "fit_pca",
    "fit_random",
    "learned_to_true",
    "load_dictionary",
    "mmcs",
    "true_to_learned",
]
