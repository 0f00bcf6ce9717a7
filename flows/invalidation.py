"""Making a stage anew, although it is there: once for a flow run, however often that is retried.

What a stage and those after it made is removed when the run comes to it. A note of it in the home, by flow run and
artifact, keeps a retried run from removing what it has made itself.
"""

from collections.abc import Iterable, Sequence

from flows.stages import STAGES, Job, Stage
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.specs import StageName


def to_make(found: Iterable[Stage], invalidate_from: StageName | None) -> list[Stage]:
    """Of stages that were looked up those that are not made, or will be made anew."""
    first = len(STAGES) if invalidate_from is None else STAGES.index(invalidate_from)
    return [stage for stage in found if stage.ref is None or STAGES.index(stage.job.stage) >= first]


def remove_once(jobs: Sequence[Job], invalidate_from: StageName | None, flow_run: str) -> None:
    """Remove what these jobs made before this flow run, if they are of an invalidated stage."""
    if invalidate_from is None:
        return
    notes = artifacts().home_location.child(f"invalidated/{flow_run}.notes")
    for job in jobs:
        if STAGES.index(job.stage) < STAGES.index(invalidate_from):
            continue
        ref = ArtifactRef(kind=job.step.kind, key=job.step.key(job.inputs), digest="")
        note = f"{ref.kind}-{ref.key}.json"
        if not notes.exists(note):
            artifacts().remove(ref)
            notes.commit(note, b"{}")
