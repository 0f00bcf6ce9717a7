"""Transcoder: from what goes into a layer to what comes out of it (Dunefsky et al. 2024, arXiv 2406.11944).

TopK is its sparsity, and there is the optional linear skip path of Paulo et al. 2025 (arXiv 2501.18823).

    a = W_enc (x − center) + b_enc        f = relu(topk(a, k))        ŷ = f W_dec + b_dec  (+ W_skip (x − center))

    loss = ‖y − ŷ‖² / ‖y − ȳ‖²  +  1/32 · aux        (aux: sae_core.architectures.auxk)

A row to train on is input and target of one token, one after the other: [d + o]. `center` stays 0 in training and
holds the input's mean once normalizations are folded in.

Shapes: B rows, d input width, o output width, n features.
"""

import copy
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.architectures.auxk import AUX_COEFFICIENT
from sae_core.architectures.base import (
    Loss,
    SparseAutoencoder,
    badly_rebuilt,
    reconstruction_error,
    resampled_encoder_norm,
)
from sae_core.architectures.topk import dead_feature_loss, l1, rows_fired, sparse_decode, sparse_encode, topk_codes
from sae_core.dictionary import register
from sae_core.kernels.sparse_codes import largest_of_each_row
from sae_core.normalization import Normalization


@register
class Transcoder(SparseAutoencoder):
    """`directions` are what features write, [n, o]; `forward` takes inputs [*B, d] and gives targets [*B, o].

    `decode` gives the features' part of a target: `forward` adds the skip path, which is read from the input.
    """

    method: ClassVar[str] = "transcoder"
    compares_features: ClassVar[bool] = True
    center_d: Tensor

    def __init__(self, d_in: int, n_features: int, k: int, d_out: int, skip: bool = False):
        super().__init__(d_in, n_features, d_out)
        if d_out < 1:
            raise ValueError(f"{self.method}: d_out={d_out} must be at least 1")
        if not 1 <= k <= n_features:
            raise ValueError(f"{self.method}: k={k} must lie between 1 and n_features={n_features}")
        self.k = k
        self.d_out = d_out
        self.register_buffer("center_d", torch.zeros(d_in))
        self.W_skip_od = nn.Parameter(torch.empty(d_out, d_in)) if skip else None
        self.initialise(torch.Generator().manual_seed(0))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "k": self.k, "d_out": self.d_out, "skip": self.W_skip_od is not None}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        for W in (self.W_enc_nd, self.W_dec_nd):
            W.normal_(generator=generator)
            W.div_(W.norm(dim=1, keepdim=True).clamp_min(1e-8))
        self.b_enc_n.zero_()
        self.b_dec_d.zero_()
        if self.W_skip_od is not None:
            self.W_skip_od.zero_()

    @property
    def encoder_center_d(self) -> Float[Tensor, "d"]:
        return self.center_d

    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        return topk_codes(self.pre_activations(x_Bd), self.k)

    def forward(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B o"]:
        """The predicted target ŷ, the skip path included."""
        return self.decode(self.encode(x_Bd)) + self._skip(x_Bd)

    def _skip(self, x_Bd: Tensor) -> Tensor | float:
        return 0.0 if self.W_skip_od is None else F.linear(x_Bd - self.center_d, self.W_skip_od)

    def split(self, xy_Bw: Float[Tensor, "B d+o"]) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B o"]]:
        """Inputs and targets of rows to train on. Raises ValueError for another width."""
        if xy_Bw.shape[-1] != self.d_in + self.d_out:
            raise ValueError(
                f"{self.method} trains on rows of input and target, {self.d_in} + {self.d_out} wide, "
                f"got shape {list(xy_Bw.shape)}: torch.cat([x, y], dim=1)"
            )
        return xy_Bw[:, : self.d_in], xy_Bw[:, self.d_in :]

    def loss(self, x_Bd: Float[Tensor, "B d+o"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        input_Bd, target_Bo = self.split(x_Bd)
        codes = sparse_encode(self, input_Bd, largest_of_each_row(self.k))
        yhat_Bo = sparse_decode(codes, len(input_Bd), self.W_dec_nd) + self.b_dec_d + self._skip(input_Bd)
        mse, fvu = reconstruction_error(target_Bo, yhat_Bo)
        aux = dead_feature_loss(self, input_Bd, target_Bo - yhat_Bo, dead_n)
        parts = {"mse": mse.detach(), "fvu": fvu.detach(), "l1": l1(codes, len(input_Bd)), "aux": aux.detach()}
        return Loss(fvu + AUX_COEFFICIENT * aux, parts, rows_fired(codes, self.n_features))

    @torch.no_grad()
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d+o"], generator: torch.Generator) -> None:
        input_Bd, target_Bo = self.split(x_Bd)
        yhat_Bo = self(input_Bd)
        rows_D = badly_rebuilt(target_Bo, yhat_Bo, len(dead_D), generator)
        norm = resampled_encoder_norm(self.W_enc_nd, dead_D)
        self.W_enc_nd[dead_D] = norm * F.normalize(input_Bd[rows_D] - self.center_d, dim=1)
        self.W_dec_nd[dead_D] = F.normalize(target_Bo[rows_D] - yhat_Bo[rows_D], dim=1)
        self.b_enc_n[dead_D] = 0

    @torch.no_grad()
    def fold_normalizations(self, of_input: Normalization, of_target: Normalization) -> Self:
        """A new transcoder from raw inputs to raw targets, with codes in units of the target."""
        folded = copy.deepcopy(self)
        folded.center_d.mul_(of_input.scale).add_(of_input.mean_d.to(self.center_d))
        folded.W_enc_nd *= of_target.scale / of_input.scale
        folded.b_enc_n *= of_target.scale
        folded.b_dec_d.mul_(of_target.scale).add_(of_target.mean_d.to(self.b_dec_d))
        if folded.W_skip_od is not None:
            folded.W_skip_od *= of_target.scale / of_input.scale
        return folded

    def fold_normalization(self, mean_d: Float[Tensor, "d"], scale: float) -> Self:
        """Not defined: input and target have each their own; see `fold_normalizations`."""
        raise ValueError(f"{self.method}: input and target are normalised apart; use fold_normalizations")
