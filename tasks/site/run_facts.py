"""What was run: model, corpus, seeds, versions, commits, machine, and how long each stage took.

Only this tells how long something took, which differs from one making of an artifact to the next: `stages.parquet` and
`run.json` hold it, and of the pages index.html alone shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.tables import write_table
from tasks.provenance import provenance_lines
from tasks.site.material import Material

STAGES = {
    "model": "read the model",
    "samples": "write samples",
    "tokens": "tokenise",
    "activations": "harvest",
    "dictionary": "train and fit",
    "features": "read features",
    "evaluation": "evaluate",
    "comparison": "compare",
    "gradients": "read gradients",
    "pages": "write feature pages",
}
"""What is done to make each kind of artifact."""

Row = dict[str, Any]


def write_run(place: Path, material: Material) -> dict[str, Any]:
    """Write `stages.parquet` and `run.json`; returns what the latter holds."""
    rows = [_stage(name, manifest) for name, manifest in material.manifests.items()]
    lines = provenance_lines(material.manifests)
    order = [*STAGES, *sorted({row["kind"] for row in rows} - STAGES.keys())]
    rows.sort(key=lambda row: (order.index(row["kind"]), row["created"], row["artifact"]))
    rows = [{**row, "about": lines[row["artifact"]]} for row in rows]
    write_table(place / "stages.parquet", rows)
    document = {
        "totals": [_total(kind, [row for row in rows if row["kind"] == kind]) for kind in order],
        "machines": sorted({f"{row['platform']}, {row['cpus']} processors" for row in rows}),
        "versions": _versions(material.manifests.values()),
        "commits": commits(material.manifests.values()),
        "seeds": list(_seeds(material.about.config)),
    }
    document["totals"] = [total for total in document["totals"] if total["artifacts"]]
    (place / "run.json").write_text(json.dumps(document, indent=1, allow_nan=False))
    return document


def _stage(name: str, manifest: Mapping[str, Any]) -> Row:
    rows, seconds = _rows(manifest), manifest["seconds"]
    return {
        "artifact": name,
        "kind": manifest["kind"],
        "seconds": seconds,
        "rows": rows,
        "rows_per_second": rows / seconds if rows is not None and seconds else None,
        "created": manifest["created"],
        "platform": manifest["machine"]["platform"],
        "cpus": manifest["machine"]["cpus"],
        "saeflow": manifest["versions"].get("saeflow"),
        "commit": _commit(manifest)["commit"],
        "dirty": _commit(manifest)["dirty"],
    }


def _rows(manifest: Mapping[str, Any]) -> int | None:
    """Activation rows, or tokens, that went through it; None where it counts none."""
    rows = manifest["notes"].get("rows")
    if isinstance(rows, Mapping):  # of each split
        rows = sum(rows.values())
        if manifest["kind"] == "tokens":
            rows *= manifest["spec"]["corpus"]["spec"]["context_length"]
    return rows


def _total(kind: str, rows: Sequence[Row]) -> Row:
    counted = [row for row in rows if row["rows"] is not None]
    seconds = sum(row["seconds"] for row in counted)
    return {
        "kind": kind,
        "stage": STAGES.get(kind, kind),
        "artifacts": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "rows": sum(row["rows"] for row in counted) if counted else None,
        "rows_per_second": sum(row["rows"] for row in counted) / seconds if seconds else None,
    }


def _versions(manifests: Any) -> dict[str, str]:
    """Of each package those that artifacts were made with."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, version in manifest["versions"].items():
            found.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(several)) for name, several in sorted(found.items())}


def _commit(manifest: Mapping[str, Any]) -> Row:
    """The commit of saeflow that an artifact was made with, or why there is none."""
    if "checkout" not in manifest:
        return {"commit": None, "dirty": None, "reason": "the saeflow that made it did not record its commit"}
    if manifest["checkout"] is None:
        return {"commit": None, "dirty": None, "reason": "saeflow did not run from a git checkout that git can read"}
    return {**manifest["checkout"], "reason": None}


def commits(manifests: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Those that artifacts were made with, the first used first, and how many artifacts that were."""
    found: list[Row] = []
    for manifest in sorted(manifests, key=lambda manifest: manifest["created"]):
        commit = _commit(manifest)
        entry = next((entry for entry in found if entry.items() >= commit.items()), None)
        if entry is None:
            found.append(entry := {**commit, "artifacts": 0})
        entry["artifacts"] += 1
    return found


def _seeds(told: Any, path: str = "") -> Iterator[list[Any]]:
    """[where in the parameters, seed] of all that have one."""
    if isinstance(told, Mapping):
        for name, value in told.items():
            if name in ("seed", "seeds"):
                yield [path or "experiment", value]
            else:
                yield from _seeds(value, f"{path}.{name}" if path else name)
    elif isinstance(told, list):
        for number, value in enumerate(told):
            yield from _seeds(value, f"{path}[{number}]")
