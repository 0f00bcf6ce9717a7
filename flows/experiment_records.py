"""What each experiment used: `experiments/NAME.json`. `saeflow artifacts gc` keeps what these records name.

A record is written before the work that it is about. So a run that is killed leaves one that names all it has made,
and until another run has finished it names what the last finished one used too.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from storage.errors import StorageError
from storage.locations import Location

logger = logging.getLogger("saeflow.experiments")

RUNNING, FINISHED = "running", "finished"


class ExperimentRecords:
    """The records of one home, by the name of the experiment."""

    def __init__(self, home: Location) -> None:
        self._place = home.child("experiments")

    def names(self) -> list[str]:
        return [name.removesuffix(".json") for name in self._place.names() if name.endswith(".json")]

    def read(self, name: str) -> dict[str, Any]:
        """Raises StorageError when it cannot be read."""
        try:
            return json.loads(self._place.read(f"{name}.json"))
        except ValueError as error:
            raise StorageError(
                f"{self._place}/{name}.json cannot be read ({error}), so what experiment {name} needs is not known. "
                f"Run it again, or forget it and what only it needed: saeflow artifacts gc --forget {name}"
            ) from error

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        self._place.commit(f"{name}.json", json.dumps(record, indent=1).encode())

    def forget(self, name: str) -> None:
        self._place.remove(f"{name}.json")

    def used(self, forget: Collection[str] = ()) -> dict[str, list[str]]:
        """Experiment → the artifacts (kind/key) that it used, but for the experiments `forget`."""
        return {name: _artifacts(self.read(name)) for name in self.names() if name not in forget}


class RunRecord:
    """The record of a run, from its beginning to its end."""

    def __init__(self, records: ExperimentRecords, name: str, beginning: Mapping[str, Any]) -> None:
        """`beginning` is what the record says as long as there is no result; the last run's result stays until then."""
        self._records, self._name = records, name
        try:
            last = records.read(name) if name in records.names() else {}
        except StorageError as error:
            logger.warning("%s", error)
            last = {}
        self._content = last if "stages" in last else dict(beginning)
        self._before = _artifacts(last)
        self._used: dict[str, None] = {}

    def uses(self, artifacts: Iterable[str]) -> None:
        """Record that the run needs these (kind/key), which need not be made yet."""
        self._used |= dict.fromkeys(artifacts)
        self._write(self._content, RUNNING, [*self._before, *self._used])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record the result, and nothing any more of the run before."""
        self._write(result, FINISHED, self._used)

    def _write(self, content: Mapping[str, Any], state: str, artifacts: Iterable[str]) -> None:
        self._records.write(self._name, {**content, "state": state, "artifacts": sorted(set(artifacts))})


def _artifacts(record: Mapping[str, Any]) -> list[str]:
    if "artifacts" in record:
        return record["artifacts"]
    # Of a version that did not list them: all of them lead to its report.
    reports = [PurePosixPath(record["report"]).parent] if "report" in record else []
    dictionaries = [entry["ref"] for entry in record.get("dictionaries", ())]
    return [*(f"{place.parent.name}/{place.name}" for place in reports), *dictionaries]
