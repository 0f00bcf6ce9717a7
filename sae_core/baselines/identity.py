"""The model's own basis: each dimension a feature (the paper's identity-ReLU).

c = relu(x − x̄)        x̂ = c + x̄
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sae_core.baselines.basis import Basis
from sae_core.dictionary import register
from sae_core.moments import RowMoments


@register
class Identity(Basis):
    """One feature for each dimension, with a ReLU."""

    method: ClassVar[str] = "identity"


def fit_identity(batches: Iterator[Tensor], k: int | None = None) -> Identity:
    """The standard basis, centred on the mean of rows [B, d]."""
    mean_d = RowMoments.of(batches).mean_d
    identity = Identity(len(mean_d), len(mean_d), rectify=True, k=k)
    identity.directions_nd.copy_(torch.eye(len(mean_d)))
    identity.center_d.copy_(mean_d)
    return identity
