"""Crosscoder: one set of features for several layers at once (Lindsey et al. 2024, "Sparse Crosscoders"), with TopK as
its sparsity (Minder et al. 2025, arXiv 2504.02922).

    a = Σ_l W_enc^l (x^l − b_dec^l) + b_enc        f = relu(topk(a, k))        x̂^l = f W_dec^l + b_dec^l

A row is what one token gives at all layers, one after the other: [L·d]. With the sums over layers written as products
over that row this is TopK's own formula, loss and all; a feature's direction is its unit row of L·d numbers, and what
it writes to each layer a part of that. Bring layers to the same scale before training: the loss sums over them.

Shapes: B rows, L layers, d width of one layer, n features; d_in = L·d.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.topk import TopK
from sae_core.dictionary import register
from sae_core.normalization import Normalization


@register
class Crosscoder(TopK):
    """TopK over the activations of `layers` layers; `d_in` counts all of them."""

    method: ClassVar[str] = "crosscoder"

    def __init__(self, d_in: int, n_features: int, k: int, layers: int):
        super().__init__(d_in, n_features, k)
        if layers < 1 or d_in % layers:
            raise ValueError(f"{self.method}: d_in={d_in} does not divide into layers={layers} of the same width")
        self.layers = layers

    def config(self) -> dict[str, Any]:
        return {**super().config(), "layers": self.layers}

    @property
    def layer_directions(self) -> Float[Tensor, "n L d"]:
        """What each feature writes to each layer; the squares of a feature's L norms add up to 1."""
        return self.directions.unflatten(1, (self.layers, -1))

    @property
    def layer_norms(self) -> Float[Tensor, "n L"]:
        """How strongly each feature is in each layer: (1, 0, …) lives in the first alone."""
        return self.layer_directions.norm(dim=2)

    def fold_layers(self, normalizations: Sequence[Normalization]) -> Self:
        """A new crosscoder for raw rows that does exactly what this one does for rows normalised layer by layer.

        Codes stay as they are: layers of different scale leave no common raw unit. Decoder rows get the layers'
        scales and so are no longer of norm 1; `directions` normalises them.
        """
        if len(normalizations) != self.layers:
            raise ValueError(f"{self.method}: {len(normalizations)} normalizations for {self.layers} layers")
        width = self.d_in // self.layers
        folded = self.fold_normalization(torch.zeros(self.d_in), 1.0)
        scale_d = torch.cat([torch.full((width,), it.scale) for it in normalizations]).to(self.b_dec_d)
        mean_d = torch.cat([it.mean_d for it in normalizations]).to(self.b_dec_d)
        with torch.no_grad():
            folded.W_enc_nd /= scale_d
            folded.W_dec_nd *= scale_d
            folded.b_dec_d.mul_(scale_d).add_(mean_d)
        return folded
