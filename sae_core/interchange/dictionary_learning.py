"""dictionary_learning (Marks, Karvonen, Mueller), version 0.1: `ae.pt`, a flat state dict, and `config.json`.

    trainer.dict_class       tensors; weights of nn.Linear are [out, in], W_* the other way round
    AutoEncoder              encoder.weight [n, d], encoder.bias [n], decoder.weight [d, n], bias [d]
    AutoEncoderNew           encoder.weight, encoder.bias, decoder.weight, decoder.bias [d]
    GatedAutoEncoder         encoder.weight, decoder.weight, decoder_bias [d], gate_bias, mag_bias, r_mag [n]
    AutoEncoderTopK          encoder.weight, encoder.bias, decoder.weight, b_dec, k, threshold
    BatchTopKSAE             the same; threshold is that of inference, negative as long as it is not known
    MatryoshkaBatchTopKSAE   W_enc [d, n], b_enc, W_dec [n, d], b_dec, k, threshold, group_sizes (adding up to n)
    JumpReluAutoEncoder      W_enc, b_enc, W_dec, b_dec, threshold [n]

AutoEncoderNew and JumpReluAutoEncoder read codes from x, the others from x − bias. The loader of AutoEncoder brings
decoder columns to norm 1, which changes codes and not the function.

config.json: trainer {dict_class, activation_dim, dict_size, k, lm_name, layer, submodule_name}, buffer {ctx_len}.
Coefficients of the training loss are not in the files; they are read as 0.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.architectures import BatchTopK, Gated, JumpReLU, MatryoshkaBatchTopK, ReLU, TopK
from sae_core.dictionary import Dictionary
from sae_core.interchange.files import ForeignConfig, ForeignWeights, as_saved, write_directory, write_json
from sae_core.interchange.folding import applied, filled, untied
from sae_core.interchange.provenance import Provenance

NAME = "dictionary_learning"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"


def read(directory: Path) -> Dictionary:
    """The dictionary in `directory`. Raises ValueError naming the file and the key where it cannot be read exactly."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    weights = ForeignWeights.read_torch(directory / WEIGHTS_FILE)
    name = config.get("trainer.dict_class")
    if not isinstance(name, str) or name not in READERS:
        raise config.error("trainer.dict_class", f"one of {', '.join(READERS)}")
    return READERS[name](config, weights, config.whole("trainer.activation_dim"), config.whole("trainer.dict_size"))


def read_provenance(directory: Path) -> Provenance:
    """What config.json says of where the dictionary comes from."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    name = config.text("trainer.submodule_name") or ""
    return Provenance(
        model_name=config.text("trainer.lm_name"),
        hook_name=name if name.startswith("blocks.") else None,  # others name modules in ways of their own
        context_size=config.number("buffer.ctx_len"),
    )


def write(dictionary: Dictionary, directory: Path, provenance: Provenance) -> None:
    """Write `dictionary` into the new directory `directory`. Raises ValueError for what dictionary_learning does not
    have."""
    dictionary = untied(dictionary)
    if type(dictionary) not in WRITERS:
        held = ", ".join(sorted(cls.method for cls in WRITERS))
        raise ValueError(f"dictionary_learning has no {dictionary.method} dictionaries; it has {held}")
    name, tensors = WRITERS[type(dictionary)](dictionary)
    config = {
        "trainer": {
            "trainer_class": "saeflow",
            "dict_class": name,
            "activation_dim": dictionary.d_in,
            "dict_size": dictionary.n_features,
            **({"k": int(tensors["k"])} if "k" in tensors else {}),
            "lm_name": provenance.model_name or "",  # SAELens' loader splits it
            "layer": provenance.layer,
            "submodule_name": provenance.hook_name,
        },
        "buffer": {"ctx_len": provenance.context_size},
    }

    def fill(place: Path) -> None:
        torch.save(as_saved(tensors), place / WEIGHTS_FILE)
        write_json(place / CONFIG_FILE, config)

    write_directory(directory, fill)


def _read_relu(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _linear(weights, d_in, n) | {"b_dec_d": weights.take("bias", d_in)}
    return filled(ReLU(d_in, n, l1_coefficient=0.0), **tensors)


def _read_relu_of_x(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _linear(weights, d_in, n) | {"b_dec_d": weights.take("decoder.bias", d_in)}
    return filled(ReLU(d_in, n, l1_coefficient=0.0), **_reading_x(tensors))


def _read_gated(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = {
        "W_enc_nd": weights.take("encoder.weight", n, d_in),
        "b_enc_n": weights.take("gate_bias", n),
        "r_mag_n": weights.take("r_mag", n),
        "b_mag_n": weights.take("mag_bias", n),
        "W_dec_nd": weights.take("decoder.weight", d_in, n).T,
        "b_dec_d": weights.take("decoder_bias", d_in),
    }
    return filled(Gated(d_in, n, l1_coefficient=0.0), **tensors)


def _read_topk(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _linear(weights, d_in, n) | {"b_dec_d": weights.take("b_dec", d_in)}
    return filled(TopK(d_in, n, k=config.whole("trainer.k", most=n)), **tensors)


def _read_batch_topk(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _linear(weights, d_in, n) | {"b_dec_d": weights.take("b_dec", d_in)}
    sae = filled(BatchTopK(d_in, n, k=config.whole("trainer.k", most=n)), **tensors)
    sae.set_threshold(_threshold(weights))
    return sae


def _read_matryoshka(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _transposed(weights, d_in, n)
    sizes = [int(size) for size in weights.tensors.get("group_sizes", torch.empty(0)).flatten().tolist()]
    if not sizes or min(sizes) < 1 or sum(sizes) != n:
        raise ValueError(f"{weights.file}: group_sizes {sizes} must be positive and add up to dict_size {n}")
    widths = tuple(accumulate(sizes))
    sae = filled(MatryoshkaBatchTopK(d_in, n, config.whole("trainer.k", most=n), widths), **tensors)
    sae.set_threshold(_threshold(weights))
    return sae


def _read_jumprelu(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int) -> Dictionary:
    tensors = _reading_x(_transposed(weights, d_in, n))
    return filled(JumpReLU(d_in, n, coefficient=0.0), threshold_n=weights.take("threshold", n), **tensors)


READERS: dict[str, Callable[[ForeignConfig, ForeignWeights, int, int], Dictionary]] = {
    "AutoEncoder": _read_relu,
    "AutoEncoderNew": _read_relu_of_x,
    "GatedAutoEncoder": _read_gated,
    "AutoEncoderTopK": _read_topk,
    "BatchTopKSAE": _read_batch_topk,
    "MatryoshkaBatchTopKSAE": _read_matryoshka,
    "JumpReluAutoEncoder": _read_jumprelu,
}


def _linear(weights: ForeignWeights, d_in: int, n: int) -> dict[str, Tensor]:
    return {
        "W_enc_nd": weights.take("encoder.weight", n, d_in),
        "b_enc_n": weights.take("encoder.bias", n),
        "W_dec_nd": weights.take("decoder.weight", d_in, n).T,
    }


def _transposed(weights: ForeignWeights, d_in: int, n: int) -> dict[str, Tensor]:
    return {
        "W_enc_nd": weights.take("W_enc", d_in, n).T,
        "b_enc_n": weights.take("b_enc", n),
        "W_dec_nd": weights.take("W_dec", n, d_in),
        "b_dec_d": weights.take("b_dec", d_in),
    }


def _reading_x(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Biases of an encoder that takes x − b_dec, from those of one that takes x."""
    return tensors | {"b_enc_n": tensors["b_enc_n"] + applied(tensors["W_enc_nd"], tensors["b_dec_d"])}


