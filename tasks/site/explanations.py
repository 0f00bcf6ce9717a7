"""What studies know of single features, for the feature browser: explanations, scores, effects, and where they occur.

Of each dictionary whose features can be looked at,

    browse/SLUG/more             columns for the table, explanations, links to what a feature leads to and comes from
    browse/SLUG/explained/NNNN   of each explained feature of a shard what every study said of it: all scores, and the
                                 simulated activations

and `data/dictionaries`, which lists these dictionaries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage.tables import read_table
from tasks.cells import rounded
from tasks.feature_tables import SCORE
from tasks.site.headlines import HEADLINES
from tasks.site.material import Browsable, Material, Study
from tasks.site.pages import write_script
from tasks.study_tables import Row, StudyTable

OF_A_SCORE = ("_low", "_high", "_undefined", "_f1", "_auc")
"""What follows the name of a score where a column is not a score itself."""


class Link(NamedTuple):
    kind: str
    """"upstream", "downstream" or "study"."""
    label: str
    href: str


def write_explanations(place: Path, material: Material, study_pages: dict[str, str]) -> None:
    """Write all of it. `study_pages`: the name of a table → its page."""
    write_script(place, "data/dictionaries", [_listed(material, found) for found in material.browsable.values()])
    for name, found in material.browsable.items():
        columns: list[Row] = []
        interpretations: list[Interpretation] = []
        for table in material.tables:
            for row, study in material.of_table(table):
                if name not in study.dictionaries:
                    continue
                columns += _columns(table, row, study)
                if study.evaluation == "interpretability":
                    interpretations.append(Interpretation(table.title, row, study, found))
        explanations: dict[str, str] = {}
        shards: list[int] = []
        features = sorted({feature for each in interpretations for feature in each.scores})
        for shard, some in groupby(features, found.shard):
            explained = {
                str(feature): [each.told(feature) for each in interpretations if feature in each.scores]
                for feature in some
            }
            for feature, entries in explained.items():
                texts = [entry["text"] for entry in entries if entry["text"] is not None]
                if texts:
                    explanations[feature] = texts[0]
            write_script(place, f"browse/{found.slug}/explained/{shard:04d}", explained)
            shards.append(shard)
        more = {
            "columns": columns,
            "explanations": explanations,
            "explained": shards,
            "links": _links(material, name, study_pages),
        }
        write_script(place, f"browse/{found.slug}/more", more)


def _listed(material: Material, found: Browsable) -> Row:
    row = material.by_name[found.dictionary]
    flat = next(flat for flat in material.flat if flat["ref"] == found.dictionary)
    return {
        "slug": found.slug,
        "ref": found.dictionary,
        "name": material.label(row),
        "hook_point": row["hook_point"],
        "method": flat["method"],
        "parameters": flat["parameters"],
        "n_features": found.about["n_features"],
    }


def _columns(table: StudyTable, row: Row, study: Study) -> Iterator[Row]:
    """What the table of features shows of a study."""
    if study.evaluation == "interpretability":
        entries = study.read("scores.parquet")
        for headline in HEADLINES["interpretability"]:
            if headline.metric in table.meanings:
                meaning = f"{table.title}: {table.meanings[headline.metric].removesuffix('; mean over features')}"
                missing = [
                    (str(entry.get("missing") or entry[f"{headline.metric}_undefined"]), entry["feature"])
                    for entry in entries
                    if entry[headline.metric] is None
                ]
                yield _column(headline.told, meaning, entries, headline.metric, missing)
    if study.evaluation == "ioi":
        entries = study.read("features.parquet")
        yield _column(
            "ioi effect", f"{table.title}: change of the KL when it is patched alone", entries, "exact_effect"
        )
        estimate = f"{table.title}: that change as its integrated gradient estimates it"
        yield _column("ioi attribution", estimate, entries, "attribution")
    if study.evaluation == "pattern":
        entries = [entry for entry in study.read("features.parquet") if entry["basis"] == "dictionary"]
        meaning = f"{table.title}: F1 as a detector of the pattern, above its best threshold, on the rows sought on"
        yield _column(f"{row['asked']['pattern']} F1", meaning, entries, "best_f1")


def _column(
    name: str, meaning: str, entries: Sequence[Row], metric: str, missing: Sequence[tuple[str, int]] = ()
) -> Row:
    reasons: dict[str, list[int]] = defaultdict(list)
    for reason, feature in missing:
        reasons[reason].append(feature)
    values = {str(entry["feature"]): rounded(entry[metric]) for entry in entries if entry[metric] is not None}
    return {"name": name, "meaning": meaning, "values": values, "missing": [list(pair) for pair in reasons.items()]}


class Interpretation:
    """What one study said of each feature that it was asked about, and what was simulated from that."""

    def __init__(self, title: str, row: Row, study: Study, found: Browsable) -> None:
        self.title = title
        self.explainer = row["asked"].get("explainer")
        self.scores = {entry["feature"]: entry for entry in study.read("scores.parquet")}
        self._simulations = pa.table({})
        self._span: dict[int, tuple[int, int]] = {}
        if self.scores and study.features == found.features:  # its fragments are contexts that the browser shows
            # Of a whole dictionary these are millions of rows: columns, feature by feature, and no Python objects.
            table = read_table(study.place / "simulations.parquet", ["feature", "kind", "fragment", "simulated"])
            feature_E = table["feature"].to_numpy()
            begins = np.flatnonzero(np.diff(feature_E, prepend=-1))
            ends = [*begins[1:].tolist(), len(feature_E)]
            self._span = dict(zip(feature_E[begins].tolist(), zip(begins.tolist(), ends, strict=True), strict=True))
            self._simulations = table.drop_columns("feature")

    def told(self, feature: int) -> Row:
        """What the page of a feature shows of this study."""
        entry = self.scores[feature]
        return {
            "title": self.title,
            "text": entry["explanation"],
            "explainer": self.explainer,
            "reason": entry["missing"],
            "scores": [
                [name, None if entry[name] is None else rounded(entry[name]), entry.get(f"{name}_undefined")]
                for name in entry
                if f"{name}_undefined" in entry and not name.endswith(OF_A_SCORE)
            ],
            "simulated": [
                # Of the top fragments only some are scored, which their rank says.
                [kind, SCORE[number] if kind == "top" else number, values]
                for (kind, number), values in self._simulated(feature).items()
                if any(value is not None for value in values)
            ],
        }

    def _simulated(self, feature: int) -> dict[tuple[str, int], list[float | None]]:
        """The values of each fragment, by its kind and number."""
        begin, end = self._span.get(feature, (0, 0))
        fragments: dict[tuple[str, int], list[float | None]] = defaultdict(list)
        for entry in self._simulations.slice(begin, end - begin).to_pylist():
            value = entry["simulated"]
            fragments[entry["kind"], entry["fragment"]].append(None if value is None else rounded(value))
        return fragments


def _links(material: Material, name: str, study_pages: dict[str, str]) -> dict[str, list[Link]]:
    """Of each feature of a dictionary the studies that name it, and the features that circuits join it with."""
    links: dict[str, list[Link]] = defaultdict(list)
    for table in material.tables:
        href = study_pages.get(table.name)
        for row, study in material.of_table(table):
            if name not in study.dictionaries or href is None:
                continue
            if study.evaluation in ("pattern", "steering") and row["feature"] is not None:
                links[str(row["feature"])].append(Link("study", table.title, href))
            if study.evaluation == "circuit":
                for feature, link in _circuit_links(material, name, study):
                    links[str(feature)].append(link)
                for node in study.read("nodes.parquet"):
                    if study.dictionaries[node["level"]] == name:
                        links[str(node["feature"])].append(Link("study", table.title, href))
    return dict(links)


def _circuit_links(material: Material, name: str, study: Study) -> Iterator[tuple[int, Link]]:
    """The edges of a circuit that begin or end in a dictionary."""
    nodes = {node["node"]: node for node in study.read("nodes.parquet")}
    for edge in study.read("edges.parquet"):
        if not edge["kept"]:
            continue
        for own, other, kind in (("lower", "upper", "downstream"), ("upper", "lower", "upstream")):
            here, there = nodes[edge[own]], nodes[edge[other]]
            reached = material.browsable.get(study.dictionaries[there["level"]])
            if study.dictionaries[here["level"]] == name and reached is not None:
                label = f"{there['hook_point']} {there['feature']} {' '.join(there['tokens'])}"
                yield here["feature"], Link(kind, label, reached.href(there["feature"]))
