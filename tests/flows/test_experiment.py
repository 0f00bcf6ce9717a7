"""The experiment in this process, on a real server and a real pool of processes."""

import json
import logging
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.catalogue import Catalogue
from flows.experiment import run_experiment
from flows.experiment_records import ExperimentRecords
from flows.harvest import harvest
from flows.parameters import ExperimentConfig
from flows.preflight import prepare
from flows.pruning import plan
from flows.room import ready
from flows.stages import look_up, stages
from flows.train import train
from tasks.caching import artifacts
from tasks.errors import ExperimentError
from tests.conftest import write_model
from tests.flows.homes import digests

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server", "home")]


def run(experiment: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return run_experiment(ExperimentConfig.model_validate({**experiment, **changes}))


def made(result: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in result["stages"] if not stage["cached"]]


def recorded() -> dict[str, Any]:
    return ExperimentRecords(artifacts().home_location).read("tiny")


def told(key: str) -> str:
    """What the last run says in the UI."""
    with get_client(sync_client=True) as client:
        named = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        last = max(client.read_artifacts(artifact_filter=named), key=lambda artifact: artifact.created)
    return str(last.data)


def test_an_experiment_is_made_once_and_what_is_lost_or_damaged_is_made_again(
    tiny_experiment: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    config = ExperimentConfig.model_validate(tiny_experiment)
    first = run(tiny_experiment)
    everything = digests()
    assert len(made(first)) == len(first["stages"]) == 23
    assert recorded() == {
        **first,
        "config": config.model_dump(mode="json"),
        "state": "finished",
        "artifacts": sorted(everything),
    }
    assert "| harvest | harvest | to make |" in told("tiny-plan")
    assert "no earlier run" in told("tiny-verdict")
    assert made(run(tiny_experiment)) == []
    assert "nothing to do: all is found" in told("tiny-plan")
    assert "10 dictionaries are in both, 0 are new, 0 are not there any more. No metric changed" in told("tiny-verdict")
    assert {row["dictionary"] for row in json.loads(told("tiny-dictionaries"))} == {
        entry["ref"] for entry in first["dictionaries"]
    }
    assert str(Path(first["report"]).parent) in told("tiny-report")

    anew = made(run(tiny_experiment, invalidate_from="evaluate"))
    assert anew == [name for name in made(first) if name.startswith("evaluate")] + ["report"]
    assert digests() == everything

    topk = next(entry for entry in first["dictionaries"] if entry["method"] == "topk")
    lost = next(ref for ref, _ in artifacts().list() if str(ref) == topk["ref"])
    artifacts().remove(lost)
    alone = {**tiny_experiment, "compute": {"workers": 1, "threads": 1, "device": "cpu"}}
    assert made(run(alone)) == [f"topk expansion=2.0 k=4 {topk['hook_point']}"]
    assert digests() == everything

    activations = next(ref for ref, _ in artifacts().list() if ref.kind == "activations")
    chunks = [file for file in (artifacts().path(activations) / "train/data.zarr").rglob("c/*/*") if file.is_file()]
    chunk = chunks[len(chunks) // 2]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0b100
    chunk.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="saeflow.storage"):
        assert made(run(tiny_experiment)) == ["harvest"]
    assert str(chunk.relative_to(artifacts().path(activations))) in caplog.text
    assert digests() == everything

    assert made(run(tiny_experiment, dictionaries=tiny_experiment["dictionaries"][:1])) == ["report"]
    unused = plan(Catalogue.of(artifacts()), timedelta(days=7)).to_remove
    assert sorted(name.split("/")[0] for name in unused) == ["dictionary"] * 2 + ["evaluation"] * 2 + ["report"]
    assert set(recorded()["artifacts"]) == digests().keys() - set(unused)

    with monkeypatch.context() as full_disk:
        full_disk.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        ready(config)  # all is made, so nothing is needed
        with pytest.raises(ExperimentError, match=r"needs about [\d,]+ bytes .* 1,000 bytes"):
            ready(config.model_copy(update={"hook_points": ("blocks.0.hook_resid_post",)}))

    topk = {"method": "topk", "expansion": 2, "k": 5}
    planned = stages(prepare(ExperimentConfig.model_validate({**tiny_experiment, "dictionaries": [topk]})), look_up)
    hook_points = tiny_experiment["hook_points"]
    assert [stage.job.name for stage in planned if stage.ref is None] == [
        *(f"topk expansion=2.0 k=5 {hook_point}" for hook_point in hook_points),
        *(f"evaluate topk expansion=2.0 k=5 {hook_point}" for hook_point in hook_points),
        "report",
    ]


def test_runs_of_some_stages_are_parts_of_the_experiment(tiny_experiment: dict[str, Any]):
    parameters = {**tiny_experiment, "name": "in-parts", "baselines": []}
    parameters["compute"] = {"workers": 1, "threads": 1, "device": "cpu"}
    config = ExperimentConfig.model_validate(parameters)
    harvest(config)
    plan_of_the_harvest = told("in-parts-plan")
    state = train(config, hook_points=[config.hook_points[0]], return_state=True)
    assert told("in-parts-plan") == plan_of_the_harvest
    record = ExperimentRecords(artifacts().home_location).read("in-parts")
    assert (record["state"], record["artifacts"]) == ("partial", sorted(digests()))
    assert plan(Catalogue.of(artifacts()), timedelta(days=7)).to_remove == []
    with get_client(sync_client=True) as client:
        tags = client.read_flow_run(state.state_details.flow_run_id).tags
    by_kind = {name.split("/")[0]: name for name in digests()}
    assert sorted(tags) == [f"{kind}/{by_kind[kind].split('/')[1][:8]}" for kind in ("activations", "tokens")]


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2"])
def test_the_same_experiment_runs_on_other_architectures(
    tiny_experiment: dict[str, Any], tmp_path: Path, architecture: str
):
    model = {"source": str(write_model(tmp_path / architecture, architecture)), "dtype": "float32"}
    result = run(tiny_experiment, model=model, compute={"workers": 1, "threads": 1, "device": "cpu"})
    by_method = {
        entry["method"]: entry for entry in result["dictionaries"] if entry["hook_point"] == "blocks.1.hook_resid_post"
    }
    assert by_method["topk"]["fvu"] < 1
    assert np.isfinite([entry["fvu"] for entry in result["dictionaries"]]).all()
    record = json.loads((artifacts().home / "experiments" / "tiny.json").read_text())
    assert yaml.safe_dump(record["config"]["model"]) == yaml.safe_dump({**model, "revision": None})


def test_evaluations_and_a_random_model_stand_beside_the_dictionaries(tiny_experiment: dict[str, Any]):
    hook_points = tiny_experiment["hook_points"]
    changes = {
        "compute": {"workers": 1, "threads": 1, "device": "cpu"},
        "dictionaries": tiny_experiment["dictionaries"][1:],
        "baselines": [],
        "evaluations": [
            {"evaluation": "faithfulness", "tokens": 256},
            {"evaluation": "ioi", "prompts": 2, "sweep_prompts": 1},
            {"evaluation": "erasure", "prompts": 8, "seeds": [0], "side_effect_tokens": 64},
            {"evaluation": "pattern", "pattern": "e", "tokens": 512, "contexts": 2},
            {"evaluation": "circuit", "pattern": "e", "tokens": 512, "contexts": 2},
            {"evaluation": "probing", "texts": 40, "seeds": [0]},
            {"evaluation": "steering", "pattern": "e", "tokens": 512, "new_tokens": 2, "samples": 1},
        ],
        "random_model": True,
    }
    result = run(tiny_experiment, **changes)
    topk = [f"topk expansion=2.0 k=4 {place}" for place in hook_points]
    of_random = [name.removesuffix(" (random weights)") for name in made(result) if name.endswith("(random weights)")]
    assert of_random == [
        "model", "harvest", *topk, *(f"evaluate {name}" for name in topk), *(f"faithfulness {name}" for name in topk),
        *(f"ioi {name}" for name in topk), *(f"erasure {name}" for name in topk),
        *(f"pattern e {name}" for name in topk), "circuit e topk expansion=2.0 k=4",
        *(f"probing {name}" for name in topk), *(f"steering e {name}" for name in topk),
    ]  # fmt: skip
    studies = result["studies"]
    assert len(result["dictionaries"]) == 4
    assert len(studies) == 2 * (6 * len(hook_points) + 1)
    assert {row["model"].endswith("(random weights)") for row in studies} == {False, True}
    for row in studies:
        assert all(row[name] is not None or row["undefined"][name] for name in row["columns"])
    assert all(row["features_to_half_kl"] is None for row in studies if row["title"] == "ioi"), "it knows no names"
    assert "ce_recovered" in told("tiny-faithfulness")
    assert "perplexity_reconstructed" in Path(result["report"]).read_text()
    assert made(run(tiny_experiment, **changes)) == []
    assert made(run(tiny_experiment, **{**changes, "random_model": False})) == ["report"]
