"""The stages of an experiment, as a person would tell them: what is made from what, breadth first.

The same walk makes an experiment and plans it: what `run` does with the jobs of a stage is its only difference.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from flows.parameters import ExperimentConfig
from flows.preflight import Prepared
from flows.studies import Made, Reading, paged, pages_of, readings, studies, study_of, title
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.baselines import fit_baseline
from tasks.caching import Step
from tasks.cells import RANDOM_WEIGHTS
from tasks.corpus import tokenize
from tasks.errors import ExperimentError
from tasks.evaluate.interpretability_comparison import compare_interpretability
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.evaluation_specs import InterpretabilitySpec
from tasks.harvest import harvest
from tasks.loss_gradients import loss_gradients
from tasks.random_model import randomize_model
from tasks.report import report
from tasks.samples import sample_text
from tasks.site.material import About
from tasks.specs import BaselineSpec, DictionarySpec, StageName
from tasks.train import train

STAGES: tuple[StageName, ...] = get_args(StageName)

RANDOM = f" {RANDOM_WEIGHTS}"
"""What follows the names of the control's jobs."""


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
    walk = Walk(prepared, run)
    last = STAGES.index(until)
    steps = (walk.tokenize, walk.harvest, lambda: walk.train(hook_points), walk.evaluate, walk.report)
    for step in steps[: last + 1]:
        step()
    return walk.done


@dataclass
class Subject:
    """A model, and what is made of it."""

    model: ArtifactRef | None
    dictionaries: Sequence[DictionarySpec]
    baselines: Sequence[BaselineSpec]
    called: str = ""
    """Behind the names of its jobs."""
    activations: ArtifactRef | None = None
    made: list[Stage] = field(default_factory=list)
    """Its dictionaries."""


