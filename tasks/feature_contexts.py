"""The contexts that a feature is shown in: fragments of a `features` artifact, with what it does at each token of them.

Of the fragments (tasks.feature_tables), the 20 with the largest activation; one of each tenth, from weak to strong; and
5 random ones. Of their tokens, those where the feature's code f is not zero, with

    effect = −f (w · g)        w: what one unit of f writes; g: ∂L/∂x there (tasks.loss_gradients)

the change of the summed loss (nats) of the text that follows when the feature is ablated at that token, to first order:
positive where it helps the model.

Shapes: C contexts, E their tokens where the feature is active, W windows of the text, n features, d width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from storage.latents import Entries, Latents
from tasks.feature_tables import PER_TENTH, SHOWN
from tasks.fragment_windows import Windows
from tasks.loss_gradients import LossGradients
from tasks.progress import Progress

KINDS = ("top", "interval", "random")
RANDOM = 5

TOKENS_AT_ONCE = 1 << 14
"""Of which w and g are in memory: 75 MB at width 576."""


class Contexts(NamedTuple):
    """Sorted by feature, kind and rank."""

    feature_C: Int[np.ndarray, " C"]
    kind_C: Int[np.ndarray, " C"]
    """Which of KINDS."""
    rank_C: Int[np.ndarray, " C"]
    window_C: Int[np.ndarray, " C"]
    maximum_C: Float[np.ndarray, " C"]
    begin_C: Int[np.ndarray, " C+1"]
    """Where the tokens of each begin; the last number is that of all."""
    position_E: Int[np.ndarray, " E"]
    """Within the window."""
    activation_E: Float[np.ndarray, " E"]
    effect_E: Float[np.ndarray, " E"]

    def of(self, first: int, end: int) -> slice:
        """The contexts of a range of features."""
        return slice(*np.searchsorted(self.feature_C, (first, end)).tolist())


class Chosen(NamedTuple):
    """The contexts without their tokens."""

    feature_C: np.ndarray
    kind_C: np.ndarray
    rank_C: np.ndarray
    window_C: np.ndarray
    maximum_C: np.ndarray


def read_contexts(
    fragments: pa.Table,
    latents: Latents,
    windows: Windows,
    shape: tuple[int, int],
    writes_nd: Float[Tensor, "n d"],
    gradients: LossGradients,
) -> Contexts:
    """The contexts of all features.

    Args:
        fragments: the table of a `features` artifact.
        shape: of the held-out token rows.
    """
    number_SP = windows.number(shape)
    chosen = choose(fragments, number_SP)
    counts_C = np.zeros(len(chosen.feature_C), np.int64)
    positions, activations, effects = [np.zeros(0, np.uint32)], [np.zeros(0, np.float16)], [np.zeros(0, np.float32)]
    with Progress("contexts", len(latents.counts_n), "features") as progress:
        for entries in latents.parts():
            if not len(entries.latent):
                continue
            first, end = int(entries.latent[0]), int(entries.latent[-1]) + 1
            mine = slice(*np.searchsorted(chosen.feature_C, (first, end)).tolist())
            counts, at_E = tokens_of(chosen, mine, entries, number_SP)
            counts_C[mine] = counts
            start_E = np.repeat(windows.start[chosen.window_C[mine]], counts)
            positions.append((entries.position[at_E] - start_E).astype(np.uint32))
            activations.append(entries.activation[at_E])
            effects.append(effects_of(Entries(*(column[at_E] for column in entries)), writes_nd, gradients))
            progress.add(end - progress.done)
        progress.add(len(latents.counts_n) - progress.done)
    begin_C = np.concatenate([[0], np.cumsum(counts_C)])
    return Contexts(*chosen, begin_C, np.concatenate(positions), np.concatenate(activations), np.concatenate(effects))


def choose(fragments: pa.Table, number_SP: Int[np.ndarray, "S P"]) -> Chosen:
    """Which fragments are shown."""
    kind_G = fragments["kind"].to_numpy()
    feature_G, rank_G, row_G, start_G, maximum_G = (
        fragments[name].to_numpy() for name in ("feature", "rank", "row", "start", "maximum")
    )
    which = {
        "top": rank_G < SHOWN,
        "interval": rank_G % PER_TENTH == 0,
        "random": rank_G < RANDOM,
    }
    at = [np.flatnonzero((kind_G == kind) & which[kind]) for kind in KINDS]
    number = np.repeat(np.arange(len(KINDS)), [len(some) for some in at])
    shown = np.concatenate(at)
    order = np.lexsort((rank_G[shown], number, feature_G[shown]))
    shown, number = shown[order], number[order]
    window = number_SP[row_G[shown], start_G[shown]]
    return Chosen(feature_G[shown], number, rank_G[shown], window, maximum_G[shown])


def tokens_of(
    chosen: Chosen, mine: slice, entries: Entries, number_SP: Int[np.ndarray, "S P"]
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " E"]]:
    """How many entries each of these contexts has, and which, one context after another."""
    window_E = number_SP[entries.row, entries.position]
    inside = np.flatnonzero(window_E >= 0)
    windows = int(number_SP.max()) + 1
    # In ascending order, as entries are sorted by feature and place, and windows are numbered by their place.
    key_E = entries.latent[inside] * windows + window_E[inside]
    key_C = chosen.feature_C[mine] * windows + chosen.window_C[mine]
    begin_C, end_C = np.searchsorted(key_E, key_C, "left"), np.searchsorted(key_E, key_C, "right")
    counts_C = end_C - begin_C
    offset_C = np.cumsum(counts_C) - counts_C
    return counts_C, inside[np.repeat(begin_C - offset_C, counts_C) + np.arange(counts_C.sum())]


def effects_of(entries: Entries, writes_nd: Float[Tensor, "n d"], gradients: LossGradients) -> Float[np.ndarray, " E"]:
    """−f (w · g) of each entry."""
    effect_E = np.empty(len(entries.latent), np.float32)
    for start in range(0, len(effect_E), TOKENS_AT_ONCE):
        some = slice(start, start + TOKENS_AT_ONCE)
        g_Ed = gradients.at(entries.row[some], entries.position[some])
        w_Ed = writes_nd[torch.from_numpy(entries.latent[some])]
        effect_E[some] = -entries.activation[some].astype(np.float32) * (w_Ed * g_Ed).sum(1).numpy()
    return effect_E
