"""The server that a run starts for itself."""

import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.server import one_server
from tasks.errors import ExperimentError


class Server:
    """In place of Prefect's, whose database two that start together on a fresh machine would both create."""

    api_url = "http://127.0.0.1:1/api"
    started: threading.Event

    def start(self) -> None:
        self.started.set()

    def stop(self) -> None:
        self.started.clear()


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None is configured."""
    Server.started = threading.Event()
    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer", Server)
    with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}):
        yield


def test_a_server_starts_only_when_no_other_is_starting(tmp_path: Path):
    with (tmp_path / "saeflow-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def let_go() -> None:
            assert not Server.started.wait(0.5)
            fcntl.flock(lock, fcntl.LOCK_UN)

        with one_server(meanwhile=let_go):
            assert Server.started.is_set()
            assert PREFECT_API_URL.value() == Server.api_url


def test_what_fails_meanwhile_is_told_at_once_and_leaves_no_server(tmp_path: Path):
    def refuse() -> None:
        raise ExperimentError("no such model")

    with (tmp_path / "saeflow-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExperimentError, match="no such model"), one_server(meanwhile=refuse):
            pass
    assert not Server.started.wait(0.5)


def test_why_a_server_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch):
    def start(self: Server) -> None:
        raise RuntimeError("its port is taken")

    monkeypatch.setattr(Server, "start", start)
    with pytest.raises(RuntimeError, match="its port is taken"), one_server(meanwhile=lambda: None):
        pass
