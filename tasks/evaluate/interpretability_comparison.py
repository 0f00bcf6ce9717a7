"""How interpretable the features of each method are, layer by layer: the main figure of Cunningham et al. (2023).

Of all interpretability evaluations of an experiment with one explainer:

    comparison.parquet   each dictionary: mean score, its 95 % interval (Student's t), number of features; also clipped
    differences.parquet  each sparse autoencoder against each baseline of its layer: difference of the means, its 95 %
                         interval and two-sided p-value by Welch's test
    moments.parquet      Spearman's correlation of score with density, skew and kurtosis over the features of a
                         dictionary
    means.svg            means with their intervals
    violins.svg          the distributions of scores
    moments.svg          scores of single features against density, skew and kurtosis

A baseline here is whatever is not a sparse autoencoder trained on the model itself: a fixed basis, an autoencoder
without a sparsity penalty, one that was trained on the model with random weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.evaluate.interpretability_drawing import draw_means, draw_moments, draw_violins
from tasks.evaluate.interpretability_scores import Scored, scored, spearman
from tasks.evaluate.results import over_seeds
from tasks.study_tables import Row, study_row

DIFFERENCES = "differences.parquet"
FIGURES = ("means.svg", "violins.svg", "moments.svg")

FEWEST = 3
"""Features that a test needs."""


@step(kind="comparison", code_version="2")
def compare_interpretability(
    place: Path, names: tuple[str, ...], evaluations: tuple[ArtifactRef, ...]
) -> dict[str, Any]:
    """Hold the dictionaries of an experiment against each other. `names` are those of the evaluations."""
    rows = [study_row(artifacts(), *entry) for entry in zip(names, evaluations, strict=True)]
    read = [scored(row, rows, artifacts().path(evaluation)) for row, evaluation in zip(rows, evaluations, strict=True)]
    write_table(place / "comparison.parquet", [summary(each) for each in read])
    write_table(place / DIFFERENCES, list(differences(read)))
    write_table(place / "moments.parquet", [row for each in read for row in correlations(each)])
    for draw, file in zip((draw_means, draw_violins, draw_moments), FIGURES, strict=True):
        draw(read, place / file)
    return {"dictionaries": len(read)}


def summary(each: Scored) -> Row:
    """A row of `comparison.parquet`."""
    told: Row = {**about(each), "sparse": each.sparse}
    for name, scores in (("score", each.score), ("score_clipped", each.clipped)):
        low, high = over_seeds(scores.tolist()) or (None, None)
        mean = scores.mean().item() if len(scores) else None
        told |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_features": len(scores)}
    return told


def about(each: Scored) -> Row:
    return {"hook_point": each.hook_point, "dictionary": each.name, "model": each.model, "ref": each.ref}


def differences(read: Sequence[Scored]) -> Iterator[Row]:
    """Rows of `differences.parquet`."""
    from scipy import stats  # a second, for those who need it

    for each in read:
        for baseline in read:
            if not each.sparse or baseline.sparse or baseline.hook_point != each.hook_point:
                continue
            row: Row = {
                "hook_point": each.hook_point, "dictionary": each.name, "baseline": baseline.name,
                "difference": None, "low": None, "high": None, "p": None, "undefined": None,
            }  # fmt: skip
            few = [those.name for those in (each, baseline) if len(those.score) < FEWEST]
            if few:
                yield row | {"undefined": f"{' and '.join(few)}: fewer than {FEWEST} features have a score"}
                continue
            found: Any = stats.ttest_ind(each.score, baseline.score, equal_var=False)
            bounds = found.confidence_interval(0.95)
            numbers = {
                "difference": (each.score.mean() - baseline.score.mean()).item(),
                "low": float(bounds.low), "high": float(bounds.high), "p": float(found.pvalue),
            }  # fmt: skip
            if np.isnan(list(numbers.values())).any():
                yield row | {"undefined": "the scores of both do not vary"}
            else:
                yield row | numbers


def correlations(each: Scored) -> Iterator[Row]:
    """Rows of `moments.parquet`."""
    for name, values in each.moments.items():
        r, features = spearman(each.score, values)
        yield {**about(each), "moment": name, "spearman": r, "features": features}
