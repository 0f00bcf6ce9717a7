"""What is exactly true of a model whose activations are replaced, at every site of three architectures."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks import corpus, language_model, patching
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.compute import Compute
from tasks.corpus import spread
from tasks.errors import ExperimentError
from tasks.evaluate.faithfulness import SUMS, evaluate_faithfulness, intervals, measured
from tasks.patching import logits
from tasks.specs import RowFilter
from tests.conftest import ARCHITECTURES, CONTEXT, write_model
from tests.tasks.evaluate.subjects import harvested, saved, zeros

SITES = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")
RESIDUAL = "blocks.1.hook_resid_post"
MIDDLE = "blocks.1.hook_resid_mid"
EVERYTHING = RowFilter(skip_first_position=False, max_norm_ratio=None)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Model, tokens and activations of an architecture."""
    hook_points = tuple(f"blocks.1.{site}" for site in SITES)
    if architecture != "gpt_neox":  # whose blocks are parallel
        hook_points += (MIDDLE,)
    source = write_model(tmp_path_factory.mktemp("model"), architecture)
    with harvested(source, tmp_path_factory, *hook_points) as refs:
        yield {**refs, "hook_points": hook_points}


@pytest.fixture
def evaluated(made: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    def evaluate(dictionary: Dictionary, hook_point: str, rows: RowFilter = EVERYTHING, **changes: Any) -> Any:
        ref = evaluate_faithfulness.build(
            **{
                "dictionary": saved(dictionary),
                **{name: made[name] for name in ("model", "tokens", "activations")},
                "hook_point": hook_point,
                "rows": rows,
                "dtype": "float32",
                "max_tokens": 1024,
                "compute": Compute(),
                **changes,
            }
        )
        return json.loads((artifacts().path(ref) / "metrics.json").read_text())

    return evaluate


def width(made: dict[str, Any], hook_point: str) -> int:
    return language_model.description(made["model"]).width(hook_point)


def test_a_complete_basis_keeps_every_prediction(made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]):
    bridge = language_model.load(made["model"], "float32", "cpu")
    rows = spread(made["tokens"], 1024).tokens
    for hook_point in made["hook_points"]:
        complete = fit_pca(iter([capture(bridge, rows, [hook_point])[hook_point]]))
        metrics = evaluated(complete, hook_point)
        assert metrics["loss_reconstructed"] == pytest.approx(metrics["loss_clean"], abs=1e-4)
        assert metrics["kl_reconstructed"] == pytest.approx(0, abs=1e-4)
        assert metrics["kl_score"] == pytest.approx(1, abs=1e-2)
        assert metrics["kl_zero_ablated"] > 0, "at every site the activations matter"


def test_a_dictionary_that_rebuilds_nothing_is_zero_ablation(
    made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]
):
    for hook_point in made["hook_points"]:
        metrics = evaluated(zeros(width(made, hook_point)), hook_point, RowFilter())
        assert metrics["loss_reconstructed"] == metrics["loss_zero_ablated"]
        assert metrics["kl_reconstructed"] == metrics["kl_zero_ablated"]
        assert metrics["kl_score"] == 0
        assert metrics["ce_recovered"] in (0, None)


def test_the_clean_loss_is_that_of_the_model_itself(made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]):
    metrics = evaluated(zeros(32), RESIDUAL)
    bridge = language_model.load(made["model"], "float32", "cpu")
    rows = torch.from_numpy(np.asarray(corpus.token_rows(made["tokens"], "held_out")).astype(np.int64))
    with torch.no_grad():
        own = bridge.original_model(rows, labels=rows).loss.item()  # pyright: ignore[reportCallIssue]
    assert metrics["loss_clean"] == pytest.approx(own, rel=1e-5)
    assert metrics["perplexity_clean"] == pytest.approx(math.exp(own), rel=1e-4)
    assert metrics["tokens"] == rows.numel() - len(rows)


def test_without_the_stream_all_positions_predict_the_same(made: dict[str, Any]):
    """Behind a hook point of the residual stream the model sees nothing but what was put there."""
    bridge = language_model.load(made["model"], "float32", "cpu")
    rows = spread(made["tokens"], 128).tokens
    for hook_point in {RESIDUAL, "blocks.1.hook_resid_pre", MIDDLE} & set(made["hook_points"]):
        predicted = logits(bridge, rows, hook_point, torch.zeros_like)
        torch.testing.assert_close(predicted, predicted[:1, :1].expand_as(predicted), rtol=0, atol=1e-5)
        assert (logits(bridge, rows, hook_point, lambda x: x) - logits(bridge, rows)).abs().max() < 1e-5


