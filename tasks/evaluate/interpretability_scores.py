"""The scores of several dictionaries' features, as they are compared and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from storage.tables import read_table
from tasks.cells import RANDOM_WEIGHTS, named
from tasks.evaluate.interpretability import SCORES, STATISTICS
from tasks.evaluate.results import correlation
from tasks.specs import PENALTIES
from tasks.study_tables import Row


class Scored(NamedTuple):
    """A dictionary with the scores of its features; those without a score are left out."""

    ref: str
    hook_point: str
    name: str
    model: str
    sparse: bool
    """Whether it is a sparse autoencoder of the model itself, and not a baseline."""
    score: Float[np.ndarray, " features"]
    clipped: Float[np.ndarray, " features"]
    moments: dict[str, Float[np.ndarray, " features"]]
    """Of the same features as `score`; NaN where undefined."""


def scored(row: Row, rows: Sequence[Row], evaluation: Path) -> Scored:
    """What an evaluation found; `row` tells of its dictionary, `rows` of all that it stands beside."""
    table = read_table(evaluation / SCORES)
    columns = ("score", "score_clipped", *STATISTICS)
    # A table of no features has no columns.
    numbers = {name: table[name].to_numpy().astype(float) if len(table) else np.zeros(0) for name in columns}
    there = ~np.isnan(numbers["score"])
    clipped = numbers["score_clipped"]
    return Scored(
        ref=row["ref"],
        hook_point=row["hook_point"],
        name=named(row, rows),
        model=row["model"],
        sparse=row["trained"] and is_sparse(row),
        score=numbers["score"][there],
        clipped=clipped[~np.isnan(clipped)],
        moments={name: numbers[name][there] for name in STATISTICS},
    )


def is_sparse(row: Row) -> bool:
    return all(row["params"].get(name) != 0 for name in PENALTIES) and RANDOM_WEIGHTS not in row["model"]


def spearman(x: Float[np.ndarray, " features"], y: Float[np.ndarray, " features"]) -> tuple[float | None, int]:
    """Correlation of ranks, and of how many pairs, those with a NaN left out; None where undefined."""
    there = ~np.isnan(x) & ~np.isnan(y)
    found = correlation(x[there].tolist(), y[there].tolist())
    return None if found is None else found.rank, int(there.sum())
