"""The experiment: text → tokens → activations → dictionaries per layer, in parallel → evaluation → a table."""

import datetime
import json
from collections.abc import Collection, Sequence
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import announcements
from flows.deployed_home import check_home
from flows.deployed_training import train_on_deployment
from flows.experiment_records import ExperimentRecords, RunRecord
from flows.invalidation import remove_once
from flows.language_servers import check_servers
from flows.making import make
from flows.parameters import ExperimentConfig
from flows.preflight import Prepared
from flows.resuming import check_resumes
from flows.room import ready
from flows.runners import Crew
from flows.server import one_server
from flows.stages import Job, Stage, named, present, stages
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.output import outlive_readers
from tasks.specs import StageName


@flow(name="experiment", flow_run_name="{config.name}", validate_parameters=True)
def experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Harvest activations, train dictionaries, evaluate them beside their baselines, and report.

    What was made before is found; what was interrupted goes on where it was.

    Args:
        config: the experiment.
    """
    return walk(config)


def walk(
    config: ExperimentConfig, until: StageName = "report", hook_points: Collection[str] | None = None
) -> dict[str, Any]:
    """Make an experiment, or its first stages, within a flow run; returns its `summary`.

    Raises:
        ExperimentError: something is wrong with the configuration or what it names; no work was started.
    """
    check_home()
    outlive_readers()
    check_resumes(flow_run.id)
    started = datetime.datetime.now(datetime.UTC)
    prepared = begin(config, until)
    compute = config.compute
    store, told = artifacts(), config.model_dump(mode="json")
    beginning = {"experiment": config.name, "home": store.uri, "config": told}
    record = RunRecord(ExperimentRecords(store.home_location), config.name, beginning)
    record.uses([str(prepared.model), *([str(prepared.base)] if prepared.base else [])])
    if hook_points is None:  # a part of an experiment is in that one's plan
        announcements.plan(prepared, until)

    with Crew(compute, prepared.workers) as crew:

        def recorded(jobs: Sequence[Job]) -> list[ArtifactRef]:
            # Before it is made, so that it never looks unused.
            record.uses(f"{job.step.kind}/{job.step.key(job.inputs)}" for job in jobs)
            remove_once(jobs, config.invalidate_from, str(flow_run.id))
            if compute.train_deployment and jobs and jobs[0].stage == "train":
                train_on_deployment(config, jobs)
            return make(jobs, crew)

        done = stages(prepared, recorded, until, hook_points)
    result = summary(config, done, started)
    if until == "report":
        announcements.results(config, result, last=record.last_result())
        record.finish({**result, "config": told})
    else:
        record.add()
    announcements.tags(done)
    return result


def begin(config: ExperimentConfig, until: StageName = "report") -> Prepared:
    """An experiment that can start: `ready`, and the servers answer that it will ask."""
    prepared = ready(config)
    check_servers(prepared, until)
    return prepared


def run_experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Run the flow, on a Prefect server of its own if none is configured.

    Raises:
        ExperimentError: something is wrong with the configuration or what it names; no work was started.
    """
    with one_server(meanwhile=lambda: begin(config)):
        return experiment(config)


def summary(config: ExperimentConfig, done: Sequence[Stage], started: datetime.datetime) -> dict[str, Any]:
    """`{experiment, home, stages: [{name, ref, seconds, cached}], warnings}`, and of a whole experiment also
    `{report, dictionaries: [{ref, …}], studies: [{ref, …}]}`.

    `seconds` is how long making took, whenever that was; `cached` says that this run found it made.
    """
    store = artifacts()
    rows = []
    for stage in done:
        ref = present(stage)
        manifest = store.manifest(ref)
        cached = datetime.datetime.fromisoformat(manifest["created"]) < started
        seconds = round(manifest["seconds"], 2)
        rows.append({"name": stage.job.name, "ref": str(ref), "seconds": seconds, "cached": cached})
    tokens = store.manifest(named(done, "tokenize"))["notes"]
    warnings = [f"the corpus is short of the {split} tokens asked for" for split in tokens["short_of_wanted"]]
    result = {"experiment": config.name, "home": store.uri, "stages": rows, "warnings": warnings}
    if done[-1].job.stage != "report":
        return result
    report_path = store.path(present(done[-1]))
    dictionaries = json.loads((report_path / "dictionaries.json").read_text())
    for entry in dictionaries:
        entry["path"] = f"{store.uri}/{entry['ref']}"
    studies = json.loads((report_path / "studies.json").read_text())
    return {**result, "report": str(report_path / "report.md"), "dictionaries": dictionaries, "studies": studies}
