"""How numbers and parameters are told in a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RANDOM_WEIGHTS = "(random weights)"
"""What stands behind the name of a model that is the control of the one with that name."""


def method(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """`topk`, and of which model where the rows are about several: `topk, random weights` of one and its control."""
    models = {row["model"] for row in rows}
    if len(models) == 1:
        return entry["method"]
    own = {model: model.removesuffix(f" {RANDOM_WEIGHTS}") for model in models}
    told = [entry["method"]]
    if len(set(own.values())) > 1:
        told.append(own[entry["model"]])
    if own[entry["model"]] != entry["model"]:
        told.append(RANDOM_WEIGHTS.strip("()"))
    return ", ".join(told)


def named(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """`topk (expansion=4, k=32)`: a dictionary among others."""
    told = parameters(entry["params"], rows)
    return f"{method(entry, rows)} ({told})" if told else method(entry, rows)


def method_and_params(spec: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a dictionary was asked to be, by the spec that it was made with.

    Of one that was brought from elsewhere nothing is known: (None, {}).
    """
    params = dict(spec.get("dictionary") or spec.get("baseline") or {})
    return params.pop("method", None), params


def parameters(params: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """`expansion=4, k=32`: what tells dictionaries apart. A seed or learning rate is told only where it varies."""
    always = {"expansion", "k", "alpha", "l1_coefficient", "target_l0"}

    def varies(name: str) -> bool:
        return len({json.dumps(entry["params"][name]) for entry in rows if name in entry["params"]}) > 1

    def told(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value).replace(", ", ",")

    return ", ".join(
        f"{name}={told(value)}"
        for name, value in params.items()
        if value is not None and (name in always or varies(name))
    )


DIGITS = 6
"""Significant digits of the numbers that pages load."""


def rounded(value: float) -> float:
    """To DIGITS significant digits; whole numbers stay."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def all_rounded(values: Iterable[float | None]) -> list[float | None]:
    """Each of them; what is missing stays so."""
    return [None if value is None else rounded(value) for value in values]


def slug_of(method: str, hook_point: str, ref: str) -> str:
    """What the pages of a dictionary are called: `topk-blocks.9.hook_resid_post-1f3a22bc` of dictionary/1f3a22bc…"""
    return f"{method}-{hook_point}-{ref.partition('/')[2][:8]}"


def cell(value: Any, form: str = ".4g") -> str:
    """A table cell; a missing value is a dash, never a zero."""
    if value is None:
        return "—"
    return format(value, form) if isinstance(value, float) else str(value)


def with_interval(value: Any, interval: Sequence[float] | None, form: str = ".3g") -> str:
    """`12.5 [11.2, 13.8]`, or the value alone where there is no interval."""
    if value is None or interval is None:
        return cell(value, form)
    low, high = (format(bound, form) for bound in interval)
    return f"{cell(value, form)} [{low}, {high}]"
