"""What is told of a text is what the dictionary says of the model's activations, and no change changes nothing."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sae_core.dictionary import load_dictionary
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.errors import ExperimentError
from tasks.language_model import load, load_tokenizer
from tasks.patching import logits
from tasks.try_it import FEATURES_TOLD, Subject, Workbench, choices, continuations, features
from tasks.try_questions import CHARACTERS, NEW_TOKENS, TOKENS, ContinuationQuestion, FeaturesQuestion
from tests.conftest import CONTEXT
from tests.tasks.evaluate import subjects
from tests.tasks.try_reports import HOOK_POINT, TEXT, WIDTH, Made, made_report


@pytest.fixture(scope="module")
def harvested(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArtifactRef]]:
    with subjects.harvested(tiny_model, tmp_path_factory, HOOK_POINT) as refs:
        yield refs


@pytest.fixture(scope="module")
def made(harvested: dict[str, ArtifactRef]) -> Made:
    return made_report(harvested)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture(scope="module", params=["topk", "relu", "pca"])
def subject(request: pytest.FixtureRequest, made: Made, bench: Workbench) -> Subject:
    return bench.subject(made.report, slug(made, getattr(made, request.param)))


def slug(made: Made, ref: ArtifactRef) -> str:
    return next(choice.slug for choice in choices(made.report) if choice.ref == ref)


def asked(**changes: object) -> ContinuationQuestion:
    question = {"dictionary": "", "text": TEXT, "feature": 0, "edit": "steer", "new_tokens": 12}
    return ContinuationQuestion.model_validate(question | changes)


def last(subject: Subject, question: ContinuationQuestion) -> tuple[str, str]:
    *_, told = continuations(subject, question)
    return told["unsteered"], told["steered"]


def codes(made: Made, ref: ArtifactRef, model: ArtifactRef) -> torch.Tensor:
    """By hand: what the dictionary says of the text's activations."""
    bridge, tokenizer = load(model, "float32", "cpu"), load_tokenizer(model)
    tokens = np.array([[0, *tokenizer.encode(TEXT)]])
    with torch.inference_mode():
        return load_dictionary(artifacts().path(ref)).encode(capture(bridge, tokens, [HOOK_POINT])[HOOK_POINT])[1:]


@pytest.mark.parametrize("name", ["topk", "relu", "pca", "control"])
def test_the_features_told_are_all_that_are_not_zero(
    made: Made, bench: Workbench, harvested: dict[str, ArtifactRef], name: str
):
    ref = getattr(made, name)
    model = artifacts().manifest(_activations(ref))["inputs"]["model"]
    expected_Tn = codes(made, ref, ArtifactRef(**model))
    told = features(bench.subject(made.report, slug(made, ref)), FeaturesQuestion(dictionary="", text=TEXT, feature=3))
    assert told["n_features"] == expected_Tn.shape[1]
    assert "".join(token["text"] for token in told["tokens"]) == TEXT
    assert len(told["tokens"]) == len(expected_Tn)
    for token, f_n in zip(told["tokens"], expected_Tn, strict=True):
        assert token["active"] == int((f_n != 0).sum()) == len(token["features"])
        torch.testing.assert_close(f_n[token["features"]], torch.tensor(token["values"]), rtol=1e-5, atol=0)
        sizes = np.abs(token["values"])
        assert (sizes[:-1] >= sizes[1:]).all()
    torch.testing.assert_close(expected_Tn[:, 3], torch.tensor(told["feature"]), rtol=1e-5, atol=0)


def _activations(ref: ArtifactRef) -> ArtifactRef:
    return ArtifactRef(**artifacts().manifest(ref)["inputs"]["activations"])


def test_the_control_reads_the_model_with_random_weights(made: Made, bench: Workbench):
    own, control = (bench.subject(made.report, slug(made, ref)) for ref in (made.topk, made.control))
    assert control.model.told.name == f"{own.model.told.name} (random weights)"
    assert "random weights" in choices(made.report)[-1].name


def test_a_model_is_loaded_once(made: Made, bench: Workbench):
    first, second = (bench.subject(made.report, slug(made, ref)) for ref in (made.topk, made.pca))
    assert first.model is second.model
    assert bench.subject(made.report, slug(made, made.topk)).dictionary is first.dictionary


@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
def test_strength_zero_writes_what_the_model_writes(subject: Subject, sampling: str):
    unsteered, steered = last(subject, asked(strength=0, sampling=sampling))
    assert unsteered == steered != ""


def test_greedy_is_what_the_model_predicts(subject: Subject):
    bridge, tokenizer = subject.model.bridge, subject.model.tokenizer
    tokens = [0, *tokenizer.encode(TEXT)]
    start = len(tokens)
    for _ in range(5):
        predicted_V = logits(bridge, np.array([tokens]))[0, -1].clone()
        predicted_V[0] = -torch.inf  # the text does not end
        tokens.append(int(predicted_V.argmax()))
    assert last(subject, asked(strength=5, new_tokens=5))[0] == tokenizer.decode(tokens[start:])


