"""The deployments: which flows a person finds in the Prefect UI, and what their forms start with.

Every preset is a deployment of `experiment`; the stages of one are deployments of their own, and so is the retraining
of one and of every experiment that a person brings. They are deployed by `saeflow up` and `saeflow deploy`, or with
Prefect's own command from prefect.yaml, which this module writes:

    python -m flows.deployments > prefect.yaml
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, WorkerStatus
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from flows.automations import SECONDS_BETWEEN_HEARTBEATS, TAG, automations, put_automations
from flows.parameters import ExperimentConfig, RetrainConfig, about, load_config, presets
from flows.report_links import REPORTS_URL
from storage.locations import is_remote
from tasks.errors import ExperimentError

POOL = "saeflow"
QUICKSTART = "quickstart"

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}

RECORDS = "PREFECT_RESULTS_LOCAL_STORAGE_PATH"


@dataclass(frozen=True)
class Offer:
    """A flow with the parameters that its form starts with."""

    entrypoint: str
    name: str
    description: str
    parameters: Mapping[str, Any]
    at_once: int | None = None
    """How many of its runs may be under way; others wait."""
    scheduled: bool = False
    """Whether it runs by itself where a schedule is given."""

    @property
    def tags(self) -> list[str]:
        """The UI lists deployments without their flows: so its name is a tag."""
        return [TAG, self.entrypoint.rpartition(".")[2]]


def offers(experiments: Sequence[str] = ()) -> list[Offer]:
    """Everything that is deployed: the presets, more experiments (YAML files), and the stages of the quickstart.

    A schedule is for the experiments in the files, as far as they can be retrained; without files, for the quickstart.
    """
    quickstart = _parameters(str(presets()[QUICKSTART]))
    own = [config for config in map(load_config, experiments) if _can_be_retrained(config)]
    files = [*presets().values(), *map(Path, experiments)]
    whole = [
        Offer("flows.experiment.experiment", load_config(str(file)).name, about(file), _parameters(str(file)))
        for file in files
    ]
    stages = [
        Offer(
            "flows.harvest.harvest",
            QUICKSTART,
            "Only tokens and activations; an experiment then finds them.",
            quickstart,
        ),
        Offer(
            "flows.train.train",
            QUICKSTART,
            "Only as far as the dictionaries, at all hook points or at some. With compute.train_deployment set to "
            "train/quickstart an experiment trains each hook point as a run of its own.",
            quickstart,
        ),
        Offer("flows.evaluate.evaluate", QUICKSTART, "Everything but the report.", quickstart),
    ]
    retrainings = [
        Offer(
            "flows.retrain.retrain",
            config.name,
            "Trains the promoted dictionaries further on what the corpus has new, and promotes those that are not "
            "worse. Runs of it wait for each other.",
            {"config": RetrainConfig(experiment=config).model_dump(mode="json")},
            at_once=1,
            scheduled=config in own or not experiments,
        )
        for config in (load_config(QUICKSTART), *own)
    ]
    comparison = Offer(
        "flows.compare.compare",
        "runs",
        "Two finished experiments beside each other: features kept, changed, lost and gained, numbers, settings.",
        {"a": QUICKSTART, "b": QUICKSTART},
    )
    return [*whole, *stages, *retrainings, comparison]


def deploy(
    experiments: Sequence[str] = (),
    pool: str = POOL,
    schedule: Schedule | None = None,
) -> list[str]:
    """Make the work pool, the deployments and the automations on the configured server, or bring them up to date.

    Args:
        experiments: YAML files, each a deployment of `experiment` and of `retrain` beside the presets.
        schedule: when `retrain` runs by itself; without one, schedules on the server stay as they are.

    Returns the names of the deployments.

    Raises ExperimentError when there is a schedule and no experiment that can be retrained.
    """
    offered = offers(experiments)
    if schedule and not any(offer.scheduled for offer in offered):
        raise ExperimentError(
            "there is nothing to retrain on a schedule: no --experiment has dictionaries, without invalidate_from and "
            "compute.train_deployment."
        )
    put_pool(pool)
    names = []
    for offer in offered:
        flow = load_flow_from_entrypoint(offer.entrypoint, use_placeholder_flow=False)
        deployment = RunnerDeployment.from_flow(
            flow,
            name=offer.name,
            entrypoint_type=EntrypointType.MODULE_PATH,
            parameters=dict(offer.parameters),
            description=offer.description,
            tags=offer.tags,
            version=version("saeflow"),
            work_pool_name=pool,
            job_variables={"env": job_environment()},
            concurrency_limit=_limit(offer.at_once),
            schedules=[schedule] if schedule and offer.scheduled else None,
        )
        deployment.apply()
        names.append(deployment.full_name)
    put_automations(automations())
    return names


def put_pool(name: str) -> None:
    """Make a work pool whose runs are processes of the worker's machine, unless there is one of this name."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=ProcessWorker.type,
                    description="Runs of saeflow, as processes of the machine that the worker is on.",
                    base_job_template=ProcessWorker.get_default_base_job_template(),
                )
            )


