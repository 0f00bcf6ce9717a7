"""Pieces of held-out text with the activations of one feature: what explanations are made of and scored on."""

from typing import NamedTuple


class Fragment(NamedTuple):
    """Some consecutive tokens of a row, 64 by default."""

    row: int
    start: int
    """Where in the held-out token rows it begins."""
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    """Each token as text, which may hold any character; parts of characters are U+FFFD."""
    activations: tuple[float, ...]
    """Of the feature: signed for signed methods, 0 where it does not fire."""


class FeatureFragments(NamedTuple):
    """The fragments of one feature. `train` shares none with any other list."""

    feature: int
    train: tuple[Fragment, ...]
    """What explainers see: top ranks 0, 4, 8, 12, 16."""
    top: tuple[Fragment, ...]
    """Top ranks 2, 6, 10, 14, 18."""
    random: tuple[Fragment, ...]
    """Random ones in which it fires."""
    interval: tuple[Fragment, ...]
    """Sampled over the deciles of the fragment's maximum."""
    silent: tuple[Fragment, ...]
    """Random ones in which it does not fire."""
    lookalike: tuple[Fragment, ...]
    """Silent ones with the tokens that it fires on."""
