"""Automations of the Prefect server: runs whose process is gone are noticed, and taken up again.

A worker reports a flow process that dies. When the worker dies too, or the whole machine, nobody does, and the run
would stay Running for ever: so runs send heartbeats, and one whose heartbeats stop is declared crashed. A crashed run
goes back into the queue; what was made is found, what was interrupted goes on where it was. How often that may happen
to a run is decided by flows.resuming.

They concern runs with the tag `saeflow` only: the deployments give it.
"""

from collections.abc import Sequence
from datetime import timedelta

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from flows.resuming import RESUMED

TAG = "saeflow"

SECONDS_BETWEEN_HEARTBEATS = 30  # the least that Prefect allows
SECONDS_WITHOUT_HEARTBEAT = 90

# A worker reports a killed process twice: at once, and after it has looked for the flow's hooks, which takes as long as
# importing the flow. A run that was taken up again before would be declared crashed by the second report while it runs.
SECONDS_BEFORE_RESUME = 60

_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_OURS = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}

# What ends the wait for a heartbeat: another one, or a state in which a run sends none.
_SIGNS_OF_LIFE = {
    f"prefect.flow-run.{name}"
    for name in (
        "heartbeat", "Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended",
        "AwaitingRetry",
    )
}  # fmt: skip

# A flow that cannot be loaded, or an engine that fails, ends with exit code 1, and would do so again for ever.
_NOT_AN_ERROR_OF_THE_CODE = "!*status code* 1.*"


# A person, or a second report, was faster.
_WENT_ON = {
    f"prefect.flow-run.{name}"
    for name in (
        "AwaitingRetry", "Scheduled", "Late", "Pending", "Submitting", "Running", "Completed", "Failed", "Cancelling",
        "Cancelled",
    )
}  # fmt: skip


def automations(
    seconds_without_heartbeat: float = SECONDS_WITHOUT_HEARTBEAT, seconds_before_resume: float = SECONDS_BEFORE_RESUME
) -> list[AutomationCore]:
    """Everything that is kept on the server, by name."""
    return [
        AutomationCore(
            name="saeflow: a run without heartbeats has crashed",
            description="Declares a run crashed whose process, worker or machine is gone.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect=_SIGNS_OF_LIFE,
                match=_RUN,  # pyright: ignore[reportArgumentType]
                match_related=_OURS,  # pyright: ignore[reportArgumentType]
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=seconds_without_heartbeat),
            ),
            actions=[  # pyright: ignore[reportArgumentType]
                ChangeFlowRunState(
                    name=None,
                    state=StateType.CRASHED,
                    force=False,
                    message=f"No heartbeat for {seconds_without_heartbeat:g} seconds: the process that ran this, its "
                    "worker or its machine is gone.",
                )
            ],
        ),
        AutomationCore(
            name="saeflow: a crashed run is taken up again",
            description="Puts a crashed run back into the queue. After three times in a row the run fails by itself.",
            trigger=EventTrigger(
                after={"prefect.flow-run.Crashed"},
                expect=_WENT_ON,
                match={
                    **_RUN,
                    "prefect.run-count": "!0",  # what never ran is not begun again by itself
                    "prefect.state-message": _NOT_AN_ERROR_OF_THE_CODE,
                },  # pyright: ignore[reportArgumentType]
                match_related=_OURS,  # pyright: ignore[reportArgumentType]
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=seconds_before_resume),
            ),
            actions=[  # pyright: ignore[reportArgumentType]
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message=f"{RESUMED} after a crash.",
                    force=False,
                )
            ],
        ),
    ]


def put_automations(wanted: Sequence[AutomationCore]) -> None:
    """Make these automations, or change those of the same name.

    One that is there as it should be is left alone: a changed one forgets which runs it was watching.
    """
    with get_client(sync_client=True) as client:
        for automation in wanted:
            first, *others = [*client.read_automations_by_name(automation.name), None]
            for other in others:
                if other is not None:
                    client.delete_automation(other.id)
            if first is None:
                client.create_automation(automation)
            elif _content(first) != _content(automation):
                client.update_automation(first.id, automation)


def _content(automation: AutomationCore) -> dict[str, object]:
    told = AutomationCore.model_validate(automation.model_dump(include=set(AutomationCore.model_fields)))
    return told.model_dump(mode="json", exclude={"trigger": {"id"}, "owner_resource": True})
