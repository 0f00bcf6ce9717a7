"""What is killed is taken up again, and ends with the bytes of a run that nobody disturbed: on SQLite and Postgres."""

import signal
from pathlib import Path

import pytest
import yaml

from tests.flows.homes import digests
from tests.flows.services import Server
from tests.services.conftest import Deployed, Worker, undisturbed, working

pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def expected(server: Server, killable: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return undisturbed(killable, server=server, home=tmp_path_factory.mktemp("undisturbed"))


def test_a_killed_flow_process_is_taken_up_again_by_itself(
    deployed: Deployed, worker: Worker, expected: dict[str, str]
):
    run = deployed.start()
    deployed.wait_for_training()
    for process in worker.runs().values():
        process.send_signal(signal.SIGKILL)
    ended = deployed.wait_for_end(run)
    assert ended.state_name == "Completed"
    assert ended.run_count == 2
    assert "Crashed" in deployed.states(run.id)
    assert digests(deployed.home) == expected


def test_a_run_goes_on_when_its_worker_is_killed(deployed: Deployed, worker: Worker, expected: dict[str, str]):
    run = deployed.start()
    deployed.wait_for_training()
    worker.kill()
    ended = deployed.wait_for_end(run)
    assert (ended.state_name, ended.run_count) == ("Completed", 1)
    assert digests(deployed.home) == expected


def test_a_run_killed_with_its_worker_is_noticed_and_taken_up_by_another(
    deployed: Deployed, worker: Worker, server: Server, expected: dict[str, str]
):
    run = deployed.start()
    deployed.wait_for_training()
    processes = worker.runs().values()
    worker.kill()
    for process in processes:
        process.send_signal(signal.SIGKILL)
    with working(server):
        ended = deployed.wait_for_end(run)
    assert (ended.state_name, ended.run_count) == ("Completed", 2)
    assert "Crashed" in deployed.states(run.id)
    assert digests(deployed.home) == expected


def test_a_killed_dask_worker_costs_nothing_but_time(
    server: Server, killable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
):
    parameters = yaml.safe_load(killable.read_text())
    parameters["compute"] |= {"runner": "dask"}
    file = tmp_path / "killable.yaml"
    file.write_text(yaml.safe_dump(parameters))
    deployed = Deployed(file, tmp_path / "home", monkeypatch)
    with working(server) as worker:
        run = deployed.start()
        deployed.wait_for_training()
        (flow_process,) = worker.runs().values()
        dask = [child for child in flow_process.children() if any("spawn_main" in word for word in child.cmdline())]
        dask[-1].send_signal(signal.SIGKILL)
        ended = deployed.wait_for_end(run)
    assert (ended.state_name, ended.run_count) == ("Completed", 1)
    assert digests(deployed.home) == expected
