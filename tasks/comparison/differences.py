"""The numbers of two dictionaries beside each other, and what two experiments were asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.comparison.pairs import Pair
from tasks.report_numbers import Number, Row, numbers


def metric_rows(number: int, pair: Pair, studies_a: Sequence[Row], studies_b: Sequence[Row]) -> list[dict[str, Any]]:
    """What metrics.parquet says of the pair of dictionaries `number`: every metric that both have."""
    theirs = {_key(each): each for each in numbers(pair.b.row, studies_b)}
    return [
        {
            "pair": number,
            "hook_point": pair.a.hook_point,
            "dictionary_a": str(pair.a.ref),
            "dictionary_b": str(pair.b.ref),
            "study": ours.study,
            "asked": ours.asked or None,
            "metric": ours.metric,
            "meaning": ours.meaning,
            **_beside(ours, theirs[_key(ours)]),
        }
        for ours in numbers(pair.a.row, studies_a)
        if _key(ours) in theirs
    ]


def _key(each: Number) -> tuple[str, str, str]:
    return each.study, each.asked, each.metric


def _beside(a: Number, b: Number) -> dict[str, Any]:
    both = a.value is not None and b.value is not None
    whys = [f"{run}: {each.undefined}" for run, each in (("A", a), ("B", b)) if each.value is None]
    no_ratio = "a ratio to 0 is undefined" if both and a.value == 0 else None
    low_a, high_a = a.interval or (None, None)
    low_b, high_b = b.interval or (None, None)
    return {
        "a": _real(a.value),
        "b": _real(b.value),
        "difference": b.value - a.value if a.value is not None and b.value is not None else None,
        "ratio": b.value / a.value if a.value and b.value is not None else None,
        "a_low": low_a,
        "a_high": high_a,
        "b_low": low_b,
        "b_high": high_b,
        "undefined": "; ".join(whys) or no_ratio,
    }


def _real(value: float | None) -> float | None:
    return None if value is None else float(value)


def setting_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What config.parquet says: every setting of either experiment, null where it has none of this name."""
    ours, theirs = flat(a), flat(b)
    return [
        {"setting": name, "a": ours.get(name), "b": theirs.get(name), "differs": ours.get(name) != theirs.get(name)}
        for name in dict.fromkeys([*ours, *theirs])
    ]


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their dotted names, as text.

    Dictionaries, baselines and evaluations go by their methods: an order that changed is no difference.
    """
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            seen: Counter[str] = Counter()
            for item in value:
                kind = str(item.get("method") or item.get("evaluation") or "entry")
                seen[kind] += 1
                called = kind if seen[kind] == 1 else f"{kind} {seen[kind]}"
                found |= flat(item, f"{before}{name}.{called}.")
        else:
            found[before + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
