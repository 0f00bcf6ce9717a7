"""Retraining over a folder that grows: what is made, what is promoted, and what a killed run does when it goes on."""

import copy
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from pydantic import ValidationError

import flows.retrain as retrain_module
from flows.candidates import slot
from flows.experiment import run_experiment
from flows.experiment_records import ExperimentRecords
from flows.parameters import ExperimentConfig, RetrainConfig
from flows.promotions import PROMOTION, REJECTION, Ledger
from flows.retrain import retrain, rows_of, run_retrain, verdict_text
from flows.retrain_plan import Plan
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.corpus import base_of, segments
from tasks.errors import ExperimentError
from tasks.specs import TiedReLUSpec
from tests.conftest import write_text
from tests.flows.command import assert_refused, saeflow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server", "home")]

HOOK = "blocks.1.hook_resid_post"
WIDE = {"fvu_tolerance": 1.0, "l0_band": 1.0, "ce_recovered_tolerance": 1e9, "dead_tolerance": 1.0}
SPEC = {"method": "tied_relu", "expansion": 2.0, "alpha": 0.01}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return add(tmp_path / "texts", 0)


@pytest.fixture
def parameters(tiny_experiment: dict[str, Any], folder: Path) -> dict[str, Any]:
    experiment = copy.deepcopy(tiny_experiment)
    experiment["corpus"] |= {"sources": [str(folder)], "tokens": 40_000, "held_out_tokens": 2000}
    experiment |= {"hook_points": [HOOK], "dictionaries": [SPEC], "baselines": []}
    experiment["compute"] = {"workers": 1, "threads": 1, "device": "cpu"}
    return {"experiment": experiment, "new_tokens": 10_000, "gate": WIDE, "ce_tokens": 512}


def add(folder: Path, number: int, documents: int = 60) -> Path:
    texts = write_text(documents, seed=number + 10).split("\n\n")
    (folder / f"{number}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def again(parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return run_retrain(RetrainConfig.model_validate({**parameters, **changes}))


def ledger() -> Ledger:
    return Ledger(artifacts().home_location, "tiny")


def ref(name: str) -> ArtifactRef:
    return next(ref for ref, _ in artifacts().list() if str(ref) == name)


def made() -> dict[str, int]:
    kinds = [found.kind for found, _ in artifacts().list()]
    return {kind: kinds.count(kind) for kind in ("tokens", "activations", "dictionary", "evaluation")}


def test_a_corpus_that_grows_is_retrained_on_from_what_is_promoted(parameters: dict[str, Any], folder: Path):
    first = again(parameters)
    assert first["outcome"] == "Promoted", first["message"]
    assert first["slots"][0]["old"] is None
    assert ledger().promoted() == {first["slots"][0]["slot"]: ref(first["slots"][0]["dictionary"])}
    assert made() == {"tokens": 1, "activations": 1, "dictionary": 1, "evaluation": 2}

    still = again(parameters)
    assert (still["outcome"], still["slots"]) == ("NothingNew", [])
    assert made()["dictionary"] == 1

    add(folder, 1)
    second = again(parameters)
    assert second["outcome"] == "Promoted", second["message"]
    tokens, activations = ref(second["tokens"]), ref(second["activations"])
    assert base_of(tokens) == ref(first["tokens"])
    assert len(segments(tokens, "train")) == 2
    assert artifacts().manifest(activations)["notes"]["goes_on_from"] == first["activations"]
    before, after = (artifacts().path(ref(of["activations"])) / "train" for of in (first, second))
    chunks = [file for file in (before / "data.zarr" / HOOK / "acts" / "c").rglob("*") if file.is_file()]
    assert all(file.samefile(after / file.relative_to(before)) for file in chunks), "taken over, not harvested again"
    assert len(list((after / "commits").iterdir())) > len(list((before / "commits").iterdir()))
    (entry,) = second["slots"]
    inputs = artifacts().manifest(ref(entry["dictionary"]))["inputs"]
    assert ArtifactRef(**inputs["warm_start"]) == ref(first["slots"][0]["dictionary"])
    assert set(entry["old"]) == set(entry["new"]) >= {"fvu", "l0", "dead_fraction", "ce_recovered"}
    assert entry["old"]["fvu"] != entry["new"]["fvu"]
    assert [(e.kind, e.by.partition(" ")[0]) for e in ledger().entries()] == [(PROMOTION, "flow")] * 2

    there = made()
    for _ in range(2):
        nothing = again(parameters)
        assert (nothing["outcome"], nothing["slots"]) == ("NothingNew", [])
    assert made() == {**there, "tokens": there["tokens"] + 1}, "a copy of the tokens, in which nothing is new"
    assert len(ledger().entries()) == 2
    record = ExperimentRecords(artifacts().home_location).read("tiny.retrain")
    assert record["state"] == "finished"
    assert {second["tokens"], second["activations"], entry["dictionary"]} <= set(record["artifacts"])

    for number, kind in ((1, "roll-back"), (2, "roll-back")):
        assert saeflow("promote", "tiny", "--back-to", number, "--home", artifacts().uri).returncode == 0
        assert ledger().entries()[-1].kind == kind
        expected = (first, second)[number - 1]["slots"][0]["dictionary"]
        assert list(map(str, ledger().promoted().values())) == [expected]


def test_a_dictionary_that_is_worse_is_not_promoted_and_that_is_no_error(parameters: dict[str, Any], folder: Path):
    first = again(parameters)
    promoted = ledger().promoted()
    add(folder, 1)
    spoilt = copy.deepcopy(parameters)
    # One step, so large that nothing of the old dictionary is left.
    spoilt["experiment"]["training"] |= {"epochs": 0.001}
    spoilt["experiment"]["dictionaries"] = [{**SPEC, "learning_rate": 100.0}]
    name = slot(HOOK, TiedReLUSpec(expansion=2, alpha=0.01, learning_rate=100))
    ledger().record(PROMOTION, {name: next(iter(promoted.values()))}, "person")
    spoilt["gate"] = {}
    promoted = ledger().promoted()
    config = RetrainConfig.model_validate(spoilt)
    state = retrain(config, return_state=True)
    assert state.is_completed()
    assert state.name == "NotPromoted"
    assert "0 of 1 retrained dictionaries promoted; the rules for" in (state.message or "")
    assert ledger().promoted() == promoted
    last = ledger().entries()[-1]
    assert last.kind == REJECTION
    (why,) = last.why.values()
    assert why["new"]["fvu"] > 2 * why["old"]["fvu"]
    assert any(rule == {**rule, "metric": "fvu", "holds": False} for rule in why["rules"])
    assert again(parameters)["outcome"] == "NothingNew", "what was rejected is in the corpus all the same"
    assert first["tokens"] != ref(last.inputs["tokens"].kind + "/" + last.inputs["tokens"].key)

    with get_client(sync_client=True) as client:
        keys = ("retrain-tiny", "retrain-tiny-verdict")
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=list(keys))))
        tables = [json.loads(artifact.data) for artifact in shown if artifact.key == keys[0]]  # pyright: ignore
    assert {artifact.key for artifact in shown} == set(keys)
    assert any("fails: at most" in row["verdict"] for table in tables for row in table if row["metric"] == "fvu")
    listing = saeflow("promotions", "tiny", "--home", artifacts().uri).stdout
    assert "rejection" in listing


