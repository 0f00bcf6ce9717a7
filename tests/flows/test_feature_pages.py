"""Pages of single features within an experiment: of whom, what is made for them, and that the report has them."""

from pathlib import Path
from typing import Any

import pytest

from flows.experiment import run_experiment
from flows.parameters import ExperimentConfig
from flows.preflight import prepare
from flows.stages import look_up, stages
from storage.tables import read_table
from tasks.caching import artifacts
from tests.flows.test_interpretability import TOLD

RESIDUAL, MLP = "blocks.1.hook_resid_post", "blocks.2.mlp.hook_post"


def with_pages(experiment: dict[str, Any], **changes: Any) -> ExperimentConfig:
    corpus = {**experiment["corpus"], "held_out_tokens": 4096}
    return ExperimentConfig.model_validate({**experiment, "corpus": corpus, "feature_pages": True, **changes})


def planned(config: ExperimentConfig) -> list[str]:
    return [stage.job.name for stage in stages(prepare(config), look_up)]


@pytest.mark.usefixtures("home")
def test_trained_dictionaries_have_pages(tiny_experiment: dict[str, Any]):
    names = planned(with_pages(tiny_experiment, random_model=True))
    trained = [
        f"{method} {place}"
        for place in (RESIDUAL, MLP)
        for method in ("tied_relu expansion=2.0", "topk expansion=2.0 k=4")
    ]
    assert [name for name in names if name.startswith("features ")] == [f"features {name}" for name in trained]
    assert names[-6:] == ["loss gradients", *(f"pages {name}" for name in trained), "report"]
    without = planned(with_pages(tiny_experiment, random_model=True, feature_pages=False))
    assert [name for name in names if name.split()[0] not in ("features", "loss", "pages")] == without


@pytest.mark.usefixtures("home")
def test_features_are_read_once_for_pages_and_evaluations(tiny_experiment: dict[str, Any]):
    names = planned(with_pages(tiny_experiment, evaluations=[{**TOLD, "seed": 3}, {**TOLD, "seed": 4}]))
    assert len([name for name in names if name.startswith("features ")]) == 2 * 10
    pages = [name for name in names if name.startswith("pages ")]
    assert len(pages) == 2 * 3, "of the trained ones, and of the baseline that is sparse"
    assert f"pages pca k=4 {RESIDUAL}" in pages


@pytest.mark.usefixtures("home")
def test_an_experiment_of_baselines_alone_has_no_pages(tiny_experiment: dict[str, Any]):
    assert "loss gradients" not in planned(with_pages(tiny_experiment, dictionaries=[]))


def test_the_disk_that_pages_take_is_foreseen(tiny_experiment: dict[str, Any], home: Path):
    config = with_pages(tiny_experiment)
    needed = prepare(config).bytes_needed
    assert needed["gradients"] == 2 * (32 + 64) * 4096
    assert needed["pages"] == needed["report"] > 0
    assert needed["features"] > 0
    none = prepare(config.model_copy(update={"feature_pages": False})).bytes_needed
    assert none["gradients"] == none["pages"] == none["report"] == none["features"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "home")
def test_the_report_has_the_pages(tiny_experiment: dict[str, Any]):
    config = with_pages(
        tiny_experiment,
        name="pages",
        baselines=[],
        evaluations=[TOLD],
        compute={"workers": 1, "threads": 1, "device": "cpu"},
    )
    result = run_experiment(config)
    report = artifacts().path(*result["report"].split("/")[-3:-1])
    slugs = {place.name for place in (report / "browse").iterdir()}
    assert slugs == {
        f"{row['method']}-{row['hook_point']}-{row['ref'].split('/')[1][:8]}" for row in result["dictionaries"]
    }
    for slug in slugs:
        assert (report / "browse" / slug / "index.js").is_file()
        assert read_table(report / "browse" / slug / "contexts.parquet").num_rows > 0
    again = run_experiment(config)
    assert all(stage["cached"] for stage in again["stages"])
