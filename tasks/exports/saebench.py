"""A dictionary as a custom SAE of SAEBench (Karvonen et al. 2025): a module that loads alone, and its weights.

SAEBench asks for unit rows of the decoder, so codes are in units of activations. It counts what is positive as active
and writes reconstructions where it read: signed codes, transcoders and crosscoders do not fit.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sae_core.architectures import BatchTopK, Crosscoder, Gated, JumpReLU, ReLU, TopK, Transcoder
from sae_core.architectures.base import SparseAutoencoder
from sae_core.dictionary import Dictionary, load_dictionary
from sae_core.interchange.files import as_saved, write_directory, write_json
from sae_core.interchange.folding import untied
from sae_core.interchange.provenance import Provenance
from tasks.exports import saebench_sae

FITTING = (ReLU, TopK, BatchTopK, JumpReLU, Gated)


def write(source: Path, directory: Path, provenance: Provenance) -> None:
    """Raises ValueError for a dictionary that SAEBench cannot take."""
    dictionary = fitting(load_dictionary(source))
    own, tensors = parts(dictionary)
    hook_name = provenance.hook_name or ""
    if provenance.layer is None or provenance.model_name is None:
        raise ValueError(
            f"SAEBench runs the model up to the layer of the SAE, and the manifest of {source} tells "
            f"the model {provenance.model_name!r} and the hook point {provenance.hook_name!r}. "
            "Export a dictionary of a layer, from the home that it was made in"
        )
    config = {
        "model_name": provenance.model_name,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_features,
        "hook_layer": provenance.layer,
        "hook_name": hook_name,
        "context_size": provenance.context_size,
        "prepend_bos": bool(provenance.prepend_bos),
        "dataset_path": provenance.dataset or "",
        **own,
    }

    def fill(place: Path) -> None:
        save_file(as_saved(tensors), place / saebench_sae.WEIGHTS_FILE)
        write_json(place / saebench_sae.CONFIG_FILE, config)
        shutil.copyfile(Path(saebench_sae.__file__), place / "saebench_sae.py")

    write_directory(directory, fill)


def fitting(dictionary: Dictionary) -> SparseAutoencoder:
    """The same function as an untied autoencoder with unit rows in its decoder.

    Raises ValueError where there is none.
    """
    plain = untied(dictionary)
    if isinstance(plain, Transcoder | Crosscoder):
        raise ValueError(
            f"SAEBench puts a reconstruction where the activations of one hook point were, and a {plain.method} writes "
            "elsewhere, or at several"
        )
    if not isinstance(plain, FITTING):
        raise ValueError(f"SAEBench reads codes of a row with one matrix and a bias, and a {plain.method} does not")
    return plain.unit_norm()


def parts(it: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What of the configuration and which tensors are the architecture's own, and those that all have."""
    tensors = {"W_enc": it.W_enc_nd.T, "W_dec": it.W_dec_nd, "b_enc": it.b_enc_n, "b_dec": it.b_dec_d}
    own: dict[str, Any] = {"architecture": it.method, "activation": "relu"}
    if isinstance(it, TopK):
        own |= {"activation": "topk", "k": it.k}
    elif isinstance(it, BatchTopK):  # at inference, Matryoshka too
        own["activation"] = "threshold"
        tensors["threshold"] = it.threshold.expand(it.n_features)
    elif isinstance(it, JumpReLU):
        own["activation"] = "threshold"
        tensors["threshold"] = it.threshold_n
    elif isinstance(it, Gated):
        own["activation"] = "gated"
        tensors |= {"r_mag": it.r_mag_n, "b_mag": it.b_mag_n}
    return own, tensors
