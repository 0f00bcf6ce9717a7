"""Two runs to a site that says what is different: dictionaries feature by feature, numbers, and settings.

index.html         all of it, to look at
pairs.parquet      which dictionaries were compared, and how alike they are as a whole
matches.parquet    each feature of either with its nearest and its partner in the other: kept, changed, lost, gained
metrics.parquet    every metric that both have, with difference and ratio
config.parquet     what the experiments were asked for
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.cells import named, parameters, rounded
from tasks.comparison.alignment import BINS, KEPT, LOST, Alignment, align, chance, counts, histogram, rows
from tasks.comparison.differences import metric_rows, setting_rows
from tasks.comparison.entries import STUDIES, Entry, entries, read_rows
from tasks.comparison.pairs import LeftOut, Pair, pair_up
from tasks.site.pages import write_assets, write_page, write_script

KIND = "comparison"
LISTED = 20
"""Lost and gained features on the page, the most frequent first; all are in matches.parquet."""

MATCHES = {
    "pair": pa.int64(),
    "run": pa.string(),
    "feature": pa.int64(),
    "density": pa.float64(),
    "nearest": pa.int64(),
    "cosine": pa.float64(),
    "state": pa.string(),
    "partner": pa.int64(),
    "partner_cosine": pa.float64(),
}
SETTINGS = {"setting": pa.string(), "a": pa.string(), "b": pa.string(), "differs": pa.bool_()}


class Side(NamedTuple):
    """One of the two runs."""

    name: str
    """A or B."""
    experiment: str
    report: ArtifactRef

    @property
    def place(self) -> str:
        """Its report, from a page of the comparison."""
        return f"../../{self.report}"

    def pages(self, entry: Entry) -> str | None:
        """Where the features of a dictionary are shown, if they are."""
        files = artifacts().location(self.report)
        shown = all(files.exists(name) for name in ("features.html", f"browse/{entry.slug}/index.js"))
        return f"{self.place}/features.html#{entry.slug}" if shown else None


@step(kind=KIND, code_version="3")
def compare_runs(
    place: Path,
    a: ArtifactRef,
    b: ArtifactRef,
    names: tuple[str, str],
    reports: tuple[str, str],
    configs: tuple[str | None, str | None],
) -> dict[str, Any]:
    """Compare the dictionaries of two reports.

    Args:
        names: of the experiments.
        reports: the reports by name: links lead there, and a key holds only the digests of references.
        configs: what the experiments were asked for, as JSON; None where that is not known.
    """
    sides = (Side("A", names[0], a), Side("B", names[1], b))
    ours, theirs = entries(a), entries(b)
    pairs, left_out = pair_up(ours, theirs)
    studies_a, studies_b = read_rows(a, STUDIES), read_rows(b, STUDIES)

    told, matches, metrics = [], [], []
    for number, pair in enumerate(pairs, 1):
        aligned = align(pair.a.directions, pair.b.directions)
        features = rows(number, aligned, pair.a.densities(), pair.b.densities())
        numbers = metric_rows(number, pair, studies_a, studies_b)
        write_script(place, f"data/cosines-{number}", cosines(aligned))
        told.append(told_of(number, pair, aligned, features, numbers, sides))
        matches += features
        metrics += numbers
    known = [json.loads(config) for config in configs if config is not None]
    settings = setting_rows(*known) if len(known) == 2 else []

    write_table(place / "pairs.parquet", [flat(each) for each in told] or {"pair": pa.array([], pa.int64())})
    write_table(place / "matches.parquet", columns(matches, MATCHES))
    write_table(place / "metrics.parquet", metrics or {"pair": pa.array([], pa.int64())})
    write_table(place / "config.parquet", columns(settings, SETTINGS))
    write_page(
        place,
        "index",
        "compare",
        title="Comparison",
        site=f"{names[0]} and {names[1]}",
        nav={"Comparison": "index.html"} | {f"Report {side.name}": f"{side.place}/index.html" for side in sides},
        here="index.html",
        sides=sides,
        pairs=told,
        left_out=[shown_left_out(each, [*ours, *theirs]) for each in left_out],
        settings=[row for row in settings if row["differs"]],
        settings_known=len(known) == 2,
        alike=sum(not row["differs"] for row in settings),
        kept=KEPT,
        lost=LOST,
    )
    write_assets(place)
    return {
        "experiments": list(names),
        "reports": list(reports),
        "pairs": [{"name": each["name"], **each["whole"], "states": each["states"]} for each in told],
        "left_out": [f"{each.run}: {called(each.entry, [*ours, *theirs])}: {each.reason}" for each in left_out],
    }


def told_of(
    number: int,
    pair: Pair,
    aligned: Alignment,
    features: Sequence[dict[str, Any]],
    numbers: Sequence[dict[str, Any]],
    sides: tuple[Side, Side],
) -> dict[str, Any]:
    """A pair as the page shows it."""
    both = [pair.a.row, pair.b.row]
    shown = [named(row, both) for row in both]
    return {
        "number": number,
        "name": f"{pair.a.hook_point}: {shown[0]}" + ("" if shown[0] == shown[1] else f" and {shown[1]}"),
        "hook_point": pair.a.hook_point,
        "shown": shown,
        "refs": [str(pair.a.ref), str(pair.b.ref)],
        "whole": aligned.summary,
        "chance": [chance(len(aligned.b.cosine_n), pair.a.directions.shape[1]),
                   chance(len(aligned.a.cosine_n), pair.a.directions.shape[1])],
        "states": {side.name: counts([row["state"] for row in features if row["run"] == side.name]) for side in sides},
        "metrics": told_apart(numbers),
        "changes": [
            change(title, state, [row for row in features if row["state"] == state], entry, other, *ends)
            for title, state, entry, other, ends in (
                ("Gained: features of B with no counterpart in A", "gained", pair.b, pair.a, (sides[1], sides[0])),
                ("Lost: features of A with no counterpart in B", "lost", pair.a, pair.b, sides),
            )
        ],
    }  # fmt: skip


def told_apart(numbers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics; of several studies with one title, the titles say with which parameters."""
    asked: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in numbers:
        if row["asked"] is not None:
            asked[row["study"]][row["asked"]] = {"params": json.loads(row["asked"])}
    told = []
    for row in numbers:
        twins = asked[row["study"]]
        differs = parameters(twins[row["asked"]]["params"], list(twins.values())) if len(twins) > 1 else ""
        told.append({**row, "study": f"{row['study']} ({differs})"} if differs else row)
    return told


