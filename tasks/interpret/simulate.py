"""Predict a feature's activations from its explanation, token by token.

Each token of a fragment gets a value from 0 to 9, one digit, because 10 is one token for some models and two for
others, and correlations do not depend on the scale. Where the server gives probabilities p of the digits v, it is the
expected one of those it knows,

    value = Σ v · p̂(v),   p̂ = p / Σ p,   covered = Σ p, averaged over tokens,

read off at question marks behind the tokens of a prompt (prompt_logprobs) or at the digits of an answer
(generated_logprobs). Else it is the digit that was answered (text). What was not answered is missing: null, not 0.
"""

import re
from collections.abc import Sequence

from tasks.interpret.answers import Answer, chat_answer, prompt_answer
from tasks.interpret.asking import repaired
from tasks.interpret.client import Client, NoReply, all_of
from tasks.interpret.fragments import Fragment
from tasks.interpret.interpreted import Simulated
from tasks.interpret.modes import DIGITS, Ability, chat_request, prompt_request
from tasks.interpret.prompts import simulate_messages, simulate_prompt
from tasks.interpret.replies import Request
from tasks.interpret.servers import Mode

TOKENS_OF_A_ROW = 8
"""A number of up to three digits, a tab, a digit and a newline, at their longest."""

ROW = re.compile(r"^[ \t]*(\d+)[ \t]+(\d+)[ \t\r]*$", re.MULTILINE)


def simulate_request(model: str, explanation: str, fragment: Fragment, ability: Ability) -> Request:
    """What is sent first for a fragment."""
    if ability.mode == "prompt_logprobs":
        return prompt_request(model, simulate_prompt(explanation, fragment.texts)[0], ability)
    messages = simulate_messages(explanation, fragment.texts)
    return chat_request(model, messages, TOKENS_OF_A_ROW * len(fragment.texts), ability.alternatives)


async def simulate(
    client: Client, model: str, explanation: str, fragments: Sequence[Fragment], ability: Ability
) -> tuple[Simulated, ...]:
    """The values of each fragment, asked for side by side."""
    return tuple(await all_of(_simulate(client, model, explanation, fragment, ability) for fragment in fragments))


async def _simulate(client: Client, model: str, explanation: str, fragment: Fragment, ability: Ability) -> Simulated:
    n = len(fragment.texts)
    request = simulate_request(model, explanation, fragment, ability)
    try:
        reply = await client.ask(request)
        if ability.mode == "prompt_logprobs":
            prompt, places = simulate_prompt(explanation, fragment.texts)
            return _expected(prompt_answer(reply, prompt), dict(enumerate(places)), n, ability.mode, None)
        answer = chat_answer(reply)
        places, problem = digit_places(answer.text, n)
        if problem is not None:
            answer, places, problem = await _mended(client, request, answer, n)
    except NoReply as error:
        return Simulated((None,) * n, ability.mode, None, str(error))
    if ability.mode == "text":
        return Simulated(_in_order({i: float(answer.text[p]) for i, p in places.items()}, n), "text", None, problem)
    return _expected(answer, places, n, ability.mode, problem)


async def _mended(
    client: Client, request: Request, answer: Answer, n: int
) -> tuple[Answer, dict[int, int], str | None]:
    """Of an answer that will not do and a second one, that which has more of the rows."""
    places, problem = digit_places(answer.text, n)
    try:
        second = chat_answer(await client.ask(repaired(request, answer, problem or "")))
    except NoReply:
        return answer, places, problem
    better = digit_places(second.text, n)
    return (second, *better) if len(better[0]) >= len(places) else (answer, places, problem)


def digit_places(text: str, n: int) -> tuple[dict[int, int], str | None]:
    """Where the digits of rows 0 … n−1 are in an answer, and what is wrong with it, for whoever gave it.

    Rows that are there twice, or hold no digit but a longer number, are as good as missing.
    """
    places: dict[int, int] = {}
    twice: set[int] = set()
    strange = 0
    for row in ROW.finditer(text):
        number = int(row[1]) - 1 if len(row[1]) < 6 else n
        if not 0 <= number < n or len(row[2]) > 1:
            strange += 1
        elif number in places:
            twice.add(number)
        else:
            places[number] = row.start(2)
    for number in twice:
        del places[number]
    if len(places) == n and not strange:
        return places, None
    told = f"Of {n} rows, {len(places)} have one digit"
    if twice:
        told += f", {len(twice)} are there more than once"
    if strange:
        told += f", and {strange} are others"
    return places, f"{told}."


def _expected(answer: Answer, places: dict[int, int], n: int, mode: Mode, problem: str | None) -> Simulated:
    if places and not answer.choices:
        return Simulated((None,) * n, mode, None, "the answer has no log-probabilities that belong to its text")
    values: dict[int, float] = {}
    covered = []
    for number, place in places.items():
        found = answer.digits(place, DIGITS)
        mass = sum(found.values())
        if mass > 0:
            values[number] = sum(value * p for value, p in found.items()) / mass
            covered.append(min(mass, 1.0))
    if len(values) < len(places):
        problem = f"{problem or ''} {len(places) - len(values)} tokens have no digit among their alternatives.".strip()
    mean = sum(covered) / len(covered) if covered else None
    return Simulated(_in_order(values, n), mode, mean, problem)


def _in_order(values: dict[int, float], n: int) -> tuple[float | None, ...]:
    return tuple(values.get(number) for number in range(n))
