"""Detection, fuzzing and intruders: what is shown, how answers are read, and what they come to."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from tasks.interpret.answers import Answer, Choice
from tasks.interpret.detect import batches, detect, read_list, strong
from tasks.interpret.fragments import Fragment
from tasks.interpret.intruder import find_intruders, trials
from tasks.interpret.judgements import Judgement, score
from tests.tasks.interpret.loopback_server import loopback, planted_features

(FEATURE,) = planted_features(1, each=12)


def test_both_kinds_are_shown_alike():
    shown = [one for batch in batches(FEATURE, seed=0) for one in batch]
    assert [len(batch) for batch in batches(FEATURE, seed=0)] == [5, 5, 5, 5, 4]
    assert sum(one.fires for one in shown) == 12 == len(shown) / 2
    assert {one.texts for one in shown} == {f.texts for f in (*FEATURE.interval, *FEATURE.silent)}
    fires, silent = ([len(one.marks) for one in shown if one.fires == kind] for kind in (True, False))
    assert sorted(fires) == sorted(silent)
    assert batches(FEATURE, seed=0) == batches(FEATURE, seed=0) != batches(FEATURE, seed=1)


def test_where_few_fragments_are_silent_those_shown_still_are_of_all_strengths():
    few = FEATURE._replace(silent=FEATURE.silent[:3])
    fires = [one.texts for batch in batches(few, seed=0) for one in batch if one.fires]
    tenths = [[fragment.texts for fragment in FEATURE.interval].index(texts) for texts in fires]
    assert sorted(tenths) == [2, 6, 10]


def test_marks_are_where_the_feature_is_strong():
    fragment = Fragment(0, 0, (1, 2, 3, 4), ("a", "b", "c", "d"), (-5.0, 0.2, 0.3, 1.0))
    assert strong(fragment) == {2, 3}


@pytest.mark.parametrize("kind", ["detection", "fuzzing"])
def test_a_planted_explanation_is_detected(kind: Any, use: Callable[..., Any]):
    with loopback() as server:
        judged = use(server, lambda client: detect(client, "scoring", "planted 0", FEATURE, kind, 20, 0))
    assert judged == (1, 1, 1, 24, 24, None)


def test_without_probabilities_there_is_no_auc(use: Callable[..., Any]):
    with loopback(most_alternatives=0) as server:
        judged = use(server, lambda client: detect(client, "scoring", "planted 0", FEATURE, "detection", 0, 0))
    assert judged == (1, 1, None, 24, 24, None)


def test_answers_that_are_no_lists_are_missing(use: Callable[..., Any]):
    def wordy(reply: dict[str, Any]) -> None:
        reply["choices"][0]["message"]["content"] = "The first two, I think."

    with loopback(fault=lambda number, body: wordy if number < 3 else None) as server:
        one_at_a_time = {"concurrency": 1}
        judged = use(
            server, lambda client: detect(client, "scoring", "planted 0", FEATURE, "detection", 20, 0), **one_at_a_time
        )
    assert judged.balanced_accuracy is not None
    assert judged.answered <= 24
    assert judged.asked == 24


def test_nothing_answered_is_null_with_a_reason(use: Callable[..., Any]):
    with loopback(fault=lambda number, body: (400, {})) as server:
        judged = use(server, lambda client: detect(client, "scoring", "planted 0", FEATURE, "detection", 20, 0))
        found = use(server, lambda client: find_intruders(client, "scoring", FEATURE, 0))
    assert judged[:4] == (None, None, None, 0)
    assert judged.reason.startswith("5 of 5 answers missing: the server refused")
    assert found.share is None
    assert found.reason.startswith("3 of 3 answers missing: the server refused")


def test_without_fragments_it_is_null_with_a_reason(use: Callable[..., Any]):
    empty = FEATURE._replace(silent=())
    with loopback() as server:
        judged = use(server, lambda client: detect(client, "scoring", "planted 0", empty, "detection", 20, 0))
        found = use(server, lambda client: find_intruders(client, "scoring", empty, 0))
    assert judged.balanced_accuracy is None
    assert judged.reason == "there are no fragments to detect it in"
    assert found.share is None
    assert "one in which it is silent" in found.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1,0,1]", [True, False, True]),
        ("Sure: [1, 0, 1].", [True, False, True]),
        ("[1,0,1,]", [True, False, True]),
        ("[1,0]", None),
        ("[1,0,1,1]", None),
        ("[1,0,2]", None),
        ("[1,0,", None),
        ("1,0,1", None),
        ("", None),
    ],
)
def test_lists_are_read_whole_or_not_at_all(text: str, said: list[bool] | None):
    found = read_list(Answer(text, ()), 3)
    assert (found and [one for one, _ in found]) == said


def test_the_probability_of_a_one_is_its_share_of_both_digits():
    texts = ["[", "1", ",", "0", "]"]
    others = [{}, {"1": 0.6, "0": 0.2, "x": 0.2}, {}, {"0": 0.5, "0]": 0.25}, {}]
    starts = range(len(texts))
    answer = Answer("[1,0]", tuple(Choice(*choice) for choice in zip(starts, texts, others, strict=True)))
    assert read_list(answer, 2) == [(True, pytest.approx(0.75)), (False, 0.0)]


def test_scores_are_those_of_scikit_learn():
    generator = random.Random(0)
    judgements = [Judgement(generator.random() < 0.4, generator.random() < 0.5, generator.random()) for _ in range(60)]
    true, said, probability = zip(*judgements, strict=True)
    judged = score(judgements, None)
    assert judged.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, said))
    assert judged.f1 == pytest.approx(f1_score(true, said))
    assert judged.auc == pytest.approx(roc_auc_score(true, probability))


def test_intruders_stand_anywhere_and_are_found(use: Callable[..., Any]):
    shown = [trial for seed in range(20) for trial in trials(FEATURE, seed)]
    assert {trial.intruder for trial in shown} == set(range(5))
    for trial in shown:
        silent = {fragment.texts for fragment in FEATURE.silent}
        assert [texts in silent for texts in trial.texts] == [index == trial.intruder for index in range(5)]
        assert all(trial.marks)
    with loopback() as server:
        assert use(server, lambda client: find_intruders(client, "scoring", FEATURE, 0)) == (1, 3, 3, None)
