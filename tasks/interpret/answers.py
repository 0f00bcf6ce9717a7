"""What a server answered: the text, and for each token of it what could have stood there instead.

Chat replies carry the alternatives in `logprobs.content`; completions that echo their prompt in `logprobs`, as lists;
vLLM in `prompt_logprobs`, a mapping for each token of the prompt. Here they are all the same: an `Answer`.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A token of a text, where it begins, and the probabilities of the tokens that could have stood there."""

    start: int
    text: str
    probabilities: dict[str, float]


class Answer(NamedTuple):
    """A text, and its tokens where the server gave their probabilities."""

    text: str
    choices: tuple[Choice, ...]

    def digits(self, place: int, allowed: str) -> dict[int, float]:
        """The probability of each of the `allowed` digits at a character of the text; empty where none is known.

        A token may begin before the digit, with the tab, say, or end behind it. Only what begins alike is counted, and
        only a digit that no other digit follows: the "1" of a "10" is no 1.
        """
        found: dict[int, float] = {}
        number = bisect_right(self.choices, place, key=lambda choice: choice.start) - 1
        if number < 0 or place >= (choice := self.choices[number]).start + len(choice.text):
            return found
        before = self.text[choice.start : place]
        for text, probability in choice.probabilities.items():
            digit, rest = text[len(before) :][:1], text[len(before) + 1 :]
            if text.startswith(before) and digit and digit in allowed and not rest[:1].isdigit():
                found[int(digit)] = found.get(int(digit), 0.0) + probability
        return found


def chat_answer(reply: dict[str, Any]) -> Answer:
    """The answer in a chat reply; without tokens where there are no log-probabilities or they are of another text."""
    choice = reply["choices"][0]
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    text = content if isinstance(content, str) else ""
    entries = (choice.get("logprobs") or {}).get("content") or []
    try:
        tokens = [
            (
                entry["token"],
                {other["token"]: other["logprob"] for other in [entry, *(entry.get("top_logprobs") or [])]},
            )
            for entry in entries
        ]
    except (KeyError, TypeError):
        tokens = []
    return _aligned(text, tokens)


def prompt_answer(reply: dict[str, Any], prompt: str) -> Answer:
    """The prompt itself as an answer, with what could have stood at each of its tokens."""
    choice = reply["choices"][0]
    echoed, mappings = choice.get("logprobs") or {}, choice.get("prompt_logprobs")
    try:
        if mappings is not None:
            # The first entry of each mapping is the token that is there; the first token of all has no mapping.
            ordered = [list(mapping.values()) for mapping in mappings if mapping]
            tokens = [
                (entries[0]["decoded_token"], {entry["decoded_token"]: entry["logprob"] for entry in entries})
                for entries in ordered
            ]
        else:
            alternatives = echoed.get("top_logprobs") or []
            own = echoed.get("token_logprobs") or []
            tokens = [
                (token, {token: logprob, **(others or {})})
                for token, logprob, others in zip(echoed.get("tokens") or [], own, alternatives, strict=True)
            ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        tokens = []
    return _aligned(prompt, tokens)


def _aligned(text: str, tokens: Iterable[tuple[str, dict[str, float | None]]]) -> Answer:
    """The tokens at their places in a text. They may begin before it (a sign for the beginning) and end behind it (an
    answer to the prompt), but must hold it; vLLM leaves the first token out, and so they may also hold its end only."""
    tokens = list(tokens)
    joined = "".join(token for token, _ in tokens)
    start = -joined.find(text) if text and text in joined else None
    if start is None and joined and text.endswith(joined):
        start = len(text) - len(joined)
    if start is None:
        return Answer(text, ())
    choices = []
    for token, logprobs in tokens:
        choices.append(Choice(start, token, {other: _exp(logprob) for other, logprob in logprobs.items()}))
        start += len(token)
    return Answer(text, tuple(choices))


def _exp(logprob: float | None) -> float:
    return math.exp(min(logprob, 0.0)) if isinstance(logprob, int | float) else 0.0
