"""Patching on a model that is built by hand, of which it is known which dimensions name whom."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.architectures import TopK, Transcoder
from sae_core.attribution import gradient, indirect_effects
from sae_core.baselines import Identity, fit_pca, fit_random
from sae_core.dictionary import Dictionary
from sae_core.interventions import writes
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.ioi import COLUMNS, evaluate_ioi, in_order, one_by_one, threshold_sweep
from tasks.evaluate.ioi_prompts import pairs, words
from tasks.evaluate.ioi_trial import Trial
from tasks.evaluation_specs import IOISpec
from tasks.specs import ModelSpec
from tests.tasks.evaluate.namers import HOOK_POINT, write_namer
from tests.tasks.evaluate.subjects import saved

SPEC = IOISpec(prompts=8, seeds=(0, 1), sweep_prompts=2, sweep_features=24)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(home))
        sources = {
            "namer": write_namer(tmp_path_factory.mktemp("namer")),
            "echo": write_namer(tmp_path_factory.mktemp("echo"), echoing=True),
            "nameless": tiny_model,
        }
        models = {
            name: language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(source))))
            for name, source in sources.items()
        }
        bridge = language_model.load(models["namer"], "float32", "cpu")
        tokenizer = language_model.load_tokenizer(models["namer"])
    return {"home": home, "bridge": bridge, "tokenizer": tokenizer, **models}


@pytest.fixture
def trial(made: dict[str, Any]) -> Callable[..., Trial]:
    def with_dictionary(dictionary: Dictionary, prompts: int = 8) -> Trial:
        drawn = pairs(made["tokenizer"], words(made["tokenizer"], None), prompts, seed=0)
        return Trial(made["bridge"], dictionary, writes(dictionary), HOOK_POINT, drawn)

    return with_dictionary


@pytest.fixture
def evaluated(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], Path]]:
    monkeypatch.setenv("SAEFLOW_HOME", str(made["home"]))

    def evaluate(dictionary: Dictionary, model: str = "namer", spec: IOISpec = SPEC) -> tuple[dict[str, Any], Path]:
        ref = evaluate_ioi.build(
            dictionary=saved(dictionary), model=made[model], hook_point=HOOK_POINT, spec=spec, compute=Compute()
        )
        place = artifacts().path(ref)
        return json.loads((place / "metrics.json").read_text()), place

    return evaluate


def identity() -> Dictionary:
    """Each dimension of the stream a feature; names are in 12 of them, at zero or above."""
    dictionary = Identity(32, 32, rectify=False)
    dictionary.directions_nd.copy_(torch.eye(32))
    return dictionary


def complete() -> Dictionary:
    return fit_pca(iter([torch.randn(200, 32, generator=torch.Generator().manual_seed(0))]))


def sparse() -> Dictionary:
    return TopK(32, 96, k=4)


def dead() -> Dictionary:
    """A dictionary in which nothing ever fires."""
    dictionary = TopK(32, 48, k=4)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.zero_()
    return dictionary


def rotation() -> Dictionary:
    rows = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    return fit_random(lambda: iter([rows]), 64, seed=0)


@pytest.mark.parametrize("dictionary", [identity(), complete(), sparse(), dead(), rotation()])
def test_patching_no_feature_gives_the_clean_logits_bit_for_bit(dictionary: Dictionary, trial: Callable[..., Trial]):
    there = trial(dictionary)
    with torch.no_grad():
        x_SPd = there.patched(torch.zeros_like(there.changed_Sn))
        assert torch.equal(there.prompts.logits(x_SPd[None])[0], there.prompts.clean_logits_SV)
        measured = there.measure(torch.zeros_like(there.changed_Sn)[None])
    assert torch.equal(measured.kl_CS[0], there.kl_S)
    assert torch.equal(measured.difference_CS[0], there.difference_S)
    assert not measured.edit_CS.any()
    assert there.recovery(measured.difference_CS).item() == 0


@pytest.mark.parametrize("dictionary", [identity(), complete()])
def test_patching_a_complete_basis_gives_what_the_counterfactual_gives(
    dictionary: Dictionary, trial: Callable[..., Trial]
):
    there = trial(dictionary)
    with torch.no_grad():
        measured = there.measure(torch.ones_like(there.changed_Sn)[None])
    assert there.kl_S.min() > 1e-2
    assert measured.kl_CS.abs().max() < 1e-4
    assert there.recovery(measured.difference_CS).item() == pytest.approx(1, abs=1e-4)


def test_patching_features_that_do_not_change_leaves_every_bit(trial: Callable[..., Trial]):
    there = trial(sparse())
    still_n = ~there.changed_Sn.any(0)
    assert 0 < still_n.sum() < 96
    with torch.no_grad():
        x_SPd = there.patched(still_n.expand_as(there.changed_Sn))
        assert torch.equal(there.prompts.logits(x_SPd[None])[0], there.prompts.clean_logits_SV)


def test_padding_is_not_patched(trial: Callable[..., Trial]):
    there = trial(complete())
    assert not there.own_SP.all()
    assert not there.change_SPn[~there.own_SP].any()
    assert not there.change_SPn[:, 0].any(), "what is before the names is the same"


def test_of_a_linear_metric_attribution_is_the_effect_of_patching(trial: Callable[..., Trial]):
    there = trial(complete())
    weight_SPd = torch.randn(there.prompts.clean_SPd.shape, generator=torch.Generator().manual_seed(0))
    clean_SPd = there.prompts.clean_SPd
    at_SPd = gradient(lambda x_SPd: (weight_SPd * x_SPd).sum(), clean_SPd)
    effects_n = indirect_effects(at_SPd, there.change_SPn, there.writes_nd).sum((0, 1))
    for feature in (0, 7, 31):
        change_SPd = there.patched(there.only(torch.tensor([feature]))) - clean_SPd
        assert (weight_SPd * change_SPd).sum().item() == pytest.approx(effects_n[feature].item(), abs=1e-3)


def test_the_attributions_add_up_to_the_effect_of_all(trial: Callable[..., Trial]):
    there = trial(complete())
    with torch.no_grad():
        total_S = there.effects().sum(1)
    torch.testing.assert_close(total_S, -there.kl_S, rtol=0.1, atol=0.02)


def test_each_prompt_needs_the_dimensions_of_its_two_names_and_all_prompts_together_more(trial: Callable[..., Trial]):
    there = trial(identity())
    with torch.no_grad():
        found, rows = in_order(there)
    assert found["features_to_half_kl_each"] <= 2 < found["features_to_half_kl"] <= 12
    assert 0 < found["edit_to_half_kl_each"] <= found["edit_to_half_kl"] * 1.5
    assert found["kl_floor"] == pytest.approx(0, abs=1e-4)
    each = [row for row in rows if row["ranking"] == "each"]
    assert each[-1]["features"] == 2, "no other dimension changes"


def test_the_sweep_leaves_the_dimensions_of_the_two_names(trial: Callable[..., Trial]):
    there = trial(identity(), prompts=1)
    with torch.no_grad():
        rows = threshold_sweep(there, there.effects().mean(0), 32, seed=0)
        whole = there.measure(there.changed_Sn[None])
    assert rows[0]["features"] == 2
    assert rows[0]["kl"] == pytest.approx(whole.kl_CS.item(), abs=1e-6)
    assert rows[0]["edit"] == pytest.approx(whole.edit_CS.item(), rel=1e-5), "the edit is that of the accepted set"
    counts = [row["features"] for row in rows]
    assert counts == sorted(counts, reverse=True)


def test_the_exact_effect_is_that_of_a_feature_alone(trial: Callable[..., Trial]):
    there = trial(complete())
    with torch.no_grad():
        effects_n = there.effects().mean(0)
        table = one_by_one(there, effects_n)
        first = table[0]
        alone = there.measure(there.only(torch.tensor([first["feature"]]))[None]).kl_CS.mean() - there.kl_S.mean()
    assert first["exact_effect"] == pytest.approx(alone.item(), abs=1e-6)
    assert first["attribution"] == min(row["attribution"] for row in table) == effects_n.min().item()


def test_an_evaluation_tells_every_number_and_leaves_its_tables(evaluated: Callable[..., Any]):
    metrics, place = evaluated(complete())
    assert metrics["columns"] == COLUMNS
    assert metrics["undefined"] == {}
    assert metrics["logit_difference"] > 0
    assert metrics["accuracy"] == 1
    assert metrics["kl_floor"] == pytest.approx(0, abs=1e-4)
    low, high = metrics["intervals"]["kl_clean"]
    assert low < metrics["kl_clean"] < high
    curves = read_table(place / "curves.parquet").to_pylist()
    assert {(row["seed"], row["ranking"]) for row in curves} == {(s, r) for s in (0, 1) for r in ("shared", "each")}
    none = [row["kl"] for row in curves if row["features"] == 0 and row["ranking"] == "shared"]
    assert sum(none) / 2 == pytest.approx(metrics["kl_clean"])
    assert read_table(place / "prompts.parquet").num_rows == 16
    assert read_table(place / "features.parquet").num_rows == 32
    assert read_table(place / "seeds.parquet")["seed"].to_pylist() == [0, 1]
    swept = read_table(place / "sweep.parquet").to_pylist()
    assert metrics["sweep_to_half_kl"] in [row["features"] for row in swept]


def test_without_a_sweep_its_number_is_null_and_says_why(evaluated: Callable[..., Any]):
    metrics, place = evaluated(complete(), spec=SPEC.model_copy(update={"sweep_features": 0, "seeds": (3,)}))
    assert metrics["sweep_to_half_kl"] is None
    assert "sweep_to_half_kl" in metrics["undefined"]
    assert not (place / "sweep.parquet").exists()
    assert metrics["intervals"]["kl_floor"] is None, "one seed has no interval"


def test_a_dictionary_in_which_nothing_fires_never_halves_the_kl_and_the_result_says_so(evaluated: Callable[..., Any]):
    metrics, _ = evaluated(dead())
    assert metrics["kl_floor"] == metrics["kl_clean"] == metrics["kl_at_16"]
    assert metrics["recovery_at_16"] == 0
    undefined = {name for name in COLUMNS if metrics[name] is None}
    assert undefined == {name for name in COLUMNS if "half" in name} | {"attribution_correlation"}
    assert "with 2 of 2 seeds the KL never comes down to half" in metrics["undefined"]["features_to_half_kl"]


def test_a_model_that_prefers_the_subject_is_not_measured_and_the_result_says_so(evaluated: Callable[..., Any]):
    metrics, place = evaluated(complete(), model="echo")
    assert metrics["logit_difference"] < 0
    assert all(metrics[name] is None for name in COLUMNS)
    assert "does not prefer the indirect object" in metrics["undefined"]["features_to_half_kl"]
    assert sorted(file.name for file in place.glob("*.parquet")) == ["prompts.parquet"]


def test_a_tokenizer_without_names_of_one_token_gives_a_result_that_says_so(evaluated: Callable[..., Any]):
    metrics, _ = evaluated(complete(), model="nameless")
    assert all(metrics[name] is None for name in COLUMNS)
    assert "of the names only 0 are one token" in metrics["undefined"]["features_to_half_kl"]


def test_a_dictionary_that_does_not_rebuild_what_it_reads_is_refused(evaluated: Callable[..., Any]):
    with pytest.raises(ExperimentError, match="does not rebuild what it reads"):
        evaluated(Transcoder(32, 48, k=4, d_out=32))
