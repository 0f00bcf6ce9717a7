"""What every evaluation leaves: `metrics.json`, beside its tables.

    evaluation   its name
    columns      the numbers that a table of dictionaries shows, each with what it means
    …            the numbers themselves
    intervals    name → [low, high], 95 %
    undefined    name → why it is null

What is undefined is null and says why: never 0, -1 or NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

METRICS = "metrics.json"
RESAMPLES = 1000
FEWEST_DOCUMENTS = 5  # of which an interval says something

Interval = list[float] | None


class NotMeasurable(Exception):
    """Why a model, a tokenizer or a dictionary cannot be asked: a result, and no failure."""


def write_metrics(
    place: Path,
    evaluation: str,
    columns: Mapping[str, str],
    values: Mapping[str, Any],
    intervals: Mapping[str, Interval] | None = None,
    undefined: Mapping[str, str] | None = None,
) -> None:
    """Write `metrics.json`. `columns` are some of the numbers, with what they mean.

    Raises ValueError when a number is missing, null or not finite and no reason is given.
    """
    undefined = dict(undefined or {})
    told = {name: None if _is_nothing(value) else value for name, value in values.items()}
    silent = [name for name in {**columns, **told} if told.get(name) is None and name not in undefined]
    if silent:
        raise ValueError(f"{evaluation}: {', '.join(silent)} is undefined, and nothing says why")
    document = {
        "evaluation": evaluation,
        "columns": dict(columns),
        **dict.fromkeys(columns),
        **told,
        "intervals": dict(intervals or {}),
        "undefined": undefined,
    }
    (place / METRICS).write_text(json.dumps(document, indent=1, allow_nan=False))


def over_seeds(values: Sequence[float]) -> Interval:
    """The 95 % interval of the mean of independent repetitions, by Student's t; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    from scipy import stats  # a second, for those who need it

    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return [mean - reach, mean + reach]


def means_over_seeds(
    by_seed: Mapping[str, Sequence[float | None]], seeds: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Mean and 95 % interval of what is known, and finite, for every seed; the others are left out."""
    known = {
        name: [value for value in values if value is not None and math.isfinite(value)]
        for name, values in by_seed.items()
    }
    whole = {name: values for name, values in known.items() if values and len(values) == seeds}
    return (
        {name: sum(values) / seeds for name, values in whole.items()},
        {name: over_seeds(values) for name, values in whole.items()},
    )


def bootstrap(
    sums: Float[Tensor, "documents sums"],
    of: Callable[[Float[Tensor, "*some sums"]], Mapping[str, Float[Tensor, "*some"]]],
) -> tuple[dict[str, Interval], dict[str, str]]:
    """95 % intervals of what `of` makes of sums over documents, by drawing documents; None where undefined, and why.

    Tokens of a document are alike, so that one by one they would promise too much.
    """
    import torch  # seconds, for those who need it

    n = len(sums)
    if n < FEWEST_DOCUMENTS:
        reason = f"{n} documents are too few for an interval: {FEWEST_DOCUMENTS} at least"
        return dict.fromkeys(of(sums.sum(0))), {"intervals": reason}
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sums[torch.randint(n, (n,), generator=generator)].sum(0) for _ in range(RESAMPLES)])
    bounds: dict[str, Interval] = {}
    undefined: dict[str, str] = {}
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for name, values in of(drawn).items():
        if torch.isfinite(values).all():
            bounds[name] = values.quantile(edges).tolist()
        else:
            bounds[name] = None
            undefined[f"intervals.{name}"] = "it is not defined for every resample of the documents"
    return bounds, undefined


class Correlation(NamedTuple):
    """Pearson's r and Spearman's rank correlation."""

    linear: float
    rank: float


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """How far two measures of the same things agree; None where there are fewer than 3, or one is constant."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    from scipy import stats  # a second, for those who need it

    linear: Any = stats.pearsonr(x, y)
    rank: Any = stats.spearmanr(x, y)
    return Correlation(float(linear.statistic), float(rank.statistic))


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
