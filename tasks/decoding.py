"""Many texts continued at once, a token at a time, by a model that remembers what it has read.

A loop of our own over a Hugging Face model, so that on a CPU most of the time goes into its matrix products: keys and
values are kept in buffers of the full length from the beginning (joining them anew for every token takes twice as long
as those products), only the last position's logits are computed, and the query heads that share keys are multiplied
with them as one small matrix (with the fused kernel of `sdpa` a token takes a third longer: benchmarks/samples.py).

Texts that have begun differently far are no trouble, and need no padding: they are read together, token by token, and
what a text has of its own comes before what the model says.

Shapes: B texts, V vocabulary, H query heads, K heads of keys and values, N positions, D head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tasks.errors import ExperimentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "saeflow_grouped"
NOISE = 0.1  # relative difference of logits that are computed in two ways; that of bfloat16 is 0.01


class Decoder:
    """The state of B texts; `read` takes their next tokens and tells what the model expects behind them."""

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        from transformers import StaticCache

        _choose_attention(model)
        self.model = model
        self.cache = StaticCache(config=model.config, max_cache_len=length)

    def read(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        # As an index: a slice is not contiguous, and is multiplied with a copy of the unembedding for each text.
        last = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
        with torch.inference_mode():
            output: Any = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=last)
            return output.logits[:, -1]

    def keep(self, texts: Int[Tensor, " B"]) -> None:
        """Forget all texts but these."""
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[texts], layer.values[texts]


def check_decoding(model: PreTrainedModel, name: str) -> None:
    """See that the model can be read token by token.

    Raises:
        ExperimentError: it cannot, as one that looks ahead (BERT) or one whose memory is of another kind (Mamba).
    """
    length = 16
    vocabulary: int = model.get_input_embeddings().num_embeddings  # pyright: ignore[reportAssignmentType]
    tokens = torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(0)).to(model.device)
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % vocabulary
    try:
        decoder = Decoder(model, length)
        stepwise = decoder.read(tokens[:, : length // 2])
        decoder.keep(torch.arange(2, device=model.device))
        for position in range(length // 2, length):
            stepwise = decoder.read(tokens[:, position : position + 1])
        with torch.inference_mode():
            at_once, with_other_end = (model(read, use_cache=False).logits.float() for read in (tokens, other))
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExperimentError(f"{name} cannot write samples: it is not read token by token ({reason}).") from error
    if (at_once - with_other_end)[:, :-1].abs().max() > NOISE * at_once.std():
        raise ExperimentError(f"{name} cannot write samples: it looks ahead, and what is ahead is yet to be written.")
    if (stepwise - at_once[:, -1]).norm() > NOISE * at_once[:, -1].norm():
        raise ExperimentError(
            f"{name} cannot write samples: read token by token it says something else than read at once."
        )


def _choose_attention(model: PreTrainedModel) -> None:
    """Our attention where the model takes any kind at all, and its own elsewhere."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, _grouped_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def _grouped_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B K N D"],
    value: Float[Tensor, "B K N D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Attention of one query to what was read before it; anything else is left to transformers."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    special = any(others.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    if query.shape[2] > 1 or attention_mask is None or attention_mask.dtype != torch.bool or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    n_texts, n_heads, _, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    query_BKGD = query.reshape(n_texts, key.shape[1], -1, width) * scale
    scores_BKGN = (query_BKGD @ key.transpose(2, 3)).masked_fill_(~attention_mask, float("-inf"))
    return (scores_BKGN.softmax(-1) @ value).reshape(n_texts, 1, n_heads, -1), None
