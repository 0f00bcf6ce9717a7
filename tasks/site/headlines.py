"""Of each evaluation the number that it is known by, which way is better, and what it is held against.

A number means something only beside a control: the same method on a model with random weights where the experiment has
one, random directions where it has those, or what the evaluation itself did without the dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tasks.cells import RANDOM_WEIGHTS
from tasks.evaluate.interpretability_scores import is_sparse
from tasks.site.material import Study
from tasks.study_tables import Row, StudyTable


class Headline(NamedTuple):
    metric: str
    told: str
    """What the number is, in words."""
    best: str
    """"high", "low", or "half": nearest to 1/2, which is chance."""
    control: str | None = None
    """The metric of the same evaluation that it is held against."""
    control_told: str = ""
    of_any_size: bool = True
    """Whether dictionaries that are not sparse can be held against those that are."""


HEADLINES = {
    "faithfulness": (Headline("ce_recovered", "CE recovered", "high", of_any_size=False),),
    "interpretability": (
        Headline("score", "score", "high"),
        Headline("detection", "detection", "high"),
        Headline("fuzzing", "fuzzing", "high"),
        Headline("intruder", "intruder", "high"),
    ),
    "ioi": (Headline("features_to_half_kl", "features to half the KL", "low"),),
    "erasure": (
        Headline("p_correct", "P(correct) after erasure", "half", "p_correct_random", "the best random direction"),
    ),
    "pattern": (Headline("best_f1", "F1", "high", "residual_best_f1", "the best single dimension of the activations"),),
    "circuit": (
        Headline(
            "decrease_children",
            "share that ablating the children takes away",
            "high",
            "decrease_random",
            "as many random features",
        ),
    ),
    "probing": (
        Headline("accuracy_1", "accuracy on one feature", "high", "accuracy_dense", "a probe on the activations"),
    ),
    "steering": (
        Headline("share_steered", "share of pattern when steered", "high", "share_unsteered", "without steering"),
    ),
}
"""The first that an evaluation has is taken."""


class Value(NamedTuple):
    """A number of one dictionary."""

    row: Row
    value: float
    interval: Sequence[float] | None

    @property
    def ref(self) -> str:
        """The evaluation that says so."""
        return self.row["ref"]


class Finding(NamedTuple):
    """The best sparse autoencoder of an evaluation, the best baseline, and the control."""

    headline: Headline
    best: Value
    baseline: Value | None
    control: Value | None
    control_told: str
    """What the control is."""


def headline_of(table: StudyTable, evaluation: str) -> Headline | None:
    return next((each for each in HEADLINES.get(evaluation, ()) if each.metric in table.meanings), None)


def finding(table: StudyTable, rows: Sequence[tuple[Row, Study]]) -> Finding | None:
    """None where it is defined for no sparse autoencoder."""
    headline = headline_of(table, rows[0][1].evaluation)
    if headline is None:
        return None
    there = [row for row, _ in rows if row[headline.metric] is not None]
    sparse = [row for row in there if row["trained"] and is_sparse(row)]
    if not sparse:
        return None

    def least(those: Sequence[Row]) -> Row | None:
        return min(those, key=lambda row: distance(headline, row[headline.metric]), default=None)

    best = min(sparse, key=lambda row: distance(headline, row[headline.metric]))
    # What is not sparse keeps all of the activations if it likes: how faithful it is says nothing.
    fair = [row for row in there if row not in sparse and not is_control(row) and headline.of_any_size]
    baseline = least(fair)
    control, told = _control(headline, there, best)
    own = value(best, headline.metric)
    return Finding(headline, own, None if baseline is None else value(baseline, headline.metric), control, told)


def _control(headline: Headline, there: Sequence[Row], best: Row) -> tuple[Value | None, str]:
    here = [row for row in there if row["hook_point"] == best["hook_point"]]
    same = [row for row in here if _is_random_model(row) and row["params"] == best["params"]]
    # The experiment trains one method on the random model.
    for row in same or [row for row in here if _is_random_model(row)]:
        return value(row, headline.metric), f"{row['method']}"
    for row in here:
        if is_control(row):
            return value(row, headline.metric), "random directions"
    if headline.control is not None and best.get(headline.control) is not None:
        return value(best, headline.control), headline.control_told
    return None, ""


def is_control(row: Row) -> bool:
    return _is_random_model(row) or _method(row) == "random"


def distance(headline: Headline, value: float) -> float:
    """From what would be best: the smaller the better."""
    return {"high": -value, "low": value, "half": abs(value - 0.5)}[headline.best]


def value(row: Row, metric: str) -> Value:
    return Value(row, row[metric], row["intervals"].get(metric))


def meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two intervals have a point in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def _is_random_model(row: Row) -> bool:
    return RANDOM_WEIGHTS in row["model"]


def _method(row: Row) -> str:
    """Without the model that a table tells beside it."""
    return row["method"].partition(",")[0]
