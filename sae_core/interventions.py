"""Changes to features, and what becomes of the activations; the reconstruction error is kept.

    x' = x + Σ_{j ∈ F} (f'_j − f_j) w_j        w_j: what decoding adds for one unit of feature j

With F = ∅ this is x itself, whatever the dictionary. With all features of a complete basis, and f' the codes of
another x, it is that other x. What the dictionary does not rebuild stays as it was (Cunningham et al. 2023, section 4).

Shapes: B rows, d activation width, n features.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary

FEATURES_PER_CALL = 1024


@torch.no_grad()
def writes(dictionary: Dictionary) -> Float[Tensor, "n d"]:
    """What one unit of each feature adds to the reconstruction: its direction, in the units of its code."""
    weight = dictionary.weight
    n = dictionary.n_features
    nothing_d = dictionary.decode(torch.zeros(n, dtype=weight.dtype, device=weight.device))
    parts = []
    for start in range(0, n, FEATURES_PER_CALL):
        units = torch.zeros(min(FEATURES_PER_CALL, n - start), n, dtype=weight.dtype, device=weight.device)
        units[:, start:].fill_diagonal_(1)
        parts.append(dictionary.decode(units) - nothing_d)
    return torch.cat(parts)


@torch.no_grad()
def write(dictionary: Dictionary, feature: int) -> Float[Tensor, "d"]:
    """What one unit of a single feature adds to the reconstruction."""
    weight = dictionary.weight
    unit_n = torch.zeros(dictionary.n_features, dtype=weight.dtype, device=weight.device)
    nothing_d = dictionary.decode(unit_n)
    unit_n[feature] = 1
    return dictionary.decode(unit_n) - nothing_d


def patch(
    x_Bd: Float[Tensor, "*B d"], change_Bn: Float[Tensor, "*B n"], writes_nd: Float[Tensor, "n d"]
) -> Float[Tensor, "*B d"]:
    """x' for codes that change by f' − f; where that is zero, x as it was."""
    return x_Bd + change_Bn @ writes_nd


def ablate(
    x_Bd: Float[Tensor, "*B d"], f_Bn: Float[Tensor, "*B n"], feature: int, writes_nd: Float[Tensor, "n d"]
) -> Float[Tensor, "*B d"]:
    """x' with one feature at zero."""
    return x_Bd - f_Bn[..., feature, None] * writes_nd[feature]


def steer(
    x_Bd: Float[Tensor, "*B d"], feature: int, strength: float, directions_nd: Float[Tensor, "n d"]
) -> Float[Tensor, "*B d"]:
    """x' with the feature's unit direction added, `strength` in units of activations."""
    return x_Bd + strength * directions_nd[feature]


def erase(
    x_Bd: Float[Tensor, "*B d"], directions_kd: Float[Tensor, "k d"], center_d: Float[Tensor, "d"]
) -> Float[Tensor, "*B d"]:
    """x' whose component along each of some directions is that of the centre: an orthogonal projection.

    Directions need be neither of unit norm nor orthogonal.
    """
    basis_dk = torch.linalg.qr(directions_kd.T).Q
    return x_Bd - (x_Bd - center_d) @ basis_dk @ basis_dk.T


def keep_only(change_Bn: Float[Tensor, "*B n"], features: Int[Tensor, " f"]) -> Float[Tensor, "*B n"]:
    """The change of these features; all others stay as they are."""
    kept = torch.zeros_like(change_Bn)
    kept[..., features] = change_Bn[..., features]
    return kept
