"""Random directions: what a dictionary is worth that knows nothing of the data but its mean.

D: unit rows, uniform on the sphere        c = relu((x − x̄) Dᵀ)        x̂ = gain · c D + x̄

gain = Σ⟨x − x̄, c D⟩ / Σ‖c D‖²,  the least-squares one: without it n overlapping directions overshoot many
times
"""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.baselines.basis import Basis
from sae_core.dictionary import register
from sae_core.moments import RowMoments


@register
class Random(Basis):
    """Seeded random unit directions with a ReLU."""

    method: ClassVar[str] = "random"


def fit_random(batches: Callable[[], Iterator[Tensor]], n_features: int, seed: int, k: int | None = None) -> Random:
    """Random directions for rows [B, d]. `batches` is called twice: for the mean, then for the gain."""
    mean_d = RowMoments.of(batches()).mean_d
    random = Random(len(mean_d), n_features, rectify=True, k=k)
    generator = torch.Generator().manual_seed(seed)
    random.directions_nd.copy_(F.normalize(torch.randn(n_features, len(mean_d), generator=generator), dim=1))
    random.center_d.copy_(mean_d)

    explained, squared = 0.0, 0.0
    for x_Bd in batches():
        x_Bd = x_Bd.to(random.center_d)
        rebuilt_Bd = (random(x_Bd) - random.center_d).double()  # gain is still 1
        explained += ((x_Bd - random.center_d) * rebuilt_Bd).sum().item()
        squared += rebuilt_Bd.square().sum().item()
    random.gain.fill_(explained / squared if squared > 0 else 1.0)
    return random
