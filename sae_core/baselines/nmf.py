"""Non-negative matrix factorisation (Lee & Seung 1999) of activations shifted to where they are not negative.

    y = relu(x − m), m the minimum of each dimension        y ≈ c D, c ≥ 0, D ≥ 0 with unit rows
    c = argmin_{c ≥ 0} ‖y − c D‖²                           x̂ = c D + m

What lies below the minimum of the rows that it was fitted on counts as that minimum. Codes are the solution of the
least-squares problem, and no product with weights: `ITERATIONS` steps of accelerated projected gradient (FISTA, Beck
& Teboulle 2009) from 0, whose momentum a row drops where it points uphill (O'Donoghue & Candès 2015).

Shapes: B rows, d activation width, n features.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_core.baselines.basis import Basis
from sae_core.dictionary import register
from sae_core.moments import RowMoments

ITERATIONS = 200
"""Of the solver: on planted factors its squared error is then within 1 % of the least possible one."""

ROWS_PER_STEP = 1024
"""Of one update of the factors."""

UPDATES = 200
"""At d = n = 576 they take two to three minutes of one core."""


@register
class NMF(Basis):
    """Non-negative directions with non-negative codes."""

    method: ClassVar[str] = "nmf"

    def _coefficients(self, centred_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        gram_nn = self.directions_nd @ self.directions_nd.T
        target_Bn = F.linear(centred_Bd.relu(), self.directions_nd)
        lipschitz = gram_nn.sum(1).max()  # no eigenvalue exceeds the largest row sum of a matrix that is ≥ 0
        f_Bn = ahead_Bn = torch.zeros_like(target_Bn)
        t_B1 = torch.ones_like(target_Bn[..., :1])
        for _ in range(ITERATIONS):
            next_Bn = (ahead_Bn - (ahead_Bn @ gram_nn - target_Bn) / lipschitz).relu()
            uphill_B1 = ((ahead_Bn - next_Bn) * (next_Bn - f_Bn)).sum(-1, keepdim=True) > 0
            t_B1 = torch.where(uphill_B1, 1.0, t_B1)
            next_t_B1 = (1 + (1 + 4 * t_B1.square()).sqrt()) / 2
            ahead_Bn = next_Bn + (t_B1 - 1) / next_t_B1 * (next_Bn - f_Bn)
            f_Bn, t_B1 = next_Bn, next_t_B1
        return f_Bn


def fit_nmf(batches: Callable[[], Iterator[Tensor]], n_features: int, seed: int, k: int | None = None) -> NMF:
    """NMF of rows [B, d] by scikit-learn's MiniBatchNMF, with no more of the stream in memory than one update needs.

    `batches` is called once for the minimum, and then for UPDATES updates of the factors: a long stream is not read
    to its end, a short one is read again.

    Raises ValueError when there are no rows or fewer than features, a value is not finite, all rows are the same, or
    k exceeds the number of features.
    """
    from sklearn.decomposition import MiniBatchNMF  # seconds, for those who fit one

    minimum_d = torch.tensor(float("inf"))

    def watched() -> Iterator[Tensor]:
        nonlocal minimum_d
        for x_Bd in batches():
            yield x_Bd
            if len(x_Bd):
                minimum_d = torch.minimum(minimum_d.to(x_Bd), x_Bd.amin(0))

    moments = RowMoments.of(watched())
    if moments.rows < n_features:
        raise ValueError(f"NMF of {n_features} features needs at least as many rows, and got {moments.rows}")
    if not moments.scatter.any():
        raise ValueError(f"all {moments.rows} rows are the same: shifted by their minimum they are 0")
    nmf = NMF(len(minimum_d), n_features, rectify=True, k=k)
    nmf.center_d.copy_(minimum_d)

    solver = MiniBatchNMF(n_features, random_state=seed)  # pyright: ignore[reportArgumentType]
    stream = itertools.chain.from_iterable(_steps(batches(), moments.rows) for _ in itertools.count())
    for x_Bd in itertools.islice(stream, UPDATES):
        solver.partial_fit((x_Bd.to(minimum_d) - minimum_d).float().numpy())
    # A factor that has died away entirely still gets a direction: that of all ones.
    factors_nd = torch.from_numpy(solver.components_).double().clamp_min(1e-30)
    nmf.directions_nd.copy_(factors_nd / factors_nd.norm(dim=1, keepdim=True))
    return nmf


def _steps(batches: Iterator[Tensor], rows: int) -> Iterator[Tensor]:
    """A stream of so many rows, cut anew into batches of ROWS_PER_STEP; the remainder only where it is all.

    The solver weighs every update alike, so a remainder of three rows would undo what a thousand have said.
    """
    waiting: list[Tensor] = []
    for x_Bd in batches:
        *whole, rest = torch.cat([*waiting, x_Bd]).split(ROWS_PER_STEP)
        waiting = [rest]
        yield from whole
    if len(waiting[0]) == min(rows, ROWS_PER_STEP):
        yield waiting[0]
