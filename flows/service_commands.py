"""`saeflow up`, `saeflow deploy`, `saeflow reports`: what runs as a service, and what is put on a Prefect server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import Home, open_home
from flows.parameters import load_config
from tasks.errors import ExperimentError

if TYPE_CHECKING:
    from prefect.schedules import Schedule

    from flows.up import Addresses

Experiments = Annotated[
    list[Path] | None,
    typer.Option(
        "--experiment", metavar="FILE.yaml", help="Deploy this experiment and its retraining too; may be repeated."
    ),
]
RetrainCron = Annotated[str | None, typer.Option(help="When `retrain` runs by itself: a cron expression.")]
RetrainInterval = Annotated[float | None, typer.Option(min=1, help="Or every so many seconds.")]


def up(
    home: Home = None,
    port: Annotated[int, typer.Option(help="Of the Prefect server and its UI.")] = 4200,
    reports_port: Annotated[int, typer.Option(help="Of the report server.")] = 4201,
    workers_limit: Annotated[
        int | None, typer.Option(help="How many runs may be under way at once; others wait.", show_default="no limit")
    ] = None,
    experiment: Experiments = None,
    retrain_cron: RetrainCron = None,
    retrain_interval: RetrainInterval = None,
) -> None:
    """Start a Prefect server with all deployments, a worker and the report server. Ctrl-C stops all of it.

    With PREFECT_API_URL set it uses that server and starts none.
    """
    store = prepare(home, experiment)
    from flows.up import Stopped, up

    def ready(where: "Addresses") -> None:
        about = "" if where.own_server else "  (which was running: PREFECT_API_URL)"
        print(f"Prefect   {where.prefect.removesuffix('/api')}{about}")
        print(f"reports   {where.reports}\nhome      {store.uri}\nlogs      {store.scratch / 'logs'}")
        print("ctrl-C stops all of it, runs under way too: run again, and they go on from what is made.", flush=True)

    try:
        up(
            store,
            port=port,
            reports_port=reports_port,
            limit=workers_limit,
            experiments=[str(file) for file in experiment or ()],
            schedule=schedule(retrain_cron, retrain_interval),
            ready=ready,
        )
    except Stopped:
        print("stopped", flush=True)


def deploy(
    home: Home = None,
    pool: Annotated[
        str, typer.Option(help="The work pool whose workers run it; one of type process is made if there is none.")
    ] = "saeflow",
    experiment: Experiments = None,
    retrain_cron: RetrainCron = None,
    retrain_interval: RetrainInterval = None,
) -> None:
    """Put the work pool, the deployments and the automations on the Prefect server at PREFECT_API_URL."""
    prepare(home, experiment)
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ExperimentError(
            "there is no Prefect server to deploy to: set PREFECT_API_URL, such as http://127.0.0.1:4200/api. "
            "`saeflow up` starts a server and deploys to it."
        )
    from flows import deployments

    files = [str(file) for file in experiment or ()]
    for name in deployments.deploy(files, pool=pool, schedule=schedule(retrain_cron, retrain_interval)):
        print(name)


def reports(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Where it listens; 0.0.0.0 lets other machines in, and has 'Try it' ask for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port.")] = 4201,
) -> None:
    """Serve the reports of a home, and an index of its experiments."""
    store = open_home(home)
    from flows.report_server import serve

    serve(store, host, port)


def prepare(home: str | None, experiments: list[Path] | None):
    """The home, and an environment whose runs tell more than those of the command line."""
    for file in experiments or ():
        load_config(str(file))  # what is wrong is said before anything starts
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    store = open_home(home)
    store.check_writable()
    return store


def schedule(cron: str | None, seconds: float | None) -> "Schedule | None":
    if cron is None and seconds is None:
        return None
    from flows.deployments import schedule_of

    return schedule_of(cron, seconds)