def test_rows_that_the_filter_leaves_out_keep_their_activation(
    made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]
):
    everything, but_first = (evaluated(zeros(32), RESIDUAL, rows) for rows in (EVERYTHING, RowFilter()))
    assert (everything["left_out"], but_first["left_out"]) == (0, but_first["rows"])
    few = evaluated(zeros(32), RESIDUAL, RowFilter(max_norm_ratio=0.95))
    assert 0 < few["replaced"] < but_first["replaced"] < everything["replaced"]
    assert 0 < few["kl_zero_ablated"] < but_first["kl_zero_ablated"]


def test_how_many_tokens_are_read_is_a_parameter(made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]):
    assert evaluated(zeros(32), RESIDUAL, max_tokens=10)["rows"] == 1
    assert evaluated(zeros(32), RESIDUAL, max_tokens=100)["rows"] == 100 // CONTEXT
    assert evaluated(zeros(32), RESIDUAL, max_tokens=10**9)["rows"] == 1024 // CONTEXT


def test_how_many_rows_a_pass_takes_changes_nothing(
    made: dict[str, Any], evaluated: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    expected = evaluated(zeros(32), RESIDUAL)
    artifacts().remove(next(ref for ref, _ in artifacts().list("evaluation") if _is(ref, expected)))
    monkeypatch.setattr(patching, "PREDICTIONS_PER_PASS", 1)
    found = evaluated(zeros(32), RESIDUAL)
    assert found["replaced"] == expected["replaced"]
    assert found["loss_zero_ablated"] == pytest.approx(expected["loss_zero_ablated"], rel=1e-6)


def _is(ref: ArtifactRef, metrics: dict[str, Any]) -> bool:
    return json.loads((artifacts().path(ref) / "metrics.json").read_text()) == metrics


def test_the_table_of_documents_adds_up_and_the_interval_holds_the_mean(
    made: dict[str, Any], evaluated: Callable[..., dict[str, Any]]
):
    metrics = evaluated(zeros(32), RESIDUAL)
    ref = next(ref for ref, _ in artifacts().list("evaluation") if _is(ref, metrics))
    table = read_table(artifacts().path(ref) / "documents.parquet").to_pydict()
    assert len(table["document"]) == metrics["documents"] > 5
    assert np.average(table["loss_clean"], weights=table["tokens"]) == pytest.approx(metrics["loss_clean"])
    low, high = metrics["intervals"]["loss_clean"]
    assert low < metrics["loss_clean"] < high


def test_a_dictionary_of_another_width_is_refused(evaluated: Callable[..., dict[str, Any]]):
    with pytest.raises(ExperimentError, match="for activations of width 20, and these have 32"):
        evaluated(zeros(20), RESIDUAL)


def sums(**means: float) -> torch.Tensor:
    return torch.tensor([10.0, *(10 * means.get(name, 0.0) for name in SUMS[1:])], dtype=torch.float64)


def test_shares_are_those_of_the_definition():
    values, undefined = measured(
        sums(
            loss_clean=2, loss_reconstructed=3, loss_zero_ablated=7, loss_mean_ablated=6,
            kl_reconstructed=1, kl_zero_ablated=4, kl_mean_ablated=3,
        )
    )  # fmt: skip
    assert undefined == {}
    assert values["ce_recovered"] == pytest.approx(4 / 5)
    assert values["ce_recovered_mean"] == pytest.approx(3 / 4)
    assert values["kl_score"] == pytest.approx(3 / 4)
    assert values["loss_increase"] == 1
    assert values["perplexity_clean"] == pytest.approx(math.e**2)


def test_what_is_not_finite_is_null_and_says_why():
    values, undefined = measured(sums(loss_clean=2, loss_reconstructed=math.nan, loss_zero_ablated=7))
    assert values["loss_reconstructed"] is values["ce_recovered"] is None
    assert values["loss_zero_ablated"] == 7
    assert "predictions are not finite" in undefined["ce_recovered"]
    values, undefined = measured(sums(loss_clean=2, loss_reconstructed=1000, loss_zero_ablated=7))
    assert values["perplexity_reconstructed"] is None
    assert undefined == {
        "perplexity_reconstructed": "the loss is too large for its exponential",
        "ce_recovered_mean": "mean ablation does not raise the loss",
        "kl_score": "zero ablation does not change the predictions",
    }


def test_few_documents_have_no_interval_and_many_have_a_narrow_one():
    generator = torch.Generator().manual_seed(0)

    def documents(n: int) -> torch.Tensor:
        table = torch.rand(n, len(SUMS), generator=generator, dtype=torch.float64)
        return torch.cat([torch.ones(n, 1, dtype=torch.float64), table[:, 1:]], 1)

    bounds, undefined = intervals(documents(3))
    assert set(bounds.values()) == {None}
    assert "3 documents are too few" in undefined["intervals"]
    few, many = (intervals(documents(n))[0]["loss_clean"] for n in (20, 2000))
    assert few is not None
    assert many is not None
    assert many[0] < 0.5 < many[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * (1 / 12 / 2000) ** 0.5, rel=0.15)
    assert many[1] - many[0] < 0.3 * (few[1] - few[0])
