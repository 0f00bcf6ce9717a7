"""Runs that crashed are taken up again by an automation (flows.automations), and how often is decided here.

The automation cannot count. So every flow asks at its start how it came to run: when it crashed and was taken up again
more often than MAX_RESUMES in a row, it fails. A failed run is not taken up again; a retry by hand starts the count
anew.
"""

from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from tasks.errors import ExperimentError

MAX_RESUMES = 3

RESUMED = "Taken up again automatically"
"""How the message of the state begins that the automation gives a run."""


def check_resumes(flow_run_id: UUID | str | None) -> None:
    """Raise ExperimentError when this run was taken up again automatically too often in a row."""
    if flow_run_id is None:
        return
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(str(flow_run_id)))
    resumes = resumes_in_a_row(states)
    if resumes > MAX_RESUMES:
        crash = next((state.message for state in reversed(in_order(states)) if state.is_crashed()), None)
        raise ExperimentError(
            f"this run crashed {resumes} times in a row and is not taken up again automatically any more. "
            f"The last crash: {crash or 'without a message'} Its logs tell more; when the cause is mended, Retry goes "
            "on from what is made."
        )


def resumes_in_a_row(states: Sequence[State]) -> int:
    """How often a run was taken up again automatically since a person last started or retried it."""
    count = 0
    for state in in_order(states):
        if state.is_scheduled():
            if (state.message or "").startswith(RESUMED):
                count += 1
            elif state.name in ("Scheduled", "AwaitingRetry"):  # not Late, nor waiting for a free slot
                count = 0
    return count


def in_order(states: Sequence[State]) -> list[State]:
    return sorted(states, key=lambda state: state.timestamp)
