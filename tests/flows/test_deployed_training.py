"""Trainings that are handed to other runs: how long they are waited for, and what must be there in the end."""

import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from flows.deployed_training import SECONDS_UNTIL_GIVEN_UP, is_the_end, train_on_deployment
from flows.parameters import ExperimentConfig
from flows.stages import Job
from tasks.errors import ExperimentError
from tests.flows.deadly import work


def state(kind: StateType, seconds_ago: float = 0) -> State:
    return State(type=kind, timestamp=datetime.now(UTC) - timedelta(seconds=seconds_ago))


def test_a_run_that_crashed_is_given_time_to_be_taken_up_again():
    assert not is_the_end(state(StateType.RUNNING))
    assert not is_the_end(state(StateType.CRASHED))
    assert is_the_end(state(StateType.CRASHED, SECONDS_UNTIL_GIVEN_UP + 1))
    for kind in (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED):
        assert is_the_end(state(kind))


@pytest.fixture
def elsewhere(prefect_server: str) -> Iterator[str]:
    """A deployment whose runs crash, are taken up again and complete, and make nothing in this home."""
    ended = threading.Event()
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow_from_name("train"), "elsewhere")

    def end_runs() -> None:
        with get_client(sync_client=True) as client:
            while not ended.wait(0.2):
                for run in client.read_flow_runs():
                    if run.deployment_id == deployment and run.state and run.state.is_scheduled():
                        client.set_flow_run_state(run.id, state(StateType.CRASHED), force=True)
                        time.sleep(3)  # longer than between two looks
                        client.set_flow_run_state(run.id, state(StateType.COMPLETED), force=True)

    thread = threading.Thread(target=copy_context().run, args=(end_runs,))
    thread.start()
    yield "train/elsewhere"
    ended.set()
    thread.join()


@pytest.mark.usefixtures("home")
def test_what_other_runs_made_must_be_found_here(elsewhere: str, tiny_experiment: dict[str, Any]):
    compute = {"train_deployment": elsewhere}
    config = ExperimentConfig.model_validate({**tiny_experiment, "compute": compute})
    (hook_point, *_) = config.hook_points
    inputs = {"name": "one", "dies": False, "fails": False, "hook_point": hook_point}

    @flow
    def experiment() -> None:
        train_on_deployment(config, [Job("train", "topk", work, inputs)])

    with pytest.raises(ExperimentError, match=r"completed, and topk cannot be found in .*home.*model\.dtype auto"):
        experiment()
