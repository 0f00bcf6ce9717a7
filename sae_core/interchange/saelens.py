"""SAELens (Bloom et al.), format of version 6: `cfg.json` and `sae_weights.safetensors`.

    tensors     W_enc [d, n], W_dec [n, d], b_dec [d] and by architecture
                standard, topk    b_enc [n]
                jumprelu          b_enc [n], threshold [n]
                gated             b_gate, b_mag, r_mag [n]
                transcoder        b_enc [n]; W_dec [n, o], b_dec [o]; skip_transcoder: W_skip [o, d]

    cfg         architecture, d_in, d_sae, dtype, k for topk, d_out for transcoders, and what changes the function:
                apply_b_dec_to_input            false: codes are read from x and not from x − b_dec
                rescale_acts_by_decoder_norm    topk: codes are measured and chosen in units of ‖W_dec row‖
                normalize_activations           anything but "none" is an error here: see `_check_no_normalization`
                metadata                        model_name, hook_name, context_size, prepend_bos, dataset_path

BatchTopK and Matryoshka are saved as what they are at inference, jumprelu with one threshold; that is how they are
read, too. A transcoder there has a ReLU and no k: it is read as one with k = n, and no other can be written.

Before version 6 the metadata stood beside the rest, `hook_point` was `hook_name`, and TopK was a standard SAE with the
activation function "topk". SAELens takes a cfg without `sae_lens_version` for such a one and drops its `metadata`.

Coefficients of the training loss are in none of the files; they are read as 0.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.architectures import BatchTopK, Gated, JumpReLU, MatryoshkaBatchTopK, ReLU, TopK, Transcoder
from sae_core.dictionary import Dictionary
from sae_core.interchange.files import ForeignConfig, ForeignWeights, as_saved, write_directory, write_json
from sae_core.interchange.folding import applied, filled, untied
from sae_core.interchange.provenance import Provenance

NAME = "saelens"
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
VERSION = "6.54.12"


def read(directory: Path) -> Dictionary:
    """The dictionary in `directory`. Raises ValueError naming the file and the key where it cannot be read exactly."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    weights = ForeignWeights.read_safetensors(directory / WEIGHTS_FILE)
    architecture = _architecture(config)
    _check_no_normalization(config)
    d_in, n = config.whole("d_in"), config.whole("d_sae")
    if architecture in ("transcoder", "skip_transcoder"):
        return _read_transcoder(config, weights, d_in, n, skip=architecture == "skip_transcoder")

    W_enc_nd = weights.take("W_enc", d_in, n).T
    W_dec_nd, b_dec_d = weights.take("W_dec", n, d_in), weights.take("b_dec", d_in)
    W_dec_nd = W_dec_nd * _finetuned_scale_n(config, weights, n)[:, None]
    shift_n = torch.zeros(n) if config.flag("apply_b_dec_to_input", True) else applied(W_enc_nd, b_dec_d)
    shared = {"W_dec_nd": W_dec_nd, "b_dec_d": b_dec_d}
    if architecture == "gated":
        r_mag_n = weights.take("r_mag", n)
        return filled(
            Gated(d_in, n, l1_coefficient=0.0),
            W_enc_nd=W_enc_nd,
            b_enc_n=weights.take("b_gate", n) + shift_n,
            r_mag_n=r_mag_n,
            b_mag_n=weights.take("b_mag", n) + r_mag_n.exp() * shift_n,
            **shared,
        )
    shared |= {"W_enc_nd": W_enc_nd, "b_enc_n": weights.take("b_enc", n) + shift_n}
    if architecture == "standard":
        return filled(ReLU(d_in, n, l1_coefficient=0.0), **shared)
    if architecture == "jumprelu":
        return filled(JumpReLU(d_in, n, coefficient=0.0), threshold_n=weights.take("threshold", n), **shared)
    if config.flag("rescale_acts_by_decoder_norm", False):
        norm_n = W_dec_nd.norm(dim=1).clamp_min(1e-8)
        shared["W_enc_nd"] = W_enc_nd * norm_n[:, None]
        shared["b_enc_n"] = shared["b_enc_n"] * norm_n
        shared["W_dec_nd"] = W_dec_nd / norm_n[:, None]
    k_key = "k" if config.get("activation_fn_kwargs.k") is None else "activation_fn_kwargs.k"  # before version 6
    return filled(TopK(d_in, n, k=config.whole(k_key, most=n)), **shared)


