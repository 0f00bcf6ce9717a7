"""Intruders: without an explanation, can it be told which of five texts does not belong to a feature?

Each trial shows four fragments in which the feature fires, with its tokens marked, and a silent one with as many marked
anywhere. The score is the share of trials whose intruder was found; 0.2 is chance.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from storage.seeds import seeded_generator
from tasks.interpret.answers import Answer
from tasks.interpret.asking import ask_twice
from tasks.interpret.client import Client, all_of
from tasks.interpret.detect import anywhere, strong
from tasks.interpret.fragments import FeatureFragments
from tasks.interpret.judgements import Found
from tasks.interpret.modes import chat_request
from tasks.interpret.prompts import intruder_messages
from tasks.interpret.replies import Request

ACTIVE = 4
MAX_TOKENS = 8


class Trial(NamedTuple):
    """Five marked texts, and which of them is the intruder, from 0."""

    texts: tuple[tuple[str, ...], ...]
    marks: tuple[frozenset[int], ...]
    intruder: int


def trials(fragments: FeatureFragments, seed: int) -> list[Trial]:
    """Every fragment of the interval sample once, in random order, four at a time."""
    generator = seeded_generator("intruder", seed, fragments.feature)
    order = torch.randperm(len(fragments.interval), generator=generator).tolist()
    made = []
    for silent, start in zip(fragments.silent, range(0, len(order) - ACTIVE + 1, ACTIVE), strict=False):
        active = [fragments.interval[index] for index in order[start : start + ACTIVE]]
        marks = [strong(fragment) for fragment in active]
        texts = [fragment.texts for fragment in active]
        place = int(torch.randint(ACTIVE + 1, (1,), generator=generator))
        texts.insert(place, silent.texts)
        marks.insert(place, anywhere(silent, len(marks[0]), generator))
        made.append(Trial(tuple(texts), tuple(marks), place))
    return made


def intruder_requests(model: str, asked: Sequence[Trial]) -> list[Request]:
    """What is sent first for each of the trials."""
    return [chat_request(model, intruder_messages(trial.texts, trial.marks), MAX_TOKENS) for trial in asked]


async def find_intruders(client: Client, model: str, fragments: FeatureFragments, seed: int) -> Found:
    """Ask for the intruder of every trial."""
    asked = trials(fragments, seed)
    if not asked:
        return Found(None, 0, 0, f"there are not {ACTIVE} fragments in which it fires and one in which it is silent")
    answers = await all_of(
        ask_twice(client, request, _number, "That is no number from 1 to 5.")
        for request in intruder_requests(model, asked)
    )
    found = [said == trial.intruder for trial, (said, _) in zip(asked, answers, strict=True) if said is not None]
    reasons = [reason for _, reason in answers if reason]
    reason = f"{len(reasons)} of {len(asked)} answers missing: {reasons[0]}" if reasons else None
    return Found(sum(found) / len(found) if found else None, len(found), len(asked), reason)


def _number(answer: Answer) -> int | None:
    """The one number in an answer, from 0; None where there is none, or several."""
    numbers = set(re.findall(r"(?<!\d)[1-5](?!\d)", answer.text))
    return int(numbers.pop()) - 1 if len(numbers) == 1 else None
