"""The gender task: prompts in which nothing but a first name tells how they go on.

    few-shot    " My name is James and I am a man. … My name is Mary and I am a"     → " man" or " woman"
    transfer    " Last week James went to the store, and"                            → " he" or " she"

A few-shot prompt begins with three examples of each class, in random order; behind these come the *edited* positions,
the query's own. All names are one token, so in every prompt a position means the same. In the transfer prompts the
edited positions begin with the name. Every prompt begins with the end-of-text token, and none has the name next to it:
what follows that token is read by some models as if it were part of the attention sink.

Shapes: S prompts, P positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from tasks.evaluate.results import NotMeasurable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOTS = 3  # of each class
FEWEST_NAMES = 12  # of each class: six to fit on, three of which are in the examples, and six to measure with

NAMES = {
    "male": """
        James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony Mark
        Donald Steven Paul Andrew Kenneth George Joshua Kevin Brian Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary
        Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Raymond Alexander Patrick Jack
        Dennis Jerry Peter Henry Nathan Douglas Adam Zachary Walter Kyle Harold Carl Arthur Roger Keith Jeremy Lawrence
        Albert Joe Ethan Ralph Bryan Eugene Louis Philip Bruce Luke Simon Oliver Harry Leonard Martin Victor Ernest Fred
        Howard Stanley Tony Tom Jim Bob Mike Steve Dave Ben Dan Greg Tim Jeff Ron Matt Josh Nick
    """,
    "female": """
        Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Sandra Margaret
        Kimberly Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Sharon Laura Cynthia Dorothy Amy
        Kathleen Angela Shirley Emma Brenda Pamela Nicole Anna Samantha Katherine Christine Rachel Carolyn Janet Maria
        Catherine Heather Diane Olivia Julie Joyce Ruth Lauren Christina Joan Evelyn Judith Andrea Hannah Megan
        Jacqueline Martha Teresa Gloria Sara Janice Ann Kathryn Abigail Sophia Alice Judy Isabella Julia Charlotte
        Natalie Diana Marie Jane Kate Helen Eva Clara Lucy Ellen Molly Annie Sally Caroline Claire Eleanor Edith Nina
        Sofia Louise Anne Ella Esther Harriet Naomi Agnes Monica Wendy Jenny Isabel Juliet Miriam Polly Rosa Sophie Vera
    """,
}
"""Common first names of each class; those that are places or ordinary words as well are left out."""

Names = tuple[list[int], list[int]]
"""Tokens of names, of each class."""


class NamedPrompts(NamedTuple):
    """Prompts, and what is asked of them."""

    tokens_SP: Int[np.ndarray, "S P"]
    classes_S: Int[torch.Tensor, " S"]
    """Of the name: 0 is male, 1 female."""
    answers: list[int]
    """The token of each class's answer."""
    first_edited: int
    """The first position that is edited; all behind it are as well."""


class GenderTask:
    """Prompts in the tokens of one tokenizer.

    Raises:
        NotMeasurable: an answer, or too many of the names, are more than one token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        def tokens(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]

        def single(texts: list[str]) -> list[int]:
            return [found[0] for found in map(tokens, texts) if len(found) == 1]

        self.start = [tokenizer.eos_token_id]
        male, female = (single([f" {name}" for name in names.split()]) for names in NAMES.values())
        self.names: Names = (male, female)
        self.answers, self.transfer_answers = single([" man", " woman"]), single([" he", " she"])
        self.before_name, self.behind_name = tokens(" My name is"), tokens(" and I am a")
        self.full_stop = tokens(".")
        self.before_transfer, self.behind_transfer = tokens(" Last week"), tokens(" went to the store, and")
        for name, found in zip(NAMES, self.names, strict=True):
            if len(found) < FEWEST_NAMES:
                raise NotMeasurable(f"{len(found)} {name} names are one token, and {FEWEST_NAMES} are needed")
        if len(self.answers + self.transfer_answers) < 4:
            raise NotMeasurable("not all of ' man', ' woman', ' he' and ' she' are one token")

    def halves(self, generator: torch.Generator) -> tuple[Names, Names]:
        """The names of each class in two random halves."""
        shuffled = [_shuffled(names, generator) for names in self.names]
        first, second = ([names[half::2] for names in shuffled] for half in (0, 1))
        return (first[0], first[1]), (second[0], second[1])

    def few_shot(self, names: Names, shot_names: Names, count: int, generator: torch.Generator) -> NamedPrompts:
        """`count` prompts of each class; names are repeated once all were taken."""
        prompts, classes = [], []
        for number, own in enumerate(names):
            for index in range(count):
                name = own[index % len(own)]
                prompts.append([*self.start, *self._shots(shot_names, name, generator), *self._query(name)])
                classes.append(number)
        behind_shots = len(prompts[0]) - len(self._query(0))
        return NamedPrompts(np.array(prompts), torch.tensor(classes), self.answers, behind_shots)

    def transfer(self, names: Names) -> NamedPrompts:
        """One prompt for each name."""
        before = [*self.start, *self.before_transfer]
        prompts = [[*before, name, *self.behind_transfer] for own in names for name in own]
        classes = [number for number, own in enumerate(names) for _ in own]
        return NamedPrompts(np.array(prompts), torch.tensor(classes), self.transfer_answers, len(before))

    def _query(self, name: int) -> list[int]:
        return [*self.before_name, name, *self.behind_name]

    def _shots(self, names: Names, asked: int, generator: torch.Generator) -> list[int]:
        shots = [
            [*self._query(name), answer, *self.full_stop]
            for own, answer in zip(names, self.answers, strict=True)
            for name in _shuffled([name for name in own if name != asked], generator)[:SHOTS]
        ]
        return [token for place in torch.randperm(len(shots), generator=generator) for token in shots[place]]


def _shuffled(items: list[int], generator: torch.Generator) -> list[int]:
    return [items[place] for place in torch.randperm(len(items), generator=generator)]
