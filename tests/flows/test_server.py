"""The server that a run starts for itself."""

import fcntl
import threading
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.server import one_server


class Server:
    """In place of Prefect's, whose database two that start together on a fresh machine would both create."""

    api_url = "http://127.0.0.1:1/api"
    started = threading.Event()

    def start(self) -> None:
        self.started.set()


def test_a_server_starts_only_when_no_other_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer", Server)

    def start() -> None:
        with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}), one_server():
            pass

    with (tmp_path / "saeflow-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = threading.Thread(target=start)
        run.start()
        assert not Server.started.wait(0.5)
    run.join(10)
    assert Server.started.is_set()
