"""The default model is real: it answers, and a small experiment on it gives what a large one promises."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flows.experiment import run_experiment
from flows.parameters import load_config
from storage.activations import ActivationStore
from tasks import language_model
from tasks.caching import artifacts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LAYER = "blocks.9.hook_resid_post"


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("SAEFLOW_HOME", str(home))
        yield home


def test_it_completes_an_indirect_object_prompt(module_home: Path):
    spec = load_config("quickstart").model
    model = language_model.prepare_model.build(located=language_model.locate(spec))
    bridge = language_model.load(model, "float32", "cpu")
    tokenizer = language_model.load_tokenizer(model)
    prompt = "Then, Mary and John went to the store. John gave a drink to"
    tokens = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        probability = bridge(tokens)[0, -1].softmax(-1)[tokenizer(" Mary", add_special_tokens=False)["input_ids"][0]]
    assert probability > 0.5


def test_a_small_quickstart_gives_dictionaries_that_beat_their_baselines(module_home: Path, prefect_server: str):
    changes = [
        "corpus.tokens=16384",
        "corpus.held_out_tokens=2048",
        f"hook_points=[{LAYER}]",
        "training.batch_size=256",
        "training.epochs=8",
        "dictionaries.0.expansion=1",
        "dictionaries.1.expansion=2",
        "baselines=[{method: pca, k: 32}, {method: identity}]",
        "compute={workers: 1, threads: 1, device: cpu}",
    ]
    result = run_experiment(load_config("quickstart", changes))
    found: dict[str, Any] = {entry["method"]: entry for entry in result["dictionaries"]}
    assert found["topk"]["l0"] <= 32
    assert found["topk"]["fvu"] < found["pca"]["fvu"] < found["identity"]["fvu"]
    assert found["tied_relu"]["fvu"] < 0.5
    assert all(entry["left_out"]["first_position"] == 8 for entry in result["dictionaries"])

    activations = next(ref for ref, _ in artifacts().list() if ref.kind == "activations")
    statistics = ActivationStore.open(artifacts().path(activations) / "train").statistics(LAYER)
    assert statistics.norm_max > 3 * statistics.norm_median, "the sinks that the row filter is for"
