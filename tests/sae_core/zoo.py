"""One of every architecture, small: what a test about all of them runs over."""

from collections.abc import Callable

import torch
from torch import Tensor

from sae_core import (
    BatchTopK,
    Crosscoder,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    ReLU,
    TiedReLU,
    TopK,
    TrainableDictionary,
    Transcoder,
)

D, N = 8, 24

ZOO: dict[str, Callable[[], TrainableDictionary]] = {
    "tied_relu": lambda: TiedReLU(D, N, alpha=3e-3),
    "relu": lambda: ReLU(D, N, l1_coefficient=0.1),
    "gated": lambda: Gated(D, N, l1_coefficient=0.1),
    "topk": lambda: TopK(D, N, k=2),
    "batch_topk": lambda: BatchTopK(D, N, k=2),
    "matryoshka_batch_topk": lambda: MatryoshkaBatchTopK(D, N, k=2, widths=(4, 9, N)),
    "jumprelu": lambda: JumpReLU(D, N, coefficient=1e-2),
    "jumprelu_tanh": lambda: JumpReLU(D, N, coefficient=1e-2, penalty="tanh"),
    "jumprelu_target": lambda: JumpReLU(D, N, coefficient=1.0, target_l0=2, bandwidth=0.5),
    "transcoder": lambda: Transcoder(D // 2, N, k=2, d_out=D // 2, skip=True),
    "crosscoder": lambda: Crosscoder(D, N, k=2, layers=2),
}
"""All train on rows [B, 8]."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_random_biases(dictionary: TrainableDictionary) -> TrainableDictionary:
    """In float64, with every vector and buffer away from zero, as training leaves them."""
    dictionary = dictionary.double()
    with torch.no_grad():
        for seed, parameter in enumerate(dictionary.parameters()):
            if parameter.ndim == 1 or parameter.norm() == 0:
                parameter.copy_(noise(*parameter.shape, seed=seed) / 3)
    if isinstance(dictionary, BatchTopK):
        dictionary.set_threshold(0.4)
    if isinstance(dictionary, JumpReLU):
        with torch.no_grad():
            dictionary.threshold_n.abs_()
    return dictionary
