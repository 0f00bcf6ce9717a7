"""The evaluation, with features that are single tokens and with features that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.baselines import fit_random
from sae_core.dictionary import Dictionary
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.evaluate.interpretability import COLUMNS, evaluate_interpretability, scored, use_of_server
from tasks.evaluation_specs import InterpretabilitySpec
from tasks.features import read_features
from tasks.interpret.interpreted import Explanation, Interpreted
from tasks.interpret.judgements import Found, Judged
from tasks.specs import RowFilter
from tests.conftest import WORDS
from tests.tasks.conftest import EMBEDDING
from tests.tasks.evaluate.subjects import reader, saved
from tests.tasks.interpret.loopback_server import KEY, loopback, planted_features
from tests.tasks.test_features import LENGTH

(FRAGMENTS,) = planted_features(1)


def asked(harvested: dict[str, Any], dictionary: Dictionary, **changes: Any) -> dict[str, Any]:
    """Inputs of the evaluation, the features read."""
    spec = InterpretabilitySpec(**{"features": 10, "fragment_length": LENGTH, **changes})
    features = read_features.build(
        dictionary=saved(dictionary), **harvested, hook_point=EMBEDDING, rows=RowFilter(), fragment_length=LENGTH,
        seed=spec.seed, compute=Compute(),
    )  # fmt: skip
    given = {"model": harvested["model"], "tokens": harvested["tokens"], "hook_point": EMBEDDING}
    return {**given, "features": features, "spec": spec, "compute": Compute()}


def evaluated(harvested: dict[str, Any], dictionary: Dictionary, **changes: Any) -> tuple[dict[str, Any], Path]:
    inputs = asked(harvested, dictionary, **changes)
    place = artifacts().path(evaluate_interpretability.build(dictionary=saved(dictionary), **inputs))
    return json.loads((place / "metrics.json").read_text()), place


def single_tokens(harvested: dict[str, Any]) -> Dictionary:
    """A feature for each word, that fires on it alone."""
    bridge = language_model.load(harvested["model"], "float32", "cpu")
    tokenizer = language_model.load_tokenizer(harvested["model"])
    words = [ids[0] for word in WORDS if len(ids := tokenizer.encode(f" {word}")) == 1]
    directions = bridge.original_model.get_input_embeddings().weight[words].detach()
    return reader(directions / directions.square().sum(1, keepdim=True), bias=-0.9)


def test_features_that_are_tokens_are_explained_by_them(harvested: dict[str, Any]):
    metrics, place = evaluated(harvested, single_tokens(harvested))
    assert metrics["scored"] == 10
    assert metrics["score"] == pytest.approx(1, abs=1e-3)
    assert metrics["score_clipped"] == pytest.approx(metrics["score"])
    assert metrics["modes"] == {"token_lookup": 10}
    rows = read_table(place / "scores.parquet").to_pylist()
    assert all(row["explanation"].startswith('the token " ') for row in rows)
    assert all(row["score"] == pytest.approx(1, abs=1e-3) for row in rows)
    assert all(row["slope"] == pytest.approx(1, abs=1e-2) for row in rows)
    shown = read_table(place / "simulations.parquet").to_pandas()
    assert len(shown) == 10 * 10 * LENGTH
    one = shown[shown.feature == rows[0]["feature"]]
    assert np.corrcoef(one.true, one.simulated)[0, 1] == pytest.approx(rows[0]["score"])
    top = one[one.kind == "top"]
    assert len(top) == 5 * LENGTH


def test_random_directions_are_explained_worse(harvested: dict[str, Any]):
    directions = fit_random(lambda: iter([torch.randn(100, 32)]), 64, seed=0)
    metrics, _ = evaluated(harvested, directions)
    assert 0 < metrics["score"] < 0.95
    low, high = metrics["intervals"]["score"]
    assert low < metrics["score"] < high


def test_features_that_never_fire_give_nothing_and_say_so(harvested: dict[str, Any]):
    metrics, _ = evaluated(harvested, reader(torch.eye(32)[:3], bias=-1e6))
    assert metrics["scored"] == 0
    assert all(metrics[name] is None for name in COLUMNS["simulation"] if name != "scored")
    assert metrics["undefined"]["score"] == "no feature fires in enough fragments"


def test_how_much_was_answered_and_why_not_all_stands_beside_a_score():
    server = {"explainer": "explaining", "scorer": "scoring", "base_url": "http://127.0.0.1:9/v1"}
    spec = InterpretabilitySpec(explainer="llm", scorers=("detection", "fuzzing", "intruder"), server=server)
    missing = "1 of 2 answers missing: the server refused"
    some = Judged(0.75, 0.5, None, 8, 10, missing)
    explained = Interpreted(0, Explanation("cats", None), None, some, some._replace(auc=1.0), Found(0.5, 2, 3, "busy"))
    row = scored(FRAGMENTS, explained, spec)
    assert (row["detection"], row["detection_answered"], row["detection_asked"]) == (0.75, 8, 10)
    assert (row["detection_undefined"], row["detection_missing"]) == (None, missing)
    assert "no probabilities" in row["detection_auc_undefined"]
    assert row["fuzzing_auc"] == 1
    assert row["fuzzing_auc_undefined"] is None
    assert (row["intruder"], row["intruder_answered"], row["intruder_asked"]) == (0.5, 2, 3)
    assert row["intruder_missing"] == "busy"
    without = scored(FRAGMENTS, Interpreted(0, Explanation(None, "refused"), None), spec)
    assert list(without) == list(row)
    assert without["missing"] == without["detection_undefined"] == without["detection_auc_undefined"] == "refused"
    assert without["intruder_undefined"] == "refused"
    assert without["detection_asked"] == 0
    assert not any(name.startswith("score") or name in ("mode", "covered") for name in row), "nothing was simulated"


@pytest.mark.parametrize("behaves", [True, False])
def test_a_server_explains_and_scores_and_what_it_does_not_answer_is_null(
    harvested: dict[str, Any], monkeypatch: pytest.MonkeyPatch, behaves: bool
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def refused(reply: dict[str, Any]) -> None:
        reply["choices"][0] = {"message": {"content": None}, "finish_reason": "content_filter"}

    dictionary = single_tokens(harvested)
    with loopback(fault=lambda number, body: None if behaves else refused) as server:
        models = {"explainer": "explaining", "scorer": "scoring", "base_url": server.url, "mode": "text"}
        changes = {"explainer": "llm", "scorers": ("simulation", "detection"), "server": models, "features": 3}
        before = use_of_server(**asked(harvested, dictionary, **changes))
        metrics, place = evaluated(harvested, dictionary, **changes)
        after = use_of_server(**asked(harvested, dictionary, **changes))
    assert before
    assert before.requests > 3 * 10, "an explanation, ten fragments and the texts to detect in, of each of three"
    assert after
    assert after.requests < before.requests
    assert after.requests == 0 or not behaves
    rows = read_table(place / "scores.parquet").to_pylist()
    assert len(rows) == metrics["features"] == 3
    for name in ("score", "detection"):
        assert all(row[name] is not None or row[f"{name}_undefined"] or row["missing"] for row in rows)
        assert metrics[name] is not None or metrics["undefined"][name]
    assert set(metrics["prompts"]) == {"llm", "simulation", "detection"}
    if not behaves:
        assert metrics["scored"] == 0
        assert metrics["score"] is metrics["detection"] is None
