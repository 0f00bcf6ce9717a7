"""Matryoshka BatchTopK sparse autoencoder (Bussmann et al. 2025, arXiv 2503.17547).

    the first w₁ < w₂ < … < n features each have to rebuild x without the rest:

    loss = mean over i of ‖x − x̂_i‖² / ‖x − x̄‖²  +  1/32 · aux,        x̂_i = f[:w_i] W_dec[:w_i] + b_dec

The codes are BatchTopK's, chosen once among all features. General features settle in the early prefixes, which
keeps them from being split up or absorbed by special ones.

Shapes: B rows, d activation width, n features, G prefixes.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from sae_core.architectures.batch_topk import BatchTopK
from sae_core.architectures.topk import sparse_decode
from sae_core.dictionary import register
from sae_core.kernels.sparse_codes import Codes


@register
class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK whose every prefix in `widths` is an autoencoder; the last width is n_features."""

    method: ClassVar[str] = "matryoshka_batch_topk"

    def __init__(self, d_in: int, n_features: int, k: float, widths: Sequence[int]):
        super().__init__(d_in, n_features, k)
        self.widths = tuple(widths)
        if not self.widths or sorted(set(self.widths)) != list(self.widths) or self.widths[0] < 1:
            raise ValueError(f"{self.method}: widths={list(widths)} must be positive and ascend")
        if self.widths[-1] != n_features:
            raise ValueError(f"{self.method}: the last of widths={list(widths)} must be n_features={n_features}")

    def config(self) -> dict[str, Any]:
        return {**super().config(), "widths": list(self.widths)}

    def _reconstructions(self, codes: Codes, n_rows: int) -> list[Tensor]:
        # Group by group of the features between two widths; adding groups up gives the prefixes.
        prefixes, xhat_Bd = [], self.b_dec_d
        for start, end in itertools.pairwise((0, *self.widths)):
            group_M = (codes.features_M >= start) & (codes.features_M < end)
            values, rows, features = (entry[group_M] for entry in codes)
            xhat_Bd = xhat_Bd + sparse_decode(Codes(values, rows, features - start), n_rows, self.W_dec_nd[start:end])
            prefixes.append(xhat_Bd)
        return prefixes
