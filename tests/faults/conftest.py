"""`saeflow run` in processes of their own, on an experiment whose harvest and training each take some seconds."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import main
from tests.conftest import write_text

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
        "training": {"batch_size": 64, "epochs": 4},
        "baselines": [],
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return file


Start = Callable[..., ForkServerProcess]
"""Begins `saeflow run`, given a home, and where it differs from the home what its output is named after."""


@pytest.fixture
def processes(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServerContext]:
    """Processes that are forked from one that has imported the large libraries already and knows the Prefect server.

    It is begun here and ended here: one that other tests began has neither these imports nor this environment, so that
    each run would import all of it anew and start a server of its own.
    """
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    server = forkserver._forkserver  # pyright: ignore[reportAttributeAccessIssue]
    preloaded_for_others = server._preload_modules
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flows.cli", "transformer_lens", "torch._dynamo", "zarr", "pyarrow"])
    server._stop()
    yield context
    server._stop()
    context.set_forkserver_preload(preloaded_for_others)


@pytest.fixture
def start(experiment: Path, processes: ForkServerContext) -> Start:
    """Runs are processes in groups of their own."""

    def start(home: Path, output: Path | None = None) -> ForkServerProcess:
        process = processes.Process(target=saeflow_run, args=(experiment, home, output or home))
        process.start()
        return process

    return start


def saeflow_run(experiment: Path, home: Path, output: Path) -> None:
    os.setsid()
    for stream, suffix in ((1, ".json"), (2, ".log")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["saeflow", "run", str(experiment), "--home", str(home), "--json"]
    main()


def messages_of(output: Path) -> str:
    return output.with_suffix(".log").read_text()


def finish(process: ForkServerProcess, output: Path) -> dict[str, Any]:
    process.join(PATIENCE)
    assert process.exitcode == 0, messages_of(output)
    return json.loads(output.with_suffix(".json").read_text())
