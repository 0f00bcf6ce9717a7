"""Artifacts to the table of dictionaries: `dictionaries.json`, `dictionaries.parquet` and `report.md`."""

import json
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step

COLUMNS = ("hook_point", "method", "parameters", "l0", "fvu", "cosine", "dead_fraction", "rows")


@step(kind="report", code_version="1")
def report(
    place: Path, names: tuple[str, ...], dictionaries: tuple[ArtifactRef, ...], evaluations: tuple[ArtifactRef, ...]
) -> dict[str, Any]:
    """Gather one row per dictionary: hook point by hook point, within each in the order given."""
    rows = [row(*entry) for entry in zip(names, dictionaries, evaluations, strict=True)]
    hook_points = [entry["hook_point"] for entry in rows]
    rows.sort(key=lambda entry: hook_points.index(entry["hook_point"]))
    (place / "dictionaries.json").write_text(json.dumps(rows, indent=1, allow_nan=False))
    flat = [{**entry, "parameters": parameters(entry["params"], rows)} for entry in rows]
    write_table(place / "dictionaries.parquet", [{name: entry[name] for name in ("ref", *COLUMNS)} for entry in flat])
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell(entry[name]) for name in COLUMNS) for entry in flat]
    (place / "report.md").write_text("\n".join(f"| {line} |" for line in lines) + "\n")
    return {"dictionaries": len(rows)}


def row(name: str, dictionary: ArtifactRef, evaluation: ArtifactRef) -> dict[str, Any]:
    """What is known of one dictionary: what it is, and what was measured."""
    store = artifacts()
    spec = store.manifest(dictionary)["spec"]
    chosen = dict(spec.get("dictionary") or spec["baseline"])
    metrics = json.loads((store.path(evaluation) / "metrics.json").read_text())
    return {
        "ref": name,
        "hook_point": spec["hook_point"],
        "method": chosen.pop("method"),
        "params": chosen,
        **metrics,
    }


def parameters(params: dict[str, Any], rows: list[dict[str, Any]]) -> str:
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


def cell(value: Any, form: str = ".4g") -> str:
    """A table cell; a missing value is a dash, never a zero."""
    if value is None:
        return "—"
    return format(value, form) if isinstance(value, float) else str(value)
