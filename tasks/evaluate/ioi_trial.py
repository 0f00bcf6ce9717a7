"""Prompts and their counterfactuals, and what the model does with the codes of some features moved to the latter.

At all positions of a prompt the codes of the features F become those of its counterfactual, and the error stays:

    x' = x + Σ_{j ∈ F} (c'_j − c_j) w_j

With z what the model then predicts behind the prompt, and y what it predicts behind the counterfactual:

    kl            KL(z ‖ y)
    difference    logit(name in the counterfactual) − logit(name in the prompt), both of the indirect object
    edit          ‖x − x'‖, mean over the positions of the prompt

Shapes: C sets of features, S prompts, P positions, d activation width, n features, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.attribution import indirect_effects, integrated_gradient
from sae_core.dictionary import Dictionary
from sae_core.interventions import patch
from tasks.evaluate.ioi_prompts import Pair
from tasks.patching import Prompts, padded

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

INTEGRATION_STEPS = 5


class Measured(NamedTuple):
    """What sets of features do to each prompt."""

    kl_CS: Float[Tensor, "C S"]
    difference_CS: Float[Tensor, "C S"]
    edit_CS: Float[Tensor, "C S"]


class Trial:
    """Some pairs of prompts, one dictionary. Its methods are for torch.no_grad()."""

    def __init__(
        self,
        bridge: TransformerBridge,
        dictionary: Dictionary,
        writes_nd: Float[Tensor, "n d"],
        hook_point: str,
        drawn: Sequence[Pair],
    ) -> None:
        self.drawn, self.writes_nd = drawn, writes_nd
        end_of_text = drawn[0].tokens[0]
        tokens_SP, last_S, own_SP = padded([pair.tokens for pair in drawn], filler=end_of_text)
        other_SP, _, _ = padded([pair.other_tokens for pair in drawn], filler=end_of_text)
        self.prompts = Prompts(bridge, tokens_SP, hook_point, last_S)
        others = Prompts(bridge, other_SP, hook_point, last_S)

        device = self.prompts.clean_SPd.device
        codes_SPn, other_codes_SPn = (
            dictionary.encode(there.clean_SPd.to(dictionary.weight.dtype)).float() for there in (self.prompts, others)
        )
        self.own_SP = torch.from_numpy(own_SP).to(device)
        self.change_SPn = (other_codes_SPn - codes_SPn) * self.own_SP[..., None]
        self.changed_Sn = (self.change_SPn != 0).any(1)
        """Which features patching would change."""

        names = [(pair.indirect_object, pair.subject, pair.other_name) for pair in drawn]
        self.old_S, self.subject_S, self.new_S = torch.tensor(names, device=device).unbind(1)
        self.target_SV = others.clean_logits_SV.log_softmax(-1)
        clean_SV = self.prompts.clean_logits_SV
        self.kl_S = self._kl(clean_SV)
        self.difference_S = self._difference(clean_SV)
        self.target_difference_S = self._difference(others.clean_logits_SV)
        self.preference_S = _of(clean_SV, self.old_S) - _of(clean_SV, self.subject_S)
        """By how much the model prefers the indirect object to the subject."""

    def measure(self, patched_CSn: Bool[Tensor, "C S n"]) -> Measured:
        """What patching these features of each prompt does, one set after the other."""
        x_CSPd = torch.stack([self.patched(patched_Sn) for patched_Sn in patched_CSn])
        logits_CSV = self.prompts.logits(x_CSPd)
        edit_CS = torch.stack([self.edit(x_SPd) for x_SPd in x_CSPd])
        return Measured(self._kl(logits_CSV), self._difference(logits_CSV), edit_CS)

    def patched(self, patched_Sn: Bool[Tensor, "S n"]) -> Float[Tensor, "S P d"]:
        """x' with these features patched."""
        return patch(self.prompts.clean_SPd, self.change_SPn * patched_Sn[:, None], self.writes_nd)

    def edit(self, x_SPd: Float[Tensor, "S P d"]) -> Float[Tensor, " S"]:
        """How far these activations are from the clean ones."""
        norms_SP = torch.linalg.vector_norm(x_SPd - self.prompts.clean_SPd, dim=-1)
        return (norms_SP * self.own_SP).sum(-1) / self.own_SP.sum(-1)

    def only(self, features: Int[Tensor, " f"]) -> Bool[Tensor, "S n"]:
        """The same set of features for all prompts."""
        patched_Sn = torch.zeros_like(self.changed_Sn)
        patched_Sn[:, features] = True
        return patched_Sn

    def effects(self) -> Float[Tensor, "S n"]:
        """The integrated effect of each feature on the KL of each prompt, on the line from no feature to all."""

        def kl(x_SPd: Tensor) -> Tensor:
            return self._kl(self.prompts.logits(x_SPd[None])[0]).sum()

        whole_SPd = self.change_SPn @ self.writes_nd
        gradient_SPd = integrated_gradient(kl, self.prompts.clean_SPd, whole_SPd, INTEGRATION_STEPS)
        return indirect_effects(gradient_SPd, self.change_SPn, self.writes_nd).sum(1)

    def recovery(self, difference_CS: Float[Tensor, "C S"]) -> Float[Tensor, " C"]:
        """Which share of the difference that the counterfactual makes is made; not finite where it makes none."""
        clean, target = self.difference_S.mean(), self.target_difference_S.mean()
        return (difference_CS.mean(1) - clean) / (target - clean)

    def _kl(self, logits_CSV: Float[Tensor, "*C S V"]) -> Float[Tensor, "*C S"]:
        log_p = logits_CSV.log_softmax(-1)
        return (log_p.exp() * (log_p - self.target_SV)).sum(-1)

    def _difference(self, logits_CSV: Float[Tensor, "*C S V"]) -> Float[Tensor, "*C S"]:
        return _of(logits_CSV, self.new_S) - _of(logits_CSV, self.old_S)


def _of(logits_CSV: Float[Tensor, "*C S V"], token_S: Int[Tensor, " S"]) -> Float[Tensor, "*C S"]:
    return logits_CSV[..., torch.arange(len(token_S), device=token_S.device), token_S]
