"""The stages of an experiment, as a person would tell them: what is made from what, breadth first.

The same walk makes an experiment and plans it: what `run` does with the jobs of a stage is its only difference.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from flows.preflight import Prepared
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.baselines import fit_baseline
from tasks.caching import Step
from tasks.corpus import tokenize
from tasks.errors import ExperimentError
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.harvest import harvest
from tasks.report import report
from tasks.specs import BaselineSpec, DictionarySpec, StageName
from tasks.train import train

STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class Job:
    """One step with its inputs. An input that is None is not made yet."""

    stage: StageName
    name: str
    step: Step[...]
    inputs: dict[str, Any]
    about: DictionarySpec | BaselineSpec | None = None
    """The dictionary that is made or measured."""

    @property
    def run_name(self) -> str:
        """What its task run is called: also by what it makes, to be found again in the home."""
        return f"{self.name} [{self.step.kind}/{self.step.key(self.inputs)[:8]}]"

    def reads(self) -> list[ArtifactRef]:
        """The artifacts among its inputs."""
        values = (value if isinstance(value, tuple) else (value,) for value in self.inputs.values())
        return [item for value in values for item in value if isinstance(item, ArtifactRef)]

    def inputs_missing(self) -> bool:
        """Whether something it needs is not made yet."""
        parameters = inspect.signature(self.step.make).parameters
        return any(
            # Where a step does without an input, None says so.
            (value is None and parameters[name].default is not None) or (isinstance(value, tuple) and None in value)
            for name, value in self.inputs.items()
        )

    def find(self) -> ArtifactRef | None:
        """What it makes, if that is there and whole."""
        if self.inputs_missing():
            return None
        try:
            return self.step.find(**self.inputs)
        except DamagedArtifact:
            return None


@dataclass(frozen=True)
class Stage:
    """A job and the artifact it gave, or None where a plan found none."""

    job: Job
    ref: ArtifactRef | None


Run = Callable[[Sequence[Job]], Sequence[ArtifactRef | None]]


def stages(
    prepared: Prepared, run: Run, until: StageName = "report", hook_points: Collection[str] | None = None
) -> list[Stage]:
    """Walk through the experiment; `run` makes or looks up jobs that do not depend on each other.

    Args:
        until: the last stage.
        hook_points: where to train and evaluate; None is everywhere. All are harvested, in one pass.
    """
    config = prepared.config
    last = STAGES.index(until)
    chosen = [name for name in config.hook_points if hook_points is None or name in hook_points]
    done: list[Stage] = []

    def together(jobs: Sequence[Job]) -> list[Stage]:
        made = [Stage(job, ref) for job, ref in zip(jobs, run(jobs), strict=True)]
        done.extend(made)
        return made

    def one(stage: StageName, step: Step[...], **inputs: Any) -> ArtifactRef | None:
        return together([Job(stage, stage, step, inputs)])[0].ref

    tokens = one("tokenize", tokenize, model=prepared.model, corpus=prepared.corpus, base=prepared.base)
    if last < STAGES.index("harvest"):
        return done
    activations = one(
        "harvest",
        harvest,
        model=prepared.model,
        tokens=tokens,
        hook_points=config.hook_points,
        dtype=prepared.dtype,
        storage=config.storage,
        compute=prepared.compute_harvest,
    )
    if last < STAGES.index("train"):
        return done
    rows = config.training.rows

    def at(hook_point: str) -> dict[str, Any]:
        return {"activations": activations, "hook_point": hook_point, "compute": prepared.compute}

    pairs = [(hook_point, spec) for hook_point in chosen for spec in config.dictionaries]
    trainings = [
        Job("train", job_name(spec, place), train, {"dictionary": spec, "training": config.training, **at(place)}, spec)
        for place, spec in pairs
    ]
    pairs = [(hook_point, spec) for hook_point in chosen for spec in config.baselines]
    fits = [
        Job("train", job_name(spec, place), fit_baseline, {"baseline": spec, "rows": rows, **at(place)}, spec)
        for place, spec in pairs
    ]
    dictionaries = together([*trainings, *fits])
    if last < STAGES.index("evaluate"):
        return done
    evaluations = together(
        [
            Job(
                "evaluate",
                f"evaluate {made.job.name}",
                evaluate_reconstruction,
                {"dictionary": made.ref, "rows": rows, **at(made.job.inputs["hook_point"])},
                made.job.about,
            )
            for made in dictionaries
        ]
    )
    if last < STAGES.index("report"):
        return done
    refs = {"dictionaries": tuple(made.ref for made in dictionaries), "evaluations": tuple(e.ref for e in evaluations)}
    # The table names the dictionaries, and a key holds only the digests of references: so also by name.
    one("report", report, names=tuple(str(made.ref) for made in dictionaries), **refs)
    return done


def look_up(jobs: Sequence[Job]) -> list[ArtifactRef | None]:
    """What of these jobs is already made."""
    return [job.find() for job in jobs]


def present(stage: Stage) -> ArtifactRef:
    """The artifact of a stage that was made."""
    if stage.ref is None:
        raise ExperimentError(f"stage {stage.job.name!r} gave no artifact")
    return stage.ref


def job_name(spec: DictionarySpec | BaselineSpec, hook_point: str) -> str:
    return f"{label(spec)} {hook_point}"


def label(spec: DictionarySpec | BaselineSpec) -> str:
    """`topk k=64`: a method and what is not at its default."""
    chosen = spec.model_dump(exclude_defaults=True, exclude={"method"})
    return " ".join([spec.method, *(f"{name}={value}" for name, value in chosen.items())])
