"""What a feature does to the next token: by ablating it where it fires, and by reading its direction alone.

    ablation      x' = x − f w at one position; log p of every next token there, after − before
    logit lens    what the final norm and the unembedding make of ± w, half the difference: their biases cancel

f is the feature's code there, of either sign, and w what one unit of it writes.

Shapes: S prompts, P positions, b directions, d activation width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.interventions import patch, write
from tasks.patching import TOKENS_PER_PASS, Prompts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

STREAM_SITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Where activations are of the residual stream or added to it, so that the unembedding can read a direction."""


class Ablated(NamedTuple):
    """Means over prompts, on the CPU in float64."""

    change_V: Float[Tensor, " V"]
    """Of log p."""
    before_V: Float[Tensor, " V"]
    """Probability."""
    after_V: Float[Tensor, " V"]

    # Of what is hardly ever predicted, log p changes at random, and most.

    def drops(self, how_many: int) -> list[int]:
        """The tokens that become less likely, the largest change of log p first, of those that were likelier than in a
        draw of any token."""
        change_V = self.change_V.masked_fill(self.before_V < 1 / len(self.before_V), torch.inf)
        return [token for token in change_V.argsort()[:how_many].tolist() if change_V[token] < 0]

    def rises(self, how_many: int) -> list[int]:
        """The tokens that become more likely, of those that are then."""
        return Ablated(-self.change_V, self.after_V, self.before_V).drops(how_many)


@torch.no_grad()
def ablated(
    bridge: TransformerBridge,
    dictionary: Dictionary,
    hook_point: str,
    feature: int,
    tokens_SP: Int[np.ndarray, "S P"],
    at_S: Int[np.ndarray, " S"],
) -> Ablated:
    """Ablate a feature at one position of each prompt, and compare what is predicted there."""
    w_d = write(dictionary, feature)
    totals = torch.zeros(len(Ablated._fields), int(bridge.cfg.d_vocab), dtype=torch.float64)
    per_pass = max(1, TOKENS_PER_PASS // tokens_SP.shape[1])
    for start in range(0, len(tokens_SP), per_pass):
        at = at_S[start : start + per_pass]
        prompts = Prompts(bridge, tokens_SP[start : start + per_pass, : at.max() + 1], hook_point, at)
        places = torch.arange(len(at)), torch.from_numpy(at)
        x_SPd = prompts.clean_SPd.clone()
        x_Sd = x_SPd[places].to(w_d)
        x_SPd[places] = patch(x_Sd, -dictionary.encode(x_Sd)[:, [feature]], w_d[None]).float()
        before_SV, after_SV = (
            logits_SV.log_softmax(-1).double()
            for logits_SV in (prompts.clean_logits_SV, prompts.logits(x_SPd[None])[0])
        )
        sums = [values_SV.sum(0).cpu() for values_SV in (after_SV - before_SV, before_SV.exp(), after_SV.exp())]
        totals += torch.stack(sums)
    return Ablated(*totals / len(tokens_SP))


def logit_lens(bridge: TransformerBridge, hook_point: str, w_d: Float[Tensor, " d"]) -> Float[Tensor, " V"] | None:
    """How much a direction favours each token; None where it is not one of the residual stream."""
    return logit_lenses(bridge, w_d[None])[0].cpu() if in_stream(hook_point) else None


def in_stream(hook_point: str) -> bool:
    """Whether the unembedding can read directions of this hook point."""
    return hook_point.split(".", 2)[2] in STREAM_SITES


@torch.no_grad()
def logit_lenses(bridge: TransformerBridge, w_bd: Float[Tensor, "b d"]) -> Float[Tensor, "b V"]:
    """How much each of these directions of the residual stream favours each token."""
    model: Any = bridge
    norm = getattr(model, "ln_final", lambda x: x)  # some models have none
    unit_1bd = torch.nn.functional.normalize(w_bd.float(), dim=1)[None]
    half_1bd = (norm(unit_1bd) - norm(-unit_1bd)) / 2
    return (model.unembed(half_1bd) - model.unembed(torch.zeros_like(half_1bd[:, :1])))[0].float()
