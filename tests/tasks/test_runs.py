"""A run is found by its experiment and by its report, and what is wrong is told."""

import json
from pathlib import Path

import pytest

from storage.artifacts import ArtifactRef, ArtifactStore
from tasks.errors import ExperimentError
from tasks.runs import find_run


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "home")
    for key in ("0123abcd", "4567abcd"):
        store.build(
            "report", key, lambda place: (place / "x").touch(), code_version="1", spec={}, inputs={}, resumable=False
        )
    (store.home / "experiments").mkdir()
    records = {
        "mine": {"report": "/elsewhere/report/0123abcd/report.md", "config": {"name": "mine"}},
        "gone": {"report": "/elsewhere/report/89abcdef/report.md"},
        "begun": {"config": {}},
    }
    for name, record in records.items():
        (store.home / "experiments" / f"{name}.json").write_text(json.dumps(record))
    return store


def test_an_experiment_and_its_report_are_one_run(store: ArtifactStore):
    runs = [find_run(store, typed) for typed in ("mine", "report/0123abcd", "report/01", "0123")]
    assert {(run.name, str(run.report), str(run.config)) for run in runs} == {
        ("mine", "report/0123abcd", "{'name': 'mine'}")
    }


def test_a_report_that_no_record_names_is_called_by_its_key(store: ArtifactStore):
    run = find_run(store, "report/4567abcd")
    assert (run.name, run.config) == ("report/4567abcd", None)
    assert isinstance(run.report, ArtifactRef)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("begun", "of experiment begun, it has no report. Make it: saeflow run begun"),
        ("gone", "report/89abcdef is not there any more"),
        ("mien", "there is no experiment 'mien' .* Experiments there: mine"),
    ],
)
def test_a_run_that_cannot_be_had_says_what_to_do(store: ArtifactStore, typed: str, said: str):
    with pytest.raises(ExperimentError, match=said):
        find_run(store, typed)
