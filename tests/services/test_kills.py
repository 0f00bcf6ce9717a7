"""What is killed is taken up again, and ends with the bytes of a run that nobody disturbed: on SQLite and Postgres."""

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.experiment import run_experiment
from flows.parameters import load_config
from storage.artifacts import ArtifactStore
from tests.services.conftest import Deployed, Worker, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def expected(server: str, killable: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run without any deployment, worker or kill."""
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(home))
        patch.setenv("PREFECT_API_URL", server)
        run_experiment(load_config(str(killable)))
    return {str(ref): ref.digest for ref, _ in ArtifactStore(home).list()}


def test_a_killed_flow_process_is_taken_up_again_by_itself(
    deployed: Deployed, worker: Worker, expected: dict[str, str]
):
    run = deployed.start()
    wait_until(deployed.in_training, "a dictionary is in training")
    for process in worker.runs():
        process.send_signal(signal.SIGKILL)
    ended = deployed.wait_for_end(run)
    assert ended.state_name == "Completed"
    assert ended.run_count == 2
    assert "Crashed" in deployed.states(run.id)
    assert deployed.digests() == expected


def test_a_run_goes_on_when_its_worker_is_killed(deployed: Deployed, worker: Worker, expected: dict[str, str]):
    run = deployed.start()
    wait_until(deployed.in_training, "a dictionary is in training")
    worker.kill()
    ended = deployed.wait_for_end(run)
    assert (ended.state_name, ended.run_count) == ("Completed", 1)
    assert deployed.digests() == expected


def test_a_run_killed_with_its_worker_is_noticed_and_taken_up_by_another(
    deployed: Deployed, worker: Worker, server: str, tmp_path: Path, expected: dict[str, str]
):
    run = deployed.start()
    wait_until(deployed.in_training, "a dictionary is in training")
    processes = worker.runs()
    worker.kill()
    for process in processes:
        process.send_signal(signal.SIGKILL)
    other = Worker(server, tmp_path)
    try:
        ended = deployed.wait_for_end(run)
    finally:
        other.stop()
    assert (ended.state_name, ended.run_count) == ("Completed", 2)
    assert "Crashed" in deployed.states(run.id)
    assert deployed.digests() == expected


def test_a_killed_dask_worker_costs_nothing_but_time(
    server: str, killable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
):
    parameters = yaml.safe_load(killable.read_text())
    parameters["compute"] |= {"runner": "dask"}
    file = tmp_path / "killable.yaml"
    file.write_text(yaml.safe_dump(parameters))
    deployed = Deployed(file, tmp_path / "home", monkeypatch)
    worker = Worker(server, tmp_path)
    try:
        run = deployed.start()
        wait_until(deployed.in_training, "a dictionary is in training")
        (flow_process,) = worker.runs()
        dask = [child for child in flow_process.children() if any("spawn_main" in word for word in child.cmdline())]
        dask[-1].send_signal(signal.SIGKILL)
        ended = deployed.wait_for_end(run)
    finally:
        worker.stop()
    assert (ended.state_name, ended.run_count) == ("Completed", 1)
    assert deployed.digests() == expected