class Walk:
    """An experiment under way, stage by stage."""

    def __init__(self, prepared: Prepared, run: Run) -> None:
        self.prepared, self.run = prepared, run
        self.config = config = prepared.config
        self.done: list[Stage] = []
        self.tokens: ArtifactRef | None = None
        self.subjects = [Subject(prepared.model, config.dictionaries, config.baselines)]

    def together(self, jobs: Sequence[Job]) -> list[Stage]:
        made = [Stage(job, ref) for job, ref in zip(jobs, self.run(jobs) if jobs else (), strict=True)]
        self.done.extend(made)
        return made

    def one(self, stage: StageName, name: str, step: Step[...], **inputs: Any) -> ArtifactRef | None:
        return self.together([Job(stage, name, step, inputs)])[0].ref

    def tokenize(self) -> None:
        """Before that, the text, where the model is to write it."""
        prepared = self.prepared
        samples = ()
        if prepared.samples is not None:
            samples = (self.one("tokenize", "samples", sample_text, **prepared.samples),)
        inputs = {"model": prepared.model, "corpus": prepared.corpus, "base": prepared.base, "samples": samples}
        self.tokens = self.one("tokenize", "tokenize", tokenize, **inputs)

    def harvest(self) -> None:
        """Also of the model with random weights: the control reads the same tokens, at the same hook points."""
        config, prepared = self.config, self.prepared
        if config.random_model:
            model = self.one("harvest", f"model{RANDOM}", randomize_model, model=prepared.model, seed=0)
            self.subjects.append(Subject(model, config.dictionaries[:1], (), RANDOM))
        for subject in self.subjects:
            subject.activations = self.one(
                "harvest",
                f"harvest{subject.called}",
                harvest,
                model=subject.model,
                tokens=self.tokens,
                hook_points=config.hook_points,
                dtype=prepared.dtype,
                storage=config.storage,
                compute=prepared.compute_harvest,
            )

    def train(self, hook_points: Collection[str] | None) -> None:
        config = self.config
        chosen = [name for name in config.hook_points if hook_points is None or name in hook_points]
        jobs: list[Job] = []
        for subject in self.subjects:
            at = {"activations": subject.activations, "compute": self.prepared.compute}
            for place in chosen:
                for spec in subject.dictionaries:
                    inputs = {"dictionary": spec, "training": config.training, "hook_point": place, **at}
                    jobs.append(Job("train", job_name(spec, place) + subject.called, train, inputs, spec))
            for place in chosen:
                for spec in subject.baselines:
                    inputs = {"baseline": spec, "rows": config.training.rows, "hook_point": place, **at}
                    jobs.append(Job("train", job_name(spec, place) + subject.called, fit_baseline, inputs, spec))
        made = self.together(jobs)
        for subject in self.subjects:
            count = len(chosen) * (len(subject.dictionaries) + len(subject.baselines))
            subject.made, made = made[:count], made[count:]

    def evaluate(self) -> None:
        """Every dictionary on held-out rows, and with it the evaluations that the experiment asks for."""
        prepared, rows = self.prepared, self.config.training.rows
        jobs = [
            Job(
                "evaluate",
                f"evaluate {made.job.name}",
                evaluate_reconstruction,
                {
                    "dictionary": made.ref,
                    "rows": rows,
                    "activations": subject.activations,
                    "hook_point": made.job.inputs["hook_point"],
                    "compute": prepared.compute,
                },
                made.job.about,
            )
            for subject in self.subjects
            for made in subject.made
        ]
        self.reconstructions = len(jobs)
        features = self.features()
        for subject in self.subjects:
            asked = studies(prepared, self.given(subject), dictionaries_of(subject), features)
            jobs += [Job("evaluate", *study) for study in asked]
        self.evaluated = self.together(jobs)
        self.comparisons = list(self.compare())
        self.pages = self.write_pages(features)

    def features(self) -> dict[Reading, ArtifactRef | None]:
        """What evaluations and pages read of the dictionaries' features, made before them."""
        read = [
            (reading, subject)
            for subject in self.subjects
            for reading in readings(self.prepared, dictionaries_of(subject))
        ]
        read += [(reading, self.subjects[0]) for reading in self.paged() if (reading, self.subjects[0]) not in read]
        jobs = [
            Job("evaluate", *study_of(reading, self.prepared, self.given(subject)), reading.made.about)
            for reading, subject in read
        ]
        return {reading: made.ref for (reading, _), made in zip(read, self.together(jobs), strict=True)}

    def paged(self) -> list[Reading]:
        """The dictionaries of the model itself that have pages; those of the control are there to be counted."""
        return paged(self.prepared, dictionaries_of(self.subjects[0]))

    def write_pages(self, features: Mapping[Reading, ArtifactRef | None]) -> list[ArtifactRef | None]:
        """Pages of single features, and before them what each place of the text does to the loss."""
        read, prepared = self.paged(), self.prepared
        if not read:
            return []
        given = {"model": prepared.model, "tokens": self.tokens}
        gradients = self.one(
            "evaluate",
            "loss gradients",
            loss_gradients,
            **given,
            hook_points=self.config.hook_points,
            dtype=prepared.dtype,
            compute=prepared.compute_harvest.model_copy(update={"workers": 1}),
        )
        jobs = [
            Job(
                "evaluate",
                *pages_of(reading, prepared, {**given, "gradients": gradients}, features[reading]),
                reading.made.about,
            )
            for reading in read
        ]
        return [made.ref for made in self.together(jobs)]

    def compare(self) -> Iterator[ArtifactRef | None]:
        """The dictionaries' interpretability side by side, for each way in which activations were simulated."""
        for spec in self.config.evaluations:
            if isinstance(spec, InterpretabilitySpec) and "simulation" in spec.scorers:
                those = tuple(made.ref for made in self.evaluated if made.job.inputs.get("spec") == spec.resolved())
                inputs = {"names": tuple(map(str, those)), "evaluations": those}
                yield self.one("evaluate", f"compare {title(spec)}", compare_interpretability, **inputs)

    def given(self, subject: Subject) -> dict[str, ArtifactRef | None]:
        """What steps read beside dictionaries."""
        return {"model": subject.model, "tokens": self.tokens, "activations": subject.activations}

    def report(self) -> None:
        dictionaries = [made.ref for subject in self.subjects for made in subject.made]
        evaluations = [made.ref for made in self.evaluated]
        self.one(
            "report",
            "report",
            report,
            about=about_of(self.config),
            # The tables name artifacts, and a key holds only the digests of references: so also by name.
            names=tuple(map(str, [*dictionaries, *evaluations[self.reconstructions :], *self.comparisons])),
            dictionaries=tuple(dictionaries),
            evaluations=tuple(evaluations[: self.reconstructions]),
            studies=tuple(evaluations[self.reconstructions :]),
            comparisons=tuple(self.comparisons),
            pages=tuple(self.pages),
        )


def dictionaries_of(subject: Subject) -> list[Made]:
    return [
        Made(made.job.name, made.job.inputs["hook_point"], made.job.about, made.ref)
        for made in subject.made
        if made.job.about is not None
    ]


def about_of(config: ExperimentConfig) -> About:
    """What a report says of the experiment: where and how wide it runs changes nothing that it shows."""
    return About(name=config.name, config=config.model_dump(mode="json", exclude={"compute", "invalidate_from"}))


def look_up(jobs: Sequence[Job]) -> list[ArtifactRef | None]:
    """What of these jobs is already made."""
    return [job.find() for job in jobs]


def named(done: Sequence[Stage], name: str) -> ArtifactRef:
    """The artifact of the job with this name."""
    return present(next(stage for stage in done if stage.job.name == name))


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
