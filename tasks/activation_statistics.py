"""What the rows of a hook point are like: norms, outlier dimensions, sinks, and how well their order is shuffled.

One pass over the rows in the order of the store and a few epochs of shuffled batches; memory does not grow with the
number of rows. Rows that the filter leaves out are counted among the norms and the sinks, and nowhere else: a few
attention sinks hold most of the energy of all rows.

    lost variance      share of the variance that the dtype on disk lost, as recorded while writing
    outlier dimension    Σ x_d² is over 10 times its fair share Σ |x|² / d, or |mean_d| or sd_d is over 10 times the
                         median sd of the dimensions
    sink position        its median norm is over 10 times the median of all rows
    deff                 mean over d of B · var(means of batches) / var(rows): 1 where batches are as varied as rows
                         drawn one by one, so that a batch of B rows says as much as B / deff of them
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.moments import RowMoments
from storage.activation_reader import ActivationReader
from storage.row_filter import RowFilter
from tasks.progress import Progress

FAR_OUT = 10.0
SINK = 10.0
BATCH = 1024
ENOUGH_BATCHES = 256  # for a variance that is 9 % off in one dimension, and much less over all of them
FEWEST_BATCHES = 32
MOST_EPOCHS = 8


def describe(store: ActivationReader, hook_point: str, keep: RowFilter, seed: int = 0) -> dict[str, Any]:
    """All of the above as JSON. What is undefined is null, and `undefined` says why."""
    n_rows = store.n_rows
    with Progress(f"look at {hook_point}", n_rows, "rows") as progress:
        recorded = store.statistics(hook_point)
        rows = RowStatistics(store.layout.context_length, recorded.norm_median)
        for chunk, (acts, row_ids) in zip(store.chunks(), store.iter_rows(hook_point), strict=True):
            rows.update(acts, row_ids, torch.from_numpy(store.is_kept(hook_point, keep, chunk)))
            progress.add(len(acts))
    left_out = store.count_left_out(hook_point, keep)
    undefined: dict[str, str] = {}
    if rows.moments.rows == 0:
        undefined["outliers"] = "the filter leaves out every row"
    if rows.moments.rows < 2 * FEWEST_BATCHES:
        undefined["shuffle"] = f"{rows.moments.rows} kept rows are too few for {FEWEST_BATCHES} batches"
    elif not rows.moments.scatter.any():
        undefined["shuffle"] = "all kept rows are the same"
    return {
        "rows": n_rows,
        "width": store.layout.hook_points[hook_point],
        "lost_variance": recorded.lost_variance,
        "norm": rows.norms.described(),
        "left_out": {**left_out, "share": 1 - left_out["kept"] / n_rows},
        "outliers": None if "outliers" in undefined else outliers(rows.moments),
        "sinks": rows.sinks(),
        "shuffle": None if "shuffle" in undefined else shuffle_quality(store, hook_point, keep, rows.moments, seed),
        "undefined": undefined,
    }


class RowStatistics:
    """Norms and sinks of all rows, moments of the kept ones."""

    def __init__(self, context_length: int, norm_median: float) -> None:
        self.norm_median = norm_median
        self.norms = NormHistogram()
        self.moments = RowMoments()
        self.at_position = np.zeros(context_length, np.int64)
        self.sinks_at = np.zeros(context_length, np.int64)

    def update(
        self, acts_rd: Float[Tensor, "r d"], row_ids: Int[np.ndarray, "r 2"], kept_r: Bool[Tensor, " r"]
    ) -> None:
        norms = torch.linalg.vector_norm(acts_rd, dim=1)
        self.norms.update(norms)
        positions = row_ids[:, 1].astype(np.int64)
        length = len(self.at_position)
        self.at_position += np.bincount(positions, minlength=length)
        sinks = (norms > SINK * self.norm_median).numpy()
        self.sinks_at += np.bincount(positions[sinks], minlength=length)
        self.moments.update(acts_rd[kept_r])

    def sinks(self) -> dict[str, Any]:
        """Positions where most sequences have a sink, and the sinks elsewhere."""
        # More than half of the rows are above the limit: so is their median.
        found = np.flatnonzero(2 * self.sinks_at > self.at_position)
        positions = [
            {"position": int(p), "sequences": int(self.sinks_at[p]), "of": int(self.at_position[p])} for p in found
        ]
        return {"positions": positions, "rows_elsewhere": int(self.sinks_at.sum() - self.sinks_at[found].sum())}


class NormHistogram:
    """Norms of any number of rows, in bins 0.1 % wide.

    The bits of a positive float32, read as an integer, are in the order of the numbers: the upper ones, 8 of the
    exponent and 10 of the mantissa, are the number of a bin.
    """

    SHIFT = 13
    BINS = 1 << (31 - SHIFT)

    def __init__(self) -> None:
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.sum = 0.0
        self.max = 0.0

    def update(self, norms: Float[Tensor, " r"]) -> None:
        bins = norms.contiguous().view(torch.int32).long() >> self.SHIFT
        self.counts += torch.bincount(bins, minlength=self.BINS)
        self.sum += norms.sum(dtype=torch.float64).item()
        self.max = max(self.max, norms.max().item())

    def quantile(self, share: float) -> float:
        """The norm that `share` of the rows are at or below."""
        cumulative = self.counts.cumsum(0)
        bin_number = int(torch.searchsorted(cumulative, max(1, round(share * int(cumulative[-1])))))
        middle = (bin_number << self.SHIFT) + (1 << (self.SHIFT - 1))
        return min(torch.tensor(middle, dtype=torch.int32).view(torch.float32).item(), self.max)

    def described(self) -> dict[str, float]:
        mean = self.sum / int(self.counts.sum())
        quantiles = {"p1": self.quantile(0.01), "median": self.quantile(0.5), "p99": self.quantile(0.99)}
        return {"mean": mean, **quantiles, "max": self.max}


def outliers(moments: RowMoments) -> dict[str, Any]:
    """The dimensions that stand far out, those with the largest share of the raw energy first."""
    variance = moments.scatter / moments.rows
    energy = variance + moments.mean_d.square()
    share = energy / energy.sum()
    sd = variance.sqrt()
    limit = FAR_OUT * sd.median()
    far_out = (share > FAR_OUT / len(share)) | (moments.mean_d.abs() > limit) | (sd > limit)
    order = share.argsort(descending=True)
    dimensions = [
        {
            "dimension": int(d),
            "mean": moments.mean_d[d].item(),
            "sd": sd[d].item(),
            "energy_share": share[d].item(),
        }
        for d in order
        if far_out[d]
    ]
    return {"energy_share": share[far_out].sum().item(), "dimensions": dimensions}


def shuffle_quality(
    store: ActivationReader, hook_point: str, keep: RowFilter, moments: RowMoments, seed: int
) -> dict[str, Any]:
    """How much less a shuffled batch says than as many independent rows; `moments` are those of the kept rows."""
    batch = min(BATCH, moments.rows // FEWEST_BATCHES)
    epochs = min(MOST_EPOCHS, math.ceil(ENOUGH_BATCHES / (moments.rows // batch)))
    scatter, freedom = torch.zeros_like(moments.mean_d), 0
    with Progress(f"shuffle {hook_point}", epochs * (moments.rows // batch) * batch, "rows") as progress:
        for epoch in range(epochs):
            means = RowMoments()
            for rows in store.iter_batches(hook_point, batch, seed=seed, epoch=epoch, keep=keep):
                means.update(rows.mean(0, keepdim=True, dtype=torch.float64))
                progress.add(batch)
            # Within an epoch, whose batches share no row: divided by one less than their number, the expected
            # variance of their means is that of independent rows.
            scatter, freedom = scatter + means.scatter, freedom + means.rows - 1
    varies = moments.scatter > 0
    deff = batch * (scatter / freedom)[varies] / (moments.scatter / (moments.rows - 1))[varies]
    mean = deff.mean().item()
    return {"batch": batch, "batches": freedom + epochs, "deff": mean, "effective_rows": batch / mean}
