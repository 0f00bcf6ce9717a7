"""Artifacts to tables: one of dictionaries, one for each evaluation that was asked for, and figures that compare them.

`dictionaries.json` and `studies.json` hold all that is known; `dictionaries.parquet` and a Parquet file for each
evaluation hold what the tables show; `report.md` and `index.html` show them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactRef
from storage.tables import read_table, write_table
from tasks.caching import artifacts, step
from tasks.cells import cell, method, parameters
from tasks.evaluate.interpretability_comparison import DIFFERENCES, FIGURES
from tasks.evaluate.results import METRICS
from tasks.feature_pages import BROWSE
from tasks.report_page import Comparison, page
from tasks.study_tables import model_name, study_row, study_tables

MEANINGS = {
    "l0": "active features per row, on average",
    "fvu": "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean",
    "cosine": "cosine of activations and their reconstructions, on average",
    "dead_fraction": "share of the features that never fire on the held-out rows",
    "rows": "held-out rows",
}
COLUMNS = ("hook_point", "method", "parameters", *MEANINGS)


@step(kind="report", code_version="5")
def report(
    place: Path,
    names: tuple[str, ...],
    dictionaries: tuple[ArtifactRef, ...],
    evaluations: tuple[ArtifactRef, ...],
    studies: tuple[ArtifactRef, ...],
    comparisons: tuple[ArtifactRef, ...] = (),
    pages: tuple[ArtifactRef, ...] = (),
) -> dict[str, Any]:
    """Gather one row per dictionary: hook point by hook point, within each in the order given.

    Args:
        names: of the dictionaries, of the studies, and of the comparisons.
        evaluations: of the reconstruction, one for each dictionary.
        studies: what else was asked of them.
        comparisons: of their interpretability.
        pages: of single features, of some of the dictionaries.
    """
    count = len(dictionaries)
    rows = [row(*entry) for entry in zip(names[:count], dictionaries, evaluations, strict=True)]
    hook_points = [entry["hook_point"] for entry in rows]
    rows.sort(key=lambda entry: hook_points.index(entry["hook_point"]))
    (place / "dictionaries.json").write_text(json.dumps(rows, indent=1, allow_nan=False))
    flat = [{**entry, "method": method(entry, rows), "parameters": parameters(entry["params"], rows)} for entry in rows]
    write_table(place / "dictionaries.parquet", [{name: entry[name] for name in ("ref", *COLUMNS)} for entry in flat])

    asked = [study_row(artifacts(), *entry) for entry in zip(names[count : count + len(studies)], studies, strict=True)]
    (place / "studies.json").write_text(json.dumps(asked, indent=1, allow_nan=False))
    tables = study_tables(asked)
    for table in tables:
        write_table(place / table.file, table.flat())

    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(entry[name]) for name in COLUMNS) for entry in flat]
    sections = ["\n".join(f"| {line} |" for line in lines) + "\n", *(table.markdown() for table in tables)]
    (place / "report.md").write_text("\n".join(sections), encoding="utf-8")
    compared = [comparison(place, number, ref) for number, ref in enumerate(comparisons, 1)]
    (place / "index.html").write_text(page(flat, MEANINGS, tables, compared), encoding="utf-8")
    for ref in pages:
        shutil.copytree(artifacts().path(ref) / BROWSE, place / BROWSE, dirs_exist_ok=True)
    return {"dictionaries": len(rows), "studies": len(asked)}


def comparison(place: Path, number: int, ref: ArtifactRef) -> Comparison:
    """Copy the figures of a comparison, and read what differs."""
    source, figures = artifacts().path(ref), []
    for file in FIGURES:
        figures.append(f"comparison_{number}_{file}")
        shutil.copyfile(source / file, place / figures[-1])
    return Comparison(figures, read_table(source / DIFFERENCES).to_pylist())


def row(name: str, dictionary: ArtifactRef, evaluation: ArtifactRef) -> dict[str, Any]:
    """What is known of one dictionary: what it is, and what was measured."""
    store = artifacts()
    manifest = store.manifest(dictionary)
    spec = manifest["spec"]
    chosen = dict(spec.get("dictionary") or spec["baseline"])
    metrics = json.loads((store.path(evaluation) / METRICS).read_text())
    return {
        "ref": name,
        "hook_point": spec["hook_point"],
        "method": chosen.pop("method"),
        "params": chosen,
        "model": model_name(store, store.manifest(ArtifactRef(**manifest["inputs"]["activations"]))),
        **metrics,
    }