def worker_is_online(pool: str, name: str) -> bool:
    with get_client(sync_client=True) as client:
        found = client.read_workers_for_work_pool(pool)
        return any(worker.name == name and worker.status == WorkerStatus.ONLINE for worker in found)


def schedule_of(cron: str | None, seconds: float | None) -> Schedule | None:
    """Raises ValueError when both are given, or what is given is none."""
    if cron and seconds:
        raise ValueError("give either a cron expression or an interval, not both.")
    if cron:
        return Cron(cron, slug="retrain")
    return Interval(timedelta(seconds=seconds), slug="retrain") if seconds else None


def job_environment(told: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a run in a worker finds in its environment: the home and the records of whoever deployed, and heartbeats.

    No credentials: these belong into the worker's own environment.
    """
    told = os.environ if told is None else told
    kept = ["SAEFLOW_HOME", REPORTS_URL]
    if not is_remote(told.get("SAEFLOW_HOME", "")):
        kept.append(RECORDS)  # with a home in an object store a path of the worker's machine, which it knows itself
    home = {name: told[name] for name in kept if name in told}
    return {**home, **QUIET, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(SECONDS_BETWEEN_HEARTBEATS)}


def prefect_yaml() -> str:
    """The deployments as Prefect's own `deploy` command reads them."""
    environment = job_environment({"SAEFLOW_HOME": "{{ $SAEFLOW_HOME }}"})
    deployments = [
        {
            "name": offer.name,
            "description": offer.description,
            "entrypoint": offer.entrypoint,
            "tags": offer.tags,
            **(
                {"concurrency_limit": {"limit": offer.at_once, "collision_strategy": "ENQUEUE"}}
                if offer.at_once
                else {}
            ),
            "work_pool": {"name": POOL, "job_variables": {"env": environment}},
            "parameters": dict(offer.parameters),
        }
        for offer in offers()
    ]
    text = yaml.dump(
        {"name": "saeflow", "pull": [], "deployments": deployments}, Dumper=_Plain, sort_keys=False, width=120
    )
    return (
        "# Written by `python -m flows.deployments`: change flows/deployments.py or flows/presets, not this file.\n"
        "#\n"
        f"#   prefect work-pool create {POOL} --type process\n"
        "#   SAEFLOW_HOME=/data/sae prefect --no-prompt deploy --all\n"
        f"#   prefect worker start --pool {POOL}\n"
        "#\n"
        "# `saeflow deploy` does this and the automations, `saeflow up` all of it with a server.\n" + text
    )


class _Plain(yaml.SafeDumper):
    """YAML without anchors: what is the same in two deployments is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _parameters(source: str) -> dict[str, Any]:
    """An experiment as the form starts with it: every field, also those that the file leaves at their defaults."""
    return {"config": load_config(source).model_dump(mode="json")}


def _can_be_retrained(config: ExperimentConfig) -> bool:
    try:
        RetrainConfig(experiment=config)
    except ValidationError:
        return False
    return True


def _limit(at_once: int | None) -> ConcurrencyLimitConfig | None:
    if at_once is None:
        return None
    return ConcurrencyLimitConfig(limit=at_once, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


if __name__ == "__main__":
    sys.stdout.write(prefect_yaml())
