"""Runs as a person names them: by the experiment, whose record says which report was its last, or by the report.

This imports neither torch nor Prefect: a notebook asks here, too.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.artifacts import AnyStore, ArtifactRef
from storage.errors import StorageError
from tasks.errors import ExperimentError
from tasks.references import begins, find_name

REPORT, COMPARISON = "report", "comparison"


@dataclass(frozen=True)
class Run:
    """A report, and the experiment that made it."""

    name: str
    """Of the experiment; of the report, where no record says which experiment that was."""
    report: ArtifactRef
    config: dict[str, Any] | None
    """What the experiment was asked for; None where no record tells."""


def find_run(store: AnyStore, typed: str) -> Run:
    """The run that `typed` means: an experiment's name, `report/KEY`, or what no other report's key begins with.

    Raises:
        ExperimentError: there is none, or it has no report.
        DamagedArtifact: its report is not whole any more.
    """
    records = _records(store)
    if typed in records:
        return _run_of(store, typed, records[typed])
    reports = {str(ref): ref for ref, _ in store.list(REPORT)}
    if typed not in reports and not any(begins(name, typed) for name in reports):
        nearest = difflib.get_close_matches(typed, records, n=3, cutoff=0) or ["none"]
        raise ExperimentError(
            f"there is no experiment {typed!r} in {store.uri}, and no report of this key. "
            f"Experiments there: {', '.join(nearest)}. `--home` names another home."
        )
    report = reports[find_name(typed, reports, store.uri, REPORT)]
    store.verify(report)
    for name, record in records.items():
        if _report_key(record) == report.key:
            return Run(name, report, record.get("config"))
    return Run(str(report), report, None)


def find_artifact(store: AnyStore, typed: str) -> ArtifactRef:
    """The report of a run, or the comparison `comparison/KEY`. Raises as `find_run` does."""
    if not typed.startswith(f"{COMPARISON}/"):
        return find_run(store, typed).report
    comparisons = {str(ref): ref for ref, _ in store.list(COMPARISON)}
    return comparisons[find_name(typed, comparisons, store.uri, COMPARISON)]


def _run_of(store: AnyStore, name: str, record: dict[str, Any]) -> Run:
    key = _report_key(record)
    report = store.find(REPORT, key) if key else None
    if report is None:
        what = f"report/{key} is not there any more" if key else "it has no report"
        raise ExperimentError(f"of experiment {name}, {what}. Make it: saeflow run {name}")
    return Run(name, report, record.get("config"))


def _report_key(record: dict[str, Any]) -> str | None:
    """The record holds a path of the machine that made it: its folder's name is the key."""
    return PurePosixPath(record[REPORT]).parent.name if REPORT in record else None


def _records(store: AnyStore) -> dict[str, dict[str, Any]]:
    place = store.home_location.child("experiments")
    found = {}
    for file in place.names():
        if "/" in file or not file.endswith(".json"):
            continue
        try:
            found[file.removesuffix(".json")] = json.loads(place.read(file))
        except ValueError as error:
            raise StorageError(f"{place}/{file} cannot be read ({error}).") from error
    return found