@pytest.mark.parametrize("when", ["after tokenize", "after training", "after the ledger"])
def test_a_retraining_that_was_killed_goes_on_and_extends_and_promotes_once(
    parameters: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    again(parameters)
    add(folder, 1, documents=120)  # more than one retraining takes

    def die(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    point = {"after tokenize": "training", "after training": "compared", "after the ledger": "announced"}[when]
    with monkeypatch.context() as patch:
        patch.setattr(retrain_module, point, die)
        with pytest.raises(KeyboardInterrupt):
            again(parameters)
    there = made()
    result = again(parameters)
    assert result["outcome"] == "Promoted"
    assert made()["tokens"] == there["tokens"] == 2
    assert made()["activations"] == 2
    assert made()["dictionary"] == 2
    assert [entry.kind for entry in ledger().entries()] == [PROMOTION, PROMOTION]
    assert ledger().entries()[-1].inputs["tokens"] == ref(result["tokens"])

    further = again(parameters)
    assert base_of(ref(further["tokens"])) == ref(result["tokens"]), "the rest of the text comes with the next one"


def test_a_changed_retraining_after_one_that_failed_is_given_the_same_new_text(
    parameters: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = again(parameters)
    add(folder, 1)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(retrain_module, "compared", fail)
        with pytest.raises(RuntimeError):
            again(parameters)
    result = again(parameters, ce_tokens=256)
    assert result["outcome"] == "Promoted"
    assert base_of(ref(result["tokens"])) == ref(first["tokens"])
    assert again(parameters)["outcome"] == "NothingNew"


def test_a_flow_run_that_is_retried_after_it_was_done_gives_its_result_again(
    parameters: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retrain_module.flow_run, "id", str(uuid4()), raising=False)
    first = again(parameters)
    assert again(parameters) == first
    monkeypatch.setattr(retrain_module.flow_run, "id", str(uuid4()), raising=False)
    assert again(parameters)["outcome"] == "NothingNew"
    assert len(ledger().entries()) == 1


def test_what_an_experiment_trained_is_promoted_by_hand_and_gone_on_from(parameters: dict[str, Any], folder: Path):
    experiment = parameters["experiment"]
    experiment |= {"baselines": [{"method": "identity"}]}
    home = ("--home", artifacts().uri)
    assert_refused(saeflow("promote", "tiny", "--all", *home), "no run of an experiment 'tiny' has finished", "none")
    run = run_experiment(ExperimentConfig.model_validate(experiment))
    trained, baseline = (entry["ref"] for entry in run["dictionaries"])
    assert_refused(saeflow("promote", "tiny", "--dictionary", baseline, *home), "was not trained by an experiment")
    assert_refused(saeflow("promote", "tiny", "--dictionary", "xyz", *home), "no dictionary of the last runs of 'tiny'")
    assert saeflow("promote", "tiny", "--all", *home).returncode == 0
    assert "nothing was changed" in saeflow("promote", "tiny", "--dictionary", trained, *home).stdout
    assert list(map(str, ledger().promoted().values())) == [trained]
    assert again(parameters)["outcome"] == "NothingNew"
    add(folder, 1)
    result = again(parameters)
    assert result["slots"][0]["before"] == trained
    assert base_of(ref(result["tokens"])) is not None
    # The later of the two runs is the last one.
    assert saeflow("promote", "tiny", "--back-to", 1, *home).returncode == 0
    assert saeflow("promote", "tiny", "--all", *home).returncode == 0
    assert list(map(str, ledger().promoted().values())) == [result["slots"][0]["dictionary"]]


def test_what_an_experiment_trained_is_found_by_the_first_retraining(parameters: dict[str, Any]):
    run = run_experiment(ExperimentConfig.model_validate(parameters["experiment"]))
    result = again(parameters)
    assert result["outcome"] == "Promoted"
    assert [entry["dictionary"] for entry in result["slots"]] == [entry["ref"] for entry in run["dictionaries"]]


def test_a_promoted_dictionary_that_does_not_fit_is_refused_before_any_work(parameters: dict[str, Any], folder: Path):
    again(parameters)
    (name, promoted), *_ = ledger().promoted().items()
    wide = {**SPEC, "expansion": 3.0}
    parameters["experiment"]["dictionaries"] = [wide]
    ledger().record(PROMOTION, {name.replace("expansion=2.0", "expansion=3.0"): promoted}, "person")
    add(folder, 1)
    there = made()
    with pytest.raises(ExperimentError, match="has 64 features, and tied_relu with expansion=3 has 96"):
        again(parameters)
    assert made() == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dictionaries": [], "baselines": [{"method": "identity"}]}, "experiment.dictionaries is empty"),
        ({"invalidate_from": "train"}, "experiment.invalidate_from makes an experiment anew"),
        ({"compute": {"train_deployment": "train/quickstart"}}, "a retraining trains in its own run"),
    ],
)
def test_what_cannot_be_retrained_is_refused(parameters: dict[str, Any], change: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        RetrainConfig.model_validate({"experiment": {**parameters["experiment"], **change}})


def test_a_plan_is_not_gone_on_with_when_something_else_is_asked_for(parameters: dict[str, Any]):
    config = RetrainConfig.model_validate(parameters)
    plan = Plan.find(config, None).write(config, "a run")
    assert Plan.find(config, "another run") == plan
    elsewhere = copy.deepcopy(parameters)
    elsewhere["experiment"]["compute"]["threads"] = 2
    assert Plan.find(RetrainConfig.model_validate(elsewhere), "another run") == plan
    assert Plan.find(RetrainConfig.model_validate({**parameters, "ce_tokens": 64}), "another run").runs == ()
    done = plan.write(config, "a run", done=True)
    assert Plan.find(config, "a run") == done
    assert Plan.find(config, "another run").runs == ()


def test_texts_of_others_are_escaped_in_the_verdict():
    rule = {"metric": "fvu", "holds": False, "says": "<b>at most</b> 0.1"}
    entry = {"slot": "h <script>|x", "dictionary": "dictionary/1", "promoted": False, "old": None, "new": {"fvu": 0.2}}
    text = verdict_text(
        {"experiment": "tiny", "outcome": "NotPromoted", "message": "[a](b)", "slots": [{**entry, "rules": [rule]}]}
    )
    assert "<" not in text
    assert "[a](b)" not in text
    assert rows_of({**entry, "rules": [rule]}) == [
        {"metric": "fvu", "old": "—", "new": "0.2", "verdict": "fails: <b>at most</b> 0.1"}
    ]
