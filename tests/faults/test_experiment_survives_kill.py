"""kill -9 of the whole process group, at random moments, then the same command: it ends with the same bytes."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.artifacts import ArtifactStore
from tests.conftest import write_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 5  # during the harvest, and as many during training
PATIENCE = 120.0  # seconds


@pytest.fixture
def experiment(tmp_path: Path, tiny_experiment: dict[str, Any]) -> Path:
    """One whose harvest and training each take some seconds: several parts, several checkpoints."""
    (tmp_path / "corpus.txt").write_text(write_text(1200))
    parameters = {
        **tiny_experiment,
        "corpus": {
            "sources": [str(tmp_path / "corpus.txt")],
            "tokens": 200_000,
            "held_out_tokens": 40_000,
            "context_length": 32,
        },
        "hook_points": ["blocks.2.mlp.hook_post"],
        "training": {"batch_size": 64, "epochs": 3},
        "baselines": [],
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


def start(experiment: Path, home: Path, server: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(experiment), "--home", str(home), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PREFECT_API_URL": server, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return json.loads(out)


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], delay: float) -> bool:
    """Kill the process and its children `delay` seconds after `ready`; False if it had ended by then."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, "the experiment never came to the point of being killed"
        if process.poll() is not None:
            break
        time.sleep(0.01)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


def digests(home: Path) -> dict[str, str]:
    return {str(ref): ref.digest for ref, _ in ArtifactStore(home).list()}


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


def test_an_experiment_killed_in_harvest_and_training_ends_with_the_bytes_of_an_undisturbed_one(
    experiment: Path, tmp_path: Path, prefect_server: str
):
    undisturbed = tmp_path / "undisturbed"
    finish(start(experiment, undisturbed, prefect_server))

    home = tmp_path / "killed"
    rng = random.Random(0)
    committed = [0]
    for _ in range(KILLS):
        process = start(experiment, home, prefect_server)
        assert kill_when(process, lambda: under_way(home, "activations"), rng.uniform(0.0, 0.8))
        assert not any(home.glob("dictionary/*")), "killed while it harvested"
        committed.append(progress(home))
    assert committed == sorted(committed), "what was committed stays"

    checkpoints = 0
    for _ in range(KILLS):
        process = start(experiment, home, prefect_server)
        assert kill_when(process, lambda: under_way(home, "dictionary"), rng.uniform(1.0, 5.0))
        checkpoints += len(list(home.glob("dictionary/*.partial/scratch/checkpoint.safetensors")))

    result = finish(start(experiment, home, prefect_server))
    assert checkpoints > 0, "some training went on from a checkpoint"
    assert digests(home) == digests(undisturbed)
    assert not list(home.glob("*/*.partial"))
    assert all(entry["fvu"] < 1 for entry in result["dictionaries"])
