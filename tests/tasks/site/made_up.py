"""Dictionaries and studies without any artifacts behind them, for what only reads their numbers."""

from pathlib import Path
from typing import Any

from tasks.report import MEANINGS
from tasks.site.material import About, Material, Study
from tasks.site.overview import write_overview
from tasks.study_tables import Row

HERE = "blocks.1.hook_resid_post"


def dictionary(method: str, fvu: float | None, l0: float = 32.0, place: str = HERE, **changes: Any) -> Row:
    row: Row = {
        "ref": f"dictionary/{method}{fvu}{place}", "hook_point": place, "method": method, "params": {"k": l0},
        "model": "tiny", "fvu": fvu, "l0": l0, "cosine": 0.5, "dead_fraction": 0.0, "rows": 992,
        "undefined": {} if fvu is not None else {"fvu": "the rows do not vary"},
    }  # fmt: skip
    return {**row, **changes}


def study(of: Row, evaluation: str, columns: dict[str, str], **values: Any) -> Study:
    """`values` are numbers, `intervals` and `undefined`."""
    row: Row = {
        "ref": f"evaluation/{evaluation}{of['ref'][11:]}", "title": evaluation, "asked": {}, "evaluation": evaluation,
        "trained": of["method"] not in ("pca", "random", "identity"), "columns": columns,
        **{name: of[name] for name in ("hook_point", "method", "params", "model")},
        **dict.fromkeys(columns), "intervals": {}, "undefined": dict.fromkeys(columns, "why"), **values,
    }  # fmt: skip
    return Study(row, (of["ref"],), None, Path("nowhere"))


def material(*rows: Row, studies: tuple[Study, ...] = (), notes: dict[str, Any] | None = None) -> Material:
    baselines = ("pca", "ica", "random", "identity")
    manifests: dict[str, Any] = {
        row["ref"]: {
            "kind": "dictionary", "notes": {}, "spec": {"baseline" if row["method"] in baselines else "dictionary": {}}
        }
        for row in rows
    }  # fmt: skip
    if notes is not None:
        spec = {"tokens": 1000, "held_out_tokens": 100, "context_length": 10}
        manifests["tokens/1"] = {"kind": "tokens", "notes": notes, "spec": {"corpus": {"spec": spec}}}
    return Material(About(name="tiny", config={}), rows, {}, {}, studies, (), {}, manifests)


def overview(place: Path, told: Material, **facts: Any) -> str:
    """The first page of its site."""
    run: dict[str, Any] = {"totals": [], "machines": [], "versions": {}, "commits": [], "seeds": [], **facts}
    write_overview(place, told, MEANINGS, [], [], run, {}, site=told.about.name, nav={"Overview": "index.html"})
    return (place / "index.html").read_text()
