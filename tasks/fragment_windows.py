"""Which fragments of the held-out text are looked at: windows of the token rows that do not overlap.

Rows are cut into windows of equal length. Of the windows that lie within one document, one random one is kept, so that
what is scored is not the text that was explained (Bills et al. 2023; Cunningham et al. 2023); those that join two
documents or more are kept. Windows with a part of a character, which would be U+FFFD, are dropped.

Shapes: S rows of tokens, P positions, L tokens a window, C windows a row, W windows that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from storage.seeds import seeded_generator


class Windows(NamedTuple):
    """Where each window begins."""

    row: Int[np.ndarray, " W"]
    start: Int[np.ndarray, " W"]
    length: int

    def number(self, shape: tuple[int, int]) -> Int[np.ndarray, "S P"]:
        """The window of every token of rows of this shape; −1 where it is in none."""
        number_SP = np.full(shape, -1)
        number_SP[self.row[:, None], self.start[:, None] + np.arange(self.length)] = np.arange(len(self.row))[:, None]
        return number_SP


def cut(
    tokens_SP: Int[np.ndarray, "S P"],
    documents_SP: Int[np.ndarray, "S P"],
    spelling: Mapping[int, bytes],
    length: int,
    seed: int,
) -> Windows:
    """The windows of these rows, in order.

    Args:
        documents_SP: the document of every token.
        spelling: the bytes of each token.
    """
    cells = tokens_SP.shape[1] // length
    documents_VL = documents_SP[:, : cells * length].reshape(-1, length)
    inside = np.flatnonzero((documents_VL == documents_VL[:, :1]).all(1))
    order = inside[torch.randperm(len(inside), generator=seeded_generator("windows", seed)).numpy()]
    _, first = np.unique(documents_VL[order, 0], return_index=True)
    kept = np.ones(len(documents_VL), dtype=bool)
    kept[inside] = False
    kept[order[first]] = True
    for window, tokens in enumerate(tokens_SP[:, : cells * length].reshape(-1, length).tolist()):
        text = b"".join(spelling[token] for token in tokens).decode(errors="replace")
        kept[window] &= "\N{REPLACEMENT CHARACTER}" not in text
    row, cell = np.divmod(np.flatnonzero(kept), cells)
    return Windows(row, cell * length, length)
