"""A real `saeflow up` with a tiny experiment, and a headless Chromium that looks at it.

$CHROMIUM names the browser (by default Debian's /usr/bin/chromium). With $SAEFLOW_SCREENSHOTS set, every step leaves a
picture in that folder.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from storage.artifacts import AnyStore
from tests.flows.ports import free_ports

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# No sandbox, because containers run tests as root; nothing of its own that it would call home for.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """Where `saeflow up` listens."""

    prefect: str
    reports: str
    home: Path

    @property
    def api(self) -> str:
        return f"{self.prefect}/api"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: dict[str, Any]) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("service")
    experiment = place / "tiny.yaml"
    one_process = {**tiny_experiment, "compute": {"workers": 1, "threads": 1, "device": "cpu"}}
    experiment.write_text(yaml.safe_dump(one_process, sort_keys=False))
    with service_running(place / "home", "--experiment", str(experiment)) as running:
        yield running


class service_running:
    """`saeflow up` on free ports, from when it is ready until the end of the block."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        prefect, reports = free_ports(2)
        self.service = Service(f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{reports}", home)
        ports = ["--port", str(prefect), "--reports-port", str(reports)]
        self.command = [sys.executable, "-m", "flows.cli", "up", "--home", str(home), *ports, *arguments]
        ours = ("PREFECT_API_URL", "PREFECT_LOGGING_LEVEL")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        self.environment = {**kept, "PREFECT_HOME": str(home.parent / "prefect"), **environment}

    def __enter__(self) -> Service:
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ctrl-C"):
                return self.service
        raise AssertionError(f"`saeflow up` ended with {self.process.wait()}")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=list(FLAGS)
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(20_000)
    yield page
    page.close()


@contextmanager
def reports_served(store: AnyStore) -> Iterator[str]:
    """The report server of a home, in this process: its address."""
    import uvicorn

    from flows.report_server import application

    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(application(store), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


class Camera:
    """Pictures of what a person would see, in the order in which they would see it."""

    def __init__(self, name: str) -> None:
        folder = os.environ.get("SAEFLOW_SCREENSHOTS")
        self.folder = Path(folder) if folder else None
        self.name, self.taken = name, 0

    def __call__(self, page: "Page", what: str, *, whole: bool = False) -> None:
        self.taken += 1
        if self.folder is None:
            return
        time.sleep(0.7)  # until what fades in has done so
        self.folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=self.folder / f"{self.name}-{self.taken:02d}-{what}.png", full_page=whole)


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Camera:
    return Camera(request.node.name.removeprefix("test_")[:40])
