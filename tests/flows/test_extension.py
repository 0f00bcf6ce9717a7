"""An experiment whose corpus goes on from the tokens of an earlier one, up to what `ready` lets start."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from flows.experiment import run_experiment
from flows.experiment_records import ExperimentRecords
from flows.parameters import ExperimentConfig
from flows.preflight import Prepared, prepare
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.caching import artifacts
from tasks.corpus import base_of, segments, tokenize
from tasks.errors import ExperimentError
from tests.conftest import write_model, write_text

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return add(tmp_path / "texts", "a.jsonl", seed=10)


@pytest.fixture
def experiment(tiny_experiment: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Over a directory, and with more tokens wanted than it holds so far."""
    parameters = copy.deepcopy(tiny_experiment)
    parameters["corpus"] |= {"sources": [str(folder)], "tokens": 40_000, "held_out_tokens": 4000}
    return parameters


def add(folder: Path, name: str, seed: int, documents: int = 60) -> Path:
    texts = write_text(documents, seed).split("\n\n")
    (folder / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def prepared(experiment: dict[str, Any], extends: object = None, **corpus: Any) -> Prepared:
    corpus = {**experiment["corpus"], "extends": extends and str(extends), **corpus}
    return prepare(ExperimentConfig.model_validate({**experiment, "corpus": corpus}))


def tokens_of(prepared: Prepared) -> ArtifactRef:
    return tokenize.build(model=prepared.model, corpus=prepared.corpus, base=prepared.base, samples=())


def test_tokens_are_extended_once_however_they_are_named(experiment: dict[str, Any], folder: Path):
    first = tokens_of(prepared(experiment))
    add(folder, "b.jsonl", seed=11)
    second = tokens_of(prepared(experiment, first))
    assert base_of(second) == first
    for name in (first, first.key, first.key[:8], second, second.key[:8]):
        assert tokens_of(prepared(experiment, name)) == second
    add(folder, "c.jsonl", seed=12)
    third = tokens_of(prepared(experiment, second))
    assert base_of(third) == second
    assert len(segments(third, "train")) == 3
    assert tokens_of(prepared(experiment, third)) == third


def test_tokens_that_already_hold_the_corpus_are_found(experiment: dict[str, Any]):
    first = tokens_of(prepared(experiment))
    assert prepared(experiment, first).base is None
    assert tokens_of(prepared(experiment, first)) == first


def test_an_extension_is_found_without_its_base_and_repaired_with_it(experiment: dict[str, Any], folder: Path):
    first = tokens_of(prepared(experiment))
    add(folder, "b.jsonl", seed=11)
    second = tokens_of(prepared(experiment, first))
    (artifacts().path(second) / "documents.parquet").write_bytes(b"")
    assert tokens_of(prepared(experiment, second)) == second
    artifacts().remove(first)
    assert tokens_of(prepared(experiment, second)) == second
    (artifacts().path(second) / "documents.parquet").write_bytes(b"")
    with pytest.raises(DamagedArtifact, match=f"{first} .*is missing"):
        tokens_of(prepared(experiment, second))


def test_damaged_tokens_are_not_extended(experiment: dict[str, Any], folder: Path):
    first = tokens_of(prepared(experiment))
    (artifacts().path(first) / "documents.parquet").write_bytes(b"")
    add(folder, "b.jsonl", seed=11)
    with pytest.raises(DamagedArtifact, match="Run what made it again"):
        prepared(experiment, first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 16}, r"corpus\.context_length is 16, and tokens/\w+, .* has 32"),
        ({"held_out_tokens": 5000}, r"corpus\.held_out_tokens is 5000, and tokens/\w+, .* has 4000"),
        ({"tokens": 2000}, r"corpus\.tokens is 2,000, and tokens/\w+, .* has [\d,]+ to train on already"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_by_the_field(
    experiment: dict[str, Any], change: dict[str, Any], message: str
):
    first = tokens_of(prepared(experiment))
    with pytest.raises(ExperimentError, match=message):
        prepared(experiment, first, **change)


def test_tokens_of_another_model_are_refused(experiment: dict[str, Any], tmp_path: Path):
    first = tokens_of(prepared(experiment))
    experiment["model"] = {"source": str(write_model(tmp_path / "other", "gpt2"))}
    with pytest.raises(ExperimentError, match=r"model: tokens/\w+, .* the tokenizer of another model"):
        prepared(experiment, first)


def test_a_name_that_is_nothing_is_told_what_there_is(experiment: dict[str, Any]):
    with pytest.raises(ExperimentError, match=r"'tinny' is no experiment .* first run without.* there are: none"):
        prepared(experiment, "tinny")
    made = [tokens_of(prepared(experiment, seed=seed)) for seed in (0, 1)]
    ExperimentRecords(artifacts().home_location).write("tiny", {"artifacts": []})
    with pytest.raises(ExperimentError, match="there are: tiny"):
        prepared(experiment, "tinny")
    with pytest.raises(ExperimentError, match="'tokens/zzz' is no experiment") as error:
        prepared(experiment, "tokens/zzz")
    assert all(f"tokens/{tokens.key[:8]}" in str(error.value) for tokens in made)
    with pytest.raises(ExperimentError, match="'tokens/' could be several"):
        prepared(experiment, "tokens/")
    with pytest.raises(ExperimentError, match="'tiny' names no tokens"):
        prepared(experiment, "tiny")


def test_an_experiment_stands_for_the_end_of_the_tokens_it_used(experiment: dict[str, Any], folder: Path):
    first = tokens_of(prepared(experiment))
    add(folder, "b.jsonl", seed=11)
    second = tokens_of(prepared(experiment, first))
    records = ExperimentRecords(artifacts().home_location)
    for used in ([first], [first, second], [second, first]):  # as after a run that was killed, and in any order
        records.write("tiny", {"artifacts": list(map(str, used))})
        assert tokens_of(prepared(experiment, "tiny")) == second
    artifacts().remove(second)
    assert tokens_of(prepared(experiment, "tiny")) == second
    for tokens in (first, second):
        artifacts().remove(tokens)
    with pytest.raises(ExperimentError, match=r"the tokens of experiment 'tiny' .* are not in"):
        prepared(experiment, "tiny")
    (folder / "b.jsonl").unlink()
    assert tokens_of(prepared(experiment, "tiny")) == first


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_experiment_extends_itself_when_there_is_more_text(experiment: dict[str, Any], folder: Path):
    experiment |= {"dictionaries": [], "baselines": [{"method": "identity"}]}
    experiment["hook_points"] = experiment["hook_points"][:1]
    experiment["compute"] = {"workers": 1, "threads": 1, "device": "cpu"}
    further = {**experiment, "corpus": {**experiment["corpus"], "extends": "tiny"}}

    def run(parameters: dict[str, Any]) -> tuple[set[str], ArtifactRef]:
        """What was made, and the tokens."""
        config = ExperimentConfig.model_validate(parameters)
        result = run_experiment(config)
        return {stage["name"] for stage in result["stages"] if not stage["cached"]}, tokens_of(prepare(config))

    first = run(experiment)[1]
    assert run(further) == ({"report"}, first), "it tells what was asked, which differs"
    add(folder, "b.jsonl", seed=11)
    made, second = run(further)
    assert {"tokenize", "harvest"} <= made
    assert base_of(second) == first
    assert run(further) == (set(), second)
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    made, third = run(further)
    assert (made, third.digest) == ({"tokenize"}, second.digest)
    artifacts().remove(third)
    assert run(further) == ({"tokenize"}, third)
