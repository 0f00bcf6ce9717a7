"""Tables of what each feature fires on, from its sparse activations (storage.latents).

    fragments     windows of the text in which it fires, that is, in which its largest value is above 0: the 20 with
                  the largest; 20 random ones; and two random ones of each tenth of them, from weak to strong
    histogram     its activations in ten bins of equal width, as many as there are
    coactivation  the ten other features that it is most often active with

What an explanation is made from must not be what it is scored on. So of the top ranks, those in TRAIN are never among
the random ones and those of the tenths, and those in SCORE never among the random ones.

Where codes are negative too (PCA, ICA), a feature is its positive side: the raw values are kept, and rank as they are.

Shapes: E entries, G pairs of a feature and a window in which it fires, S rows of tokens, P positions, n features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sae_core.coactivation import MOST_FEATURES, Coactivation, partners
from storage.latents import Entries, Latents
from storage.seeds import seeded_generator
from tasks.fragment_windows import Windows

TRAIN = (0, 4, 8, 12, 16)
"""The ranks that an explanation is made from (Cunningham et al. 2023)."""

SCORE = (2, 6, 10, 14, 18)
"""The ranks that it is scored on."""

SHOWN = 20
"""Top and random fragments."""

TENTHS = 10
PER_TENTH = 2
BINS = 10
PARTNERS = 10

PAIRS = 1 << 29
"""Pairs of active features that are counted: a few seconds. Codes that are not sparse are counted on random rows."""

DENSE = 64
"""Pairs of a dense matrix product in the time of one of a sparse product, about."""

Columns = dict[str, np.ndarray]


class Peaks(NamedTuple):
    """The largest value of each feature in each window in which it fires, sorted by feature."""

    feature: Int[np.ndarray, " G"]
    window: Int[np.ndarray, " G"]
    maximum: Float[np.ndarray, " G"]


def peaks(entries: Entries, number_SP: Int[np.ndarray, "S P"]) -> Peaks:
    """Of entries that are sorted by feature and place; `number_SP` is the window of each token, −1 for none."""
    window_E = number_SP[entries.row, entries.position]
    inside = window_E >= 0
    feature_E, window_E = entries.latent[inside], window_E[inside]
    value_E = entries.activation[inside].astype(np.float32)
    first = np.flatnonzero((np.diff(feature_E, prepend=-1) != 0) | (np.diff(window_E, prepend=-1) != 0))
    if not len(first):
        return Peaks(feature_E, window_E, value_E)
    maximum_G = np.maximum.reduceat(value_E, first)
    fires = first[maximum_G > 0]
    return Peaks(feature_E[fires], window_E[fires], maximum_G[maximum_G > 0])


def fragments(found: Peaks, windows: Windows, generator: torch.Generator) -> Columns:
    """The fragments of the module's head. `rank` is by maximum; of random ones in the order of the draw; of those of
    the tenths from weak to strong, PER_TENTH of each."""
    feature_G, window_G, maximum_G = found
    luck_G = torch.rand(len(feature_G), generator=generator, dtype=torch.float64).numpy()
    rank_G = ranks(feature_G, -maximum_G, window_G)

    random = np.flatnonzero(~np.isin(rank_G, TRAIN + SCORE))
    draw_R = ranks(feature_G[random], luck_G[random])

    scored = np.flatnonzero(~np.isin(rank_G, TRAIN))
    feature_I = feature_G[scored]
    tenth_I = ranks(feature_I, maximum_G[scored], window_G[scored]) * TENTHS
    tenth_I //= np.bincount(feature_I, minlength=1)[feature_I]
    draw_I = ranks(feature_I * TENTHS + tenth_I, luck_G[scored])

    kinds = {
        "top": (np.arange(len(rank_G)), rank_G, rank_G < SHOWN),
        "random": (random, draw_R, draw_R < SHOWN),
        "interval": (scored, tenth_I * PER_TENTH + draw_I, draw_I < PER_TENTH),
    }
    at = np.concatenate([which[shown] for which, _, shown in kinds.values()])
    window = window_G[at]
    columns = {
        "feature": feature_G[at],
        "kind": np.concatenate([np.full(shown.sum(), kind) for kind, (*_, shown) in kinds.items()]),
        "rank": np.concatenate([rank[shown] for _, rank, shown in kinds.values()]),
        "row": windows.row[window],
        "start": windows.start[window],
        "maximum": maximum_G[at],
    }
    order = np.lexsort((columns["rank"], columns["kind"], columns["feature"]))
    return {name: values[order] for name, values in columns.items()}


def ranks(group_G: Int[np.ndarray, " G"], *keys: np.ndarray) -> Int[np.ndarray, " G"]:
    """The place of each entry within its group, in ascending order of the keys, the first of which counts most."""
    order = np.lexsort((*reversed(keys), group_G))
    starts = np.flatnonzero(np.diff(group_G[order], prepend=-1))
    rank_G = np.empty(len(order), np.int64)
    rank_G[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return rank_G


def histogram(entries: Entries) -> Columns:
    """Counts of the activations of each feature that has any."""
    first = np.flatnonzero(np.diff(entries.latent, prepend=-1))
    feature_F = entries.latent[first]
    if not len(first):
        return {name: np.zeros(0, np.int64) for name in ("feature", "low", "high", "activations")}
    value_E = entries.activation.astype(np.float64)
    low_F, high_F = np.minimum.reduceat(value_E, first), np.maximum.reduceat(value_E, first)
    width_F = np.where(high_F > low_F, (high_F - low_F) / BINS, 1)
    of_E = np.repeat(np.arange(len(first)), np.diff(first, append=len(value_E)))
    bin_E = np.minimum((value_E - low_F[of_E]) / width_F[of_E], BINS - 1).astype(np.int64)
    edge_FB = low_F[:, None] + width_F[:, None] * np.arange(BINS)
    return {
        "feature": np.repeat(feature_F, BINS),
        "low": edge_FB.ravel(),
        "high": (edge_FB + width_F[:, None]).ravel(),
        "activations": np.bincount(of_E * BINS + bin_E, minlength=len(first) * BINS),
    }


def coactivation(latents: Latents, kept_SP: Bool[np.ndarray, "S P"], seed: int) -> Columns:
    """The partners of each feature that is active with any, among the rows that were encoded (`kept_SP`).

    φ is NaN for a feature that is active on every row.
    """
    n, positions = len(latents.counts_n), kept_SP.shape[1]
    l0_T = np.zeros(kept_SP.size, np.int64)
    for part in latents.parts():
        l0_T += np.bincount(part.row * positions + part.position, minlength=len(l0_T))
    places = np.flatnonzero(kept_SP)
    places = places[torch.randperm(len(places), generator=seeded_generator("coactivation", seed)).numpy()]
    dense = n <= MOST_FEATURES and n**2 * len(places) < DENSE * (l0_T[places] ** 2).sum()
    costs = np.full(len(places), n**2 / DENSE) if dense else l0_T[places] ** 2
    places = places[: max(1, np.searchsorted(np.cumsum(costs), PAIRS))]

    active_Tn = _active(latents, places, kept_SP.shape)
    active_n = torch.from_numpy(np.bincount(active_Tn.indices, minlength=n)).double()
    columns: dict[str, list[np.ndarray]] = {}
    for first, counts_bn in _dense_counts(active_Tn) if dense else _sparse_counts(active_Tn):
        found = partners(counts_bn, first, active_n, len(places), PARTNERS)
        at, k = (found.both > 0).nonzero(as_tuple=True)
        told = {
            "feature": at + first,
            "other": found.feature[at, k],
            "rows": found.both[at, k].long(),
            "jaccard": found.jaccard[at, k],
            "phi": found.phi[at, k],
        }
        for name, values in told.items():
            columns.setdefault(name, []).append(values.numpy())
    return {name: np.concatenate(values) for name, values in columns.items()}


def _active(latents: Latents, places: np.ndarray, shape: tuple[int, int]) -> Any:
    """Which features are active in these places: a sparse matrix of scipy, [places, n]."""
    from scipy import sparse  # a second, for those who need it

    index_T = np.full(shape[0] * shape[1], -1, np.int32)
    index_T[places] = np.arange(len(places))
    rows, columns = [], []
    for part in latents.parts():
        index_E = index_T[part.row * shape[1] + part.position]
        rows.append(index_E[index_E >= 0])
        columns.append(part.latent[index_E >= 0].astype(np.int32))
    where = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(where[0]), np.float32)
    return sparse.coo_matrix((ones, where), (len(places), len(latents.counts_n))).tocsr()


def _sparse_counts(active_Tn: Any) -> Iterator[tuple[int, torch.Tensor]]:
    transposed_nT = active_Tn.T.tocsr()
    block = 512
    for first in range(0, active_Tn.shape[1], block):
        counts_bn = (transposed_nT[first : first + block] @ active_Tn).toarray()
        yield first, torch.from_numpy(counts_bn).double()


def _dense_counts(active_Tn: Any) -> Iterator[tuple[int, torch.Tensor]]:
    pairs = Coactivation(active_Tn.shape[1])
    for start in range(0, active_Tn.shape[0], 4096):
        pairs.update(torch.from_numpy(active_Tn[start : start + 4096].toarray()))
    yield 0, pairs.counts_nn
