"""What studies know of single features, for the feature browser: explanations, scores, effects, and where they occur.

Of each dictionary whose features can be looked at,

    browse/SLUG/more             columns for the table, explanations, links to what a feature leads to and comes from
    browse/SLUG/explained/NNNN   of the explained features of a shard all scores, and the simulated activations

and `data/dictionaries`, which lists these dictionaries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.feature_tables import SCORE
from tasks.site.figures import rounded
from tasks.site.headlines import HEADLINES
from tasks.site.material import Browsable, Material, Study
from tasks.site.pages import write_script
from tasks.study_tables import Row, StudyTable

SHARD = 64
"""Features of a shard."""

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
        explanations: dict[str, str] = {}
        shards: dict[int, dict[str, Row]] = defaultdict(dict)
        for table in material.tables:
            for row, study in material.of_table(table):
                if name not in study.dictionaries:
                    continue
                columns += _columns(table, row, study)
                if study.evaluation == "interpretability":
                    for feature, told in _explained(row, study, found):
                        if told["text"] is not None:
                            explanations.setdefault(str(feature), told["text"])
                        shards[feature // SHARD].setdefault(str(feature), told)
        for shard, features in shards.items():
            write_script(place, f"browse/{found.slug}/explained/{shard:04d}", features)
        more = {
            "columns": columns,
            "explanations": explanations,
            "explained": sorted(shards),
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


def _explained(row: Row, study: Study, found: Browsable) -> Iterator[tuple[int, Row]]:
    """What was said of each feature that was asked about, and what was simulated from it."""
    simulated: dict[int, dict[tuple[str, int], list[float | None]]] = defaultdict(lambda: defaultdict(list))
    if study.features == found.features:  # its fragments are contexts that the browser shows
        for entry in study.read("simulations.parquet"):
            value = entry["simulated"]
            of_fragment = simulated[entry["feature"]][entry["kind"], entry["fragment"]]
            of_fragment.append(None if value is None else rounded(value))
    for entry in study.read("scores.parquet"):
        scores = [
            [name, None if entry[name] is None else rounded(entry[name]), entry.get(f"{name}_undefined")]
            for name in entry
            if f"{name}_undefined" in entry and not name.endswith(OF_A_SCORE)
        ]
        told = {
            "text": entry["explanation"],
            "explainer": row["asked"].get("explainer"),
            "reason": entry["missing"],
            "scores": scores,
            "simulated": [
                # Of the top fragments only some are scored, which their rank says.
                [kind, SCORE[number] if kind == "top" else number, values]
                for (kind, number), values in simulated.get(entry["feature"], {}).items()
                if any(value is not None for value in values)
            ],
        }
        yield entry["feature"], told


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
