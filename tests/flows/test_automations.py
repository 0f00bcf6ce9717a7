"""Crashed runs are noticed and taken up again, on a real server with a real worker."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.automations import TAG, automations, put_automations
from flows.resuming import MAX_RESUMES, RESUMED, resumes_in_a_row
from tests.flows.services import Server, prefect_server_process, wait_until, worker_process

ROOT = Path(__file__).parents[2]
SECONDS_WITHOUT_HEARTBEAT = 45  # heartbeats come every 30 s at the most often
SECONDS_BEFORE_RESUME = 20
AS_IN_TESTS = automations(SECONDS_WITHOUT_HEARTBEAT, SECONDS_BEFORE_RESUME)


def test_automatic_resumes_are_counted_from_the_last_start_by_a_person():
    def scheduled(name: str, message: str | None = None) -> State:
        return State(type=StateType.SCHEDULED, name=name, message=message)

    by_itself = scheduled("AwaitingRetry", f"{RESUMED} after a crash.")
    begun = [scheduled("Scheduled"), State(type=StateType.RUNNING)]
    crash = [State(type=StateType.RUNNING), State(type=StateType.CRASHED), by_itself]

    def count(*states: State) -> int:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        timed = [state.model_copy(update={"timestamp": start + timedelta(minutes=i)}) for i, state in enumerate(states)]
        return resumes_in_a_row(timed[::-1])

    assert count(*begun) == 0
    assert count(*begun, *crash, *crash) == 2
    assert count(*begun, *crash, scheduled("Late"), scheduled("AwaitingConcurrencySlot"), *crash) == 2
    assert count(*begun, *crash, *crash, scheduled("AwaitingRetry", "retried in the UI"), *crash) == 1


@dataclass
class Place:
    """A server with the automations, and the deployment of `mortal`."""

    server: Server
    deployment: UUID

    def run(self, place: Path, deaths: int, lingers: bool = False) -> UUID:
        place.mkdir()
        with get_client(sync_client=True) as client:
            parameters = {"place": str(place), "deaths": deaths, "lingers": lingers}
            return client.create_flow_run_from_deployment(self.deployment, parameters=parameters).id

    def wait(self, run: UUID, until: Callable[[FlowRun], bool], seconds: float) -> FlowRun:
        with get_client(sync_client=True) as client:
            wait_until(lambda: until(client.read_flow_run(run)), seconds)
            return client.read_flow_run(run)

    def states(self, run: UUID) -> list[str]:
        with get_client(sync_client=True) as client:
            states = sorted(client.read_flow_run_states(run), key=lambda state: state.timestamp)
            return [state.name or "" for state in states]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("server")
    with prefect_server_process(home) as server, temporary_settings({PREFECT_API_URL: server.api}):
        put_automations(AS_IN_TESTS)
        from flows.deployments import job_environment, put_pool

        put_pool("mortal")
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(
                flow_id=client.create_flow_from_name("mortal"),
                name="mortal",
                tags=[TAG],
                entrypoint="tests.flows.mortal.mortal",
                work_pool_name="mortal",
                job_variables={"env": {**job_environment({}), "PYTHONPATH": str(ROOT)}},
            )
        yield Place(server, deployment)


@pytest.fixture
def worker(place: Place) -> Iterator["subprocess.Popen[bytes]"]:
    with worker_process(place.server, "mortal") as process:
        yield process


def ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final() and not run.state.is_crashed()


@pytest.mark.services
@pytest.mark.timeout(600)
class TestOnAServer:
    def test_automations_are_made_once_and_left_alone_until_they_change(self, place: Place):
        def there() -> dict[str, tuple[UUID, object]]:
            with get_client(sync_client=True) as client:
                found = [
                    automation for each in automations() for automation in client.read_automations_by_name(each.name)
                ]
            return {automation.name: (automation.id, automation.trigger) for automation in found}

        before = there()
        assert len(before) == len(automations())
        put_automations(AS_IN_TESTS)
        assert there() == before
        put_automations(automations(SECONDS_WITHOUT_HEARTBEAT + 1, SECONDS_BEFORE_RESUME))
        changed = there()
        assert {name for name in before if changed[name] != before[name]} == {automations()[0].name}
        assert {name: entry[0] for name, entry in changed.items()} == {name: entry[0] for name, entry in before.items()}
        put_automations(AS_IN_TESTS)

    @pytest.mark.usefixtures("worker")
    def test_a_run_whose_process_is_killed_is_taken_up_again(self, place: Place, tmp_path: Path):
        run = place.run(tmp_path / "attempts", deaths=1)
        last = place.wait(run, ended, 200)
        assert last.state is not None
        assert last.state.is_completed(), place.states(run)
        states = [name for name in place.states(run) if name in ("Running", "Crashed", "AwaitingRetry", "Completed")]
        assert states == ["Running", "Crashed", "AwaitingRetry", "Running", "Completed"]
        assert last.run_count == 2

    @pytest.mark.usefixtures("worker")
    def test_a_run_that_always_dies_fails_in_the_end_and_a_retry_by_hand_counts_anew(
        self, place: Place, tmp_path: Path
    ):
        run = place.run(tmp_path / "attempts", deaths=MAX_RESUMES + 2)
        last = place.wait(run, ended, 500)
        assert last.state is not None
        assert last.state.is_failed(), place.states(run)
        assert place.states(run).count("Crashed") == MAX_RESUMES + 1
        assert "crashed 4 times in a row" in (last.state.message or "")
        assert "-9" in (last.state.message or "")
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, State(type=StateType.SCHEDULED, name="AwaitingRetry", message="by hand"))
        place.wait(run, lambda found: found.state is not None and found.state.is_completed(), 120)

    def test_a_run_whose_worker_is_gone_too_is_noticed_and_taken_up_again(self, place: Place, tmp_path: Path):
        attempts = tmp_path / "attempts"
        with worker_process(place.server, "mortal") as first:
            run = place.run(attempts, deaths=1, lingers=True)
            wait_until(lambda: attempts.is_dir() and (attempts / "0").is_file(), 90)
            time.sleep(2)  # until its heartbeat has reached the server
            first.send_signal(signal.SIGKILL)
            first.wait()
            os.kill(int((attempts / "0").read_text()), signal.SIGKILL)
        with worker_process(place.server, "mortal"):
            last = place.wait(run, ended, 500)
        assert last.state is not None
        assert last.state.is_completed(), place.states(run)
        with get_client(sync_client=True) as client:
            messages = [state.message or "" for state in client.read_flow_run_states(run)]
        assert any(f"No heartbeat for {SECONDS_WITHOUT_HEARTBEAT} seconds" in message for message in messages)
