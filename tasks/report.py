"""Artifacts to a report: the tables of its dictionaries and evaluations, and a site that shows them.

`dictionaries.json` and `studies.json` hold all that is known; `dictionaries.parquet` and a Parquet file for each
evaluation hold what the tables show; `report.md` shows them, and so does the site around `index.html` (tasks.site).
"""

import json
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.cells import cell, method_and_params
from tasks.evaluate.results import METRICS
from tasks.site.assembly import write_site
from tasks.site.material import About, Material, gather
from tasks.study_tables import model_name

MEANINGS = {
    "l0": "active features per row, on average",
    "fvu": "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean",
    "cosine": "cosine of activations and their reconstructions, on average",
    "dead_fraction": "share of the features that never fire on the held-out rows",
    "rows": "held-out rows",
}
COLUMNS = ("hook_point", "method", "parameters", *MEANINGS)


@step(kind="report", code_version="12")
def report(
    place: Path,
    about: About,
    names: tuple[str, ...],
    dictionaries: tuple[ArtifactRef, ...],
    evaluations: tuple[ArtifactRef, ...],
    studies: tuple[ArtifactRef, ...],
    comparisons: tuple[ArtifactRef, ...] = (),
    pages: tuple[ArtifactRef, ...] = (),
) -> dict[str, Any]:
    """Gather one row per dictionary: hook point by hook point, within each in the order given.

    Args:
        about: what the site says of the experiment.
        names: of the dictionaries, of the studies, of the comparisons, and of the pages.
        evaluations: of the reconstruction, one for each dictionary.
        studies: what else was asked of them.
        comparisons: of their interpretability.
        pages: of the features of some of them.
    """
    count = len(dictionaries)
    rows = [row(*entry) for entry in zip(names[:count], dictionaries, evaluations, strict=True)]
    hook_points = [entry["hook_point"] for entry in rows]
    rows.sort(key=lambda entry: hook_points.index(entry["hook_point"]))
    asked = dict(zip(names[count : count + len(studies)], studies, strict=True))
    material = gather(about, rows, dictionaries, evaluations, asked, comparisons, pages)
    write_tables(place, material)
    write_site(place, material, MEANINGS)
    return {"dictionaries": len(rows), "studies": len(asked), "pages": len(pages)}


def write_tables(place: Path, material: Material) -> None:
    """Write the tables, and `report.md` with all of them."""
    (place / "dictionaries.json").write_text(json.dumps(material.rows, indent=1, allow_nan=False))
    flat = material.flat
    write_table(place / "dictionaries.parquet", [{name: entry[name] for name in ("ref", *COLUMNS)} for entry in flat])
    studies = [study.row for study in material.studies]
    (place / "studies.json").write_text(json.dumps(studies, indent=1, allow_nan=False))
    for table in material.tables:
        write_table(place / table.file, table.flat())
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(entry[name]) for name in COLUMNS) for entry in flat]
    sections = ["\n".join(f"| {line} |" for line in lines) + "\n", *(table.markdown() for table in material.tables)]
    (place / "report.md").write_text("\n".join(sections), encoding="utf-8")


def row(name: str, dictionary: ArtifactRef, evaluation: ArtifactRef) -> dict[str, Any]:
    """What is known of one dictionary: what it is, and what was measured."""
    store = artifacts()
    manifest = store.manifest(dictionary)
    spec = manifest["spec"]
    method, params = method_and_params(spec)
    metrics = json.loads((store.path(evaluation) / METRICS).read_text())
    return {
        "ref": name,
        "hook_point": spec["hook_point"],
        "method": method,
        "params": params,
        "model": model_name(store, store.manifest(ArtifactRef(**manifest["inputs"]["activations"]))),
        **metrics,
    }