def read_provenance(directory: Path) -> Provenance:
    """What cfg.json says of where the dictionary comes from."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    inside = "metadata." if isinstance(config.get("metadata"), dict) else ""
    prepend_bos = config.get(f"{inside}prepend_bos")
    return Provenance(
        model_name=config.text(f"{inside}model_name"),
        hook_name=config.text(f"{inside}hook_name") or config.text("hook_point"),
        context_size=config.number(f"{inside}context_size"),
        prepend_bos=prepend_bos if isinstance(prepend_bos, bool) else None,
        dataset=config.text(f"{inside}dataset_path"),
    )


def write(dictionary: Dictionary, directory: Path, provenance: Provenance) -> None:
    """Write `dictionary` into the new directory `directory`. Raises ValueError for what SAELens does not have."""
    dictionary = untied(dictionary)
    if type(dictionary) not in WRITERS:
        held = ", ".join(sorted(cls.method for cls in WRITERS))
        raise ValueError(f"SAELens has no {dictionary.method} dictionaries; it has {held}")
    own, tensors = WRITERS[type(dictionary)](dictionary)
    hook_name = provenance.hook_name
    config = {
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        # SAELens hands over hook_z as [..., heads, d_head] unless it is told to join the heads.
        "reshape_activations": "hook_z" if hook_name and hook_name.endswith("hook_z") else "none",
        **own,
        "metadata": {
            "sae_lens_version": VERSION,
            "model_name": provenance.model_name,
            "hook_name": hook_name,
            "context_size": provenance.context_size,
            "prepend_bos": provenance.prepend_bos,
            "dataset_path": provenance.dataset,
        },
    }

    def fill(place: Path) -> None:
        save_file(as_saved(tensors), place / WEIGHTS_FILE)
        write_json(place / CONFIG_FILE, config)

    write_directory(directory, fill)


def _write_relu(it: ReLU) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"architecture": "standard"}, _shared(it) | {"b_enc": it.b_enc_n}


def _write_topk(it: TopK) -> tuple[dict[str, Any], dict[str, Tensor]]:
    own = {"architecture": "topk", "k": it.k, "rescale_acts_by_decoder_norm": False}
    return own, _shared(it) | {"b_enc": it.b_enc_n}


def _write_gated(it: Gated) -> tuple[dict[str, Any], dict[str, Tensor]]:
    biases = {"b_gate": it.b_enc_n, "b_mag": it.b_mag_n, "r_mag": it.r_mag_n}
    return {"architecture": "gated"}, _shared(it) | biases


def _write_jumprelu(it: JumpReLU) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"architecture": "jumprelu"}, _shared(it) | {"b_enc": it.b_enc_n, "threshold": it.threshold_n}


def _write_batch_topk(it: BatchTopK) -> tuple[dict[str, Any], dict[str, Tensor]]:
    threshold_n = it.threshold.expand(it.n_features)
    return {"architecture": "jumprelu"}, _shared(it) | {"b_enc": it.b_enc_n, "threshold": threshold_n}


def _write_transcoder(it: Transcoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if it.k != it.n_features:
        raise ValueError(
            f"SAELens' transcoders have a ReLU and no k, this one has k={it.k} of {it.n_features}. "
            "The sparsify format has transcoders with k"
        )
    tensors = _shared(it) | {"b_enc": it.b_enc_n - applied(it.W_enc_nd, it.center_d)}
    own = {"architecture": "transcoder", "d_out": it.d_out, "apply_b_dec_to_input": False}
    if it.W_skip_od is not None:
        own["architecture"] = "skip_transcoder"
        tensors |= {"W_skip": it.W_skip_od, "b_dec": it.b_dec_d - applied(it.W_skip_od, it.center_d)}
    return own, tensors


WRITERS: dict[type[Dictionary], Callable[[Any], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    ReLU: _write_relu,
    TopK: _write_topk,
    Gated: _write_gated,
    JumpReLU: _write_jumprelu,
    BatchTopK: _write_batch_topk,
    MatryoshkaBatchTopK: _write_batch_topk,
    Transcoder: _write_transcoder,
}


def _shared(it: Any) -> dict[str, Tensor]:
    return {"W_enc": it.W_enc_nd.T, "W_dec": it.W_dec_nd, "b_dec": it.b_dec_d}


def _architecture(config: ForeignConfig) -> str:
    name = "standard" if config.get("architecture") is None else config.get("architecture")
    function = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if function == "topk" and name == "standard":
        return "topk"
    supported = ("standard", "topk", "jumprelu", "gated", "transcoder", "skip_transcoder")
    if name not in supported:
        raise config.error("architecture", f"one of {', '.join(supported)}")
    if function != "relu" and name != "topk":
        raise ValueError(f"{config.file}: the activation function {function!r} cannot be read, only relu and topk")
    return name


def _check_no_normalization(config: ForeignConfig) -> None:
    value = config.get("normalize_activations")
    if value in (None, False, "none"):
        return
    if value in ("layer_norm", "constant_norm_rescale"):
        why = "it scales every row by its own norm, which weights cannot do; set to none, it is for rows scaled so"
    else:
        why = "its factors are not in the file: fold them in with SAELens (fold_activation_norm_scaling_factor) first"
    raise ValueError(f"{config.file}: normalize_activations is {value!r}, and only none can be read: {why}")


def _finetuned_scale_n(config: ForeignConfig, weights: ForeignWeights, n: int) -> Tensor:
    """What versions before 6 multiplied codes with before decoding."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights.tensors:
            scale_n = weights.take(name, n)
            if not config.flag("finetuning_scaling_factor", False) and not (scale_n == 1).all():
                raise ValueError(f"{weights.file} holds a {name} that {config.file.name} says is not in use")
            return scale_n
    return torch.ones(n)


def _read_transcoder(config: ForeignConfig, weights: ForeignWeights, d_in: int, n: int, skip: bool) -> Dictionary:
    d_out = config.whole("d_out")
    tensors = {
        "W_enc_nd": weights.take("W_enc", d_in, n).T,
        "b_enc_n": weights.take("b_enc", n),
        "W_dec_nd": weights.take("W_dec", n, d_out),
        "b_dec_d": weights.take("b_dec", d_out),
    }
    if skip:
        tensors["W_skip_od"] = weights.take("W_skip", d_out, d_in)
    return filled(Transcoder(d_in, n, k=n, d_out=d_out, skip=skip), **tensors)
