"""Gradients of the loss on held-out text, beside what ablating does to it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from storage.artifacts import ArtifactRef
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.errors import ExperimentError
from tasks.loss_gradients import LossGradients, loss_gradients, of_rows
from tasks.patching import logits
from tests.conftest import VOCABULARY
from tests.tasks.conftest import EMBEDDING, RESIDUAL

HOOK_POINTS = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.2.attn.hook_z")


def summed_loss(predicted: torch.Tensor, tokens: np.ndarray) -> float:
    following = torch.from_numpy(tokens[:, 1:].astype(np.int64)).flatten()
    return cross_entropy(predicted[:, :-1].flatten(0, 1).double(), following, reduction="sum").item()


def test_at_every_hook_point_they_tell_what_a_small_change_does_to_the_loss(bridge: Any):
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (3, 9))
    sites = [*HOOK_POINTS, *(["blocks.1.hook_resid_mid"] if "NeoX" not in type(bridge.original_model).__name__ else [])]
    together = of_rows(bridge, tokens, tuple(sites))
    generator = torch.Generator().manual_seed(0)
    for site, g_SPd in together.items():
        alone = of_rows(bridge, tokens, (site,))[site]
        torch.testing.assert_close(g_SPd, alone, rtol=1e-4, atol=1e-7)
        step = 1e-3 * torch.randn(g_SPd.flatten(0, 1).shape, generator=generator)
        up, down = (
            summed_loss(logits(bridge, tokens, site, lambda x, by=sign * step: x + by), tokens) for sign in (1, -1)
        )
        expected = (up - down) / 2
        assert (g_SPd.flatten(0, 1) * step).sum().item() == pytest.approx(expected, rel=0.02, abs=1e-5)


def test_no_position_changes_what_comes_before_it(bridge: Any):
    tokens = np.random.default_rng(1).integers(1, VOCABULARY, (2, 9))
    found = of_rows(bridge, tokens, HOOK_POINTS)
    assert all((g_SPd[:, -1] == 0).all() for g_SPd in found.values()), "nothing follows the last one"
    assert all((g_SPd[:, 0] != 0).any() for g_SPd in found.values())


def test_a_hook_point_that_the_pass_does_not_go_through_is_refused(bridge: Any):
    with pytest.raises(ExperimentError, match=r"does not go through hook point blocks\.1\.attn\.hook_pattern"):
        of_rows(bridge, np.ones((1, 4), np.int64), ("blocks.1.attn.hook_pattern",))


def test_what_is_kept_is_that_of_the_rows_in_their_order(
    harvested: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.loss_gradients.BYTES_PER_FILE", 100_000)
    model, tokens = harvested["model"], harvested["tokens"]
    made = loss_gradients.build(
        model=model, tokens=tokens, hook_points=(EMBEDDING, RESIDUAL), dtype="float32", compute=Compute()
    )
    place: Path = artifacts().path(made)
    assert len(list(place.glob("*.safetensors"))) > 3
    rows = np.asarray(token_rows(tokens, "held_out")[:])
    assert artifacts().manifest(made)["notes"] == {"rows": rows.shape[0] * rows.shape[1]}
    direct = of_rows(language_model.load(model, "float32", "cpu"), rows, (EMBEDDING, RESIDUAL))
    rng = np.random.default_rng(0)
    row, position = rng.integers(0, rows.shape[0], 500), rng.integers(0, rows.shape[1], 500)
    for hook_point, g_SPd in direct.items():
        found = LossGradients(place, hook_point).at(row, position)
        torch.testing.assert_close(found, g_SPd[row, position].bfloat16().float(), rtol=0.02, atol=1e-8)


def test_a_pass_that_was_interrupted_reads_only_what_is_missing_and_ends_with_the_same_bytes(
    harvested: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.loss_gradients.BYTES_PER_FILE", 100_000)
    inputs = {
        "model": harvested["model"], "tokens": harvested["tokens"], "hook_points": (EMBEDDING,), "dtype": "float32",
        "compute": Compute(),
    }  # fmt: skip
    read: list[bytes] = []
    dies_at: list[int] = []

    def mortal(bridge: Any, tokens_SP: np.ndarray, hook_points: tuple[str, ...]) -> Any:
        if len(read) in dies_at:
            raise KeyboardInterrupt
        read.append(tokens_SP.tobytes())
        return of_rows(bridge, tokens_SP, hook_points)

    monkeypatch.setattr("tasks.loss_gradients.of_rows", mortal)
    undisturbed = loss_gradients.build(**inputs)
    all_of_it = read.copy()
    artifacts().remove(undisturbed)
    read.clear()
    dies_at.append(len(all_of_it) // 2)
    with pytest.raises(KeyboardInterrupt):
        loss_gradients.build(**inputs)
    dies_at.clear()
    assert loss_gradients.build(**inputs).digest == undisturbed.digest
    assert read == all_of_it, "each once"

    place = artifacts().path(undisturbed)
    second = sorted(place.glob("*.safetensors"), key=lambda file: int(file.stem))[1]
    second.unlink()
    read.clear()
    assert loss_gradients.build(**inputs).digest == undisturbed.digest
    assert 0 < len(read) < len(all_of_it), "the file that was lost"


def test_the_weights_need_no_gradient(bridge: Any):
    of_rows(bridge, np.ones((1, 4), np.int64), HOOK_POINTS[:1])
    assert not any(weight.requires_grad or weight.grad is not None for weight in bridge.parameters())
