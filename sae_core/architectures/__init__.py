"""The registry of dictionaries that can be trained: a name, one file each."""

import inspect
from typing import Any

from sae_core.architectures.base import Loss, SparseAutoencoder, TrainableDictionary
from sae_core.architectures.batch_topk import BatchTopK
from sae_core.architectures.crosscoder import Crosscoder
from sae_core.architectures.gated import Gated
from sae_core.architectures.jumprelu import JumpReLU
from sae_core.architectures.matryoshka import MatryoshkaBatchTopK
from sae_core.architectures.relu import ReLU
from sae_core.architectures.tied_relu import TiedReLU
from sae_core.architectures.topk import TopK
from sae_core.architectures.transcoder import Transcoder
from sae_core.dictionary import named

ARCHITECTURES: dict[str, type[TrainableDictionary]] = {
    cls.method: cls
    for cls in (TiedReLU, ReLU, Gated, TopK, BatchTopK, MatryoshkaBatchTopK, JumpReLU, Transcoder, Crosscoder)
}


def create(method: str, d_in: int, n_features: int, **arguments: Any) -> TrainableDictionary:
    """An untrained dictionary by name, such as `create("topk", 576, 2304, k=32)`.

    Raises ValueError for a name that is not registered (with the nearest ones) and for arguments that do not
    fit it.
    """
    cls = named(method, ARCHITECTURES)
    try:
        inspect.signature(cls).bind(d_in, n_features, **arguments)
    except TypeError as error:
        wanted = ", ".join(list(inspect.signature(cls).parameters)[2:])
        raise ValueError(f"{method} takes the arguments ({wanted}), got ({', '.join(arguments)}): {error}") from error
    return cls(d_in, n_features, **arguments)


__all__ = [
    "ARCHITECTURES",
    "BatchTopK",
    "Crosscoder",
    "Gated",
    "JumpReLU",
    "Loss",
    "MatryoshkaBatchTopK",
    "ReLU",
    "SparseAutoencoder",
    "TiedReLU",
    "TopK",
    "TrainableDictionary",
    "Transcoder",
    "create",
]
