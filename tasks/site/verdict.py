"""What an experiment says, in three sentences that are made from its numbers by rule.

1. Of each hook point the sparse autoencoder that leaves the least variance unexplained, beside the best baseline of
   comparable sparsity: one whose L0 is at most TWICE as large, and at least half as large.
2. Of each evaluation the best dictionary, beside its control.
3. What should make a reader suspicious.

A sentence claims nothing without a number, and carries its numbers: `overview.json` holds them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.cells import RANDOM_WEIGHTS, cell, with_interval
from tasks.site.headlines import Finding, distance, finding, headline_of, meet
from tasks.site.material import Material
from tasks.study_tables import Row

TWICE = 2.0
DEAD = 0.1
"""A share of dead features above it is told of."""
NEARLY = 0.1
"""A control that is worse than the best by less than this share is told of, where no intervals say more."""


class Sentence(NamedTuple):
    about: str
    clauses: Sequence[str]
    numbers: Sequence[Mapping[str, Any]]
    """What it is made from, each number with what it is and where it was measured."""

    @property
    def text(self) -> str:
        return f"{self.about}: {'; '.join(self.clauses)}."


def verdict(material: Material) -> list[Sentence]:
    """The three sentences."""
    return [reconstruction(material), evaluations(material), suspicions(material)]


def reconstruction(material: Material) -> Sentence:
    """Which dictionary leaves the least variance unexplained."""
    parts: list[str] = []
    numbers: list[Mapping[str, Any]] = []
    for hook_point in material.hook_points:
        text, own = _best_at(material, hook_point)
        parts.append(f"at {hook_point}, {text}")
        numbers += own
    return Sentence("Reconstruction", parts, numbers)


def _best_at(material: Material, hook_point: str) -> tuple[str, list[Mapping[str, Any]]]:
    here = [row for row in material.at(hook_point) if row["fvu"] is not None]
    sparse = [row for row in here if material.sparse(row)]
    if not sparse:
        return "no sparse autoencoder has a defined FVU", []
    best = min(sparse, key=lambda row: row["fvu"])
    numbers: list[Mapping[str, Any]] = [_numbers(best, "fvu", "l0")]
    text = f"{material.label(best)} leaves {cell(best['fvu'])} of the variance unexplained at L0 {cell(best['l0'])}"
    baselines = _baselines(material, here, best)
    if not baselines:
        nearest = min(
            (row for row in here if _is_baseline(material, row) and row["l0"] and best["l0"]),
            key=lambda row: abs(math.log(row["l0"] / best["l0"])),
            default=None,
        )
        if nearest is None:
            return f"{text}, and there is no baseline", numbers
        text += "; no baseline has a comparable L0, the nearest, "
        return f"{text}{material.label(nearest)} at L0 {cell(nearest['l0'])}, leaves {cell(nearest['fvu'])}", [
            *numbers,
            _numbers(nearest, "fvu", "l0"),
        ]
    other = min(baselines, key=lambda row: row["fvu"])
    ratio = {"fvu_ratio": other["fvu"] / best["fvu"]} if best["fvu"] > 0 else {}
    numbers.append({**_numbers(other, "fvu", "l0"), **ratio})
    text += f"; the best baseline of comparable L0, {material.label(other)}, leaves {cell(other['fvu'])}"
    text += f" at L0 {cell(other['l0'])}"
    if ratio:
        text += f": {cell(ratio['fvu_ratio'], '.3g')} times as much"
    faithful, own = _faithful(material, best, other)
    compared = [
        (row, min(baseline["fvu"] for baseline in there))
        for row in sparse
        if (there := _baselines(material, here, row))
    ]
    less = sum(row["fvu"] < least for row, least in compared)
    share = f", and {less} of {len(compared)} autoencoders that have such a baseline leave less than it"
    if len(compared) == 1:  # which is the one that was told of
        share = ""
    return text + faithful + share, [*numbers, *own, {"compared": len(compared), "leave_less": less}]


def _faithful(material: Material, best: Row, other: Row) -> tuple[str, list[Mapping[str, Any]]]:
    """Whether the intervals of what the model keeps meet; the reconstruction itself has none."""
    for _, rows in material.of_kind("faithfulness"):
        found = {study.dictionaries[0]: row for row, study in rows}
        if best["ref"] not in found or other["ref"] not in found:
            continue
        pair = [found[best["ref"]], found[other["ref"]]]
        bounds = [row["intervals"].get("ce_recovered") for row in pair]
        if any(row["ce_recovered"] is None for row in pair) or None in bounds:
            continue
        told = [with_interval(row["ce_recovered"], bound) for row, bound in zip(pair, bounds, strict=True)]
        how = "meet" if meet(*bounds) else "do not meet"
        numbers: list[Mapping[str, Any]] = [_numbers(row, "ce_recovered", interval="ce_recovered") for row in pair]
        return f" (CE recovered {told[0]} and {told[1]}: their 95 % intervals {how})", numbers
    return "", []


def _baselines(material: Material, here: Sequence[Row], row: Row) -> list[Row]:
    """Those that are about as sparse as a dictionary."""
    return [other for other in here if _is_baseline(material, other) and _comparable(other, row)]


def _is_baseline(material: Material, row: Row) -> bool:
    return not material.sparse(row) and RANDOM_WEIGHTS not in row["model"]


def _comparable(row: Row, best: Row) -> bool:
    return row["l0"] is not None and best["l0"] / TWICE <= row["l0"] <= best["l0"] * TWICE


def evaluations(material: Material) -> Sentence:
    """The best sparse autoencoder of each evaluation, the best baseline, and the control."""
    parts: list[str] = []
    numbers: list[Mapping[str, Any]] = []
    for table in material.tables:
        rows = material.of_table(table)
        headline, found = headline_of(table, rows[0][1].evaluation), finding(table, rows)
        if headline is not None and found is None:
            parts.append(f"{table.title} gave no defined result for a sparse autoencoder")
        if headline is None or found is None:
            continue
        text, own = _told(table.title, found)
        parts.append(text)
        numbers += own
    if not parts:
        return Sentence("Evaluations", ["none was asked for beyond the reconstruction"], [])
    return Sentence("Evaluations", parts, numbers)


def _told(title: str, found: Finding) -> tuple[str, list[Mapping[str, Any]]]:
    """One evaluation."""
    headline, best = found.headline, found.best
    text = f"in {title}, {_called(best.row)} is the best sparse autoencoder with {headline.told} "
    text += with_interval(best.value, best.interval)
    numbers: list[Mapping[str, Any]] = [_numbers(best.row, headline.metric, interval=headline.metric)]
    beside = []
    if found.baseline is not None:
        other = found.baseline
        beside.append(f"best baseline, {_called(other.row)}: {with_interval(other.value, other.interval)}")
        numbers.append(_numbers(other.row, headline.metric, interval=headline.metric))
    if found.control is not None:
        other = found.control
        beside.append(f"control, {found.control_told}: {with_interval(other.value, other.interval)}")
        metric = headline.metric if other.ref != best.ref else str(headline.control)
        numbers.append(_numbers(other.row, metric, interval=metric))
    return f"{text} ({', '.join(beside) or 'there is no baseline or control'})", numbers


def _called(row: Row) -> str:
    told = f"{row['method']} ({row['parameters']})" if row["parameters"] else row["method"]
    return f"{told} at {row['hook_point']}"


def suspicions(material: Material) -> Sentence:
    """Dead features, a short corpus, a control that is nearly as good, results that are not defined."""
    found = [*_dead(material), *_short(material), *_control(material), *_undefined(material), *_warned(material)]
    if not found:
        text = f"nothing by these rules: no dictionary has more than {DEAD:.0%} dead features, the corpus is as long "
        text += "as asked for, no control is nearly as good as what it stands beside, every result is defined, and "
        text += "there is no "
        return Sentence("Suspicious", [f"{text}warning"], [])
    return Sentence("Suspicious", [text for text, _ in found], [numbers for _, numbers in found])


def _dead(material: Material) -> Iterator[tuple[str, Mapping[str, Any]]]:
    own = [row for row in material.rows if material.trained(row) and row["dead_fraction"] is not None]
    many = [row for row in own if row["dead_fraction"] > DEAD]
    if many:
        worst = max(many, key=lambda row: row["dead_fraction"])
        share = worst["dead_fraction"]
        text = f"{len(many)} of {len(own)} trained dictionaries have more than {DEAD:.0%} dead features, "
        text += f"{material.label(worst)} at {worst['hook_point']} most ({cell(share, '.3g')} of them)"
        yield text, {"dictionaries_with_dead_features": len(many), "trained": len(own), "dead_fraction": share}


def _short(material: Material) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, manifest in material.manifests.items():
        short = manifest["notes"].get("short_of_wanted") if manifest["kind"] == "tokens" else None
        for split in short or ():
            spec, rows = manifest["spec"]["corpus"]["spec"], manifest["notes"]["rows"][split]
            wanted = spec["tokens" if split == "train" else "held_out_tokens"]
            there = rows * spec["context_length"]
            text = f"the corpus has {there} of the {wanted} {split.replace('_', '-')} tokens that were asked for"
            yield text, {"artifact": name, "tokens": there, "wanted": wanted}


def _control(material: Material) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for table in material.tables:
        found = finding(table, material.of_table(table))
        if found is None or found.control is None:
            continue
        headline, best, control = found.headline, found.best, found.control
        least, there = distance(headline, best.value), distance(headline, control.value)
        as_good = there <= least
        if best.interval and control.interval:
            near, told = meet(best.interval, control.interval), "has an interval that meets that of the best"
        else:
            near = there <= least + NEARLY * abs(least)
            told = f"is within {NEARLY:.0%} of the best"
        if as_good or near:
            how = "is as good as the best" if as_good else told
            text = f"in {table.title} the control ({found.control_told}) {how}: {headline.told} "
            text += (
                f"{with_interval(control.value, control.interval)} beside {with_interval(best.value, best.interval)}"
            )
            yield text, {"table": table.name, "control": control.value, "best": best.value}


def _undefined(material: Material) -> Iterator[tuple[str, Mapping[str, Any]]]:
    missing = [row for table in material.tables for row in table.rows for name in table.meanings if row[name] is None]
    total = sum(len(table.meanings) * len(table.rows) for table in material.tables)
    if missing:
        yield (
            f"{len(missing)} of {total} results of evaluations are undefined (their cells say why)",
            {"undefined_results": len(missing), "results": total},
        )


def _warned(material: Material) -> Iterator[tuple[str, Mapping[str, Any]]]:
    warned = {name: manifest["notes"]["warnings"] for name, manifest in material.manifests.items()
              if manifest["notes"].get("warnings")}  # fmt: skip
    if warned:
        name, warnings = next(iter(warned.items()))
        row = material.by_name.get(name)
        whose = f"{material.label(row)} at {row['hook_point']}" if row else name
        text = f"of {len(warned)} of {len(material.manifests)} artifacts there is a warning, of {whose}: {warnings[0]}"
        yield text, {"warned": len(warned), "artifacts": len(material.manifests), "warnings": warned}


def _numbers(row: Row, *metrics: str, interval: str | None = None) -> dict[str, Any]:
    told = {"artifact": row["ref"], **{metric: row[metric] for metric in metrics}}
    return told | ({"interval": row["intervals"].get(interval)} if interval else {})
