"""An experiment whose hook points are trained by runs of their own, on a worker: undisturbed, and with one killed."""

import signal
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun

from tests.flows.homes import digests
from tests.flows.services import Server, wait_until
from tests.services.conftest import PATIENCE, Deployed, Worker, runs_of, undisturbed

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(1500),
    pytest.mark.parametrize("server", ["sqlite"], indirect=True, scope="module"),
]


@pytest.fixture(scope="module")
def by_layer(killable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parameters = yaml.safe_load(killable.read_text())
    parameters["hook_points"] = ["blocks.1.hook_resid_post", "blocks.2.mlp.hook_post"]
    parameters["dictionaries"] = parameters["dictionaries"][1:]
    parameters["compute"] |= {"train_deployment": "train/quickstart"}
    file = tmp_path_factory.mktemp("by-layer") / "killable.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


@pytest.fixture(scope="module")
def expected(server: Server, by_layer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("undisturbed")
    return undisturbed(by_layer, "--set", "compute.train_deployment=null", server=server, home=home)


@pytest.fixture
def deployed(server: Server, by_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    return Deployed(by_layer, tmp_path / "home", monkeypatch)


def trainings(experiment: FlowRun) -> list[FlowRun]:
    """The runs that it started."""
    begun = experiment.start_time
    assert begun is not None
    return [run for run in runs_of("train") if run.created and run.created > begun]


@pytest.mark.usefixtures("worker")
def test_each_hook_point_is_trained_by_a_run_of_its_own(deployed: Deployed, expected: dict[str, str]):
    ended = deployed.wait_for_end(deployed.start())
    assert ended.state_name == "Completed", ended.state
    assert [run.state_name for run in trainings(ended)] == ["Completed"] * 2
    assert digests(deployed.home) == expected


def test_the_experiment_waits_for_a_killed_training_to_be_taken_up_again(
    deployed: Deployed, worker: Worker, expected: dict[str, str]
):
    def training() -> tuple[UUID, psutil.Process] | None:
        processes = worker.runs()
        running = [run.id for run in runs_of("train") if run.state_name == "Running" and run.id in processes]
        return next(((run, processes[run]) for run in running), None)

    run = deployed.start()
    deployed.wait_for_training()
    killed = wait_until(training, PATIENCE)
    assert killed is not None
    killed[1].send_signal(signal.SIGKILL)
    ended = deployed.wait_for_end(run)
    assert (ended.state_name, ended.run_count) == ("Completed", 1), ended.state
    assert "Crashed" in deployed.states(killed[0])
    assert sorted(each.run_count for each in trainings(ended)) == [1, 2]
    assert digests(deployed.home) == expected
