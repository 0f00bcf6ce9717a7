"""Interpretability within an experiment: features are read once for each dictionary, and all dictionaries compared."""

from pathlib import Path
from typing import Any

import pytest

from flows.experiment import run_experiment
from flows.parameters import ExperimentConfig
from flows.preflight import prepare
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.errors import ExperimentError

TOLD = {"evaluation": "interpretability", "features": 6, "fragment_length": 8}


def changed(experiment: dict[str, Any], **changes: Any) -> dict[str, Any]:
    corpus = {**experiment["corpus"], "held_out_tokens": 4096, **changes.pop("corpus", {})}
    return {**experiment, "corpus": corpus, "evaluations": [TOLD], **changes}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "home")
def test_features_are_read_once_and_dictionaries_compared(tiny_experiment: dict[str, Any]):
    parameters = changed(
        tiny_experiment,
        name="read",
        hook_points=tiny_experiment["hook_points"][:1],
        dictionaries=[tiny_experiment["dictionaries"][1], {"method": "tied_relu", "expansion": 2, "alpha": 0}],
        baselines=[{"method": "pca", "k": None}],
        evaluations=[TOLD, {**TOLD, "features": 3}],
        random_model=True,
        compute={"workers": 1, "threads": 1, "device": "cpu"},
    )
    result = run_experiment(ExperimentConfig.model_validate(parameters))
    names = [stage["name"] for stage in result["stages"]]
    assert len([name for name in names if name.startswith("features ")]) == 4
    assert len([name for name in names if name.startswith("interpretability token_lookup ")]) == 8
    assert len(result["studies"]) == 8
    assert {row["title"] for row in result["studies"]} == {"interpretability token_lookup"}
    assert all(row[name] is not None or row["undefined"][name] for row in result["studies"] for name in row["columns"])

    ref = next(stage["ref"] for stage in result["stages"] if stage["name"] == "compare interpretability token_lookup")
    place = artifacts().path(*ref.split("/"))
    table = read_table(place / "comparison.parquet").to_pylist()
    assert [row["sparse"] for row in table] == [True, False, False, False], "nor is the one on random weights"
    differences = read_table(place / "differences.parquet").to_pylist()
    assert len(differences) == 3
    for row in differences:
        assert row["undefined"] or row["low"] <= row["difference"] <= row["high"]
    for name in ("means", "violins", "moments"):
        assert (place / f"{name}.svg").read_text().count("<svg") == 1
    page = (artifacts().path(*result["report"].split("/")[-3:-1]) / "index.html").read_text()
    assert "Interpretability side by side" in page
    assert 'src="comparison_1_means.svg"' in page
    again = run_experiment(ExperimentConfig.model_validate(parameters))
    assert all(stage["cached"] for stage in again["stages"])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("told", "message"),
    [({"fragment_length": 64}, "rows have 32 tokens"), ({"fragment_length": 32}, "a feature needs 20")],
)
def test_fragments_that_the_text_does_not_have_are_refused(
    tiny_experiment: dict[str, Any], told: dict[str, Any], message: str
):
    parameters = changed(tiny_experiment, corpus={"held_out_tokens": 512}, evaluations=[{**TOLD, **told}])
    with pytest.raises(ExperimentError, match=message):
        prepare(ExperimentConfig.model_validate(parameters))


def test_the_disk_that_features_take_is_foreseen(tiny_experiment: dict[str, Any], home: Path):
    needed = prepare(ExperimentConfig.model_validate(changed(tiny_experiment))).bytes_needed
    assert needed["features"] > 0
    assert (
        prepare(ExperimentConfig.model_validate(changed(tiny_experiment, evaluations=[]))).bytes_needed["features"] == 0
    )
