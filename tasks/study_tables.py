"""What was asked of dictionaries beyond how well they reconstruct: a table for each evaluation.

Every evaluation says itself which of its numbers a table shows, and what they mean (tasks.evaluate.results).
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from storage.artifacts import AnyStore, ArtifactRef
from tasks.cells import cell, method, method_and_params, parameters, with_interval
from tasks.evaluate.results import METRICS

Row = dict[str, Any]


ABOUT = ("hook_point", "method", "parameters")
"""The columns that say which dictionary a row is about."""


@dataclass(frozen=True)
class StudyTable:
    """One evaluation of several dictionaries."""

    title: str
    name: str
    """Of its file, and of its artifact in the UI: letters, digits and underscores, unlike that of any other table."""
    meanings: Mapping[str, str]
    """The columns of numbers, and what they mean."""
    rows: Sequence[Row]

    @property
    def file(self) -> str:
        return f"{self.name}.parquet"

    @staticmethod
    def about(row: Row) -> dict[str, str]:
        """Which dictionary a row is about, in two columns."""
        told = f"{row['method']} ({row['parameters']})" if row["parameters"] else row["method"]
        return {"hook point": row["hook_point"], "method": told}

    @staticmethod
    def told(row: Row, name: str) -> str:
        """A number with its interval."""
        return with_interval(row[name], row["intervals"].get(name))

    def reasons(self) -> dict[str, list[str]]:
        """Why numbers are missing, and of which dictionaries."""
        told: dict[str, dict[str, None]] = {}
        for row in self.rows:
            whose = " at ".join(reversed(self.about(row).values()))
            for name in self.meanings:
                if row[name] is None:
                    told.setdefault(row["undefined"][name], {})[whose] = None
        return {reason: list(whose) for reason, whose in told.items()}

    def shown(self, row: Row) -> dict[str, str]:
        """A row as a person reads it."""
        return {name: cell(row[name]) for name in ABOUT} | {name: self.told(row, name) for name in self.meanings}

    def flat(self) -> list[Row]:
        """The rows as numbers: name, name_low and name_high of those that have an interval, and why others are null."""
        with_bounds = [name for name in self.meanings if any(row["intervals"].get(name) for row in self.rows)]
        flat = []
        for row in self.rows:
            bounds = {name: row["intervals"].get(name) or (None, None) for name in with_bounds}
            ends = {f"{name}_{end}": bounds[name][at] for name in with_bounds for at, end in enumerate(("low", "high"))}
            why = "; ".join(f"{name}: {row['undefined'][name]}" for name in self.meanings if row[name] is None)
            numbers = {name: row[name] for name in self.meanings}
            flat.append({"ref": row["ref"], **{name: row[name] for name in ABOUT}, **numbers, **ends})
            flat[-1]["undefined"] = why or None
        return flat

    def markdown(self) -> str:
        lines = [" | ".join([*ABOUT, *self.meanings]), " | ".join("---" for _ in (*ABOUT, *self.meanings))]
        for row in self.rows:
            lines.append(
                " | ".join([*(cell(row[name]) for name in ABOUT), *(self.told(row, n) for n in self.meanings)])
            )
        return "\n".join([f"## {self.title}", "", *(f"| {line} |" for line in lines), ""])


def study_tables(rows: Sequence[Row]) -> list[StudyTable]:
    """One table for each evaluation, in the order in which they were asked for; its rows hook point by hook point.

    Where the same is asked twice, the titles say with which parameters.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["title"], json.dumps(row["asked"], sort_keys=True)), []).append(row)
    tables: list[StudyTable] = []
    for (title, _), here in groups.items():
        hook_points = [row["hook_point"] for row in here]
        here.sort(key=lambda row: hook_points.index(row["hook_point"]))
        told = [{**row, "method": method(row, here), "parameters": parameters(row["params"], here)} for row in here]
        meanings = {name: meaning for row in here for name, meaning in row["columns"].items()}
        twins = [{"params": other[0]["asked"]} for (named, _), other in groups.items() if named == title]
        if len(twins) > 1:
            title = f"{title} ({parameters(here[0]['asked'], twins)})"
        tables.append(StudyTable(title, _name(title, [table.name for table in tables]), meanings, told))
    return tables


def _name(title: str, taken: Collection[str]) -> str:
    name = re.sub("[^a-z0-9]+", "_", title.lower()).strip("_")  # that of a regular expression has few letters
    numbered = (f"{name}_{number}" for number in count(2))
    return next(free for free in chain([name], numbered) if free not in taken)


def study_row(store: AnyStore, name: str, evaluation: ArtifactRef) -> Row:
    """What one evaluation found, and of which dictionary; of the last one where it is about several."""
    manifest = store.manifest(evaluation)
    spec = manifest["spec"]
    dictionary = store.manifest(dictionaries_of(manifest)[-1])
    chosen, params = method_and_params(dictionary["spec"])
    metrics = json.loads((store.path(evaluation) / METRICS).read_text())
    asked = spec.get("spec") or {}
    about = asked.get("pattern") or asked.get("explainer")
    return {
        "ref": name,
        "title": " ".join(filter(None, [metrics["evaluation"], about])),
        "asked": spec.get("spec") or {"tokens": spec.get("max_tokens")},
        "hook_point": " → ".join(spec["hook_points"]) if "hook_points" in spec else spec["hook_point"],
        "method": chosen,
        "params": params,
        "trained": "dictionary" in dictionary["spec"],
        "model": model_name(store, manifest),
        **metrics,
    }


def dictionaries_of(manifest: Mapping[str, Any]) -> list[ArtifactRef]:
    """The dictionaries that an evaluation is about, in the order of their layers."""
    numbered = [
        (int(name.partition(".")[2] or 0), ArtifactRef(**value))
        for name, value in manifest["inputs"].items()
        if name.partition(".")[0] in ("dictionary", "dictionaries")
    ]
    return [ref for _, ref in sorted(numbered, key=lambda entry: entry[0])]


def model_name(store: AnyStore, manifest: Mapping[str, Any]) -> str:
    """What the model is called that an artifact was made with."""
    model = ArtifactRef(**manifest["inputs"]["model"])
    return json.loads((store.path(model) / "description.json").read_text())["name"]
