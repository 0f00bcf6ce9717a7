"""Simulated values are what the server knows, in each mode; what it does not say is missing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.interpret.answers import Answer, Choice
from tasks.interpret.client import Client, ServerError
from tasks.interpret.interpreted import Simulated
from tasks.interpret.modes import ABILITIES, Ability, find_ability
from tasks.interpret.servers import Mode
from tasks.interpret.simulate import digit_places, simulate
from tests.tasks.interpret.loopback_server import COVERED, loopback, planted_features

MODES: dict[Mode, dict[str, Any]] = {
    "prompt_logprobs": {"echo": True},
    "generated_logprobs": {},
    "text": {"most_alternatives": 0},
}
FEATURES = planted_features(4, length=64)


def correlation(features: Any, simulated: list[tuple[Simulated, ...]]) -> float:
    true = [a for feature in features for fragment in (*feature.top, *feature.random) for a in fragment.activations]
    values = [value for fragments in simulated for one in fragments for value in one.values]
    return float(np.corrcoef(true, values)[0, 1])


def simulated(client: Client, ability: Ability, shift: int = 0) -> Any:
    async def run() -> list[tuple[Simulated, ...]]:
        return [
            await simulate(
                client, "scoring", f"planted {(f.feature + shift) % len(FEATURES)}", [*f.top, *f.random], ability
            )
            for f in FEATURES
        ]

    return run()


async def scored(
    client: Client, modes: Any
) -> tuple[Ability, list[tuple[Simulated, ...]], list[tuple[Simulated, ...]]]:
    ability = await find_ability(client, "scoring", modes)
    return ability, await simulated(client, ability), await simulated(client, ability, shift=1)


def test_a_planted_explanation_predicts_in_every_mode_and_a_shuffled_one_does_not(use: Callable[..., Any]):
    found = {}
    for mode, settings in MODES.items():
        with loopback(**settings) as server:
            ability, right, shuffled = use(server, lambda client: scored(client, tuple(MODES)))
        assert ability.mode == mode, "auto takes the first that the server can do"
        assert all(one.mode == mode and one.reason is None for fragments in right for one in fragments)
        covered = {round(one.covered, 6) if one.covered else None for fragments in right for one in fragments}
        assert covered == {None if mode == "text" else COVERED}
        found[mode] = correlation(FEATURES, right)
        assert abs(correlation(FEATURES, shuffled)) < 0.1
    assert min(found.values()) > 0.99
    assert max(found.values()) - min(found.values()) < 0.02
    assert found["prompt_logprobs"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "ability"),
    [
        ({"prompt_logprobs": True, "echo": True}, ABILITIES[0]),
        ({"echo": True}, Ability("prompt_logprobs", 5, echo=True)),
        ({}, Ability("generated_logprobs", 20)),
        ({"most_alternatives": 5}, Ability("generated_logprobs", 5)),
        ({"most_alternatives": 5, "merges": True}, Ability("generated_logprobs", 5)),
        ({"most_alternatives": 0}, Ability("text")),
    ],
)
def test_what_a_server_can_do_is_found_out_by_asking(settings: Any, ability: Ability, use: Callable[..., Any]):
    with loopback(**settings) as server:
        found, right, _ = use(server, lambda client: scored(client, tuple(MODES)))
    assert found == ability
    assert correlation(FEATURES, right) > 0.99


def test_a_server_that_is_busy_is_not_taken_for_one_that_cannot(use: Callable[..., Any]):
    def busy(number: int, body: dict[str, Any]) -> Any:
        return (429, {}) if number < 4 else None

    with loopback(echo=True, fault=busy) as server:
        ability = use(server, lambda client: find_ability(client, "scoring", tuple(MODES)))
    assert ability.mode == "prompt_logprobs"


def test_a_mode_that_the_server_does_not_have_is_said(use: Callable[..., Any]):
    with (
        loopback(most_alternatives=0) as server,
        pytest.raises(ServerError, match=r"cannot do generated_logprobs with 'scoring': .* none in its answer"),
    ):
        use(server, lambda client: find_ability(client, "scoring", ("generated_logprobs",)))


def test_rows_that_were_not_answered_are_missing_and_never_zero(use: Callable[..., Any]):
    def leave_out(reply: dict[str, Any]) -> None:
        message = reply["choices"][0]["message"]
        message["content"] = "\n".join(message["content"].split("\n")[:10])

    def always(number: int, body: dict[str, Any]) -> Any:
        return leave_out

    with loopback(most_alternatives=0, fault=always) as server:
        ((one, *_), *_) = use(server, lambda client: simulated(client, Ability("text")))
        assert sum(server.asked.values()) == 2 * 10 * len(FEATURES), "one try to mend each"
    assert None not in one.values[:10]
    assert one.values[10:] == (None,) * 54
    assert one.reason == "Of 64 rows, 10 have one digit."


@pytest.mark.parametrize(
    ("text", "rows", "problem"),
    [
        ("1\t3\n2\t0\n3\t9", {0: "3", 1: "0", 2: "9"}, None),
        ("Here:\n 1\t3 \n2 0\r\n3\t9\n", {0: "3", 1: "0", 2: "9"}, None),
        ("1\t10\n2\t0\n3\t9", {1: "0", 2: "9"}, "Of 3 rows, 2 have one digit, and 1 are others."),
        ("1\t3\n1\t4\n2\t0\n3\t1", {1: "0", 2: "1"}, "Of 3 rows, 2 have one digit, 1 are there more than once."),
        ("1\t3\n2\t0\n3\t1\n4\t1", {0: "3", 1: "0", 2: "1"}, "Of 3 rows, 3 have one digit, and 1 are others."),
        ("I cannot help with that.", {}, "Of 3 rows, 0 have one digit."),
        ("", {}, "Of 3 rows, 0 have one digit."),
    ],
)
def test_rows_are_read_as_they_were_asked_for(text: str, rows: dict[int, str], problem: str | None):
    places, told = digit_places(text, 3)
    assert {row: text[place] for row, place in places.items()} == rows
    assert told == problem


def test_the_one_of_a_ten_is_no_one():
    choices = (Choice(0, "3\t", {"3\t": 1.0}), Choice(2, "1", {"1": 0.5, "10": 0.2, "1\n": 0.1, " 1": 0.1, "x": 0.1}))
    assert Answer("3\t1\n", choices).digits(2, "0123456789") == {1: pytest.approx(0.6)}
    assert Answer("3\t1\n", choices).digits(3, "0123456789") == {}


def test_an_answer_whose_probabilities_are_of_another_text_is_missing(use: Callable[..., Any]):
    def another(reply: dict[str, Any]) -> None:
        if "logprobs" in reply["choices"][0]:
            reply["choices"][0]["logprobs"]["content"].pop(3)

    with loopback(fault=lambda number, body: another) as server:
        ((one, *_), *_) = use(server, lambda client: simulated(client, Ability("generated_logprobs", 20)))
    assert set(one.values) == {None}
    assert one.reason == "the answer has no log-probabilities that belong to its text"
