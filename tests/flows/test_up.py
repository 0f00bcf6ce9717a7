"""`saeflow up`: what is said before it starts, and that all of it ends together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flows.up import Children, Stopped, check_port, descendants, server_environment, signals_raised, stop
from storage.artifacts import ArtifactStore
from tasks.errors import ExperimentError
from tests.flows.command import assert_refused, saeflow
from tests.flows.ports import free_ports
from tests.flows.services import wait_until


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = saeflow("up", "--home", tmp_path / "home", "--reports-port", port)
    assert_refused(result, f"port {port}", "Address already in use", f"--reports-port {port + 100}")
    assert not (tmp_path / "home" / "logs").exists()
    check_port(port, "--port")


def test_a_server_that_is_named_and_does_not_answer_is_told(tmp_path: Path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    port, reports_port = free_ports(2)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        result = saeflow("up", "--home", tmp_path / "home", "--reports-port", reports_port)
    assert_refused(result, f"http://127.0.0.1:{port}/api", "does not answer")


def test_an_experiment_that_is_wrong_is_told_before_anything_starts(tmp_path: Path):
    (tmp_path / "wrong.yaml").write_text("hook_points: []")
    result = saeflow("up", "--home", tmp_path / "home", "--experiment", tmp_path / "wrong.yaml")
    assert_refused(result, "wrong.yaml", "hook_points")


def test_an_interval_without_length_is_refused(tmp_path: Path):
    result = saeflow("up", "--home", tmp_path / "home", "--retrain-interval", 0)
    assert result.returncode == 2
    assert "--retrain-interval" in result.stderr


def test_a_signal_ends_it_unless_it_was_ignored_before():
    def hang_up() -> None:
        with signals_raised():
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped):
            hang_up()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        hang_up()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_child_that_dies_is_told_with_its_last_lines(tmp_path: Path):
    with Children(tmp_path) as children:
        children.start("other", [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ))
        children.start("fragile", [sys.executable, "-c", "print('said before'); exit(3)"], dict(os.environ))
        with pytest.raises(ExperimentError, match=r"exit code 3(.|\n)*said before"):
            children.watch()
    assert all(child.process.poll() is not None for child in children.running)


def test_what_a_child_started_ends_with_it(tmp_path: Path):
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import signal, time; "
    nested += "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'], start_new_session=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", nested], start_new_session=True)
    wait_until(lambda: len(descendants(process.pid)) == 1, 20)
    (grandchild,) = descendants(process.pid)
    stop(process)
    wait_until(lambda: not Path(f"/proc/{grandchild}").exists() or is_zombie(grandchild), 5)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_servers_database_is_in_the_home_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    told = server_environment(ArtifactStore(tmp_path))
    assert told["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    assert "PREFECT_API_URL" not in told
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://here")
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in server_environment(ArtifactStore(tmp_path))


@pytest.mark.services
@pytest.mark.timeout(400)
def test_all_of_it_starts_and_a_signal_ends_it_within_seconds(tmp_path: Path):
    port, reports_port = free_ports(2)
    command = [sys.executable, "-m", "flows.cli", "up", "--home", str(tmp_path / "home")]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    process = subprocess.Popen(
        [*command, "--port", str(port), "--reports-port", str(reports_port), "--retrain-interval", "3600"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told: list[str] = []
    for line in iter(process.stdout.readline, ""):
        told.append(line)
        if line.startswith("ctrl-C"):
            break
    text = "".join(told)
    assert f"http://127.0.0.1:{port}\n" in text
    assert f"http://127.0.0.1:{reports_port}\n" in text
    api = f"http://127.0.0.1:{port}/api"
    deployments = httpx.post(f"{api}/deployments/filter", json={}, timeout=30).json()
    names = {deployment["entrypoint"].rpartition(".")[2] + "/" + deployment["name"] for deployment in deployments}
    assert {"experiment/quickstart", "experiment/paper-pythia-70m", "harvest/quickstart", "train/quickstart"} <= names
    assert len(httpx.post(f"{api}/automations/filter", json={}, timeout=30).json()) == 2
    assert (tmp_path / "home" / "prefect.db").is_file()

    second = saeflow("up", "--home", tmp_path / "home", "--port", free_ports(1)[0], "--reports-port", free_ports(1)[0])
    assert_refused(second, "another `saeflow up` serves")
    children = descendants(process.pid)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert time.monotonic() - begun < 25
    assert not any(Path(f"/proc/{child}").exists() for child in children)
