"""The site of a whole report: its pages lead to what is there, its text is text, its tables are as they were."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from storage.tables import read_table
from tasks.report import report
from tasks.site.run_facts import STAGES
from tests.tasks.site.reports import EVIL, HOOK_POINTS, Made


class Links(HTMLParser):
    """What a page leads to, loads and calls its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.to: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "xlink:href") and value:
                self.to.append(value)
            if name == "id" and value:
                self.names.append(value)


def links(page: Path) -> Links:
    read = Links()
    read.feed(page.read_text())
    return read


def data(place: Path, name: str) -> Any:
    """What a script hands to the page that loads it."""
    text = (place / f"{name}.js").read_text()
    assert text.startswith(f"saeflow.receive({json.dumps(name)},")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def test_all_that_pages_lead_to_is_there(tiny_report: Made):
    place = tiny_report.place
    pages = sorted(place.glob("*.html"))
    assert {page.name for page in pages} >= {
        "index.html", "study-ioi.html", "study-erasure.html", "study-pattern-dog-cat.html",
        "study-circuit-dog-cat.html", "study-steering-dog-cat.html",
    }  # fmt: skip
    for page in pages:
        read = links(page)
        assert len(read.names) == len(set(read.names)), page.name
        for target in read.to:
            file, _, fragment = target.partition("#")
            if target.startswith("data:") or (file == "features.html" and not (place / file).exists()):
                continue  # whoever has the page of features finds it there
            if page.name == "try.html" and target.startswith("http://127.0.0.1:"):
                continue  # a link to the report server of this machine; nothing is loaded from there
            assert "//" not in target
            assert (place / file).is_file() if file else fragment in read.names, (page.name, target)


def test_no_text_of_others_is_markup(tiny_report: Made):
    for page in tiny_report.place.glob("*.html"):
        assert EVIL not in page.read_text(), page.name
    assert "&lt;script&gt;alert(1)" in (tiny_report.place / "study-ioi.html").read_text()
    assert "&lt;script&gt;alert(1)" in (tiny_report.place / "index.html").read_text(), "the parameters"


def test_a_study_shows_its_plots_and_what_is_the_same_for_all_once(tiny_report: Made):
    page = (tiny_report.place / "study-ioi.html").read_text()
    drawn = re.findall(r'data-plot="([^"]+)"', page)
    assert drawn
    assert drawn == [name for name in data(tiny_report.place, "data/plots") if name.startswith("ioi-")]
    assert page.count("<caption>The features with the largest effect") > 1
    assert page.count("<caption>Some of the prompts") == 1
    assert "data-plot" not in (tiny_report.place / "study-pattern-dog-cat.html").read_text()


def test_features_are_linked_where_they_can_be_looked_at(tiny_report: Made):
    place = tiny_report.place
    listed = data(place, "data/dictionaries")
    assert [entry["hook_point"] for entry in listed].count(HOOK_POINTS[0]) == 1
    assert all(entry["n_features"] and entry["name"] for entry in listed)
    slugs = {entry["slug"] for entry in listed}
    for page in ("study-pattern-dog-cat", "study-circuit-dog-cat", "study-ioi", "index"):
        hashes = [target for target in links(place / f"{page}.html").to if target.startswith("features.html#")]
        assert hashes, page
        assert {target.partition("#")[2].partition("/")[0] for target in hashes} <= slugs


