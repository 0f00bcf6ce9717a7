"""What is written with a feature added is, without one, what the model writes itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.architectures import ReLU
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.steering import COLUMNS, Steered, evaluate_steering, headline, surprise
from tasks.evaluation_specs import SteeringSpec
from tasks.patching import logits, next_logits
from tasks.specs import ModelSpec, RowFilter
from tests.conftest import ARCHITECTURES, VOCABULARY, write_model
from tests.tasks.evaluate.subjects import harvested, reader, saved

EMBEDDING = "blocks.0.hook_resid_pre"
RESIDUAL = "blocks.2.hook_resid_post"
NEW, SAMPLES = 6, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArtifactRef]]:
    """A model that is sure of what it predicts, and tokens."""
    from transformers import AutoModelForCausalLM

    source = write_model(tmp_path_factory.mktemp("model"))
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.save_pretrained(source)
    with harvested(source, tmp_path_factory, EMBEDDING, RESIDUAL) as refs:
        yield refs


@pytest.fixture
def steered(made: dict[str, ArtifactRef]) -> Callable[..., tuple[dict[str, Any], Path]]:
    def steer(dictionary: Dictionary, hook_point: str, **changes: Any) -> tuple[dict[str, Any], Path]:
        given = {
            "pattern": "cat", "prompt": "the dog runs", "strengths": (0.0, 1.0, 50.0), "tokens": 512,
            "new_tokens": NEW, "samples": SAMPLES, **changes,
        }  # fmt: skip
        ref = evaluate_steering.build(
            dictionary=saved(dictionary), **made, hook_point=hook_point, rows=RowFilter(), spec=SteeringSpec(**given),
            compute=Compute(),
        )  # fmt: skip
        place = artifacts().path(ref)
        return json.loads((place / "metrics.json").read_text()), place

    return steer


@pytest.fixture
def cat(made: dict[str, ArtifactRef]) -> ReLU:
    """A feature that writes, at the end of the model, what has it predict " cat"."""
    bridge: Any = language_model.load(made["model"], "float32", "cpu")
    token = language_model.load_tokenizer(made["model"]).encode(" cat")
    return reader(bridge.original_model.lm_head.weight[token].detach(), bias=0.1)


def test_strength_0_writes_what_the_model_itself_writes(made: dict[str, ArtifactRef], steered: Any, cat: ReLU):
    _, place = steered(cat, RESIDUAL, seed=7)
    table = read_table(place / "texts.parquet").to_pydict()
    model = language_model.load_plain(made["model"])
    tokenizer: Any = language_model.load_tokenizer(made["model"])
    generator = torch.Generator().manual_seed(7)
    rows = torch.tensor([[0, *tokenizer.encode("the dog runs")]] * SAMPLES)
    for _ in range(NEW):
        with torch.no_grad():
            p = model(rows).logits[:, -1, 1:].double().softmax(-1)  # token 0 ends a text
        at = torch.rand(SAMPLES, 1, generator=generator, dtype=torch.float64)
        rows = torch.cat([rows, 1 + torch.searchsorted(p.cumsum(-1), at, right=True)], 1)
    own = [tokenizer.decode(row[1:]) for row in rows]
    assert [text for text, strength in zip(table["text"], table["strength"], strict=True) if strength == 0] == own


def test_without_strength_0_it_is_written_all_the_same(steered: Any, cat: ReLU):
    _, place = steered(cat, RESIDUAL, strengths=(2.0,))
    assert read_table(place / "strengths.parquet")["strength"].to_pylist() == [0, 2]


def test_a_feature_that_predicts_the_pattern_has_the_model_write_it(steered: Any, cat: ReLU):
    metrics, place = steered(cat, RESIDUAL)
    table = read_table(place / "strengths.parquet").to_pydict()
    assert table["pattern_share"][0] < 0.2
    assert table["pattern_share"][2] == 1
    assert metrics["share_unsteered"] == table["pattern_share"][0]
    assert metrics["strength"] == 1, "50 writes nothing but the pattern, which nobody would read"
    assert metrics["share_steered"] == table["pattern_share"][1] > 0.3
    texts = read_table(place / "texts.parquet").to_pydict()
    assert len(texts["text"]) == 3 * SAMPLES
    assert texts["text"][-1].startswith("the dog runs cat cat")
    assert np.mean(texts["pattern_share"][-SAMPLES:]) == pytest.approx(table["pattern_share"][2])


def test_perplexity_is_that_of_the_model_as_it_is(made: dict[str, ArtifactRef]):
    bridge = language_model.load(made["model"], "float32", "cpu")
    rows = np.random.default_rng(0).integers(1, VOCABULARY, size=(2, 3, 9))
    told = surprise(bridge, rows, prompt_length=4, end=0)
    assert told.shape == (2, 3, 5)
    alone = logits(bridge, rows[1, 2][None])[0, :-1, 1:].log_softmax(-1)
    expected = -alone[torch.arange(3, 8), torch.from_numpy(rows[1, 2, 4:] - 1)]
    torch.testing.assert_close(told[1, 2], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_text_that_grows_token_by_token_is_predicted_as_a_whole_one(architecture: str, tmp_path: Path, home: Path):
    source = str(write_model(tmp_path / "model", architecture))
    model = language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=source)))
    bridge = language_model.load(model, "float32", "cpu")
    rows = np.random.default_rng(0).integers(1, VOCABULARY, size=(2, 7))
    for hook_point in ("blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"):
        whole = logits(bridge, rows, hook_point, lambda x: x + 0.5)
        cache = None
        for start, stop in ((0, 4), (4, 5), (5, 7)):
            predicted, cache = next_logits(bridge, rows[:, start:stop], hook_point, lambda x: x + 0.5, cache)
            torch.testing.assert_close(predicted, whole[:, stop - 1], rtol=0, atol=1e-5)


def test_where_there_is_no_feature_the_result_says_so(steered: Any, cat: ReLU):
    for changes, reason in (
        ({"pattern": "zebra"}, "tokens that features are sought on matches the pattern"),
        ({"feature": 5}, "there is no feature 5: the dictionary has 1"),
    ):
        metrics, place = steered(cat, RESIDUAL, **changes)
        assert all(metrics[name] is None for name in COLUMNS)
        assert reason in metrics["undefined"]["share_steered"]
        assert not (place / "texts.parquet").exists()
    metrics, _ = steered(reader(torch.eye(32)[:3], bias=-1e6), EMBEDDING, feature=2)
    assert "feature 2 fires on none of the" in metrics["undefined"]["feature"]


def test_more_tokens_than_the_model_reads_are_refused(steered: Any, cat: ReLU):
    with pytest.raises(ExperimentError, match=r"a prompt of \d+ tokens and 60 new_tokens are more than the 64 that"):
        steered(cat, RESIDUAL, new_tokens=60)


def test_the_headline_is_the_largest_share_of_a_text_that_is_still_readable():
    feature = Steered(3, -1, 2.0, torch.zeros(4))
    table = {"strength": [0.0, 1.0, 2.0, 4.0], "pattern_share": [0.1, 0.3, 0.3, 1.0], "perplexity": [9, 9, 90, 91]}
    shares = np.repeat(np.array(table["pattern_share"])[:, None], 3, 1)
    values, intervals, undefined = headline(table, shares, feature)
    assert (values["strength"], values["share_steered"], values["perplexity_steered"]) == (1, 0.3, 9)
    assert intervals["share_steered"] == pytest.approx([0.3, 0.3])
    assert undefined == {}
    table["perplexity"] = [9, 91, 92, 93]
    values, _, undefined = headline(table, shares, feature)
    assert "strength" not in values
    assert set(undefined) == {"share_steered", "strength", "perplexity_steered"}
    assert "within 10 times" in undefined["strength"]
