"""Two reports to a comparison: dictionaries made by hand, whose answer is known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from sae_core import Dictionary, TopK
from storage.artifacts import ArtifactRef, content_key
from storage.tables import write_table
from tasks.caching import artifacts
from tasks.compare import compare_runs, warnings

EVIL = "<script>alert(1)</script>"


def built(kind: str, spec: dict[str, Any], make: Any, **inputs: ArtifactRef) -> ArtifactRef:
    key = content_key(kind, "1", spec, {name: ref.digest for name, ref in inputs.items()})
    return artifacts().build(kind, key, make, code_version="1", spec=spec, inputs=inputs, resumable=False)


def topk(n: int, d: int = 16, seed: int = 0) -> TopK:
    dictionary = TopK(d, n, k=3)
    dictionary.initialise(torch.Generator().manual_seed(seed))
    return dictionary


def reported(
    name: str,
    *dictionaries: Dictionary,
    hook_point: str = "h",
    model: str = "m",
    studies: Sequence[dict[str, Any]] = (),
    **spec: Any,
) -> ArtifactRef:
    """A report of dictionaries, as far as a comparison reads it."""
    rows, inputs = [], {}
    for number, dictionary in enumerate(dictionaries):
        asked = {"dictionary": {"method": dictionary.method, "k": 3, **spec}, "hook_point": hook_point}
        ref = built("dictionary", {**asked, "of": name, "number": number}, dictionary.save)

        def measure(place: Path, n: int = dictionary.n_features) -> None:
            write_table(place / "features.parquet", {"feature": range(n), "density": [0.0] + [0.1] * (n - 1)})

        inputs |= {
            f"dictionaries.{number}": ref,
            f"evaluations.{number}": built("evaluation", {}, measure, dictionary=ref),
        }
        rows.append(
            {"ref": str(ref), "hook_point": hook_point, "method": dictionary.method, "params": {"k": 3, **spec},
             "model": model, "fvu": 0.25 + number, "l0": 3.0}
        )  # fmt: skip

    def write(place: Path) -> None:
        (place / "dictionaries.json").write_text(json.dumps(rows))
        (place / "studies.json").write_text(json.dumps(studies))

    return built("report", {"of": name}, write, **inputs)


def study(auc: float | None, **asked: Any) -> dict[str, Any]:
    """A row of studies.json about a dictionary of `reported`."""
    about = {"hook_point": "h", "method": "topk", "params": {"k": 3}, "model": "m", "title": "ioi", "asked": asked}
    return {**about, "columns": {"auc": "area"}, "auc": auc, "intervals": {}, "undefined": {"auc": "too few"}}


def compared(a: ArtifactRef, b: ArtifactRef, names: tuple[str, str] = ("one", "two"), **config: Any) -> Path:
    configs = (json.dumps({"name": names[0], **config}), json.dumps({"name": names[1]}))
    reports = (str(a), str(b))
    return artifacts().path(compare_runs.build(a=a, b=b, names=names, reports=reports, configs=configs))


def rows(place: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(place / f"{table}.parquet").to_pylist()


def notes(place: Path) -> dict[str, Any]:
    return json.loads((place / "manifest.json").read_text())["notes"]


@pytest.mark.usefixtures("home")
def test_a_run_is_the_same_as_itself():
    report = reported("one", topk(24))
    place = compared(report, report)
    (pair,) = rows(place, "pairs")
    assert pair["mmcs_a_in_b"] == pair["mmcs_b_in_a"] == pytest.approx(1, abs=1e-6)
    assert (pair["kept_a"], pair["lost_a"], pair["gained_b"], pair["never_fires_a"]) == (23, 0, 0, 1)
    assert {(row["difference"], row["ratio"]) for row in rows(place, "metrics")} == {(0.0, 1.0)}
    assert not notes(place)["left_out"]
    assert "None." in (place / "index.html").read_text()


@pytest.mark.usefixtures("home")
def test_a_permuted_dictionary_is_aligned_feature_by_feature():
    ours, theirs = topk(24), topk(24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs.W_dec_nd.copy_(ours.W_dec_nd[order])
    place = compared(reported("one", ours), reported("two", theirs))
    table = [row for row in rows(place, "matches") if row["run"] == "B"]
    assert [row["partner"] for row in table] == [row["nearest"] for row in table] == order.tolist()


@pytest.mark.usefixtures("home")
def test_the_same_parameters_are_compared_first_and_then_what_is_most_alike():
    seeds = [topk(24, seed=seed) for seed in range(3)]
    ours = reported("one", seeds[0], seeds[1], expansion=2)
    place = compared(ours, reported("two", seeds[1], topk(24, seed=9), expansion=3))
    assert [(pair["mmcs_a_in_b"] > 0.99) for pair in rows(place, "pairs")] == [False, True]
    assert all("expansion=2" in pair["name"] and "expansion=3" in pair["name"] for pair in notes(place)["pairs"])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"hook_point": "i"}, "B has no dictionary at h"),
        ({"model": "n"}, "it is of another model, n"),
        ({"d": 12}, "its directions are 12 wide, and these are 16 wide"),
    ],
)
def test_what_cannot_be_compared_says_why(other: dict[str, Any], reason: str):
    theirs = topk(24, d=other.pop("d", 16))
    place = compared(reported("one", topk(24)), reported("two", theirs, **other))
    first, ours, _ = warnings(notes(place))
    assert first == "no dictionary of one run can be compared with one of the other"
    assert reason in ours
    assert reason in (place / "index.html").read_text()
    assert rows(place, "matches") == rows(place, "pairs") == []


@pytest.mark.usefixtures("home")
def test_texts_are_escaped_and_features_link_to_their_pages_where_there_are_some():
    ours, theirs = reported("one", topk(24)), reported("two", topk(30, seed=5))
    place = compared(ours, theirs, names=(EVIL, "two"), sources=[EVIL])
    page = (place / "index.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert "features.html" not in page
    assert f'href="../../{theirs}/index.html"' in page
    assert {row["setting"] for row in rows(place, "config") if row["differs"]} == {"name", "sources"}

    slug = f"topk-h-{json.loads((artifacts().path(ours) / 'dictionaries.json').read_text())[0]['ref'][11:19]}"

    def with_pages(pages: Path) -> None:
        for file in ("dictionaries.json", "studies.json"):
            (pages / file).write_text((artifacts().path(ours) / file).read_text())
        (pages / "browse" / slug).mkdir(parents=True)
        (pages / "browse" / slug / "index.js").touch()
        (pages / "features.html").touch()

    inputs = {name: ArtifactRef(**ref) for name, ref in artifacts().manifest(ours)["inputs"].items()}
    shown = built("report", {"with": "pages"}, with_pages, **inputs)
    assert f'href="../../{shown}/features.html#{slug}/' in (compared(shown, theirs) / "index.html").read_text()


@pytest.mark.usefixtures("home")
def test_studies_with_one_title_are_told_apart_by_what_they_were_asked():
    studies = [study(0.5, features=100, seed=0), study(0.75, features=100, seed=1)]
    report = reported("one", topk(24), studies=studies)
    page = (compared(report, report) / "index.html").read_text()
    assert "<td>ioi (seed=0)</td>" in page
    assert "<td>ioi (seed=1)</td>" in page
    assert "<td>reconstruction</td>" in page


@pytest.mark.usefixtures("home")
def test_the_histogram_shows_shares_so_that_sides_of_different_sizes_can_be_compared():
    text = (compared(reported("one", topk(24)), reported("two", topk(60))) / "data" / "cosines-1.js").read_text()
    told = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    for side, n in (("a", 24), ("b", 60)):
        assert sum(told["counts"][side]) == n
        assert told["shares"][side] == pytest.approx([count / n for count in told["counts"][side]], abs=1e-5)


@pytest.mark.usefixtures("home")
def test_a_keyboard_reaches_why_a_number_is_missing():
    report = reported("one", topk(24), studies=[study(None)])
    page = (compared(report, report) / "index.html").read_text()
    assert page.count('<abbr title="A: too few; B: too few" tabindex="0">—</abbr>') == 4
