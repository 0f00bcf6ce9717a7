"""The verdict follows its rules, and says nothing without the number."""

import json
import re

import pytest

from tasks.cells import RANDOM_WEIGHTS
from tasks.site.verdict import evaluations, reconstruction, suspicions, verdict
from tests.tasks.site.made_up import dictionary, material, study

CE = {"ce_recovered": "share of the loss"}
SCORE = {"score": "correlation"}


def test_an_autoencoder_is_held_against_the_best_baseline_of_comparable_sparsity():
    rows = (
        dictionary("topk", 0.2, 32.0), dictionary("topk", 0.3, 16.0), dictionary("pca", 0.5, 32.0),
        dictionary("random", 0.8, 60.0), dictionary("identity", 0.0, 576.0),
    )  # fmt: skip
    told = reconstruction(material(*rows))
    assert "topk (k=32) leaves 0.2 of the variance unexplained at L0 32" in told.text
    assert "pca (k=32), leaves 0.5 at L0 32: 2.5 times as much" in told.text
    assert "identity" not in told.text, "what keeps everything is no baseline of comparable sparsity"
    assert told.numbers[1]["fvu_ratio"] == 2.5
    assert "2 of 2 autoencoders that have such a baseline leave less than it" in told.text


def test_without_a_comparable_baseline_the_nearest_is_told():
    told = reconstruction(material(dictionary("topk", 0.2, 32.0), dictionary("identity", 0.31, 288.0)))
    assert "no baseline has a comparable L0, the nearest, identity (k=288) at L0 288, leaves 0.31" in told.text
    assert "there is no baseline" in reconstruction(material(dictionary("topk", 0.2))).text
    assert "no sparse autoencoder" in reconstruction(material(dictionary("pca", 0.2))).text
    assert "no sparse autoencoder" in reconstruction(material(dictionary("topk", None))).text


def test_it_says_whether_the_intervals_meet():
    topk, pca = dictionary("topk", 0.2), dictionary("pca", 0.5)

    def told(low: float) -> str:
        kept = study(topk, "faithfulness", CE, ce_recovered=0.9, intervals={"ce_recovered": [low, 0.95]})
        less = study(pca, "faithfulness", CE, ce_recovered=0.7, intervals={"ce_recovered": [0.6, 0.8]})
        return reconstruction(material(topk, pca, studies=(kept, less))).text

    assert "CE recovered 0.9 [0.85, 0.95] and 0.7 [0.6, 0.8]: their 95 % intervals do not meet" in told(0.85)
    assert "their 95 % intervals meet" in told(0.75)


def test_the_best_of_an_evaluation_stands_beside_the_best_baseline_and_the_control():
    topk, pca = dictionary("topk", 0.2), dictionary("pca", 0.5)
    control = dictionary("topk", 0.4, ref="dictionary/control", model=f"tiny {RANDOM_WEIGHTS}")
    those = (
        study(topk, "interpretability", SCORE, score=0.5, intervals={"score": [0.4, 0.6]}),
        study(pca, "interpretability", SCORE, score=0.25),
        study(control, "interpretability", SCORE, score=0.45, intervals={"score": [0.35, 0.55]}),
    )
    told = evaluations(material(topk, pca, control, studies=those))
    assert "topk (k=32) at blocks.1.hook_resid_post is the best sparse autoencoder with score 0.5" in told.text
    assert "best baseline, pca (k=32)" in told.text
    assert "control, topk, random weights: 0.45 [0.35, 0.55]" in told.text
    assert [number["score"] for number in told.numbers] == [0.5, 0.25, 0.45]
    suspicious = suspicions(material(topk, pca, control, studies=those)).text
    assert "the control (topk, random weights) has an interval that meets that of the best" in suspicious


@pytest.mark.parametrize(("score", "said"), [(0.4, None), (0.46, "is within 10% of the best"), (0.5, "is as good as")])
def test_without_intervals_a_control_near_to_the_best_is_suspicious(score: float, said: str | None):
    topk, control = dictionary("topk", 0.2), dictionary("topk", 0.4, ref="c", model=f"tiny {RANDOM_WEIGHTS}")
    those = study(topk, "interpretability", SCORE, score=0.5), study(control, "interpretability", SCORE, score=score)
    told = suspicions(material(topk, control, studies=those)).text
    assert (said or "no control is nearly as good") in told


@pytest.mark.parametrize(("random", "near"), [(0.554, True), (0.45, True), (0.6, False)])
def test_of_an_erasure_chance_is_what_the_control_is_near_to(random: float, near: bool):
    told = {"p_correct": "P(correct)", "p_correct_random": "of the best random direction"}
    topk = dictionary("topk", 0.2)
    suspicious = suspicions(
        material(topk, studies=(study(topk, "erasure", told, p_correct=0.55, p_correct_random=random),))
    )
    assert ("in erasure the control" in suspicious.text) == near


def test_what_is_undefined_is_no_result():
    topk = dictionary("topk", 0.2)
    those = (study(topk, "interpretability", SCORE),)
    assert "interpretability gave no defined result" in evaluations(material(topk, studies=those)).text
    assert "1 of 1 results of evaluations are undefined" in suspicions(material(topk, studies=those)).text


def test_dead_features_short_corpora_and_warnings_are_suspicious():
    rows = dictionary("topk", 0.2, dead_fraction=0.25), dictionary("relu", 0.3, dead_fraction=0.1)
    notes = {"short_of_wanted": ["train"], "rows": {"train": 50}, "warnings": ["it did not converge"]}
    told = suspicions(material(*rows, notes=notes))
    assert "1 of 2 trained dictionaries have more than 10% dead features, topk" in told.text
    assert "the corpus has 500 of the 1000 train tokens" in told.text
    assert "of 1 of 3 artifacts there is a warning, of tokens/1: it did not converge" in told.text
    assert "nothing by these rules" in suspicions(material(dictionary("topk", 0.2))).text


def test_a_verdict_is_three_sentences_whose_numbers_are_json():
    sentences = verdict(material(dictionary("topk", 0.2), dictionary("pca", 0.4), dictionary("topk", 0.1, place="b")))
    assert len(sentences) == 3
    assert all(re.fullmatch(r".+\.", sentence.text) for sentence in sentences)
    json.dumps([sentence.numbers for sentence in sentences], allow_nan=False)
