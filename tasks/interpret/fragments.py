"""Pieces of held-out text with the activations of one feature: what explanations are made of and scored on.

All of them come from the tables of a `features` artifact (tasks.feature_tables), except those in which the feature does
not fire: these are drawn here, by the seed and the feature alone.

Shapes: S rows of tokens, P positions, W windows of L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from storage.latents import Latents
from storage.seeds import seeded_generator
from storage.tables import read_table
from tasks.feature_tables import SCORE, SHOWN, TRAIN
from tasks.features import FEATURES, FRAGMENTS, LATENTS, WINDOWS

RANDOM = 5
LOOKALIKES = 5
SILENT = 20


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
    """Sampled over the tenths of the fragment's maximum."""
    silent: tuple[Fragment, ...]
    """Random ones in which it does not fire, that is, has no value above zero."""
    lookalike: tuple[Fragment, ...]
    """Others in which it does not fire, with the tokens that it fires on most in `train`."""


def choose(features: Path, how_many: int | None, seed: int) -> tuple[list[int], int]:
    """Random features that fire in enough fragments, 20 as in the paper, in order; and how many there are.

    Args:
        features: the directory of a `features` artifact.
        how_many: None takes all of them.
    """
    fires = read_table(features / FEATURES)["fragments"].to_numpy()
    enough = np.flatnonzero(fires >= SHOWN)
    order = torch.randperm(len(enough), generator=seeded_generator("interpreted", seed)).numpy()
    return sorted(enough[order[:how_many]].tolist()), len(enough)


class FragmentReader:
    """Reads the fragments of single features."""

    def __init__(
        self,
        features: Path,
        hook_point: str,
        tokens_SP: Int[np.ndarray, "S P"],
        texts: Mapping[int, str],
        length: int,
        seed: int,
    ) -> None:
        """`features` is the directory of a `features` artifact, made with this length; `texts` those of its tokens."""
        self.latents = Latents.open(features / LATENTS / hook_point)
        self.tokens_SP, self.texts, self.length, self.seed = tokens_SP, texts, length, seed
        windows = read_table(features / WINDOWS)
        self.row_W, self.start_W = windows["row"].to_numpy(), windows["start"].to_numpy()
        self.at_WL = self.row_W[:, None], self.start_W[:, None] + np.arange(length)
        self.tokens_WL = tokens_SP[self.at_WL]
        table = read_table(features / FRAGMENTS)
        self.table = {name: table[name].to_numpy(zero_copy_only=False) for name in ("kind", "rank", "row", "start")}
        self.first = np.searchsorted(table["feature"].to_numpy(), np.arange(len(self.latents.counts_n) + 1))

    def read(self, features: Sequence[int]) -> Iterator[FeatureFragments]:
        """One feature after another."""
        return map(self.of, features)

    def of(self, feature: int) -> FeatureFragments:
        """All fragments of one feature."""
        entries = self.latents.of(feature)
        value_SP = np.zeros(self.tokens_SP.shape, np.float32)
        value_SP[entries.row, entries.position] = entries.activation
        mine = slice(self.first[feature], self.first[feature + 1])
        kind, rank, row, start = (self.table[name][mine] for name in ("kind", "rank", "row", "start"))

        def cut(which: Bool[np.ndarray, " fragments"]) -> tuple[Fragment, ...]:
            return tuple(self._fragments(zip(row[which].tolist(), start[which].tolist(), strict=True), value_SP))

        train = cut((kind == "top") & np.isin(rank, TRAIN))
        lookalike, silent = self._silent(feature, value_SP, train)
        return FeatureFragments(
            feature=feature,
            train=train,
            top=cut((kind == "top") & np.isin(rank, SCORE)),
            random=cut((kind == "random") & (rank < RANDOM)),
            interval=cut(kind == "interval"),
            silent=silent,
            lookalike=lookalike,
        )

    def _silent(
        self, feature: int, value_SP: Float[np.ndarray, "S P"], train: Sequence[Fragment]
    ) -> tuple[tuple[Fragment, ...], tuple[Fragment, ...]]:
        """Look-alikes, and others, of the windows in which a feature does not fire."""
        silent = np.flatnonzero(value_SP[self.at_WL].max(1) <= 0)
        generator = seeded_generator("silent", self.seed, feature)
        silent = silent[torch.randperm(len(silent), generator=generator).numpy()]
        strongest = [fragment.tokens[int(np.argmax(fragment.activations))] for fragment in train]
        alike = np.isin(self.tokens_WL[silent], strongest).sum(1)
        most = np.argsort(-alike, kind="stable")[:LOOKALIKES]
        most = most[alike[most] > 0]
        others = np.delete(silent, most)[:SILENT]
        parts = [zip(self.row_W[w].tolist(), self.start_W[w].tolist(), strict=True) for w in (silent[most], others)]
        lookalike, rest = (tuple(self._fragments(part, value_SP)) for part in parts)
        return lookalike, rest

    def _fragments(self, places: Iterable[tuple[int, int]], value_SP: Float[np.ndarray, "S P"]) -> Iterator[Fragment]:
        for row, start in places:
            span = slice(start, start + self.length)
            tokens = tuple(self.tokens_SP[row, span].tolist())
            texts = tuple(self.texts[token] for token in tokens)
            yield Fragment(row, start, tokens, texts, tuple(value_SP[row, span].tolist()))
