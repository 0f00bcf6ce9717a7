"""kill -9 of the whole process group, at random moments, then the same command: it ends with the same bytes."""

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.faults.conftest import PATIENCE, Start, finish
from tests.flows.homes import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 5  # during the harvest, and as many during training


def kill_when(process: ForkServerProcess, home: Path, ready: Callable[[], bool], delay: float) -> None:
    """Kill the process and its children `delay` seconds after `ready`."""
    deadline = time.monotonic() + PATIENCE
    while not (leads_its_group(process) and ready()):
        assert process.is_alive(), "the experiment ended before it came to the point of being killed"
        assert time.monotonic() < deadline, "the experiment never came to the point of being killed"
        time.sleep(0.01)
    time.sleep(delay)
    assert process.is_alive(), "the experiment ended before it was killed"
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    while under_way(home, "*"):  # its pool's children, killed with it, may take a moment longer to be gone
        assert time.monotonic() < deadline, "a killed process still holds a lock"
        time.sleep(0.01)


def leads_its_group(process: ForkServerProcess) -> bool:
    """Whether it came as far as `os.setsid`; before, there is no group to kill."""
    assert process.pid is not None
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def under_way(home: Path, kind: str) -> bool:
    """Whether some process holds the lock of an artifact of this kind: it is being built."""
    for path in home.glob(f"locks/{kind}-*.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def progress(home: Path) -> int:
    """How far the harvest is: committed parts, of the finished artifact or of the one under way."""
    return len(list(home.glob("activations/*/*/commits/*.json")))


def checkpoints(home: Path) -> set[int]:
    """What tells a checkpoint from the one before it: each is a new file."""
    return {file.stat().st_ino for file in home.glob("dictionary/*.partial/scratch/checkpoint.safetensors")}


def test_an_experiment_killed_in_harvest_and_training_ends_with_the_bytes_of_an_undisturbed_one(
    start: Start, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    finish(start(undisturbed), undisturbed)

    home = tmp_path / "killed"
    rng = random.Random(0)
    committed = [0]
    for _ in range(KILLS):
        kill_when(start(home), home, lambda: under_way(home, "activations"), rng.uniform(0.0, 0.8))
        assert not any(home.glob("dictionary/*")), "killed while it harvested"
        committed.append(progress(home))
    assert committed == sorted(committed), "what was committed stays"

    for kill in range(KILLS):
        before = checkpoints(home)

        def goes_on(before: set[int] = before) -> bool:
            return checkpoints(home) not in (set(), before)

        if kill % 2:  # after it went on from the last checkpoint, if there was one, and wrote another
            kill_when(start(home), home, goes_on, rng.uniform(0.0, 0.5))
        else:
            kill_when(start(home), home, lambda: under_way(home, "dictionary"), rng.uniform(0.0, 1.0))
    assert checkpoints(home), "training goes on from a checkpoint"

    result = finish(start(home), home)
    assert digests(home) == digests(undisturbed)
    assert not list(home.glob("*/*.partial"))
    assert all(entry["fvu"] < 1 for entry in result["dictionaries"])
