"""Whatever runs the tasks side by side, and however many there are, the bytes are the same."""

import sys
from pathlib import Path
from typing import Any

import pytest

from flows.experiment import run_experiment
from flows.parameters import ExperimentConfig
from flows.runners import task_runner
from storage.artifacts import ArtifactStore
from tasks.errors import ExperimentError
from tasks.specs import ComputeSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    """So that even this harvest has several parts to share."""
    monkeypatch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: dict[str, Any], prefect_server: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)
        return digests(patch, tmp_path_factory.mktemp("here"), tiny_experiment, workers=1)


def digests(patch: pytest.MonkeyPatch, home: Path, parameters: dict[str, Any], **compute: Any) -> dict[str, str]:
    patch.setenv("SAEFLOW_HOME", str(home))
    compute = {"threads": 1, "device": "cpu", **compute}
    run_experiment(ExperimentConfig.model_validate({**parameters, "compute": compute}))
    return {str(ref): ref.digest for ref, _ in ArtifactStore(home).list()}


@pytest.mark.parametrize("runner", ["processes", "dask", "ray"])
def test_a_runner_gives_the_bytes_of_a_run_in_one_process(
    runner: str,
    expected: dict[str, str],
    tiny_experiment: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_server: str,
):
    found = digests(monkeypatch, tmp_path, tiny_experiment, runner=runner, workers=2, harvest_workers=2)
    assert found == expected


def test_an_address_without_a_cluster_is_refused():
    with pytest.raises(ValueError, match="set runner to dask or ray"):
        ComputeSpec(address="tcp://127.0.0.1:1")


def test_a_runner_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with pytest.raises(ExperimentError, match="pip install"):
        task_runner(ComputeSpec(runner="ray"), 2)
