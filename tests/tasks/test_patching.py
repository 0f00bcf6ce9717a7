"""The model from a hook point on is the model itself, for three architectures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.capture import capture
from tasks.errors import ExperimentError
from tasks.patching import Prompts, logits, padded
from tests.conftest import VOCABULARY

HOOK_POINTS = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.2.attn.hook_z")
LENGTHS = (5, 9, 7)


@pytest.fixture(scope="module")
def prompts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return padded([rng.integers(1, VOCABULARY, size=length).tolist() for length in LENGTHS], filler=0)


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_its_own_activations_give_the_clean_logits_bit_for_bit(bridge: Any, prompts: Any, hook_point: str):
    tokens, last, _ = prompts
    there = Prompts(bridge, tokens, hook_point, last)
    with torch.no_grad():
        predicted = there.logits(there.clean_SPd.expand(3, -1, -1, -1))
    assert torch.equal(predicted, there.clean_logits_SV.expand(3, -1, -1))
    whole = logits(bridge, tokens)[torch.arange(len(last)), torch.from_numpy(last)]
    torch.testing.assert_close(there.clean_logits_SV, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hook_point", HOOK_POINTS)
def test_from_the_hook_point_on_the_model_computes_what_it_does_as_a_whole(
    bridge: Any, prompts: Any, hook_point: str, noise: torch.Generator
):
    tokens, last, _ = prompts
    there = Prompts(bridge, tokens, hook_point, last)
    changed = there.clean_SPd + torch.randn(2, *there.clean_SPd.shape, generator=noise)
    with torch.no_grad():
        predicted = there.logits(changed)
    for candidate in range(2):
        rows = changed[candidate].flatten(0, 1)
        whole = logits(bridge, tokens, hook_point, lambda x, rows=rows: rows)
        expected = whole[torch.arange(len(last)), torch.from_numpy(last)]
        torch.testing.assert_close(predicted[candidate], expected, rtol=0, atol=1e-4)


def test_what_a_later_hook_point_has_is_what_the_model_has_there(bridge: Any, prompts: Any, noise: torch.Generator):
    tokens, last, _ = prompts
    there = Prompts(bridge, tokens, "blocks.0.hook_resid_post", last)
    with torch.no_grad():
        later = there.activations(there.clean_SPd[None], "blocks.2.hook_resid_post")
        moved = there.activations(there.clean_SPd[None] + 1, "blocks.2.hook_resid_post")
    own = capture(bridge, tokens, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"]
    torch.testing.assert_close(later.flatten(0, 2), own, rtol=0, atol=1e-5)
    assert (moved - later).abs().max() > 1e-3


def test_what_is_padded_changes_nothing(bridge: Any, prompts: Any):
    tokens, last, own = prompts
    assert own.sum(1).tolist() == list(LENGTHS)
    there = Prompts(bridge, tokens, HOOK_POINTS[1], last)
    for row, length in enumerate(LENGTHS):
        alone = Prompts(bridge, tokens[row : row + 1, :length], HOOK_POINTS[1])
        torch.testing.assert_close(there.clean_logits_SV[row], alone.clean_logits_SV[0], rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences(bridge: Any, prompts: Any, noise: torch.Generator):
    tokens, last, _ = prompts
    there = Prompts(bridge, tokens, HOOK_POINTS[1], last)
    x = there.clean_SPd.clone().requires_grad_()
    there.logits(x[None])[..., 7].sum().backward()
    assert x.grad is not None
    step = 1e-3 * torch.randn(x.shape, generator=noise)
    with torch.no_grad():
        up, down = there.logits(torch.stack([x + step, x - step]))[..., 7].sum(1)
    assert (x.grad * step).sum().item() == pytest.approx((up - down).item() / 2, rel=0.02, abs=1e-5)


def test_how_many_tokens_a_pass_takes_changes_nothing(
    bridge: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch, noise: torch.Generator
):
    tokens, last, _ = prompts
    there = Prompts(bridge, tokens, HOOK_POINTS[1], last)
    x = there.clean_SPd + torch.randn(4, *there.clean_SPd.shape, generator=noise)
    with torch.no_grad():
        expected = there.logits(x)
        monkeypatch.setattr("tasks.patching.TOKENS_PER_PASS", 1)
        torch.testing.assert_close(there.logits(x), expected, rtol=0, atol=1e-5)


def test_a_hook_point_that_the_pass_does_not_go_through_is_refused(bridge: Any, prompts: Any, tmp_path: Path):
    there = Prompts(bridge, prompts[0], "blocks.1.hook_resid_post")
    with pytest.raises(ExperimentError, match=r"does not go through hook point blocks\.0\.hook_resid_post"):
        there.activations(there.clean_SPd[None], "blocks.0.hook_resid_post")
