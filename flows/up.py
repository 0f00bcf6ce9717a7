"""`saeflow up`: a Prefect server, a worker and the report server in one command, which ends all of them.

Each is a process of its own, in a group of its own, so that ctrl-C reaches this process alone and it decides the
order: first the worker and the runs that it started, while there is a server to tell; then the rest. What they print is
in files under the home's `logs`. When one of them dies, the others are ended too.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import psutil

from flows.command import AnyStore
from flows.report_links import REPORTS_URL
from tasks.errors import ExperimentError

if TYPE_CHECKING:
    from prefect.schedules import Schedule

HOST = "127.0.0.1"
SECONDS_TO_START = 180.0
SECONDS_TO_STOP = 5.0
LINES_TOLD = 20

DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")

SERVER_SETTINGS = {
    # One by one, a run of a hundred tasks would keep SQLite busy for longer than it takes.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The UI asks the server that it came from, on any port, and through a tunnel as well; the default is port 4200.
    "PREFECT_SERVER_UI_API_URL": "/api",
}


@dataclass(frozen=True)
class Addresses:
    """Where a person finds things."""

    prefect: str
    reports: str
    own_server: bool


class Stopped(Exception):
    """Somebody asked for the end: ctrl-C, SIGTERM, or the terminal was closed."""


@dataclass
class Child:
    """A process of ours and the file that holds what it prints."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LINES_TOLD:])


class Children:
    """Processes that end together."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In the order in which they were started, the server comes first and has to end last.
        for child in reversed(self.running):
            stop(child.process)

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Child:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.running.append(child)
        return child

    def check(self) -> None:
        """Raises ExperimentError when one has ended, with the last lines that it printed."""
        for child in self.running:
            if child.process.poll() is not None:
                raise ExperimentError(
                    f"the {child.name} ended (exit code {child.process.returncode}), so the rest is stopped. The end "
                    f"of {child.log}:\n{child.last_lines()}"
                )

    def wait_for(self, what: str, is_there: Callable[[], bool]) -> None:
        """Wait until something is there. Raises ExperimentError when that takes too long or a process ends."""
        limit = time.monotonic() + SECONDS_TO_START
        while not is_there():
            self.check()
            if time.monotonic() > limit:
                logs = ", ".join(str(child.log) for child in self.running)
                raise ExperimentError(f"{what} did not start within {SECONDS_TO_START:g} seconds. See {logs}.")
            time.sleep(0.2)

    def watch(self) -> None:
        """Return never: raises ExperimentError when one has ended."""
        while True:
            self.check()
            time.sleep(0.5)


def up(
    store: AnyStore,
    port: int,
    reports_port: int,
    limit: int | None,
    experiments: Sequence[str],
    schedule: "Schedule | None",
    ready: Callable[[Addresses], None],
) -> None:
    """Start everything, tell `ready` the addresses, and go on until told to end.

    Args:
        limit: how many runs the worker runs at once.
        experiments: YAML files that are deployed beside the presets.
        schedule: when `retrain` runs by itself.

    Raises:
        ExperimentError: a port is in use, another `saeflow up` serves this home, or a process did not start or ended.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    configured = PREFECT_API_URL.value()  # of the environment, or of Prefect's profile
    check_port(reports_port, "--reports-port")
    if configured is None:
        check_port(port, "--port")
    elif not answers(f"{configured}/health"):
        raise ExperimentError(
            f"PREFECT_API_URL names the Prefect server {configured}, which does not answer. Start it, or unset the "
            "variable: without it, `saeflow up` starts a server of its own."
        )
    where = Addresses(configured or f"http://{HOST}:{port}/api", f"http://{HOST}:{reports_port}", configured is None)
    os.environ[REPORTS_URL] = where.reports
    os.environ["PREFECT_API_URL"] = where.prefect
    with signals_raised(), alone(store), Children(store.scratch / "logs") as children:
        if where.own_server:
            command = [*PREFECT, "server", "start", "--host", HOST, "--port", str(port)]
            children.start("server", command, server_environment(store))
        reports = ["reports", "--host", HOST, "--port", str(reports_port)]
        children.start("report server", [sys.executable, "-m", "flows.cli", *reports], environment())
        from flows.deployments import POOL, deploy, worker_is_online  # seconds, in which the server starts

        children.wait_for("the Prefect server", lambda: answers(f"{where.prefect}/health"))
        with temporary_settings({PREFECT_API_URL: where.prefect}):
            deploy(experiments, schedule=schedule)
            name = f"saeflow-up-{socket.gethostname()}-{os.getpid()}"
            command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
            limited = ["--limit", str(limit)] if limit else []
            children.start("worker", [*command, *limited], environment())
            children.wait_for("the worker", lambda: worker_is_online(POOL, name))
        children.wait_for("the report server", lambda: answers(f"{where.reports}/health"))
        ready(where)
        children.watch()


PREFECT = [sys.executable, "-m", "prefect"]


def environment() -> dict[str, str]:
    """Of the processes: `python -m` finds installed packages, and not what lies in the directory it is started in."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def server_environment(store: AnyStore) -> dict[str, str]:
    told = {name: value for name, value in environment().items() if name != "PREFECT_API_URL"}
    for name, value in SERVER_SETTINGS.items():
        told.setdefault(name, value)
    if not any(told.get(name) for name in DATABASE):
        database = store.scratch / "prefect.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        told[DATABASE[0]] = f"sqlite+aiosqlite:///{database}"
    return told


def check_port(port: int, option: str) -> None:
    """Raises ExperimentError when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ExperimentError(
                f"port {port} of {HOST} cannot be used ({error.strerror}). Is something else, or another `saeflow up`, "
                f"listening there? Choose another one: {option} {port + 100}"
            ) from error


@contextlib.contextmanager
def alone(store: AnyStore) -> Iterator[None]:
    """The only `saeflow up` of a home: two servers on one database would undo each other's work."""
    store.scratch.mkdir(parents=True, exist_ok=True)
    with (store.scratch / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(f"another `saeflow up` serves {store.uri} already.") from None
        yield


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Raise Stopped at the first signal that asks for the end, and let later ones pass: the end is under way."""

    def stop_once(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    # What is ignored stays so: under nohup the end of the terminal is not the end of this.
    heeded = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop_once) for each in heeded}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: politely, then at once after a few seconds."""
    started = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        # The worker takes the first signal for "no new runs"; then the end of its runs ends it.
        process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    for pid in started:
        _send(pid, signal.SIGTERM)
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for pid in started:
        _send(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started, whatever group they are in."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
