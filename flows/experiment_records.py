"""What each experiment used. `saeflow artifacts gc` keeps what these records name.

    experiments/NAME.json              the last result, or how the first run began; and what that run used
    experiments/NAME.runs/<id>.json    what a run needs that has not finished: it is under way, or was killed

A run names what it needs before it makes it. Every run writes a file of its own, so runs of the same name that are
under way together forget nothing of each other. What a killed run named, or one of some stages only, is kept until a
whole run of that name has finished.
"""

import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from storage.errors import StorageError
from storage.locations import Location

logger = logging.getLogger("saeflow.experiments")

RUNNING, PARTIAL, FINISHED = "running", "partial", "finished"

SECONDS_UNTIL_GONE = 7 * 24 * 3600
"""A run of another machine whose file is older than this is taken for killed."""


class ExperimentRecords:
    """The records of one home, by the name of the experiment."""

    def __init__(self, home: Location) -> None:
        self._place = home.child("experiments")

    def names(self) -> list[str]:
        return [
            name.removesuffix(".json") for name in self._place.names() if "/" not in name and name.endswith(".json")
        ]

    def read(self, name: str) -> dict[str, Any]:
        """The last result; `artifacts` names what it used and what runs that have not finished need.

        Raises StorageError when it cannot be read.
        """
        runs = self._runs(name)  # before the record: a run that ends in between writes there first
        record = self._read(name, f"{name}.json")
        if runs:
            needed = {artifact for run in runs.values() for artifact in run["artifacts"]}
            return {**record, "state": RUNNING, "artifacts": sorted({*_artifacts(record), *needed})}
        return record

    def begin(self, name: str, beginning: Mapping[str, Any]) -> None:
        """Write how a run begins, where none has finished; what those of some stages used is kept."""
        used: list[str] = []
        if name in self.names():
            with contextlib.suppress(StorageError):
                used = _artifacts(self._read(name, f"{name}.json"))
        self.write(name, {**beginning, "state": RUNNING, "artifacts": used})

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        self._place.commit(f"{name}.json", json.dumps(record, indent=1).encode())

    def forget(self, name: str) -> None:
        for file in (*self.run_files(name), f"{name}.json"):
            self._place.remove(file)

    def used(self, forget: Collection[str] = ()) -> dict[str, list[str]]:
        """Experiment → the artifacts (kind/key) that it used, but for the experiments `forget`."""
        return {name: _artifacts(self.read(name)) for name in self.names() if name not in forget}

    def run_files(self, name: str) -> list[str]:
        """The files of the runs that have not finished."""
        return [file for file in self._place.names(f"{name}.runs") if file.endswith(".json")]

    def write_run(self, file: str, run: Mapping[str, Any]) -> None:
        self._place.commit(file, json.dumps(run, indent=1).encode())

    def forget_run(self, name: str, file: str) -> None:
        """Forget a run, and those of the same name that are gone without having finished."""
        self._place.remove(file)
        for other, run in self._runs(name).items():
            if _is_gone(run):
                self._place.remove(other)

    def _runs(self, name: str) -> dict[str, dict[str, Any]]:
        """The runs that have not finished, by their files."""
        runs = {}
        for file in self.run_files(name):
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                runs[file] = self._read(name, file)
        return runs

    def _read(self, name: str, file: str) -> dict[str, Any]:
        try:
            return json.loads(self._place.read(file))
        except ValueError as error:
            raise StorageError(
                f"{self._place}/{file} cannot be read ({error}), so what experiment {name} needs is not known. "
                f"Run it again, or forget it and what only it needed: saeflow artifacts gc --forget {name}"
            ) from error


class RunRecord:
    """The record of a run, from its beginning to its end."""

    def __init__(self, records: ExperimentRecords, name: str, beginning: Mapping[str, Any]) -> None:
        """`beginning` is what the record says as long as there is no result; the last run's result stays until then."""
        self._records, self._name, self._beginning = records, name, beginning
        self._file = f"{name}.runs/{uuid.uuid4().hex}.json"
        self._used: dict[str, None] = {}

    def uses(self, artifacts: Iterable[str]) -> None:
        """Record that the run needs these (kind/key), which need not be made yet."""
        if not self._used and self.last_result() is None:
            self._records.begin(self._name, self._beginning)
        self._used |= dict.fromkeys(artifacts)
        run = {"artifacts": sorted(self._used), "at": time.time(), "host": socket.gethostname(), "process": os.getpid()}
        self._records.write_run(self._file, run)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record the result, and nothing any more of the run before."""
        self._records.write(self._name, {**result, "state": FINISHED, "artifacts": sorted(self._used)})
        self._records.forget_run(self._name, self._file)

    def add(self) -> None:
        """End a run of some stages: the record stays what it was, and names what this run used too.

        And what killed runs named: they are taken for gone from now on.
        """
        record = self._records.read(self._name)
        state = FINISHED if "stages" in record else PARTIAL
        self._records.write(self._name, {**record, "state": state})
        self._records.forget_run(self._name, self._file)

    def leave(self) -> None:
        """Forget this run, which came to nothing new: the record stays what it was."""
        self._records.forget_run(self._name, self._file)
        if self.last_result() is None and not self._records.run_files(self._name):
            self._records.forget(self._name)

    def last_result(self) -> dict[str, Any] | None:
        """The result of the last run of this name that finished, unless there is none or it cannot be read."""
        try:
            record = self._records.read(self._name) if self._name in self._records.names() else {}
        except StorageError as error:
            logger.warning("%s", error)
            return None
        return record if "stages" in record else None


def _is_gone(run: Mapping[str, Any]) -> bool:
    """Whether the process of a run has ended without having finished it."""
    if run["host"] != socket.gethostname():
        return time.time() - run["at"] > SECONDS_UNTIL_GONE
    try:
        os.kill(run["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        return False
    return False


def _artifacts(record: Mapping[str, Any]) -> list[str]:
    if "artifacts" in record:
        return record["artifacts"]
    # Of a version that did not list them: all of them lead to its report.
    reports = [PurePosixPath(record["report"]).parent] if "report" in record else []
    dictionaries = [entry["ref"] for entry in record.get("dictionaries", ())]
    return [*(f"{place.parent.name}/{place.name}" for place in reports), *dictionaries]
