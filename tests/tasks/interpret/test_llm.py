"""Features from their fragments to their scores, on a server that behaves and on one that does not."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from tasks.interpret.access import Access, Price
from tasks.interpret.answers import Answer
from tasks.interpret.budget import BudgetSpent
from tasks.interpret.client import IN_VAIN, ServerError
from tasks.interpret.explain import sentence
from tasks.interpret.llm import Estimate, Interpretation, Scorer, check, estimate, interpret
from tasks.interpret.modes import ABILITIES
from tasks.interpret.replies import Replies, Request
from tasks.interpret.servers import ServerSpec
from tests.tasks.interpret.conftest import FastClock, spec, words
from tests.tasks.interpret.loopback_server import Server, loopback, planted_features

FEATURES = planted_features(6)
ALL: tuple[Scorer, ...] = get_args(Scorer)


def run(server: Server, clock: FastClock, scorers: tuple[Scorer, ...] = ALL, **access: Any) -> Interpretation:
    limits = Access(**{"timeout": 0.5, **access})
    return interpret(FEATURES, "llm", scorers, spec(server), limits, words, seed=0, clock=clock)


def test_features_are_explained_and_scored(home: Path, clock: FastClock):
    with loopback() as server:
        found = run(server, clock)
    for fragments, one in zip(FEATURES, found.features, strict=True):
        assert one.feature == fragments.feature
        assert one.explanation == (f"planted {fragments.feature}", None)
        assert [len(simulated.values) for simulated in one.simulated or ()] == [16] * 10
        assert one.detection == one.fuzzing == (1, 1, 1, 10, 10, None)
        assert one.intruder == (1, 1, 1, None)
    assert found.abilities.simulation is not None
    assert found.abilities.simulation.mode == "generated_logprobs"
    assert set(found.prompts) == {"llm", *ALL}


def test_the_contrastive_explainer_sees_look_alikes(home: Path, clock: FastClock):
    with loopback() as server:
        found = interpret(FEATURES, "contrastive", (), spec(server), Access(), words, seed=0, clock=clock)
        (asked,) = {body for body in server.asked if " unit_3" in body}
    assert found.features[3].explanation.text == "planted 3"
    assert found.features[3].simulated is None
    assert "Silent passage 5" in asked
    alone = [FEATURES[0]._replace(lookalike=())]
    with loopback() as server:
        found = interpret(alone, "contrastive", (), spec(server), Access(), words, seed=0, clock=clock)
    assert found.features[0].explanation == (None, "there are no look-alikes in which it is silent")


def cut(reply: dict[str, Any]) -> None:
    message = reply["choices"][0]["message"]
    message["content"] = message["content"][: len(message["content"]) // 2]


def too_many(reply: dict[str, Any]) -> None:
    reply["choices"][0]["message"]["content"] += "\n17\t3\n18\t3"


def silent(reply: dict[str, Any]) -> None:
    reply["choices"][0] = {"message": {"content": None}, "finish_reason": "content_filter"}


def without_logprobs(reply: dict[str, Any]) -> None:
    reply["choices"][0]["logprobs"] = None


def without_choices(reply: dict[str, Any]) -> None:
    reply["choices"] = []


MISBEHAVIOURS = {
    "no choices": without_choices,
    "bursts of 429": (429, {"Retry_After": "3"}),
    "500s": (500, {}),
    "time-outs": "silence",
    "resets": "reset",
    "truncated JSON": "truncated",
    "answers cut short": cut,
    "rows too many": too_many,
    "nothing said": silent,
    "no log-probabilities": without_logprobs,
    "refusals": (400, {}),
}

PASSING = list(MISBEHAVIOURS)[:6]


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_every_feature_ends_with_scores_or_with_nulls_and_their_reasons(name: str, home: Path, clock: FastClock):
    """A third of all requests fail, the first two times that they are sent."""
    tries: Counter[bytes] = Counter()

    def fault(number: int, body: dict[str, Any]) -> Any:
        digest = hashlib.sha256(json.dumps(body).encode()).digest()
        tries[digest] += 1
        return MISBEHAVIOURS[name] if number > 8 and digest[0] % 3 == 0 and tries[digest] <= 2 else None

    with loopback(fault=fault) as server:
        found = run(server, clock)
    some = 0
    for one in found.features:
        assert (one.explanation.text is None) != (one.explanation.reason is None)
        for simulated in one.simulated or ():
            assert None not in simulated.values or simulated.reason
            assert len(simulated.values) == 16
            some += simulated.values.count(None)
        for judged in (one.detection, one.fuzzing):
            if judged is not None:
                assert judged.balanced_accuracy == 1 if judged.answered else judged.balanced_accuracy is None
                assert (judged.answered < judged.asked) == (judged.reason is not None)
        assert one.intruder is not None
        assert one.intruder.share == 1 if one.intruder.answered else one.intruder.reason
    if name in PASSING:
        assert some == 0, "what may pass passes"


def test_requests_that_never_work_end_no_run_however_often_it_is_begun(home: Path, clock: FastClock):
    """A tenth of all. In the second run no other is sent."""

    def fault(number: int, body: dict[str, Any]) -> Any:
        fails = hashlib.sha256(json.dumps(body).encode()).digest()[0] % 10 == 0
        if not fails or "Say 1." in str(body):
            return None
        failing.add(json.dumps(body))
        return 500, {}

    failing: set[str] = set()
    with loopback(fault=fault) as server:
        first, again = (run(server, clock, timeout=30) for _ in range(2))
    assert first == again
    assert len(failing) > IN_VAIN
    for one in first.features:
        assert (one.explanation.text is None) != (one.explanation.reason is None)
        for simulated in one.simulated or ():
            assert None not in simulated.values or "no answer in 8 tries" in str(simulated.reason)
        for judged in (one.detection, one.fuzzing, one.intruder):
            assert judged is None or judged.answered == judged.asked or judged.reason


@pytest.mark.parametrize("given", ["echo", "prompt_logprobs", "merges"])
def test_a_second_run_asks_nothing_and_says_the_same(given: str, home: Path, clock: FastClock):
    with loopback(**{given: True}) as server:
        first = run(server, clock, timeout=30)
        assert all(one.simulated and None not in one.simulated[0].values for one in first.features)
        asked = sum(server.asked.values())
        assert run(server, clock, timeout=30) == first
        assert sum(server.asked.values()) == asked == len(server.asked)


def test_a_budget_stops_between_answers_and_the_next_run_goes_on(home: Path, clock: FastClock):
    with loopback() as server:
        with pytest.raises(BudgetSpent, match="What was answered is kept"):
            run(server, clock, budget_tokens=30_000)
        before = sum(server.asked.values())
        assert 0 < before == len(list((home / "replies").iterdir()))
        run(server, clock)
        assert sum(server.asked.values()) == len(server.asked) > before


def test_a_key_that_is_revoked_ends_the_run(home: Path, clock: FastClock):
    with loopback(fault=lambda number, body: (401, {}) if number > 20 else None) as server:
        with pytest.raises(ServerError, match="refuses the key"):
            run(server, clock)
        assert len(server.times) < 20 + 10


def test_the_estimate_is_what_is_asked(home: Path, clock: FastClock):
    access = Access(prices=(Price(model="explaining", input=1, output=2), Price(model="scoring", input=1, output=2)))
    with loopback() as server:
        told = estimate(FEATURES, "llm", ALL, spec(server), access, words, seed=0)
        assert not server.times, "a dry run asks nothing"
        check(spec(server), access, ALL, clock)
        probes = len(server.asked)
        run(server, clock)
        assert told.requests == len(server.asked) - probes == 6 * (1 + 10 + 2 + 2 + 1)
        assert told.cost == pytest.approx((told.input_tokens + 2 * told.output_tokens) / 1e6)
        assert estimate(FEATURES, "llm", ALL, spec(server), access, words, seed=0) == Estimate(0, 0, 0, 0.0)
    assert "as the subject's tokenizer counts them; at most " in str(told)


def test_an_estimate_opens_no_reply_but_explanations(home: Path, clock: FastClock, monkeypatch: pytest.MonkeyPatch):
    with loopback() as server:
        run(server, clock)
        opened: list[Request] = []
        find = Replies.find
        monkeypatch.setattr(Replies, "find", lambda self, request: opened.append(request) or find(self, request))
        assert estimate(FEATURES, "llm", ALL, spec(server), Access(), words, seed=0).requests == 0
    assert len([request for request in opened if request.model == "explaining"]) == len(FEATURES)
    assert len(opened) <= len(FEATURES) + 2 * len(ABILITIES)


@pytest.mark.parametrize("mode", ["prompt_logprobs", "generated_logprobs", "text", "auto"])
def test_an_estimate_needs_neither_a_server_nor_a_key(mode: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = ServerSpec.model_validate({"explainer": "explaining", "scorer": "scoring", "mode": mode})
    assert estimate(FEATURES, "llm", ALL, server, Access(), words, seed=0).requests == 6 * (1 + 10 + 2 + 2 + 1)


def test_where_prices_are_missing_the_estimate_has_no_cost(home: Path):
    with loopback() as server:
        assert estimate(FEATURES, "llm", ALL, spec(server), Access(), words, seed=0).cost is None


def test_a_feature_without_fragments_is_null_with_a_reason(home: Path, clock: FastClock):
    empty = [FEATURES[0]._replace(train=(), interval=())]
    with loopback() as server:
        found = interpret(empty, "llm", ALL, spec(server), Access(), words, seed=0, clock=clock)
    (one,) = found.features
    assert one.explanation == (None, "it fires in too few fragments to explain it")
    assert one.simulated is one.detection is one.fuzzing is None
    assert one.intruder is not None
    assert one.intruder.share is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words about cats", "words about cats"),
        ('\n\n"This unit responds to  names of\tcats."\nAnd more.', "names of cats."),
        ("what follows 'than'", "what follows 'than'"),
        ("'", "'"),
        ("  \n ", None),
        ("<think>\nCats? Yes.\n</think>\n\nwords about cats", "words about cats"),
        ("Cats? Yes.\n</think>\nwords about cats", "words about cats"),
        ("<think>\nThe passages are all", None),
    ],
)
def test_an_explanation_is_one_line(text: str, said: str | None):
    assert sentence(Answer(text, ())) == said