def test_a_text_grows_by_a_token_at_a_time(subject: Subject):
    told = [each["unsteered"] for each in continuations(subject, asked())]
    assert len(told) == 12
    assert all(longer.startswith(text) for text, longer in pairwise(told))


def test_sampling_is_by_the_seed(subject: Subject):
    assert last(subject, asked(sampling="sampled", seed=1)) == last(subject, asked(sampling="sampled", seed=1))
    assert len({last(subject, asked(sampling="sampled", seed=seed))[0] for seed in range(4)}) == 4


def test_the_text_changes_with_a_strong_change_and_the_unsteered_one_does_not(subject: Subject):
    clean = last(subject, asked(strength=0))[0]
    for edit in ("steer", "clamp"):
        unsteered, steered = last(subject, asked(edit=edit, strength=1000))
        assert unsteered == clean != steered


def test_ablating_a_feature_that_does_not_fire_changes_nothing(made: Made, bench: Workbench):
    relu = bench.subject(made.report, slug(made, made.relu))
    with torch.no_grad():
        silent = relu.dictionary.b_enc_n.clone()  # pyright: ignore[reportAttributeAccessIssue]
        relu.dictionary.b_enc_n[7] = -1e9  # pyright: ignore[reportAttributeAccessIssue]
    try:
        assert not any(features(relu, FeaturesQuestion(dictionary="", text=TEXT, feature=7))["feature"])
        unsteered, steered = last(relu, asked(edit="ablate", feature=7, sampling="sampled", new_tokens=24))
        assert unsteered == steered
    finally:
        relu.dictionary.b_enc_n.data.copy_(silent)  # pyright: ignore[reportAttributeAccessIssue]


def test_ablating_is_clamping_to_zero(subject: Subject):
    ablated = last(subject, asked(edit="ablate", feature=2, strength=99))
    assert ablated == last(subject, asked(edit="clamp", feature=2, strength=0))


def test_a_dictionary_that_is_not_sparse_tells_its_strongest_features(made: Made, bench: Workbench, monkeypatch):
    monkeypatch.setattr("tasks.try_it.FEATURES_TOLD", 10)
    told = features(bench.subject(made.report, slug(made, made.pca)), FeaturesQuestion(dictionary="", text=TEXT))
    assert told["feature"] is None
    assert {(token["active"], len(token["features"])) for token in told["tokens"]} == {(WIDTH, 10)}
    assert FEATURES_TOLD > 10


def test_no_text_has_no_tokens_and_is_continued(subject: Subject):
    assert features(subject, FeaturesQuestion(dictionary="", text=""))["tokens"] == []
    assert last(subject, asked(text=""))[0] != ""


def test_half_a_character_and_markup_are_text(subject: Subject):
    text = "cat \ud800 <script>\u202e\0"
    told = features(subject, FeaturesQuestion(dictionary="", text=text))
    joined = "".join(token["text"] for token in told["tokens"])
    assert joined.endswith("<script>\\xe2\\x80\\xae\0")  # a character of several tokens is told by its bytes
    assert "\ud800" not in joined


def test_what_is_too_long_is_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValidationError, match=f"at most {CHARACTERS}"):
        FeaturesQuestion(dictionary="", text="a" * (CHARACTERS + 1))
    with pytest.raises(ValidationError, match=f"less than or equal to {NEW_TOKENS}"):
        asked(new_tokens=NEW_TOKENS + 1)
    with pytest.raises(ExperimentError, match="reads at most 63"):
        features(subject, FeaturesQuestion(dictionary="", text="qz" * CONTEXT))
    with pytest.raises(ExperimentError, match="tokens, and 60 are to be written"):
        last(subject, asked(new_tokens=60))
    with pytest.raises(ExperimentError, match=f"and {TOKENS} can be tried at once"):
        features(subject, FeaturesQuestion(dictionary="", text="qz" * TOKENS))


def test_what_is_not_there_is_refused(made: Made, bench: Workbench, subject: Subject):
    with pytest.raises(ExperimentError, match="no dictionary 'x'"):
        bench.subject(made.report, "x")
    n = subject.dictionary.n_features
    with pytest.raises(ExperimentError, match=f"there is no feature {n}: the dictionary has {n}"):
        features(subject, FeaturesQuestion(dictionary="", text=TEXT, feature=n))
    with pytest.raises(ExperimentError, match="there is no feature 5000"):
        last(subject, asked(feature=5000))


def test_a_damaged_dictionary_is_named(made: Made):
    weights = artifacts().path(made.relu) / "dictionary.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        with pytest.raises(DamagedArtifact, match=f"{made.relu} is damaged: dictionary.safetensors has"):
            Workbench().subject(made.report, slug(made, made.relu))
    finally:
        weights.write_bytes(whole)
