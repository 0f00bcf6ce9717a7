"""What a store knows about its activations without reading them: kept with every part, merged on demand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

# Rows looked at in one go: the working set stays in the cache, and float32 sums stay exact enough.
_BLOCK_ROWS = 4096


class PartStatistics(BaseModel):
    """Of one hook point's rows in one part, as stored (after the cast)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    mean: list[float]
    """[d]"""
    std: list[float]
    """[d], population (divided by rows)."""
    absmax: float
    norm_median: float
    """Median L2 norm of a row."""
    norm_max: float


@dataclass(frozen=True)
class StoreStatistics:
    """Of one hook point's rows in the whole store, whatever a reader's RowFilter leaves out."""

    n_rows: int
    mean: Tensor
    """[d] float32"""
    std: Tensor
    """[d] float32, population."""
    absmax: float
    norm_median: float
    """The median of the parts' medians, weighted by rows. Parts are random samples of the sequences, so it is
    close to the median of all rows, and it does not move when outliers do."""
    norm_max: float


def describe_rows(acts_rd: Tensor) -> PartStatistics:
    """Statistics of the rows [r, d]; a NaN or an infinity anywhere makes `absmax` NaN or infinite."""
    counts, means, stds, peaks, norms = [], [], [], [], []
    for block in acts_rd.split(_BLOCK_ROWS):
        rows = block.float()
        mean = rows.mean(0)
        counts.append(len(rows))
        means.append(mean.numpy())
        stds.append((rows - mean).square().mean(0).sqrt().numpy())
        peaks.append(rows.abs().max())
        norms.append(torch.linalg.vector_norm(rows, dim=1))
    with np.errstate(invalid="ignore"):  # of infinities; `absmax` tells
        mean, std = _merge_moments(np.array(counts), np.array(means), np.array(stds))
    all_norms = torch.cat(norms)
    return PartStatistics(
        rows=len(acts_rd),
        mean=mean.tolist(),
        std=std.tolist(),
        absmax=torch.stack(peaks).max().item(),
        norm_median=all_norms.median().item(),
        norm_max=all_norms.max().item(),
    )


def merge_statistics(parts: Sequence[PartStatistics]) -> StoreStatistics:
    """The statistics of all rows together. Mean, std and the extremes are exact; see `norm_median`."""
    rows = np.array([part.rows for part in parts])
    mean, std = _merge_moments(rows, np.array([part.mean for part in parts]), np.array([part.std for part in parts]))
    medians = np.array([part.norm_median for part in parts])
    by_norm = np.argsort(medians)
    middle = by_norm[np.searchsorted(np.cumsum(rows[by_norm]), rows.sum() / 2)]
    return StoreStatistics(
        n_rows=int(rows.sum()),
        mean=torch.from_numpy(mean).float(),
        std=torch.from_numpy(std).float(),
        absmax=max(part.absmax for part in parts),
        norm_median=float(medians[middle]),
        norm_max=max(part.norm_max for part in parts),
    )


def _merge_moments(rows: np.ndarray, means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and std [d] of a union of groups of `rows` [g] rows, from theirs [g, d]; float64."""
    weights = (rows / rows.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (np.square(stds, dtype=np.float64) + np.square(means - mean))).sum(0)
    return mean, np.sqrt(variance)
