"""Why a stage of an experiment would be made anew: its question beside the nearest one that was answered."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flows.catalogue import Catalogue
from flows.parameters import ExperimentConfig
from flows.preflight import prepare
from flows.stages import Job, stages
from flows.wording import age, listed, size
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from storage.lineage import short
from storage.questions import explain, nearest
from tasks.caching import artifacts, split_inputs
from tasks.errors import ExperimentError

NOT_MADE = ""
"""The digest of a reference that stands for what is not made yet; its key is the name of the stage."""


@dataclass(frozen=True)
class Answer:
    """What would become of a stage."""

    job: Job
    state: str
    """found, to do, waits or damaged."""
    name: str
    """kind/key; empty while the stage waits for others, whose digests its key is made of."""
    reasons: list[str]


def answers(config: ExperimentConfig) -> list[Answer]:
    """What would become of every stage, in the order of the experiment."""
    prepared = prepare(config)
    catalogue = Catalogue.of(artifacts())
    told: list[Answer] = []

    def look(jobs: Sequence[Job]) -> list[ArtifactRef]:
        found = [_look(job, catalogue) for job in jobs]
        told.extend(answer for answer, _ in found)
        return [ref for _, ref in found]

    stages(prepared, look)
    return told


def chosen(told: Sequence[Answer], stage: str | None) -> list[Answer]:
    """The answers about stages whose name has `stage` in it. Raises ExperimentError when there are none."""
    found = [answer for answer in told if stage is None or stage in answer.job.name]
    if not found:
        names = [answer.job.name for answer in told]
        nearest_names = difflib.get_close_matches(str(stage), names, n=5, cutoff=0)
        raise ExperimentError(f"the experiment has no stage {stage!r}. Nearest: {', '.join(nearest_names)}.")
    return found


def _look(job: Job, catalogue: Catalogue) -> tuple[Answer, ArtifactRef]:
    """What would become of a stage, and the reference it gives to others."""
    kind = job.step.kind
    not_made = ArtifactRef(kind=kind, key=job.name, digest=NOT_MADE)
    missing = [ref.key for ref in job.reads() if ref.digest == NOT_MADE]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return Answer(job, "waits", "", [f"for {listed(missing, 2)}, which {verb} not made yet"]), not_made
    key = job.step.key(job.inputs)
    name = f"{kind}/{key}"
    try:
        ref = job.step.find(**job.inputs)
    except DamagedArtifact as damage:
        # Once repaired it has the bytes that its manifest promises.
        repaired = catalogue.ref(name) if name in catalogue.manifests else not_made
        return Answer(job, "damaged", name, [*damage.problems, "the next run repairs it"]), repaired
    if ref is not None:
        return Answer(job, "found", name, []), ref
    return Answer(job, "to do", name, [*_begun(name, catalogue), *_why(job, catalogue)]), not_made


def _begun(name: str, catalogue: Catalogue) -> Iterator[str]:
    build = catalogue.unfinished.get(name)
    if build is not None:
        state = "a process is at work on it" if build.at_work else f"last written {age(build.modified)} ago"
        yield f"begun and not finished: {size(build.bytes)}, {state}"


def _why(job: Job, catalogue: Catalogue) -> list[str]:
    spec, references = split_inputs(job.inputs)
    digests = {input_name: ref.digest for input_name, ref in references.items()}
    asked = {"code_version": job.step.code_version, "spec": spec, "inputs": digests}
    alike = {name: manifest for name, manifest in catalogue.manifests.items() if manifest["kind"] == job.step.kind}
    best = nearest(asked, alike)
    if best is None:
        return [f"no {job.step.kind} was made yet"]
    name, found = best
    wanted = {input_name: str(ref) for input_name, ref in references.items()}
    lines = explain(name, wanted, found, catalogue.manifests)
    return [f"nearest is {short(name)}, which differs in", *(f"  {line}" for line in lines)]
