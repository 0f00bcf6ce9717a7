"""A report in a notebook."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.caching import artifacts
from tasks.errors import ExperimentError
from tasks.load_report import load_report
from tests.tasks.test_compare import compared, reported, study, topk


def test_a_report_is_opened_by_its_directory_its_key_and_its_experiment(home: Path, monkeypatch: pytest.MonkeyPatch):
    report = reported("one", topk(24))
    (home / "experiments").mkdir()
    (home / "experiments" / "one.json").write_text(f'{{"report": "/elsewhere/{report}/report.md"}}')
    here = artifacts().path(report)
    assert load_report(here).path == load_report(str(report)).path == load_report("one").path == here
    monkeypatch.delenv("SAEFLOW_HOME")
    found = load_report("one", home=home)
    assert found.path == here
    assert [row["method"] for row in found.dictionaries] == ["topk"]
    assert {"dictionaries.json", "studies.json"} <= set(found.paths)
    told = {row["metric"]: row["value"] for row in found.metrics.to_pylist()}
    assert told == {"fvu": 0.25, "l0": 3.0}
    assert len(found.metrics.to_pandas()) == 2
    with pytest.raises(ExperimentError, match="no experiment 'two'"):
        load_report("two", home=home)


@pytest.mark.usefixtures("home")
def test_metrics_of_studies_with_one_title_are_told_apart_by_what_was_asked():
    report = reported("one", topk(24), studies=[study(0.5, seed=0), study(0.75, seed=1)])
    told = load_report(str(report)).metrics.to_pylist()
    assert {(row["study"], row["asked"]): row["value"] for row in told if row["metric"] == "auc"} == {
        ("ioi", '{"seed": 0}'): 0.5,
        ("ioi", '{"seed": 1}'): 0.75,
    }
    assert {row["asked"] for row in told if row["study"] == "reconstruction"} == {None}


@pytest.mark.usefixtures("home")
def test_a_comparison_has_tables_too():
    report = reported("one", topk(24))
    place = compared(report, report)
    found = load_report(f"comparison/{place.name}")
    assert set(found.tables) == {"config", "matches", "metrics", "pairs"}
    assert found.tables["matches"].num_rows == 48
    assert found.dictionaries == []


def test_it_imports_neither_torch_nor_a_language_model_nor_prefect():
    told = "import sys; import tasks.load_report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "prefect"} & set(loaded)