def _threshold(weights: ForeignWeights) -> float:
    # Codes are relu(a)·1[relu(a) > θ] there: a negative θ, which stands for none, does what 0 does.
    return max(0.0, float(weights.take("threshold")))


def _write_relu(it: ReLU) -> tuple[str, dict[str, Tensor]]:
    it = it.unit_norm()  # as the loader would, which gives up where its own rounding is large
    return "AutoEncoder", _as_linear(it) | {"encoder.bias": it.b_enc_n, "bias": it.b_dec_d}


def _write_gated(it: Gated) -> tuple[str, dict[str, Tensor]]:
    biases = {"decoder_bias": it.b_dec_d, "r_mag": it.r_mag_n, "gate_bias": it.b_enc_n, "mag_bias": it.b_mag_n}
    return "GatedAutoEncoder", _as_linear(it) | biases


def _write_topk(it: TopK) -> tuple[str, dict[str, Tensor]]:
    biases = {"encoder.bias": it.b_enc_n, "b_dec": it.b_dec_d, "threshold": torch.tensor(-1.0)}
    return "AutoEncoderTopK", _as_linear(it) | biases | {"k": _whole_k(it.k)}


def _write_batch_topk(it: BatchTopK) -> tuple[str, dict[str, Tensor]]:
    biases = {"encoder.bias": it.b_enc_n, "b_dec": it.b_dec_d, "threshold": it.threshold}
    return "BatchTopKSAE", _as_linear(it) | biases | {"k": _whole_k(it.k)}


def _write_matryoshka(it: MatryoshkaBatchTopK) -> tuple[str, dict[str, Tensor]]:
    sizes = torch.tensor([wide - narrow for narrow, wide in pairwise((0, *it.widths))])
    own = {"threshold": it.threshold, "k": _whole_k(it.k), "group_sizes": sizes}
    return "MatryoshkaBatchTopKSAE", _as_transposed(it) | {"b_enc": it.b_enc_n} | own


def _write_jumprelu(it: JumpReLU) -> tuple[str, dict[str, Tensor]]:
    b_enc_n = it.b_enc_n - applied(it.W_enc_nd, it.b_dec_d)
    return "JumpReluAutoEncoder", _as_transposed(it) | {"b_enc": b_enc_n, "threshold": it.threshold_n}


WRITERS: dict[type[Dictionary], Callable[[Any], tuple[str, dict[str, Tensor]]]] = {
    ReLU: _write_relu,
    Gated: _write_gated,
    TopK: _write_topk,
    BatchTopK: _write_batch_topk,
    MatryoshkaBatchTopK: _write_matryoshka,
    JumpReLU: _write_jumprelu,
}


def _as_linear(it: Any) -> dict[str, Tensor]:
    return {"encoder.weight": it.W_enc_nd, "decoder.weight": it.W_dec_nd.T}


def _as_transposed(it: Any) -> dict[str, Tensor]:
    return {"W_enc": it.W_enc_nd.T, "W_dec": it.W_dec_nd, "b_dec": it.b_dec_d}


def _whole_k(k: float) -> Tensor:
    if k != int(k):
        raise ValueError(
            f"dictionary_learning has whole k only, this dictionary has k={k}. The saelens format holds it"
        )
    return torch.tensor(int(k), dtype=torch.int32)
