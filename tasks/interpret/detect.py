"""Detection and fuzzing: is an explanation true of texts in which the feature fires, and not of others?

Both show five numbered texts at a time and ask for a list such as [1,0,0,1,0]. In detection a yes is a fragment in
which the feature fires, from all its deciles, and a no is one in which it is silent. In fuzzing some tokens are marked:
those with at least 0.3 times the fragment's largest activation, and in silent fragments as many, anywhere.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch

from storage.seeds import seeded_generator
from tasks.interpret.answers import Answer
from tasks.interpret.asking import ask_twice
from tasks.interpret.client import Client, all_of
from tasks.interpret.fragments import FeatureFragments, Fragment
from tasks.interpret.judgements import Judged, Judgement, score
from tasks.interpret.modes import chat_request
from tasks.interpret.prompts import MARKED, Message, detect_messages, fuzz_messages
from tasks.interpret.replies import Request

TEXTS = 5
MAX_TOKENS = 24

LIST = re.compile(r"\[\s*[01](?:\s*,\s*[01])*\s*,?\s*\]")

Kind = Literal["detection", "fuzzing"]

Said = list[tuple[bool | None, float | None]]
"""Yes or no of each text, with the probability of yes."""
NOTHING: Said = [(None, None)]


class Shown(NamedTuple):
    """A fragment as it is asked about."""

    fires: bool
    texts: tuple[str, ...]
    marks: frozenset[int]


def batches(fragments: FeatureFragments, seed: int) -> list[list[Shown]]:
    """As many fragments of either kind, in random order, five at a time."""
    generator = seeded_generator("detection", seed, fragments.feature)
    n = min(len(fragments.interval), len(fragments.silent))
    # They are ordered by strength: where there are too many, some of all strengths.
    chosen = [fragments.interval[(2 * i + 1) * len(fragments.interval) // (2 * n)] for i in range(n)]
    fires = [Shown(True, fragment.texts, strong(fragment)) for fragment in chosen]
    silent = [
        Shown(False, fragment.texts, anywhere(fragment, len(like.marks), generator))
        for fragment, like in zip(fragments.silent[:n], fires, strict=True)
    ]
    shown = fires + silent
    order = torch.randperm(len(shown), generator=generator).tolist()
    return [[shown[index] for index in order[start : start + TEXTS]] for start in range(0, len(order), TEXTS)]


def strong(fragment: Fragment) -> frozenset[int]:
    """The tokens where a feature is nearly as strong as anywhere in the fragment."""
    least = MARKED * max(fragment.activations)
    return frozenset(i for i, activation in enumerate(fragment.activations) if 0 < activation >= least)


def anywhere(fragment: Fragment, n: int, generator: torch.Generator) -> frozenset[int]:
    """So many tokens of a fragment."""
    return frozenset(torch.randperm(len(fragment.texts), generator=generator)[:n].tolist())


def detect_requests(
    model: str, explanation: str, asked: Sequence[Sequence[Shown]], kind: Kind, alternatives: int
) -> list[Request]:
    """What is sent first for each of the batches."""
    return [chat_request(model, _messages(explanation, batch, kind), MAX_TOKENS, alternatives) for batch in asked]


async def detect(
    client: Client, model: str, explanation: str, fragments: FeatureFragments, kind: Kind, alternatives: int, seed: int
) -> Judged:
    """Have the explanation tried on every batch. With `alternatives` the probability of each 1 is read off too."""
    asked = batches(fragments, seed)
    if not asked:
        return score([], "there are no fragments to detect it in")
    requests = detect_requests(model, explanation, asked, kind, alternatives)
    answers = await all_of(
        ask_twice(
            client, request, partial(read_list, n=len(batch)), f"That is no list of {len(batch)} digits, each 0 or 1."
        )
        for request, batch in zip(requests, asked, strict=True)
    )
    judgements: list[Judgement] = []
    reasons: list[str] = []
    for batch, (said, reason) in zip(asked, answers, strict=True):
        judgements += [
            Judgement(shown.fires, *one) for shown, one in zip(batch, said or NOTHING * len(batch), strict=True)
        ]
        reasons += [reason] if reason else []
    return score(judgements, f"{len(reasons)} of {len(asked)} answers missing: {reasons[0]}" if reasons else None)


def read_list(answer: Answer, n: int) -> Said | None:
    """The digits of the first list of an answer; None unless there are `n`."""
    found = LIST.search(answer.text)
    places = [found.start() + match.start() for match in re.finditer(r"[01]", found[0])] if found else []
    if len(places) != n:
        return None
    said: Said = []
    for place in places:
        digits = answer.digits(place, "01")
        mass = sum(digits.values())
        said.append((answer.text[place] == "1", digits.get(1, 0.0) / mass if mass > 0 else None))
    return said


def _messages(explanation: str, batch: Sequence[Shown], kind: Kind) -> list[Message]:
    texts = [shown.texts for shown in batch]
    if kind == "detection":
        return detect_messages(explanation, texts)
    return fuzz_messages(explanation, texts, [shown.marks for shown in batch])
