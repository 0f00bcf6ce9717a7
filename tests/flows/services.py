"""Prefect servers and workers as processes, for tests that kill them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flows.up import SERVER_SETTINGS, answers, stop
from tests.flows.ports import free_ports

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """Where a Prefect server answers, and where it and its workers write."""

    api: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.home / "prefect")}


@contextmanager
def prefect_server_process(home: Path, database: str | None = None) -> Iterator[Server]:
    """A server of its own, on SQLite in `home` or on another database."""
    (port,) = free_ports(1)
    server = Server(f"http://127.0.0.1:{port}/api", home)
    url = database or f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    environment = {**server.environment, **SERVER_SETTINGS, "PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
    del environment["PREFECT_API_URL"]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, environment, home / "server.log") as running:
        wait_until(lambda: answers(f"{server.api}/health"), 300, running)
        yield server


@contextmanager
def worker_process(server: Server, pool: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of a process pool, in a session of its own."""
    settings = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    log = server.home / f"worker-{time.monotonic_ns()}.log"
    with process(command, {**server.environment, **settings}, log) as running:
        yield running


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield running
    finally:
        stop(running)


def wait_until(is_true: Callable[[], T], seconds: float, running: "subprocess.Popen[bytes] | None" = None) -> T:
    limit = time.monotonic() + seconds
    while not (found := is_true()):
        if running is not None and running.poll() is not None:
            raise AssertionError(f"the process ended with {running.returncode}")
        if time.monotonic() > limit:
            raise AssertionError(f"not within {seconds:g} seconds")
        time.sleep(0.1)
    return found
