"""Artifacts to the table of dictionaries: `dictionaries.json`, `dictionaries.parquet` and `report.md`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step

COLUMNS = ("hook_point", "method", "parameters", "l0", "fvu", "cosine", "dead_fraction", "rows")


MEANINGS = {
    "l0": "active features per row, on average",
    "fvu": "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean",
    "cosine": "cosine of activations and their reconstructions, on average",
    "dead_fraction": "share of the features that never fire on the held-out rows",
    "rows": "held-out rows",
}

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dictionaries</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font: 600 1rem/1.5 ui-monospace, monospace; padding: 1.5rem 0 .4rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #8885; }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.best { font-weight: 700; }
code { font-family: ui-monospace, monospace; font-size: .85em; opacity: .75; }
dt { font-weight: 600; float: left; clear: left; width: 8rem; }
dd { margin: 0 0 .2rem 8rem; }
</style>
</head>
<body>
<h1>Dictionaries</h1>
<p>{{ rows | length }} dictionaries at {{ hook_points | length }} hook {{ "point" if hook_points | length == 1 else
"points" }}, measured on activations that none of them was trained on. In bold, the least unexplained variance.</p>
{% for hook_point in hook_points %}
<div class="wide">
<table>
<caption>{{ hook_point }}</caption>
<thead><tr><th>method</th><th>parameters</th>
{% for name in numbers %}<th class="number">{{ name.replace("_", " ") }}</th>{% endfor %}
<th>artifact</th></tr></thead>
<tbody>
{% for row in rows if row["hook_point"] == hook_point %}
<tr{% if row["ref"] in best %} class="best"{% endif %}><td>{{ row["method"] }}</td><td>{{ row["parameters"] }}</td>
{% for name in numbers %}<td class="number">{{ cell(row[name]) }}</td>{% endfor %}
<td><code>{{ row["ref"] }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
<h2>What the columns say</h2>
<dl>{% for name in numbers %}<dt>{{ name.replace("_", " ") }}</dt><dd>{{ meanings[name] }}</dd>{% endfor %}</dl>
<p>The same table: <a href="dictionaries.parquet">dictionaries.parquet</a>,
<a href="dictionaries.json">dictionaries.json</a>, <a href="report.md">report.md</a>.</p>
</body>
</html>
"""


@step(kind="report", code_version="2")
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
    (place / "index.html").write_text(page(flat), encoding="utf-8")
    return {"dictionaries": len(rows)}


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as a page that needs nothing but itself. All text in it is escaped."""
    hook_points = list(dict.fromkeys(entry["hook_point"] for entry in rows))
    best = []
    for hook_point in hook_points:
        here = [entry for entry in rows if entry["hook_point"] == hook_point and entry["fvu"] is not None]
        best += [min(here, key=lambda entry: entry["fvu"])["ref"]] if here else []
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    return template.render(
        rows=rows, hook_points=hook_points, best=best, numbers=list(MEANINGS), meanings=MEANINGS, cell=cell
    )


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


def parameters(params: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
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