def change(
    title: str, state: str, found: Sequence[dict[str, Any]], entry: Entry, other: Entry, side: Side, other_side: Side
) -> dict[str, Any]:
    """Features that one side has alone, the most frequent first, with links to their pages."""
    most = sorted(found, key=lambda row: (-(row["density"] or 0), row["feature"]))[:LISTED]
    here, there = side.pages(entry), other_side.pages(other)
    return {
        "title": title,
        "state": state,
        "count": len(found),
        "run": side.name,
        "other": other_side.name,
        "rows": [
            {
                **row,
                "page": here and f"{here}/{row['feature']}",
                "nearest_page": there and f"{there}/{row['nearest']}",
            }
            for row in most
        ],
    }


def cosines(aligned: Alignment) -> dict[str, Any]:
    """What the histogram of a pair is drawn from: shares, as sides may differ in size, and the counts behind them."""
    sides = {"a": aligned.a.cosine_n.tolist(), "b": aligned.b.cosine_n.tolist()}
    counted = {name: histogram(values) for name, values in sides.items()}
    return {
        "low": [round(-1 + 2 * index / BINS, 6) for index in range(BINS)],
        "width": 2 / BINS,
        "shares": {name: [rounded(count / sum(bins)) for count in bins] for name, bins in counted.items()},
        "counts": counted,
        "kept": KEPT,
        "lost": LOST,
    }


def flat(told: dict[str, Any]) -> dict[str, Any]:
    """A pair as a row of pairs.parquet."""
    states = {
        f"{state.replace(' ', '_')}_{side.lower()}": told["states"][side].get(state, 0)
        for side, own in (("A", "lost"), ("B", "gained"))
        for state in ("kept", "changed", own, "never fires")
    }
    return {
        "pair": told["number"],
        "hook_point": told["hook_point"],
        "dictionary_a": told["refs"][0],
        "dictionary_b": told["refs"][1],
        **told["whole"],
        "chance_a_in_b": told["chance"][0],
        "chance_b_in_a": told["chance"][1],
        **states,
    }


def columns(found: Sequence[dict[str, Any]], types: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """Rows as columns of these types, which a table without rows has too."""
    return {name: pa.array([row[name] for row in found], type_) for name, type_ in types.items()}


def shown_left_out(each: LeftOut, all_entries: Sequence[Entry]) -> dict[str, str]:
    return {
        "run": each.run,
        "hook_point": each.entry.hook_point,
        "dictionary": called(each.entry, all_entries),
        "reason": each.reason,
    }


def called(entry: Entry, among: Sequence[Entry]) -> str:
    """A dictionary with what tells it from others."""
    return named(entry.row, [other.row for other in among])


def warnings(notes: dict[str, Any]) -> Iterator[str]:
    """What a person should hear who asked for the comparison."""
    if not notes["pairs"]:
        yield "no dictionary of one run can be compared with one of the other"
    yield from notes["left_out"]
