"""The same function in other weights.

What no peer has a name for is written as the untied autoencoder that it is:

    tied ReLU               f = relu(U (x − center) + b)      x̂ = f U + center              →  ReLU, W_enc = W_dec = U
    rectified basis         f = relu(D (x − center))          x̂ = gain · f D + center       →  ReLU, W_dec = gain · D
    rectified basis with k  f = the k largest of the same                                   →  TopK of the same

An encoder that reads x instead of x − b differs in its bias:  W (x − b) + c = W x + (c − W b).
"""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import ReLU, TiedReLU, TopK
from sae_core.baselines.basis import Basis
from sae_core.baselines.ica import ICA
from sae_core.dictionary import Dictionary

D = TypeVar("D", bound=Dictionary)


def filled(dictionary: D, **tensors: Tensor) -> D:
    """The dictionary with these parameters and buffers, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            getattr(dictionary, name).copy_(tensor)
    return dictionary


def applied(W_nd: Float[Tensor, "n d"], b_d: Float[Tensor, "d"]) -> Float[Tensor, "n"]:
    """W b, summed in float64: means of activations are large, and what is left of them in a bias is small."""
    return (W_nd.double() @ b_d.double()).to(W_nd.dtype)


def untied(dictionary: Dictionary) -> Dictionary:
    """The same function with the same codes as an untied autoencoder; what is none of the above stays as it is.

    Raises ValueError for a basis with signed codes: no peer has features that are negative.
    """
    d_in, n = dictionary.d_in, dictionary.n_features
    if isinstance(dictionary, TiedReLU):
        U_nd = dictionary.directions
        tensors = {"W_enc_nd": U_nd, "b_enc_n": dictionary.b_n, "W_dec_nd": U_nd, "b_dec_d": dictionary.center_d}
        return filled(ReLU(d_in, n, l1_coefficient=dictionary.alpha), **tensors)
    encoder_nd = _encoder_of_basis(dictionary)
    if not isinstance(dictionary, Basis) or encoder_nd is None:
        return dictionary
    if not dictionary.rectify:
        raise ValueError(
            f"this {dictionary.method} has signed codes, and no other library has negative features: "
            "fit it rectified, each direction once with either sign, to export it"
        )
    tensors = {
        "W_enc_nd": encoder_nd,
        "b_enc_n": torch.zeros(n),
        "W_dec_nd": dictionary.gain * dictionary.directions_nd,
        "b_dec_d": dictionary.center_d,
    }
    # The codes are not negative, so the k of largest magnitude are the k largest.
    plain = ReLU(d_in, n, l1_coefficient=0.0) if dictionary.k is None else TopK(d_in, n, k=dictionary.k)
    return filled(plain, **tensors)


def _encoder_of_basis(dictionary: Dictionary) -> Tensor | None:
    """What the codes of a basis are read with, or None where that is no linear map."""
    if isinstance(dictionary, ICA):
        return dictionary.readers_nd
    linear = isinstance(dictionary, Basis) and type(dictionary)._coefficients is Basis._coefficients
    return dictionary.directions if linear else None
