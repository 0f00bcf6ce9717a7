"""The first page of a site: verdict, dictionaries, plots, evaluations, and what was run.

Every number on it lies in a file beside it: of the dictionaries in `dictionaries.parquet`, of an evaluation in the
table that it names, of the verdict and of the counts in `overview.json`, of times in `stages.parquet` and `run.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.cells import cell, with_interval
from tasks.evaluate.interpretability_comparison import DIFFERENCES, FIGURES
from tasks.site.figures import Group
from tasks.site.headlines import distance, headline_of
from tasks.site.material import Material
from tasks.site.pages import write_page
from tasks.site.verdict import Sentence, verdict
from tasks.study_tables import ABOUT, Row

ALTERNATIVES = (
    "Mean interpretability score of each dictionary, with 95 % intervals, layer by layer",
    "Distribution of the scores of each dictionary's features",
    "Score of each feature against its density, skew and kurtosis",
)
"""What the figures of a comparison show, in words."""


class Value(NamedTuple):
    """A cell of a table."""

    text: str
    value: float | int | None
    why: str | None = None
    """Why there is none."""
    best: bool = False


class Column(NamedTuple):
    name: str
    meaning: str


class Entry(NamedTuple):
    """A dictionary of a table."""

    row: Row
    best: bool
    """Whether it leaves the least variance unexplained."""
    href: str | None
    """Its features."""
    values: Sequence[Value]


class Table(NamedTuple):
    """The dictionaries of a hook point."""

    hook_point: str
    columns: Sequence[Column]
    entries: Sequence[Entry]


class Comparison(NamedTuple):
    """Dictionaries side by side."""

    figures: Sequence[str]
    """Files beside the page."""
    differences: Sequence[Row]
    file: str
    """The table of these."""


def write_overview(
    place: Path,
    material: Material,
    meanings: Mapping[str, str],
    groups: Sequence[Group],
    comparisons: Sequence[Comparison],
    run: Mapping[str, Any],
    study_pages: Mapping[str, str],
    **shared: Any,
) -> None:
    """Write index.html and `overview.json`.

    Args:
        meanings: the numbers of the reconstruction that the table shows, and what they mean.
        run: what tasks.site.run_facts wrote.
        study_pages: the name of a table → its page.
        shared: what all pages are given.
    """
    sentences, tables = verdict(material), dictionary_tables(material, meanings)
    facts = what_was_run(material)
    write_summary(place, material, sentences, facts)
    write_page(
        place, "index", "overview",
        title="Overview", here="index.html", **shared,
        verdict=sentences,
        tables=tables,
        count=len(material.rows),
        groups=groups,
        studies=material.tables,
        about=ABOUT,
        study_pages=study_pages,
        comparisons=comparisons,
        alternatives=ALTERNATIVES,
        facts=facts,
        run=run,
        config=yaml.safe_dump(material.about.config, sort_keys=False, allow_unicode=True, width=100),
    )  # fmt: skip


def write_summary(place: Path, material: Material, sentences: Sequence[Sentence], facts: Mapping[str, Any]) -> None:
    """Write `overview.json`: the verdict with its numbers, what was run, and how much of it there is."""
    document = {
        "experiment": material.about.name,
        "dictionaries": len(material.rows),
        "hook_points": len(material.hook_points),
        "verdict": [{"text": each.text, "numbers": each.numbers} for each in sentences],
        "run": facts,
        "config": material.about.config,
    }
    (place / "overview.json").write_text(json.dumps(document, indent=1, allow_nan=False, default=list))


def dictionary_tables(material: Material, meanings: Mapping[str, str]) -> list[Table]:
    """One table for each hook point: how well dictionaries reconstruct, and the first number of each evaluation."""
    joined = list(_joined(material))
    columns = [Column(name, meaning) for name, meaning in meanings.items()] + [column for column, _ in joined]
    tables = []
    for hook_point in material.hook_points:
        here = [row for row in material.flat if row["hook_point"] == hook_point]
        entries = [
            Entry(
                row,
                row["ref"] == best(material, hook_point),
                found.href() if (found := material.browsable.get(row["ref"])) else None,
                [_reconstructed(row, name) for name in meanings]
                + [values.get(row["ref"], Value("—", None, "not asked of this one")) for _, values in joined],
            )
            for row in here
        ]
        tables.append(Table(hook_point, columns, entries))
    return tables


def best(material: Material, hook_point: str) -> str | None:
    """The dictionary that leaves the least variance unexplained: of the sparse autoencoders, where there are any.

    A basis that keeps everything explains everything, which is no feat.
    """
    here = [row for row in material.at(hook_point) if row["fvu"] is not None]
    sparse = [row for row in here if material.sparse(row)]
    chosen = min(sparse or here, key=lambda row: row["fvu"], default=None)
    return None if chosen is None else chosen["ref"]


def _reconstructed(row: Row, name: str) -> Value:
    why = None if row[name] is not None else row["undefined"].get(name, "not measured")
    return Value(cell(row[name]), row[name], why)


def _joined(material: Material) -> Iterator[tuple[Column, dict[str, Value]]]:
    """The number that each evaluation is known by, for the dictionaries that it was asked of."""
    for table in material.tables:
        rows = material.of_table(table)
        headline = headline_of(table, rows[0][1].evaluation)
        if headline is None or any(len(study.dictionaries) != 1 for _, study in rows):
            continue
        metric = headline.metric
        values: dict[str, Value] = {}
        for hook_point in dict.fromkeys(row["hook_point"] for row, _ in rows):
            here = [(row, study) for row, study in rows if row["hook_point"] == hook_point]
            there = [distance(headline, row[metric]) for row, _ in here if row[metric] is not None]
            for row, study in here:
                number = row[metric]
                leads = number is not None and headline.of_any_size and distance(headline, number) == min(there)
                text = with_interval(number, row["intervals"].get(metric))
                values[study.dictionaries[0]] = Value(text, number, row["undefined"].get(metric), leads)
        yield Column(f"{table.title}: {headline.told}", table.meanings[metric]), values


def what_was_run(material: Material) -> dict[str, Any]:
    """Models, corpus and rows: what the artifacts themselves say of it."""
    models, corpora = [], []
    for name, manifest in material.manifests.items():
        if manifest["kind"] == "model":
            path = artifacts().path(ArtifactRef(kind="model", key=manifest["key"], digest=manifest["digest"]))
            told = json.loads((path / "description.json").read_text())
            names = ("name", "architecture", "n_layers", "d_model", "weights")
            models.append({"artifact": name, **{key: told[key] for key in names}})
        if manifest["kind"] == "tokens":
            spec, notes = manifest["spec"]["corpus"]["spec"], manifest["notes"]
            corpora.append(
                {
                    "artifact": name,
                    "sources": spec["sources"],
                    "documents": notes["documents"]["new"],
                    "tokens": notes["rows"]["train"] * spec["context_length"],
                    "held_out_tokens": notes["rows"]["held_out"] * spec["context_length"],
                    "context_length": spec["context_length"],
                }
            )
    return {"models": models, "corpora": corpora, "hook_points": material.hook_points}


def comparison(place: Path, number: int, ref: ArtifactRef) -> Comparison:
    """Copy the figures and tables of a comparison, and read what differs."""
    source, prefix = artifacts().path(ref), f"comparison_{number}_"
    for name in (*FIGURES, DIFFERENCES, "comparison.parquet", "moments.parquet"):
        (place / f"{prefix}{name}").write_bytes((source / name).read_bytes())
    rows = read_table(source / DIFFERENCES).to_pylist()
    return Comparison([f"{prefix}{name}" for name in FIGURES], rows, f"{prefix}{DIFFERENCES}")
