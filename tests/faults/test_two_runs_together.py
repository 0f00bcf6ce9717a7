"""The same experiment started twice at once: one run builds, the other waits and finds, and neither is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.artifacts import ArtifactStore
from tests.faults.conftest import Start, finish, messages_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def experiment(tmp_path: Path, tiny_experiment: dict[str, Any]) -> Path:
    """A small one, without pools: two runs are enough for two cores."""
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({**tiny_experiment, "compute": {"workers": 1, "threads": 1, "device": "cpu"}}))
    return file


def test_of_two_runs_started_together_each_artifact_is_built_by_one(start: Start, tmp_path: Path):
    home = tmp_path / "home"
    outputs = [tmp_path / "one", tmp_path / "other"]
    runs = [start(home, output) for output in outputs]
    results = [finish(run, output) for run, output in zip(runs, outputs, strict=True)]
    assert results[0]["dictionaries"] == results[1]["dictionaries"]
    store = ArtifactStore(home)
    for reference, _ in store.list():
        store.verify(reference)
    assert not store.unfinished()
    messages = [messages_of(output) for output in outputs]
    assert any("waiting for another process that builds" in text for text in messages)
    for work in ("tokenize", "harvest", "topk expansion=2.0 k=4 blocks.1.hook_resid_post: train"):
        assert sum(f"{work}  100 %" in text for text in messages) == 1, f"{work} was done once"
