"""What a report says of each of its dictionaries, number by number: of the reconstruction, and of every study."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RECONSTRUCTION = "reconstruction"

ABOUT = ("hook_point", "method", "params", "model")
"""What tells which dictionary a row of dictionaries.json or studies.json is of."""

Row = Mapping[str, Any]


class Number(NamedTuple):
    """One number about one dictionary."""

    study: str
    """`reconstruction`, or the title of a study."""
    asked: str
    """With what the study was asked, as JSON: of two studies with one title only those are alike that share it."""
    metric: str
    meaning: str | None
    value: float | None
    interval: tuple[float, float] | None
    """95 %."""
    undefined: str | None
    """Why there is no value."""


def numbers(dictionary: Row, studies: Sequence[Row]) -> list[Number]:
    """All numbers about a row of dictionaries.json, the studies' from the rows of studies.json."""
    found = _numbers(dictionary, RECONSTRUCTION, "", {name: None for name in dictionary if name not in ABOUT})
    for study in studies:
        if all(study.get(name) == dictionary[name] for name in ABOUT):
            asked = json.dumps(study["asked"], sort_keys=True)
            found += _numbers(study, study["title"], asked, study["columns"])
    return found


def _numbers(row: Row, study: str, asked: str, columns: Mapping[str, str | None]) -> list[Number]:
    undefined, intervals = row.get("undefined", {}), row.get("intervals", {})
    found = []
    for name, meaning in columns.items():
        value, why, interval = row[name], undefined.get(name), intervals.get(name)
        if (value is None and why is not None) or (isinstance(value, int | float) and not isinstance(value, bool)):
            bounds = (interval[0], interval[1]) if interval else None
            found.append(Number(study, asked, name, meaning, value, bounds, why))
    return found
