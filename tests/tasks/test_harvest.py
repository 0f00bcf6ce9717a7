from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.compute import Compute
from tasks.harvest import harvest
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec
from tests.conftest import ARCHITECTURES, CONTEXT, write_model

SITES = ("hook_resid_post", "hook_mlp_out", "hook_attn_out", "mlp.hook_post", "attn.hook_z")


@pytest.fixture
def model(home: Path, tiny_model: Path) -> ArtifactRef:
    return language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(tiny_model))))


@pytest.fixture
def tokens(model: ArtifactRef, tiny_corpus: Path) -> ArtifactRef:
    spec = CorpusSpec(sources=(str(tiny_corpus),), tokens=4096, held_out_tokens=512, context_length=CONTEXT)
    return corpus.tokenize.build(model=model, corpus=corpus.locate(spec))


def harvested(model: ArtifactRef, tokens: ArtifactRef, *hook_points: str, **changes: Any) -> ArtifactRef:
    inputs = {"dtype": "float32", "storage": StorageSpec(dtype="float32"), "compute": Compute(), **changes}
    return harvest.build(model=model, tokens=tokens, hook_points=hook_points, **inputs)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_is_captured_is_what_the_model_computes(home: Path, tmp_path: Path, architecture: str):
    directory = write_model(tmp_path / architecture, architecture)
    located = language_model.locate(ModelSpec(source=str(directory)))
    bridge = language_model.load(language_model.prepare_model.build(located=located), "float32", "cpu")
    tokens = np.random.default_rng(0).integers(0, 300, (6, CONTEXT))
    names = [f"blocks.{layer}.{site}" for layer in (0, 1) for site in SITES]
    seen = capture(bridge, tokens, names)
    reference = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    with torch.inference_mode():
        states = reference(torch.from_numpy(tokens), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        expected = states[layer + 1].reshape(-1, 32)
        torch.testing.assert_close(seen[f"blocks.{layer}.hook_resid_post"], expected, rtol=1e-4, atol=1e-5)
        added = seen[f"blocks.{layer}.hook_attn_out"] + seen[f"blocks.{layer}.hook_mlp_out"]
        before = states[layer].reshape(-1, 32)
        torch.testing.assert_close(before + added, expected, rtol=1e-4, atol=1e-5)
        assert seen[f"blocks.{layer}.attn.hook_z"].shape == (6 * CONTEXT, 32)


def test_layers_above_the_last_wanted_one_are_not_run(model: ArtifactRef):
    bridge = language_model.load(model, "float32", "cpu")
    ran: list[str] = []
    for layer in range(3):
        bridge.add_hook(f"blocks.{layer}.hook_mlp_out", lambda value, hook: ran.append(hook.name) and None)
    capture(bridge, np.zeros((2, CONTEXT), dtype=np.int64), ["blocks.1.hook_resid_post"])
    assert len(ran) == 2


def test_every_token_of_both_splits_is_stored_once_with_its_place(model: ArtifactRef, tokens: ArtifactRef):
    hook_points = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post")
    activations = harvested(model, tokens, *hook_points)
    bridge = language_model.load(model, "float32", "cpu")
    for split in corpus.SPLITS:
        rows = np.asarray(corpus.token_rows(tokens, split))
        expected = capture(bridge, rows, hook_points)
        store = ActivationStore.open(artifacts().path(activations) / split)
        for hook_point in hook_points:
            place = np.concatenate([ids for _, ids in store.iter_rows(hook_point)])
            values = torch.cat([chunk for chunk, _ in store.iter_rows(hook_point)])
            index = place[:, 0].astype(int) * CONTEXT + place[:, 1]
            assert sorted(index) == list(range(rows.size))
            torch.testing.assert_close(values, expected[hook_point][index], rtol=1e-4, atol=1e-5)


def test_the_training_rows_are_not_in_the_order_of_the_text(model: ArtifactRef, tokens: ArtifactRef):
    activations = harvested(model, tokens, "blocks.0.hook_resid_post")
    store = ActivationStore.open(artifacts().path(activations) / "train")
    _, place = next(store.iter_rows("blocks.0.hook_resid_post"))
    assert np.mean(np.diff(place[:, 0].astype(int)) == 0) < 0.1


def test_one_harvest_of_two_hook_points_equals_two_of_one(model: ArtifactRef, tokens: ArtifactRef):
    names = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")

    def rows(activations: ArtifactRef, name: str) -> torch.Tensor:
        store = ActivationStore.open(artifacts().path(activations) / "held_out")
        return torch.cat([chunk for chunk, _ in store.iter_rows(name)])

    together = harvested(model, tokens, *names)
    for name in names:
        assert torch.equal(rows(together, name), rows(harvested(model, tokens, name), name))
