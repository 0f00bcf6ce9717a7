"""Which next tokens the direction of each feature promotes and suppresses: the logit lens, over a whole dictionary.

The lens is that of tasks.evaluate.logit_effects: what the final norm and the unembedding make of a feature's direction.
It reads directions of the residual stream alone.

Shapes: n features, b features of a block, d activation width, k tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.evaluate.logit_effects import logit_lenses
from tasks.patching import PREDICTIONS_PER_PASS
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHOWN = 10
"""Tokens of each feature, of either kind."""


class Favoured(NamedTuple):
    """The tokens of each feature with the largest or smallest logits, those first."""

    token_nk: Int[np.ndarray, "n k"]
    logit_nk: Float[np.ndarray, "n k"]


class Lens(NamedTuple):
    """What the directions of a dictionary favour."""

    promoted: Favoured
    suppressed: Favoured


@torch.no_grad()
def read_lens(bridge: TransformerBridge, writes_nd: Float[Tensor, "n d"], vocabulary: int) -> Lens:
    """The tokens of every feature.

    Args:
        vocabulary: tokens that the tokenizer has; some models have logits for more, which are no text.
    """
    per_pass = max(1, PREDICTIONS_PER_PASS // int(bridge.cfg.d_vocab))
    found: tuple[list[tuple[Tensor, Tensor]], ...] = [], []
    with Progress("logit lens", len(writes_nd), "features") as progress:
        for w_bd in writes_nd.split(per_pass):
            logit_bV = logit_lenses(bridge, w_bd)[:, :vocabulary]
            for parts, largest in zip(found, (True, False), strict=True):
                logit_bk, token_bk = logit_bV.topk(min(SHOWN, logit_bV.shape[1]), dim=1, largest=largest)
                parts.append((token_bk.cpu(), logit_bk.cpu()))
            progress.add(len(w_bd))
    return Lens(*(Favoured(*(torch.cat(parts).numpy() for parts in zip(*some, strict=True))) for some in found))
