"""The study of a pattern, on a model whose embedding tells every token apart."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from sae_core.pattern_features import f1_above
from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.logit_effects import Ablated, ablated, logit_lens
from tasks.evaluate.pattern import COLUMNS, MEASURES, evaluate_pattern, histogram, monosemanticity_interval
from tasks.evaluation_specs import PatternSpec
from tasks.patching import logits
from tasks.pattern_matches import HeldOut, matching_tokens, read_held_out
from tasks.rows import LiveFilter, open_store
from tasks.specs import RowFilter
from tests.tasks.evaluate.subjects import harvested, reader, saved

EMBEDDING = "blocks.0.hook_resid_pre"
RESIDUAL = "blocks.1.hook_resid_post"
ROWS = RowFilter()


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArtifactRef]]:
    with harvested(tiny_model, tmp_path_factory, EMBEDDING, RESIDUAL) as refs:
        yield refs


@pytest.fixture(scope="module")
def bridge(made: dict[str, ArtifactRef]) -> Any:
    return language_model.load(made["model"], "float32", "cpu")


@pytest.fixture(scope="module")
def tokenizer(made: dict[str, ArtifactRef]) -> Any:
    return language_model.load_tokenizer(made["model"])


@pytest.fixture
def studied(made: dict[str, ArtifactRef]) -> Callable[..., tuple[dict[str, Any], Path]]:
    def study(dictionary: Dictionary, hook_point: str, **changes: Any) -> tuple[dict[str, Any], Path]:
        spec = PatternSpec(**{"pattern": "cat", "tokens": 1024, "contexts": 6, **changes})
        ref = evaluate_pattern.build(
            dictionary=saved(dictionary), **made, hook_point=hook_point, rows=ROWS, spec=spec, compute=Compute()
        )
        place = artifacts().path(ref)
        return json.loads((place / "metrics.json").read_text()), place

    return study


@pytest.fixture
def held_out(made: dict[str, ArtifactRef], tokenizer: Any) -> Callable[..., HeldOut]:
    def read(hook_point: str, pattern: str = "cat", tokens: int = 1024, rows: RowFilter = ROWS) -> HeldOut:
        return read_held_out(tokenizer, made["tokens"], made["activations"], [hook_point], rows, pattern, tokens)[0]

    return read


def test_a_feature_that_is_the_pattern_is_found_and_perfect(bridge: Any, tokenizer: Any, studied: Any):
    directions = bridge.original_model.get_input_embeddings().weight[tokenizer.encode(" bird cat runs")]
    directions = directions / directions.square().sum(1, keepdim=True)
    metrics, place = studied(reader(directions, bias=-0.99), EMBEDDING)
    assert metrics["feature"] == 1
    measures = ("precision", "recall", "f1", "best_f1", "monosemanticity")
    assert [metrics[name] for name in measures] == [1] * len(measures)
    assert metrics["top_half"] == metrics["matching"] > 0
    assert metrics["density"] == metrics["matching"] / metrics["tokens"]
    assert metrics["intervals"]["monosemanticity"] == [1, 1], "it is so in every document"
    assert metrics["undefined"] == {}
    table = read_table(place / "histogram.parquet").to_pydict()
    assert {text for text in table["token"] if text} == {" cat"}
    assert sum(table["activations"]) == metrics["matching"]
    assert set(read_table(place / "features.parquet")["basis"].to_pylist()) == {"dictionary", "residual", "pca"}


def test_what_is_measured_is_measured_on_other_documents_than_it_was_sought_on(
    bridge: Any, tokenizer: Any, studied: Any, held_out: Any
):
    directions = bridge.original_model.get_input_embeddings().weight[tokenizer.encode(" cat")]
    metrics, _ = studied(reader(directions, bias=0), EMBEDDING)
    sought, measured = held_out(EMBEDDING).halves()
    assert len(np.intersect1d(sought.documents_B, measured.documents_B)) <= 1
    fires = measured.x_Bd @ directions[0] > 0
    both = (fires & measured.matches_B).sum().item()
    assert metrics["tokens"] == len(fires)
    assert metrics["matching"] == measured.matches_B.sum()
    assert metrics["precision"] == pytest.approx(both / fires.sum().item())
    assert metrics["recall"] == pytest.approx(both / metrics["matching"])


def test_the_threshold_is_an_activation_of_the_rows_that_were_sought_on(
    bridge: Any, tokenizer: Any, studied: Any, held_out: Any
):
    directions = bridge.original_model.get_input_embeddings().weight[tokenizer.encode(" cat")]
    metrics, _ = studied(reader(directions, bias=0), EMBEDDING, pattern="cat|dog")
    sought, measured = ((half.x_Bd @ directions[0], half.matches_B) for half in held_out(EMBEDDING, "cat|dog").halves())
    thresholds = [tenths / 10 * sought[0].max().item() for tenths in range(10)]
    best = max(thresholds, key=lambda threshold: f1_above(threshold, *sought))
    assert metrics["threshold"] == pytest.approx(best)
    assert metrics["best_f1"] == f1_above(best, *measured)


def test_documents_and_not_tokens_are_drawn_for_an_interval():
    """Half of the documents are right everywhere, the others nowhere; how long they are says nothing more."""
    n_documents, length = 20, 50
    shape = (n_documents, length)
    documents = np.repeat(np.arange(n_documents), length).reshape(shape)
    matches = torch.from_numpy(documents % 2 == 0)
    held_out = HeldOut(documents, documents, matches, torch.ones(*shape, 1), torch.ones(shape, dtype=torch.bool))
    interval = monosemanticity_interval(torch.ones(n_documents * length), held_out)
    assert isinstance(interval, list)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * (0.25 / n_documents) ** 0.5, rel=0.15)
    few = held_out._make(rows[:3] for rows in held_out)
    assert "3 documents are too few" in str(monosemanticity_interval(torch.ones(3 * length), few))


def test_what_is_read_is_what_the_model_computes(
    bridge: Any, tokenizer: Any, made: dict[str, ArtifactRef], held_out: Any
):
    read = held_out(RESIDUAL, tokens=512)
    computed = capture(bridge, read.tokens_SP, [RESIDUAL])[RESIDUAL].unflatten(0, read.tokens_SP.shape)
    torch.testing.assert_close(read.x_SPd[:, 1:], computed[:, 1:])
    assert not read.kept_SP[:, 0].any(), "the sink is left out"
    assert read.kept_SP[:, 1:].all(), "this model has no others"
    assert len(read.x_Bd) == len(read.matches_B) == len(read.tokens_B) == len(read.documents_B) == read.kept_SP.sum()
    assert np.array_equal(read.matches_SP.numpy(), matching_tokens(tokenizer, read.tokens_SP, "cat"))


def test_the_row_filter_of_the_experiment_decides_what_is_read(
    bridge: Any, made: dict[str, ArtifactRef], held_out: Any
):
    everything = held_out(RESIDUAL, rows=RowFilter(skip_first_position=False, max_norm_ratio=None))
    assert everything.kept_SP.all()
    few = RowFilter(max_norm_ratio=0.95)
    live = LiveFilter.of(open_store(made["activations"], "held_out"), RESIDUAL, few)
    kept = held_out(RESIDUAL, rows=few).kept_SP
    assert 0 < kept.sum() < kept.numel() / 2
    assert torch.equal(kept, live.kept(everything.x_SPd)), "in the store as in a pass"


def test_signed_codes_are_studied_too(studied: Any, held_out: Any):
    metrics, _ = studied(fit_pca(iter([held_out(RESIDUAL, tokens=512).x_Bd])), RESIDUAL)
    assert metrics["undefined"] == {}
    assert metrics["sign"] in (1, -1)
    assert metrics["contexts"] > 0
    assert metrics["drop_of_top"] < 0


def test_a_pattern_that_matches_nowhere_is_a_result_that_says_so(bridge: Any, tokenizer: Any, studied: Any):
    directions = bridge.original_model.get_input_embeddings().weight[tokenizer.encode(" cat")]
    metrics, place = studied(reader(directions, bias=0), EMBEDDING, pattern="zebra")
    assert all(metrics[name] is None for name in COLUMNS)
    assert "tokens that features are sought on matches the pattern" in metrics["undefined"]["residual_best_f1"]
    assert (metrics["matching"], metrics["contexts"]) == (0, 0)
    assert not (place / "histogram.parquet").exists()


def test_a_dictionary_that_never_fires_is_a_result_that_says_so(studied: Any):
    metrics, _ = studied(reader(torch.eye(32)[:3], bias=-1e6), EMBEDDING)
    assert all(metrics[name] is None for name in ("feature", *MEASURES, "drop_of_top", "top_drops"))
    assert metrics["undefined"]["f1"] == "no feature fires on a token that matches the pattern"
    assert metrics["residual_best_f1"] > 0, "the dimensions of the activations do"


def test_a_row_alone_leaves_nothing_to_measure_on(bridge: Any, tokenizer: Any, studied: Any):
    directions = bridge.original_model.get_input_embeddings().weight[tokenizer.encode(" cat")]
    metrics, _ = studied(reader(directions, bias=0), EMBEDDING, tokens=1, pattern=".")
    assert metrics["feature"] == 0
    assert metrics["tokens"] == 0
    assert metrics["f1"] is None
    assert "none of the 0 tokens that features are measured on" in metrics["undefined"]["f1"]
    assert metrics["drop_of_top"] is None


def test_a_feature_that_fires_no_more_is_a_result_that_says_so(bridge: Any, studied: Any, held_out: Any):
    sought, measured = held_out(EMBEDDING, "[0-9]").halves()
    alone = np.setdiff1d(sought.tokens_B[sought.matches_B.numpy()], measured.tokens_B)
    assert len(alone), "a token of digits that is in one half only"
    directions = bridge.original_model.get_input_embeddings().weight[alone[:1]]
    dictionary = reader(directions / directions.square().sum(), bias=-0.99)
    metrics, _ = studied(dictionary, EMBEDDING, pattern="[0-9]")
    assert (metrics["feature"], metrics["f1"], metrics["recall"], metrics["contexts"]) == (0, 0, 0, 0)
    for name in ("precision", "monosemanticity", "drop_of_top"):
        assert metrics[name] is None
        assert "fires on none of the tokens" in metrics["undefined"][name]


def test_a_bad_expression_is_refused(studied: Any):
    with pytest.raises(ExperimentError, match="no regular expression"):
        studied(reader(torch.eye(32)[:3], bias=0), EMBEDDING, pattern="(")


def test_ablation_is_the_pass_with_the_feature_taken_out(bridge: Any):
    rng = np.random.default_rng(0)
    tokens, at = rng.integers(1, 300, size=(5, 9)), np.array([3, 8, 5, 5, 7])
    dictionary = reader(torch.eye(32)[:2], bias=0.1)
    found = ablated(bridge, dictionary, RESIDUAL, 1, tokens, at)
    changes = []
    for row, end in zip(tokens, at, strict=True):

        def without(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[-1, 1] -= dictionary.encode(x[-1])[1]
            return x

        prompt = row[None, : end + 1]
        before, after = (logits(bridge, prompt, RESIDUAL, edit)[0, -1] for edit in (lambda x: x, without))
        changes.append(after.log_softmax(-1) - before.log_softmax(-1))
    torch.testing.assert_close(found.change_V, torch.stack(changes).mean(0).double(), rtol=0, atol=1e-5)
    assert found.before_V.sum() == pytest.approx(1, abs=1e-5)
    assert found.after_V.sum() == pytest.approx(1, abs=1e-5)


def test_ablating_a_feature_that_is_not_active_changes_nothing(bridge: Any):
    tokens = np.random.default_rng(0).integers(1, 300, size=(3, 6))
    found = ablated(bridge, reader(torch.eye(32)[:2], bias=-1e6), RESIDUAL, 1, tokens, np.array([5, 5, 5]))
    assert torch.equal(found.change_V, torch.zeros_like(found.change_V))
    assert torch.equal(found.before_V, found.after_V)


def test_drops_and_rises_are_of_tokens_that_are_likelier_than_chance():
    change = torch.tensor([-5.0, -1.0, -2.0, 3.0, 1.0])
    before = torch.tensor([0.01, 0.4, 0.3, 0.01, 0.28])
    after = torch.tensor([0.0, 0.2, 0.1, 0.3, 0.4])
    assert Ablated(change, before, after).drops(5) == [2, 1]
    assert Ablated(change, before, after).rises(5) == [3, 4]


def test_the_lens_is_the_final_norm_and_the_unembedding(bridge: Any):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    model = bridge.original_model
    with torch.no_grad():
        expected = model.lm_head(model.model.norm(direction / direction.norm()))
        scores = logit_lens(bridge, RESIDUAL, direction)
    assert scores is not None
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logit_lens(bridge, RESIDUAL, -3 * direction), -scores, rtol=0, atol=1e-5)
    assert logit_lens(bridge, "blocks.1.mlp.hook_post", direction) is None


def test_the_histogram_counts_every_activation_once():
    texts = [*"aaabbbbccdefgh"]
    values = np.arange(len(texts), dtype=np.float64)
    rows = histogram(texts, values)
    assert sum(row["activations"] for row in rows) == len(texts) - 1, "all but the zero"
    assert [row["token"] for row in rows[::10]] == ["b", "a", "c", "d", "e", None]
    assert sum(row["activations"] for row in rows if row["token"] is None) == 3
    assert (rows[0]["low"], rows[9]["high"]) == (1, len(texts) - 1)
    assert histogram(texts, np.zeros(len(texts))) == []
