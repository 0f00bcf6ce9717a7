"""Prompts whose next word is one of two names, in pairs that differ in that name (indirect object identification).

    BABA  When John and Mary came to the station, John gave the ring to        → Mary
    ABBA  When Mary and John came to the station, John gave the ring to        → Mary

The indirect object (Mary) is named once, the subject (John) twice. In the counterfactual a third name takes the
indirect object's place, and the subject stays. Every name, place and object is one token of the model's, and the
counterfactual is made by exchanging that one token, so that a pair always has equal lengths. The answer is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = (
    "Once {first} and {second} reached the {place}, {subject} handed a {object} to",
    "When {first} and {second} found a {object} at the {place}, {subject} gave it to",
    "In the {place} {first} and {second} argued about a {object}. Afterwards {subject} gave it to",
    "Then {first} and {second} quarrelled for an hour, and afterwards {subject} said to",
    "The friends {first} and {second} found a {object} at the {place}. {subject} gave it to",
    "While {first} and {second} cleaned the {place}, {subject} handed the {object} to",
    "Then {first} and {second} had fun at the {place}, and {subject} gave a {object} to",
    "After {first} and {second} left the {place}, {subject} handed the {object} to",
    "After {first} and {second} bought a {object} at the {place}, {subject} gave it to",
    "Last night {first} and {second} met at the {place}, and {subject} gave a {object} to",
    "At the {place} {first} and {second} shared a {object}. Later {subject} left it to",
    "When {first} and {second} came to the {place}, {subject} gave the {object} to",
    "While {first} and {second} sat in the {place}, {subject} offered the {object} to",
    "As {first} and {second} waited at the {place}, {subject} passed the {object} to",
    "While {first} and {second} worked at the {place}, {subject} decided to give the {object} to",
)
"""Each in two orders: the subject first (BABA), or the indirect object first (ABBA)."""

ORDERS = ("BABA", "ABBA")

PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS = ("ring", "letter", "bone", "basketball", "computer", "necklace", "drink", "snack")

_NAMES = (
    "Mary John Emma David Sarah James Anna Peter Laura Thomas Alice Daniel Harry Charlotte Joshua Sara Simon Helen "
    "Evelyn Emily Leo Oliver Sam Karen Tom Jessica Jeff Martin Fred Samuel Brian Janet Elizabeth Allen Edward Ralph "
    "Timothy Harold Victor Lisa Sandra Martha Christopher Patrick Tim Kevin Ruth Linda Clara Lauren Alan Eva Andrew "
    "Amanda Richard William Larry Rose Justin Arthur Stephen Joyce Benjamin Ethan Adam Margaret Anne Gerald Brandon "
    "Kenneth Katherine Christina Amy Dorothy Bob Kim Eric Howard Oscar Victoria George Catherine Maria Roger Steven "
    "Jane Frank Nancy Michael Vincent Bill Patricia Kyle Andrea Heather Claire Jonathan Alex Kate Rachel Rebecca "
    "Wayne Roy Jeremy Melissa Frances Joan Michelle Greg Dennis Jim Luke Tyler Caroline Molly Eleanor Mark Stephanie "
    "Samantha Sophia Jean Donald Anthony Teresa Jack Max Douglas Walter Ann Hannah Jason Nicholas Sean Ronald Chris "
    "Charles Stuart Mike Steve Ben Judith Henry Julie Pamela Aaron Louis Bruce Albert Barbara Virginia Raymond Megan "
    "Tony Russell Gary Joseph Matthew Keith Sharon Ryan Nathan Julia Betty Carol Jordan Diana Robert Ian Carl Susan "
    "Jennifer Deborah Paul Grace Scott Kelly Nicole Joe Lucy Olivia Philip Jacob Angela Marie Lawrence"
)
NAMES = tuple(_NAMES.split())
"""In no order, so that the first few of them are as mixed as all are."""


class Words(NamedTuple):
    """The words that are one token inside a sentence, with that token."""

    names: dict[str, int]
    places: dict[str, int]
    objects: dict[str, int]

    @property
    def lacking(self) -> str | None:
        """Why no prompt can be made of them."""
        for what, words, needed in (("names", self.names, 3), ("places", self.places, 1), ("objects", self.objects, 1)):
            if len(words) < needed:
                return (
                    f"of the {what} only {len(words)} are one token of the model's tokenizer, and {needed} are needed"
                )
        return None


class Pair(NamedTuple):
    """A prompt and its counterfactual, both from the end-of-text token on, and the tokens of the three names."""

    order: str
    text: str
    other_text: str
    tokens: list[int]
    other_tokens: list[int]
    indirect_object: int
    subject: int
    other_name: int


def words(tokenizer: PreTrainedTokenizerBase, names: int | None) -> Words:
    """The words to make prompts of, with the first `names` of the names, or all."""
    known, places, objects = (_single_tokens(tokenizer, candidates) for candidates in (NAMES, PLACES, OBJECTS))
    return Words(dict(list(known.items())[:names]), places, objects)


def pairs(tokenizer: PreTrainedTokenizerBase, known: Words, count: int, seed: int) -> list[Pair]:
    """So many pairs, their words drawn at random, and the templates in both orders in turn."""
    generator = torch.Generator().manual_seed(seed)
    forms = [(template, order) for template in TEMPLATES for order in ORDERS]
    turns = torch.randperm(len(forms), generator=generator).tolist()
    in_turn = (forms[turns[number % len(forms)]] for number in range(count))
    return [_pair(tokenizer, known, template, order, generator) for template, order in in_turn]


def _pair(
    tokenizer: PreTrainedTokenizerBase, known: Words, template: str, order: str, generator: torch.Generator
) -> Pair:
    def drawn(candidates: dict[str, int], count: int) -> list[str]:
        chosen = torch.randperm(len(candidates), generator=generator)[:count]
        return [list(candidates)[index] for index in chosen.tolist()]

    indirect_object, subject, other_name = drawn(known.names, 3)
    (place,), (thing,) = drawn(known.places, 1), drawn(known.objects, 1)

    def filled(name: str) -> str:
        first, second = (subject, name) if order == "BABA" else (name, subject)
        return " " + template.format(first=first, second=second, subject=subject, place=place, object=thing)

    old, new = known.names[indirect_object], known.names[other_name]
    tokens = [tokenizer.eos_token_id, *_encoded(tokenizer, filled(indirect_object))]
    return Pair(
        order=order,
        text=filled(indirect_object),
        other_text=filled(other_name),
        tokens=tokens,
        other_tokens=[new if token == old else token for token in tokens],
        indirect_object=old,
        subject=known.names[subject],
        other_name=new,
    )


def _single_tokens(tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str]) -> dict[str, int]:
    # Behind another word, as some tokenizers treat the first word of a text in their own way.
    before = _encoded(tokenizer, "The")
    found = {word: _encoded(tokenizer, f"The {word}") for word in candidates}
    return {
        word: tokens[-1]
        for word, tokens in found.items()
        if tokens[:-1] == before and tokens[-1] != tokenizer.unk_token_id
    }


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]
