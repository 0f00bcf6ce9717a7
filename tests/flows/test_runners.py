"""Whatever runs the tasks side by side, and however many there are, the bytes are the same."""

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.experiment import run_experiment
from flows.parameters import ExperimentConfig
from flows.runners import task_runner
from tasks.errors import ExperimentError
from tasks.harvest import harvest_share
from tasks.specs import ComputeSpec
from tests.flows.homes import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    """So that even this harvest has several parts to share."""
    monkeypatch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)


@pytest.fixture(scope="module")
def parameters(tiny_experiment: dict[str, Any]) -> dict[str, Any]:
    """As little as there can be side by side: two shares of a harvest, two dictionaries."""
    return {
        **tiny_experiment,
        "hook_points": ["blocks.2.mlp.hook_post"],
        "dictionaries": tiny_experiment["dictionaries"][1:],
        "baselines": [{"method": "pca", "k": 4}],
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, Any], prefect_server: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)
        return made(patch, tmp_path_factory.mktemp("here"), parameters, runner="sequential")


def made(patch: pytest.MonkeyPatch, home: Path, parameters: dict[str, Any], **compute: Any) -> dict[str, str]:
    patch.setenv("SAEFLOW_HOME", str(home))
    compute = {"threads": 1, "device": "cpu", **compute}
    run_experiment(ExperimentConfig.model_validate({**parameters, "compute": compute}))
    return digests(home)


@task(name="harvest share", cache_policy=NO_CACHE, persist_result=False)
def signed_share(**call: Any) -> None:
    """A share of the harvest that leaves the number of its process."""
    harvest_share.fn(**call)
    (Path(os.environ["SAEFLOW_HOME"]).with_suffix(".shares") / uuid.uuid4().hex).write_text(str(os.getpid()))


@pytest.mark.parametrize("runner", ["processes", "dask", "ray"])
def test_a_runner_gives_the_bytes_of_a_run_in_one_process(
    runner: str,
    expected: dict[str, str],
    parameters: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_server: str,
):
    home, shares = tmp_path / "home", tmp_path / "home.shares"
    shares.mkdir()
    monkeypatch.setattr("tasks.harvest.harvest_share", signed_share)
    found = made(monkeypatch, home, parameters, runner=runner, workers=2, harvest_workers=2)
    assert found == expected
    made_by = [int(file.read_text()) for file in shares.iterdir()]
    assert len(made_by) == 2
    assert os.getpid() not in made_by


def test_an_address_without_a_cluster_is_refused():
    with pytest.raises(ValueError, match="set runner to dask or ray"):
        ComputeSpec(address="tcp://127.0.0.1:1")


def test_a_runner_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with pytest.raises(ExperimentError, match="pip install"):
        task_runner(ComputeSpec(runner="ray"), 2)
