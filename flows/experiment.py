"""The experiment: text → tokens → activations → dictionaries per layer, in parallel → evaluation → a table."""

import datetime
import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from flows.experiment_records import ExperimentRecords, RunRecord
from flows.parameters import ExperimentConfig
from flows.preflight import Prepared, prepare
from flows.runners import task_runner
from flows.server import one_server
from flows.wording import size
from storage.artifacts import ArtifactRef, DamagedArtifact
from tasks.baselines import fit_baseline
from tasks.caching import Step, artifacts
from tasks.corpus import tokenize
from tasks.errors import ExperimentError
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.harvest import harvest
from tasks.report import report
from tasks.specs import BaselineSpec, DictionarySpec
from tasks.train import train

DISK_MARGIN = 1.05  # file systems keep some blocks for themselves


@dataclass(frozen=True)
class Job:
    """One step with its inputs. An input that is None is not made yet."""

    name: str
    step: Step[...]
    inputs: dict[str, Any]

    def reads(self) -> list[ArtifactRef]:
        """The artifacts among its inputs."""
        values = (value if isinstance(value, tuple) else (value,) for value in self.inputs.values())
        return [item for value in values for item in value if isinstance(item, ArtifactRef)]


@dataclass(frozen=True)
class Stage:
    """A job and the artifact it gave, or None where a plan found none."""

    job: Job
    ref: ArtifactRef | None


Run = Callable[[Sequence[Job]], Sequence[ArtifactRef | None]]


def stages(prepared: Prepared, run: Run) -> list[Stage]:
    """Walk through the experiment, breadth first; `run` makes or looks up jobs that do not depend on each other."""
    config = prepared.config
    done: list[Stage] = []

    def together(jobs: Sequence[Job]) -> tuple[ArtifactRef | None, ...]:
        made = tuple(run(jobs))
        done.extend(Stage(job, ref) for job, ref in zip(jobs, made, strict=True))
        return made

    def one(name: str, step: Step[...], **inputs: Any) -> ArtifactRef | None:
        return together([Job(name, step, inputs)])[0]

    tokens = one("tokenize", tokenize, model=prepared.model, corpus=prepared.corpus, base=prepared.base)
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
    rows = config.training.rows

    def at(hook_point: str) -> dict[str, Any]:
        return {"activations": activations, "hook_point": hook_point, "compute": prepared.compute}

    pairs = [(hook_point, spec) for hook_point in config.hook_points for spec in config.dictionaries]
    trainings = [
        Job(f"{label(spec)} {hook_point}", train, {"dictionary": spec, "training": config.training, **at(hook_point)})
        for hook_point, spec in pairs
    ]
    pairs = [(hook_point, spec) for hook_point in config.hook_points for spec in config.baselines]
    fits = [
        Job(f"{label(spec)} {hook_point}", fit_baseline, {"baseline": spec, "rows": rows, **at(hook_point)})
        for hook_point, spec in pairs
    ]
    dictionaries = together([*trainings, *fits])
    evaluations = together(
        [
            Job(
                f"evaluate {stage.job.name}",
                evaluate_reconstruction,
                {"dictionary": stage.ref, "rows": rows, **at(stage.job.inputs["hook_point"])},
            )
            for stage in done[-len(dictionaries) :]
        ]
    )
    # The table names the dictionaries, and a key holds only the digests of references: so also by name.
    names = tuple(str(ref) for ref in dictionaries)
    one("report", report, names=names, dictionaries=dictionaries, evaluations=evaluations)
    return done


def look_up(jobs: Sequence[Job]) -> list[ArtifactRef | None]:
    """What of these jobs is already made."""
    return [_found(job) for job in jobs]


def make(jobs: Sequence[Job], workers: int) -> list[ArtifactRef | None]:
    """Make jobs as Prefect tasks: several at once on the task runner, one alone or already made in this process.

    Every job that was submitted is waited for before a failure is raised, so that what can be made is made.
    """
    runs: list[ArtifactRef | PrefectFuture[ArtifactRef]] = []
    for job in jobs:
        here = workers == 1 or len(jobs) == 1 or _found(job) is not None
        runs.append((job.step.run if here else job.step.submit)(job.name, **job.inputs))
    for entry in runs:
        if isinstance(entry, PrefectFuture):
            entry.wait()
    return [entry.result() if isinstance(entry, PrefectFuture) else entry for entry in runs]


