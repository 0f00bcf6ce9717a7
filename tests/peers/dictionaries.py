"""One dictionary of every method with random weights, no bias or threshold of which is trivial."""

import torch
from torch import Tensor

from sae_core import (
    PCA,
    Basis,
    BatchTopK,
    Crosscoder,
    Dictionary,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    Random,
    ReLU,
    TiedReLU,
    TopK,
    Transcoder,
)
from sae_core.baselines.ica import ICA
from sae_core.baselines.nmf import NMF

D, N, K = 12, 40, 5

DICTIONARIES = {
    "tied_relu": lambda: TiedReLU(D, N, alpha=0.1),
    "relu": lambda: ReLU(D, N, l1_coefficient=0.1),
    "gated": lambda: Gated(D, N, l1_coefficient=0.1),
    "topk": lambda: TopK(D, N, k=K),
    "batch_topk": lambda: BatchTopK(D, N, k=K),
    "matryoshka_batch_topk": lambda: MatryoshkaBatchTopK(D, N, k=K, widths=(8, 20, N)),
    "jumprelu": lambda: JumpReLU(D, N, coefficient=0.1),
    "transcoder": lambda: Transcoder(D, N, k=K, d_out=D),
    "transcoder_skip": lambda: Transcoder(D, N, k=K, d_out=D, skip=True),
    "transcoder_relu_skip": lambda: Transcoder(D, N, k=N, d_out=7, skip=True),
    "crosscoder": lambda: Crosscoder(D, N, k=K, layers=2),
    "pca_rectified": lambda: PCA(D, 2 * D, rectify=True),
    "pca_signed": lambda: PCA(D, D, rectify=False),
    "ica_rectified": lambda: ICA(D, 2 * D, rectify=True),
    "nmf": lambda: NMF(D, N, rectify=True),
    "random_k": lambda: Random(D, N, rectify=True, k=K),
}

HELD_BY = {
    "saelens": {
        "tied_relu", "relu", "gated", "topk", "batch_topk", "matryoshka_batch_topk", "jumprelu",
        "transcoder_relu_skip", "pca_rectified", "ica_rectified", "random_k",
    },
    "dictionary_learning": {
        "tied_relu", "relu", "gated", "topk", "batch_topk", "matryoshka_batch_topk", "jumprelu",
        "pca_rectified", "ica_rectified", "random_k",
    },
    "sparsify": {"topk", "transcoder", "transcoder_skip", "random_k"},
}  # fmt: skip
"""Which of them each format can say exactly; it must refuse the others."""


def random_dictionary(name: str, seed: int = 0) -> Dictionary:
    dictionary = DICTIONARIES[name]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in dictionary.state_dict().items():
            if key == "threshold_n":
                tensor.uniform_(0.1, 0.6, generator=generator)
            elif tensor.ndim > 0:
                tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)
            if key == "directions_nd":
                tensor.div_(tensor.norm(dim=1, keepdim=True))
        if isinstance(dictionary, BatchTopK):
            dictionary.set_threshold(0.3)
        elif isinstance(dictionary, Basis):
            dictionary.gain.fill_(0.7)
    return dictionary


def random_rows(seed: int = 1) -> Tensor:
    return torch.randn(64, D, generator=torch.Generator().manual_seed(seed))
