"""An experiment whose home is a prefix in an object store: the same artifacts, from the same command."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.command import prepare_environment
from flows.experiment import run_experiment
from flows.parameters import ExperimentConfig
from storage.artifacts import ArtifactStore
from storage.object_storage import ObjectLocation
from tests.flows.command import assert_refused, saeflow
from tests.flows.homes import digests


@pytest.mark.slow
def test_an_experiment_in_a_bucket_makes_what_a_local_one_makes_and_finds_it_from_any_machine(
    tiny_experiment: dict[str, Any],
    prefect_server: str,
    bucket: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    parameters = {
        **tiny_experiment,
        "hook_points": ["blocks.2.mlp.hook_post"],
        "dictionaries": [{"method": "topk", "expansion": 2, "k": 4}],
        "baselines": [{"method": "identity"}],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(parameters))
    alone = {**parameters, "compute": {"workers": 1, "threads": 1, "device": "cpu"}}
    run_experiment(ExperimentConfig.model_validate(alone))
    local = digests()
    assert len(local) == 8

    monkeypatch.setenv("SAEFLOW_CACHE", str(tmp_path / "cache"))
    remote = f"{bucket}/runs"
    first = saeflow("run", tmp_path / "tiny.yaml", "--home", remote, "--json")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["home"] == remote
    assert Path(summary["report"]).is_file()
    assert not any(stage["cached"] for stage in summary["stages"])
    monkeypatch.setenv("SAEFLOW_HOME", remote)
    assert digests() == local
    assert not list(tmp_path.glob("cache/*/activations")), "activations may be larger than the disk of this machine"

    before = ObjectLocation(bucket).listing()
    monkeypatch.setenv("SAEFLOW_CACHE", str(tmp_path / "another machine"))
    again = run_experiment(ExperimentConfig.model_validate(alone))
    assert all(stage["cached"] for stage in again["stages"])
    assert again["dictionaries"] == summary["dictionaries"]
    after = ObjectLocation(bucket).listing()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"runs/experiments/tiny.json"}
    assert Path(again["report"]).read_text() == Path(summary["report"]).read_text()


def test_a_home_that_cannot_be_reached_is_refused(bucket: str, tiny_yaml: Path, tmp_path: Path):
    home = "s3://nothing-like-it/runs"
    result = saeflow("check", tiny_yaml, "--home", home, SAEFLOW_CACHE=str(tmp_path / "cache"))
    assert_refused(result, "s3://nothing-like-it/runs", "NoSuchBucket", "--home")


def test_what_prefect_keeps_for_a_remote_home_is_on_this_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAEFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    prepare_environment(f"{bucket}/runs/")
    assert os.environ["SAEFLOW_HOME"] == f"{bucket}/runs"
    records = Path(os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"])
    assert records.parent.parent == tmp_path
    assert records.parent == ArtifactStore.from_environment().scratch
