"""One process of an experiment is killed, and not all of them: its neighbours, its parent, its children."""

import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import PATIENCE, Start, finish, messages_of
from tests.flows.homes import digests
from tests.flows.services import wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


def pool_of(process: ForkServerProcess) -> list[psutil.Process]:
    """The processes that its tasks run in."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def checkpoints(home: Path) -> int:
    return len(list(home.glob("dictionary/*.partial/scratch/checkpoint.safetensors")))


def test_a_killed_child_of_the_pool_costs_neither_its_own_work_nor_its_neighbours(start: Start, tmp_path: Path):
    undisturbed, home = tmp_path / "undisturbed", tmp_path / "killed"
    finish(start(undisturbed), undisturbed)
    process = start(home)
    wait_until(lambda: checkpoints(home) == 2, PATIENCE)
    os.kill(pool_of(process)[0].pid, signal.SIGKILL)
    finish(process, home)
    assert "a process was killed" in messages_of(home)
    assert digests(home) == digests(undisturbed)


def test_the_pool_of_a_killed_run_ends_with_it(start: Start, tmp_path: Path):
    home = tmp_path / "home"
    process = start(home)
    wait_until(lambda: checkpoints(home) > 0, PATIENCE)
    pool = pool_of(process)
    assert pool
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(pool, timeout=30)
    assert (len(gone), alive) == (len(pool), [])