def ready(config: ExperimentConfig) -> Prepared:
    """An experiment that can start: `prepare`, and room on the disk for what is not made yet.

    Raises:
        ExperimentError: what is wrong, and what to do about it.
    """
    prepared = prepare(config)
    store = artifacts()
    free = shutil.disk_usage(store.scratch).free
    elsewhere = set() if store.streams_to_this_disk else {harvest.kind}
    on_disk = {kind: count for kind, count in prepared.bytes_needed.items() if kind not in elsewhere}
    needed = sum(on_disk.values())
    if needed * DISK_MARGIN > free:  # only then is it worth the time to look what is already there
        to_do = [stage.job for stage in stages(prepared, look_up) if stage.ref is None]
        needed = sum(on_disk.get(kind, 0) for kind in {job.step.kind for job in to_do})
        needed -= sum(_bytes_begun(job) for job in to_do)
    if needed * DISK_MARGIN > free:
        raise ExperimentError(
            f"the experiment needs about {needed:,} bytes ({size(needed)}) in {store.scratch}, and {free:,} bytes "
            f"({size(free)}) are free. Lower corpus.tokens, name fewer hook_points, or choose another --home."
        )
    return prepared


@flow(name="experiment", flow_run_name="{config.name}", validate_parameters=True)
def experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Run an experiment and return its summary (see `summary`)."""
    started = datetime.datetime.now(datetime.UTC)
    prepared = ready(config)
    store, told = artifacts(), config.model_dump(mode="json")
    beginning = {"experiment": config.name, "home": store.uri, "config": told}
    record = RunRecord(ExperimentRecords(store.home_location), config.name, beginning)
    record.uses([str(prepared.model), *([str(prepared.base)] if prepared.base else [])])

    def recorded(jobs: Sequence[Job]) -> list[ArtifactRef | None]:
        # Before it is made, so that it never looks unused.
        record.uses(f"{job.step.kind}/{job.step.key(job.inputs)}" for job in jobs)
        return make(jobs, prepared.workers)

    result = summary(config, stages(prepared, recorded), started)
    record.finish({**result, "config": told})
    return result


def run_experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Run the flow with as many processes as the configuration asks for.

    Raises:
        ExperimentError: something is wrong with the configuration or what it names; no work was started.
    """
    prepared = ready(config)
    runner = task_runner(config.compute, max(prepared.workers, config.compute.harvest_workers))
    with one_server():
        return experiment.with_options(task_runner=runner)(config)


def label(spec: DictionarySpec | BaselineSpec) -> str:
    """`topk k=64`: a method and what is not at its default."""
    chosen = spec.model_dump(exclude_defaults=True, exclude={"method"})
    return " ".join([spec.method, *(f"{name}={value}" for name, value in chosen.items())])


def summary(config: ExperimentConfig, done: Sequence[Stage], started: datetime.datetime) -> dict[str, Any]:
    """`{experiment, home, report, stages: [{name, seconds, cached}], dictionaries: [{ref, …}], warnings}`.

    `seconds` is how long making took, whenever that was; `cached` says that this run found it made.
    """
    store = artifacts()
    rows = []
    for stage in done:
        manifest = store.manifest(_present(stage))
        cached = datetime.datetime.fromisoformat(manifest["created"]) < started
        rows.append({"name": stage.job.name, "seconds": round(manifest["seconds"], 2), "cached": cached})
    tokens = store.manifest(_present(done[0]))["notes"]
    warnings = [f"the corpus is short of the {split} tokens asked for" for split in tokens["short_of_wanted"]]
    report_path = store.path(_present(done[-1]))
    dictionaries = json.loads((report_path / "dictionaries.json").read_text())
    for entry in dictionaries:
        entry["path"] = f"{store.uri}/{entry['ref']}"
    return {
        "experiment": config.name,
        "home": store.uri,
        "report": str(report_path / "report.md"),
        "stages": rows,
        "dictionaries": dictionaries,
        "warnings": warnings,
    }


def _bytes_begun(job: Job) -> int:
    """Bytes that an interrupted attempt at a job left."""
    if _inputs_missing(job):
        return 0
    place = artifacts().path(job.step.kind, job.step.key(job.inputs)).with_suffix(".partial")
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _inputs_missing(job: Job) -> bool:
    parameters = inspect.signature(job.step.make).parameters
    return any(
        # Where a step does without an input, None says so.
        (value is None and parameters[name].default is not None) or (isinstance(value, tuple) and None in value)
        for name, value in job.inputs.items()
    )


def _found(job: Job) -> ArtifactRef | None:
    if _inputs_missing(job):
        return None
    try:
        return job.step.find(**job.inputs)
    except DamagedArtifact:
        return None


def _present(stage: Stage) -> ArtifactRef:
    if stage.ref is None:
        raise ExperimentError(f"stage {stage.job.name!r} gave no artifact")
    return stage.ref
