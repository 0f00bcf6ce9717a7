"""What is exactly true of erasure in a small model with random weights, which by itself fails the task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.architectures import ReLU
from sae_core.baselines.random import Random
from sae_core.dictionary import Dictionary
from sae_core.interventions import erase
from sae_core.probes import fit_probe, mean_difference
from storage.tables import read_table
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.evaluate import erasure
from tasks.evaluate.erasure import INTERVENTIONS, MEASURES, Trial, evaluate_erasure
from tasks.evaluate.erasure_prompts import NAMES, GenderTask
from tasks.evaluation_specs import ErasureSpec
from tasks.specs import CorpusSpec, ModelSpec
from tests.conftest import write_model, write_text
from tests.tasks.evaluate.subjects import saved, zeros

HOOK_POINT = "blocks.1.hook_resid_post"
WIDTH = 32
SPEC = ErasureSpec(prompts=6, seeds=(0, 1), side_effect_tokens=128)
ANSWERS = ("man", "woman", "he", "she")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model whose tokenizer knows no name, one whose tokenizer knows all, and tokens."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(home))
        nameless = write_model(tmp_path_factory.mktemp("model"))
        sources = (nameless, with_words(nameless, tmp_path_factory.mktemp("named")))
        models = [
            language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(source))))
            for source in sources
        ]
        texts = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
        texts.write_text("\n".join(json.dumps({"text": text}) for text in write_text(30).split("\n\n")))
        spec = CorpusSpec(sources=(str(texts),), tokens=1024, held_out_tokens=256, context_length=32)
        tokens = corpus.tokenize.build(model=models[0], corpus=corpus.locate(spec))
    return {"home": home, "nameless": models[0], "named": models[1], "tokens": tokens}


def with_words(source: Path, directory: Path) -> Path:
    """The model with a tokenizer to which every name and every answer is one token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([f" {word}" for word in (*" ".join(NAMES.values()).split(), *ANSWERS)])
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.max_position_embeddings = 1024
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def evaluated(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], list[Any]]]:
    monkeypatch.setenv("SAEFLOW_HOME", str(made["home"]))

    def evaluate(dictionary: Dictionary, model: str = "named", spec: ErasureSpec = SPEC) -> Any:
        ref = evaluate_erasure.build(
            dictionary=saved(dictionary), model=made[model], tokens=made["tokens"], hook_point=HOOK_POINT, spec=spec,
            compute=Compute(),
        )  # fmt: skip
        place = artifacts().path(ref)
        metrics = json.loads((place / "metrics.json").read_text())
        rows = read_table(place / "interventions.parquet").to_pylist()
        artifacts().remove(ref)  # which a model that passes for an able one would find
        return metrics, rows

    return evaluate


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model passes for one that does the task."""
    monkeypatch.setattr(erasure, "CLEARLY", -1.0)


def directions(rows_nd: torch.Tensor) -> Random:
    """A dictionary with these directions, all of which are active everywhere."""
    dictionary = Random(WIDTH, len(rows_nd), rectify=False)
    dictionary.directions_nd.copy_(torch.nn.functional.normalize(rows_nd, dim=1))
    dictionary.center_d.fill_(-100)
    return dictionary


def test_a_tokenizer_without_the_names_is_a_result_that_says_so(evaluated: Callable[..., Any]):
    metrics, rows = evaluated(zeros(WIDTH), "nameless")
    assert rows == []
    assert {metrics[name] for name in metrics["columns"]} == {None}
    assert metrics["undefined"]["p_correct"] == "0 male names are one token, and 12 are needed"


def test_a_model_that_cannot_do_the_task_is_a_result_that_says_so(evaluated: Callable[..., Any]):
    metrics, rows = evaluated(directions(torch.eye(WIDTH)))
    assert metrics["p_correct_clean"] == pytest.approx(0.5, abs=0.1)
    assert metrics["p_correct"] is metrics["p_correct_leace"] is metrics["cosine"] is None
    assert metrics["undefined"]["p_correct"] == "the model's own P(correct) is not clearly better than chance"
    assert [row["intervention"] for row in rows] == ["clean", "clean"]


@pytest.mark.usefixtures("able")
def test_every_intervention_of_every_seed_is_in_the_table_and_the_metrics_are_its_means(evaluated: Callable[..., Any]):
    metrics, rows = evaluated(directions(torch.eye(WIDTH)))
    for name in ("clean", *INTERVENTIONS):
        of_name = [row for row in rows if row["intervention"] == name]
        assert [row["seed"] for row in of_name] == [0, 1]
        for measure in MEASURES:
            found = metrics[measure if name == "feature" else f"{measure}_{name}"]
            if name == "leace_by_position" and measure in ("transfer_p_correct", "side_effect_kl"):
                assert found is None
                assert metrics["undefined"][f"{measure}_{name}"] == "other text has no such positions"
            else:
                assert found == pytest.approx((of_name[0][measure] + of_name[1][measure]) / 2)
    assert metrics["edit_clean"] == 0
    assert metrics["edit"] > 0
    assert metrics["side_effect_kl"] > 0
    assert metrics["edit_random_same_edit"] == pytest.approx(metrics["edit"], rel=1e-4)


@pytest.mark.usefixtures("able")
def test_a_feature_that_writes_the_difference_is_found_and_does_what_the_difference_does(
    made: dict[str, Any], evaluated: Callable[..., Any]
):
    task = GenderTask(language_model.load_tokenizer(made["named"]))
    with torch.no_grad():
        bridge = language_model.load(made["named"], "float32", "cpu")
        difference_d = Trial(bridge, task, HOOK_POINT, 6, seed=0).difference_d
    others = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    spec = SPEC.model_copy(update={"seeds": (0,)})
    metrics, _ = evaluated(directions(torch.cat([others, -difference_d[None]])), spec=spec)
    assert metrics["cosine"] == pytest.approx(1, abs=1e-5)
    for measure in MEASURES:
        assert metrics[measure] == pytest.approx(metrics[f"{measure}_mean_difference"], rel=1e-3)
    assert metrics["intervals"]["p_correct"] is None, "of one seed"


@pytest.mark.usefixtures("able")
def test_features_that_never_fire_are_a_result_that_says_so_beside_what_needs_none(evaluated: Callable[..., Any]):
    dead = ReLU(WIDTH, 3, l1_coefficient=0)
    with torch.no_grad():
        dead.get_parameter("b_enc_n").fill_(-1e6)
    metrics, _ = evaluated(dead)
    assert metrics["p_correct"] is metrics["cosine"] is metrics["p_correct_random_same_edit"] is None
    assert "not in every seed is a feature active" in metrics["undefined"]["p_correct"]
    assert metrics["p_correct_leace"] is not None


def test_halves_share_no_name_and_nobody_is_an_example_in_their_own_prompt(made: dict[str, Any], monkeypatch: Any):
    monkeypatch.setenv("SAEFLOW_HOME", str(made["home"]))
    task = GenderTask(language_model.load_tokenizer(made["named"]))
    generator = torch.Generator().manual_seed(3)
    fitted, measured = task.halves(generator)
    for number in (0, 1):
        assert not set(fitted[number]) & set(measured[number])
        assert sorted(fitted[number] + measured[number]) == sorted(task.names[number])
    prompts = task.few_shot(fitted, fitted, 30, generator)
    everyone = [name for own in task.names for name in own]
    counts = torch.isin(torch.from_numpy(prompts.tokens_SP), torch.tensor(everyone)).sum(1)
    assert counts.tolist() == [7] * 60, "six examples, and the one who is asked about"
    assert all(len(set(row) & set(everyone)) == 7 for row in prompts.tokens_SP.tolist())
    assert prompts.classes_S.sum() == 30


def test_leace_leaves_no_linear_probe_anything_on_the_rows_it_was_fitted_on():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2 == 0
    x = torch.randn(300, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    x += y[:, None] * torch.randn(8, generator=generator)
    erased = erasure._leace(x, y)(x)
    assert mean_difference(x, y).norm() > 1
    assert mean_difference(erased, y).norm() < 1e-4
    probe = fit_probe(erased, y)
    assert (erased @ probe.weight_d + probe.bias).abs().max() < 1e-3, "the best that it can do is to guess"


def test_projecting_out_a_direction_that_is_orthogonal_to_everything_changes_nothing():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 0
    torch.testing.assert_close(erase(x, torch.eye(8)[3:4], x.mean(0)), x, rtol=0, atol=1e-6)
