"""A report, or a comparison, in a notebook: its tables, its numbers and its files.

    from tasks.load_report import load_report
    report = load_report("quickstart", home="runs")        # or report/KEY, or a directory
    report.tables["dictionaries"].to_pandas()

Neither torch nor a language model is imported, so it takes no time.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.artifacts import ArtifactStore
from storage.locations import is_remote
from storage.tables import read_table
from tasks.report_numbers import numbers
from tasks.runs import find_artifact

TABLE = ".parquet"


class Tables(Mapping[str, pa.Table]):
    """The tables by their paths without `.parquet`, such as `dictionaries`; each is read when it is asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> pa.Table:
        return read_table(self._files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Tables({', '.join(self._files)})"


@dataclass(frozen=True)
class LoadedReport:
    """What a report holds."""

    path: Path
    """Its directory."""

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Every file by its name in the report, such as `index.html`."""
        files = sorted(file for file in self.path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): file for file in files}

    @cached_property
    def tables(self) -> Tables:
        """Every table, as pyarrow reads it: `.to_pandas()`, or hand it to DuckDB or Polars."""
        return Tables({name.removesuffix(TABLE): file for name, file in self.paths.items() if name.endswith(TABLE)})

    @cached_property
    def dictionaries(self) -> list[dict[str, Any]]:
        """One row for each dictionary: hook point, method, parameters, its reconstruction. A comparison has none."""
        return self._rows("dictionaries.json")

    @cached_property
    def studies(self) -> list[dict[str, Any]]:
        """One row for each evaluation of a dictionary beyond its reconstruction, with all that was found."""
        return self._rows("studies.json")

    @cached_property
    def metrics(self) -> pa.Table:
        """Every number about every dictionary, one a row: with its 95 % interval, or why it is undefined."""
        rows = [
            {
                "ref": row["ref"],
                "hook_point": row["hook_point"],
                "method": row["method"],
                "params": json.dumps(row["params"], sort_keys=True),
                "model": row["model"],
                "study": each.study,
                "asked": each.asked or None,
                "metric": each.metric,
                "value": None if each.value is None else float(each.value),
                "low": each.interval[0] if each.interval else None,
                "high": each.interval[1] if each.interval else None,
                "undefined": each.undefined,
                "meaning": each.meaning,
            }
            for row in self.dictionaries
            for each in numbers(row, self.studies)
        ]
        words, reals = pa.string(), pa.float64()
        told = ("ref", "hook_point", "method", "params", "model", "study", "asked", "metric")
        schema = [(name, words) for name in told]
        schema += [(name, reals) for name in ("value", "low", "high")]
        schema += [(name, words) for name in ("undefined", "meaning")]
        return pa.Table.from_pylist(rows, pa.schema(schema))

    def _rows(self, file: str) -> list[dict[str, Any]]:
        return json.loads(self.paths[file].read_text()) if file in self.paths else []


def load_report(path: str | Path, home: str | Path | None = None) -> LoadedReport:
    """Open a report.

    Args:
        path: its directory, `report/KEY` or `comparison/KEY`, or the name of the experiment whose last report it is.
        home: where to look for the last three; by default $SAEFLOW_HOME, or ./runs.

    Raises:
        ExperimentError: there is none.
    """
    directory = Path(path).expanduser()
    if directory.is_dir():
        return LoadedReport(directory)
    if home is not None and is_remote(str(home)):
        from storage.remote_artifacts import RemoteArtifactStore

        store = RemoteArtifactStore(str(home))
    else:
        store = ArtifactStore(Path(home).expanduser()) if home is not None else ArtifactStore.from_environment()
    return LoadedReport(store.path(find_artifact(store, str(path))))
