"""A Prefect server on SQLite or Postgres, workers, and a deployed experiment whose training takes some seconds."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployments import POOL, deploy
from tests.conftest import write_text
from tests.flows.command import saeflow_process
from tests.flows.homes import digests
from tests.flows.ports import free_ports
from tests.flows.services import Server, prefect_server_process, wait_until, worker_process

PATIENCE = 600.0  # seconds: cores may be shared


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty database of a Postgres server that is started here (Debian's package postgresql)."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("there is no Postgres: apt-get install postgresql")
    (port,) = free_ports(1)
    bin, data = programs[-1].parent, Path("/tmp") / f"saeflow-postgres-{os.getpid()}"
    data.mkdir()
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to be run by root
        shutil.chown(data, pwd.getpwnam("postgres").pw_uid)
        as_user = ["runuser", "-u", "postgres", "--"]
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    try:
        subprocess.run([*as_user, bin / "initdb", "-D", data / "db", "-A", "trust", "-U", "saeflow"], **quiet)
        options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [*as_user, bin / "pg_ctl", "-D", data / "db", "-w", "-l", data / "log"]
        subprocess.run([*control, "-o", options, "start"], **quiet)
        try:
            subprocess.run([bin / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "saeflow", "prefect"], **quiet)
            yield f"postgresql+asyncpg://saeflow@127.0.0.1:{port}/prefect"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    place = tmp_path_factory.mktemp("server")
    with prefect_server_process(place, database) as server, temporary_settings({PREFECT_API_URL: server.api}):
        yield server


class Worker:
    """A worker of the work pool, and the flow runs that it starts."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def runs(self) -> dict[UUID, psutil.Process]:
        """The processes of flow runs."""
        children = [child for child in psutil.Process(self.process.pid).children() if "python" in child.name()]
        return {UUID(child.environ()["PREFECT__FLOW_RUN_ID"]): child for child in children}

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def working(server: Server) -> Iterator[Worker]:
    with worker_process(server, POOL) as process:
        yield Worker(process)


class Deployed:
    """The experiment `killable`, deployed with a home of its own."""

    def __init__(self, file: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        patch.setenv("SAEFLOW_HOME", str(home))
        patch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(home / "records"))
        deploy([str(file)])

    def start(self) -> FlowRun:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("experiment/killable")
            return client.create_flow_run_from_deployment(deployment.id)

    def wait_for_training(self) -> None:
        wait_until(lambda: any(self.home.glob("dictionary/*.partial/scratch/checkpoint.safetensors")), PATIENCE)

    def wait_for_end(self, run: FlowRun) -> FlowRun:
        found = wait_until(lambda: self._ended(run.id), PATIENCE)
        assert found is not None
        return found

    def _ended(self, run: UUID) -> FlowRun | None:
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(run)
        return found if found.state and (found.state.is_completed() or found.state.is_failed()) else None

    def states(self, run: UUID) -> list[str]:
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(run)
        return [state.name for state in sorted(states, key=lambda state: state.timestamp)]


def runs_of(flow: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))


@pytest.fixture(scope="session")
def killable(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: dict[str, Any]) -> Path:
    """Two dictionaries, whose training takes some seconds."""
    folder = tmp_path_factory.mktemp("killable")
    (folder / "corpus.txt").write_text(write_text(1200))
    corpus = {"tokens": 100_000, "held_out_tokens": 10_000, "context_length": 32}
    parameters = {
        **tiny_experiment,
        "name": "killable",
        "corpus": {"sources": [str(folder / "corpus.txt")], **corpus},
        "hook_points": ["blocks.2.mlp.hook_post"],
        "training": {"batch_size": 64, "epochs": 3},
        "baselines": [],
    }
    file = folder / "killable.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


def undisturbed(file: Path, *options: str, server: Server, home: Path) -> dict[str, str]:
    """The digests of a run without any deployment, worker or kill."""
    # In a process of its own: Prefect's threads in this one would go on telling the server when it is gone.
    environment = {"PREFECT_API_URL": server.api, "PREFECT_HOME": str(server.home / "prefect")}
    ran = saeflow_process("run", file, "--home", home, *options, **environment)
    assert ran.returncode == 0, ran.stderr
    return digests(home)


@pytest.fixture
def deployed(server: Server, killable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    return Deployed(killable, tmp_path / "home", monkeypatch)


@pytest.fixture
def worker(server: Server, deployed: Deployed) -> Iterator[Worker]:
    with working(server) as worker:
        yield worker
