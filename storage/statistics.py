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
    squared_error: float = 0.0
    """What the dtype on disk cost: mean over rows of the squared distance to the activations as they were."""


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
    lost_variance: float
    """Share of the variance that the dtype on disk lost: Σ squared error / Σ squared distance from the mean."""


def describe_rows(acts_rd: Tensor, original_rd: Tensor) -> tuple[PartStatistics, Tensor]:
    """Statistics of the rows [r, d] as stored, and their norms [r].

    `original_rd` is what they were before. A NaN or an infinity anywhere makes `absmax` NaN or infinite.
    """
    counts, means, stds, norms = [], [], [], []
    for block in acts_rd.split(_BLOCK_ROWS):
        rows = block.float()
        mean = rows.mean(0)
        counts.append(len(rows))
        means.append(mean.numpy())
        # Four times as fast as torch.std_mean over the first dimension.
        stds.append((torch.linalg.vector_norm(rows - mean, dim=0) / len(rows) ** 0.5).numpy())
        norms.append(torch.linalg.vector_norm(rows, dim=1))
    with np.errstate(invalid="ignore"):  # of infinities; `absmax` tells
        mean, std = _merge_moments(np.array(counts), np.array(means), np.array(stds))
    all_norms = torch.cat(norms)
    statistics = PartStatistics(
        rows=len(acts_rd),
        mean=mean.tolist(),
        std=std.tolist(),
        absmax=absmax(acts_rd),
        norm_median=all_norms.median().item(),
        norm_max=all_norms.max().item(),
        squared_error=0.0 if acts_rd is original_rd else _squared_error(acts_rd, original_rd),
    )
    return statistics, all_norms


def absmax(rows: Tensor) -> float:
    """The largest absolute value; NaN or infinity if there is one anywhere."""
    return max(abs(edge.item()) for edge in rows.aminmax())


def merge_statistics(parts: Sequence[PartStatistics]) -> StoreStatistics:
    """The statistics of all rows together. Mean, std and the extremes are exact; see `norm_median`."""
    rows = np.array([part.rows for part in parts])
    mean, std = _merge_moments(rows, np.array([part.mean for part in parts]), np.array([part.std for part in parts]))
    medians = np.array([part.norm_median for part in parts])
    by_norm = np.argsort(medians)
    middle = by_norm[np.searchsorted(np.cumsum(rows[by_norm]), rows.sum() / 2)]
    squared_error = float(np.average([part.squared_error for part in parts], weights=rows))
    variance = float(np.square(std).sum())
    return StoreStatistics(
        n_rows=int(rows.sum()),
        mean=torch.from_numpy(mean).float(),
        std=torch.from_numpy(std).float(),
        absmax=max(part.absmax for part in parts),
        norm_median=float(medians[middle]),
        norm_max=max(part.norm_max for part in parts),
        lost_variance=squared_error / variance if variance else 0.0,
    )


def _squared_error(stored_rd: Tensor, original_rd: Tensor) -> float:
    blocks = zip(stored_rd.split(_BLOCK_ROWS), original_rd.split(_BLOCK_ROWS), strict=True)
    total = sum(
        ((stored.float() - original.float()).square().sum(dtype=torch.float64).item() for stored, original in blocks)
    )
    return total / len(stored_rd)


def _merge_moments(rows: np.ndarray, means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and std [d] of a union of groups of `rows` [g] rows, from theirs [g, d]; float64."""
    weights = (rows / rows.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (np.square(stds, dtype=np.float64) + np.square(means - mean))).sum(0)
    return mean, np.sqrt(variance)
