"""A Prefect server on SQLite or Postgres, workers, and a deployed experiment whose training takes some seconds."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployments import POOL, deploy, worker_is_online
from flows.up import SERVER_SETTINGS
from storage.artifacts import ArtifactStore
from tests.conftest import write_text

PATIENCE = 300.0  # seconds


def wait_until(ready: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    deadline = time.monotonic() + patience
    while not (found := ready()):
        assert time.monotonic() < deadline, f"it never came to this: {what}"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty database of a Postgres server that is started here (Debian's package postgresql)."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("there is no Postgres: apt-get install postgresql")
    bin, data, port = programs[-1].parent, Path("/tmp") / f"saeflow-postgres-{os.getpid()}", free_port()
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
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server."""
    place, port = tmp_path_factory.mktemp("server"), free_port()
    sqlite = f"sqlite+aiosqlite:///{place / 'prefect.db'}"
    database = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres")
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {**SERVER_SETTINGS, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "PREFECT_HOME": str(place)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_until(lambda: answers(f"{url}/health"), f"a server, see {place / 'log'}")
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        kill_tree(process.pid)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


class Worker:
    """A worker of the work pool, and the flow runs that it starts."""

    def __init__(self, server: str, place: Path) -> None:
        self.name = f"worker-{free_port()}"
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        environment = {
            **os.environ,
            "PREFECT_API_URL": server,
            "PREFECT_HOME": str(place),
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
        environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
        with (place / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--name", self.name], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: worker_is_online(POOL, self.name), "the worker is online")

    def runs(self) -> list[psutil.Process]:
        """The processes of flow runs."""
        return [child for child in psutil.Process(self.process.pid).children() if "python" in child.name()]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        kill_tree(self.process.pid)


def kill_tree(pid: int) -> None:
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree, timeout=30)


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

    def wait_for_end(self, run: FlowRun) -> FlowRun:
        return wait_until(lambda: self.ended(run.id), f"run {run.id} has ended")

    def ended(self, run: UUID) -> FlowRun | None:
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(run)
        return found if found.state and (found.state.is_completed() or found.state.is_failed()) else None

    def states(self, run: UUID) -> list[str]:
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(run)
        return [state.name for state in sorted(states, key=lambda state: state.timestamp)]

    def in_training(self) -> bool:
        return any(self.home.glob("dictionary/*.partial/scratch/checkpoint.safetensors"))

    def digests(self) -> dict[str, str]:
        return {str(ref): ref.digest for ref, _ in ArtifactStore(self.home).list()}


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


@pytest.fixture
def deployed(server: str, killable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    return Deployed(killable, tmp_path / "home", monkeypatch)


@pytest.fixture
def worker(server: str, deployed: Deployed, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(server, tmp_path)
    yield worker
    worker.stop()