def test_the_browser_gets_scores_effects_explanations_and_links(tiny_report: Made):
    place, slug = tiny_report.place, data(tiny_report.place, "data/dictionaries")[0]["slug"]
    more = data(place, f"browse/{slug}/more")
    columns = {column["name"]: column for column in more["columns"]}
    assert {"score", "ioi effect", "ioi attribution", "dog|cat F1"} <= columns.keys()
    assert set(columns["ioi effect"]["values"]) == {"0", "3", "6", "9"}
    explained = {
        feature: told
        for shard in more["explained"]
        for feature, told in data(place, f"browse/{slug}/explained/{shard:04d}").items()
    }
    assert len(explained) == 6
    for feature, (told, other) in explained.items():
        assert told["explainer"] == "token_lookup"
        assert more["explanations"].get(feature) == (told["text"] or other["text"]), "the first that there is"
        assert all(value is not None or reason for _, value, reason in told["scores"])
        assert [name for name, *_ in told["scores"]][:2] == ["score", "score_clipped"]
        assert len({(kind, rank) for kind, rank, _ in told["simulated"]}) == len(told["simulated"])
        assert {rank for kind, rank, _ in told["simulated"] if kind == "top"} <= {2, 6, 10, 14, 18}, feature
        assert all(len(values) == 16 for *_, values in told["simulated"])
        assert told["simulated"]
    kinds = {kind for links in more["links"].values() for kind, *_ in links}
    assert kinds == {"study", "upstream"}, "it is the last layer of the circuit"


def test_of_two_studies_each_keeps_its_own_words_scores_and_simulations(tiny_report: Made):
    place, slug = tiny_report.place, data(tiny_report.place, "data/dictionaries")[0]["slug"]
    explained = data(place, f"browse/{slug}/explained/0000")
    for lookup, other in explained.values():
        assert [lookup["title"], other["title"]] == ["interpretability token_lookup", "interpretability contrastive"]
        assert lookup["text"] != other["text"]
        assert other["text"] is not None or other["reason"] == "the server gave no answer"
        shown = [{(kind, rank): values for kind, rank, values in each["simulated"]} for each in (lookup, other)]
        assert shown[0].keys() == shown[1].keys(), "both are of the fragments that the browser shows"
        for where, values in shown[0].items():
            halves = [value and pytest.approx(value / 2, rel=1e-4) for value in values]
            assert shown[1][where] == halves
    assert sum(other["text"] is not None for _, other in explained.values()) == 1


def test_times_are_told_of_every_artifact(tiny_report: Made):
    stages = read_table(tiny_report.place / "stages.parquet").to_pylist()
    assert len(stages) == len({row["artifact"] for row in stages})
    run = json.loads((tiny_report.place / "run.json").read_text())
    assert sum(total["artifacts"] for total in run["totals"]) == len(stages)
    told = {total["stage"]: total for total in run["totals"]}
    assert told[STAGES["activations"]]["rows"] == 4096 + 4096
    for row in stages:
        assert row["rows_per_second"] is None or row["rows_per_second"] * row["seconds"] == pytest.approx(row["rows"])
    assert run["seeds"] == [["corpus", 0]]
    assert [(told["commit"], told["artifacts"]) for told in run["commits"]] == [(stages[0]["commit"], len(stages))]


def test_the_same_is_made_again_but_for_times(tiny_report: Made, tmp_path: Path):
    report.make(tmp_path, **tiny_report.inputs)
    files = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    there = {file.relative_to(tiny_report.place) for file in tiny_report.place.rglob("*") if file.is_file()}
    assert files == there - {Path("manifest.json")}
    assert [
        name for name in sorted(files) if (tmp_path / name).read_bytes() != (tiny_report.place / name).read_bytes()
    ] == []


def test_plots_are_there_with_their_data(tiny_report: Made):
    figures = data(tiny_report.place, "data/plots")
    page = (tiny_report.place / "index.html").read_text()
    assert re.findall(r'data-plot="([^"]*)"', page) == list(figures)
    kinds = {re.sub(r"-\d+$", "", name) for name in figures}
    assert kinds >= {"front", "training-fvu", "training-l0", "density", "ioi-features", "ioi-edit",
                     "erasure-edit", "interpretability_token_lookup-means"}  # fmt: skip
    faithful = read_table(tiny_report.place / "faithfulness.parquet")["ce_recovered"]
    assert ("faithfulness" in kinds) == (faithful.null_count < len(faithful)), "what is undefined has no plot"
    for figure in figures.values():
        assert figure["data"]
        assert "template" not in figure["layout"], "colours are of the theme"
