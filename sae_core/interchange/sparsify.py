"""EleutherAI's sparsify (eai-sparsify), version 1.3: `cfg.json` and `sae.safetensors`, a directory to a hook point.

    encoder.weight [n, d], encoder.bias [n], W_dec [n, d], b_dec [d], with a skip connection W_skip [d, d]

    transcode false    f = topk(relu(encoder(x − b_dec)))      x̂ = f W_dec + b_dec (+ W_skip x)
    transcode true     f = topk(relu(encoder(x)))              ŷ = f W_dec + b_dec (+ W_skip x)

cfg: d_in, num_latents (0 or missing: d_in · expansion_factor), k, activation (topk), transcode, skip_connection.
Input and output are of the same width. An autoencoder with a skip connection is read as the transcoder that is the same
function.

The format has no place for where a dictionary comes from; sparsify leaves unknown keys of cfg.json alone, so it is
written there.
"""

from pathlib import Path

from safetensors.torch import save_file

from sae_core.architectures import TopK, Transcoder
from sae_core.dictionary import Dictionary
from sae_core.interchange.files import ForeignConfig, ForeignWeights, as_saved, write_directory, write_json
from sae_core.interchange.folding import applied, filled, untied
from sae_core.interchange.provenance import Provenance

NAME = "sparsify"
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"


def read(directory: Path) -> Dictionary:
    """The dictionary in `directory`. Raises ValueError naming the file and the key where it cannot be read exactly."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    weights = ForeignWeights.read_safetensors(directory / WEIGHTS_FILE)
    if config.get("activation") not in (None, "topk"):
        raise config.error("activation", '"topk"')
    if config.flag("signed", False):  # of versions before 1.0
        raise ValueError(f"{config.file}: signed codes, chosen by their magnitude, cannot be read")
    d_in = config.whole("d_in")
    n = config.whole("num_latents") if config.get("num_latents") else d_in * config.whole("expansion_factor")
    k = config.whole("k", most=n)
    transcode, skip = config.flag("transcode", False), config.flag("skip_connection", False)
    tensors = {
        "W_enc_nd": weights.take("encoder.weight", n, d_in),
        "b_enc_n": weights.take("encoder.bias", n),
        "W_dec_nd": weights.take("W_dec", n, d_in),
        "b_dec_d": weights.take("b_dec", d_in),
    }
    if not transcode and not skip:
        return filled(TopK(d_in, n, k=k), **tensors)
    if skip:
        tensors["W_skip_od"] = weights.take("W_skip", d_in, d_in)
    if not transcode:
        tensors["b_enc_n"] = tensors["b_enc_n"] - applied(tensors["W_enc_nd"], tensors["b_dec_d"])
    return filled(Transcoder(d_in, n, k=k, d_out=d_in, skip=skip), **tensors)


def read_provenance(directory: Path) -> Provenance:
    """What cfg.json says of where the dictionary comes from: nothing, unless saeflow wrote it."""
    config = ForeignConfig.read(directory / CONFIG_FILE)
    return Provenance(
        model_name=config.text("model"),
        hook_name=config.text("hookpoint"),
        context_size=config.number("ctx_len"),
        dataset=config.text("dataset"),
    )


def write(dictionary: Dictionary, directory: Path, provenance: Provenance) -> None:
    """Write `dictionary` into the new directory `directory`. Raises ValueError for what sparsify does not have."""
    dictionary = untied(dictionary)
    if type(dictionary) is not TopK and type(dictionary) is not Transcoder:
        raise ValueError(f"sparsify has no {dictionary.method} dictionaries; it has topk, transcoder")
    tensors = {
        "encoder.weight": dictionary.W_enc_nd,
        "encoder.bias": dictionary.b_enc_n,
        "W_dec": dictionary.W_dec_nd,
        "b_dec": dictionary.b_dec_d,
    }
    skip = False
    if isinstance(dictionary, Transcoder):
        if dictionary.d_out != dictionary.d_in:
            raise ValueError(
                "sparsify's transcoders write as many dimensions as they read, "
                f"this one reads {dictionary.d_in} and writes {dictionary.d_out}"
            )
        tensors["encoder.bias"] = dictionary.b_enc_n - applied(dictionary.W_enc_nd, dictionary.center_d)
        if dictionary.W_skip_od is not None:
            skip = True
            tensors["W_skip"] = dictionary.W_skip_od
            tensors["b_dec"] = dictionary.b_dec_d - applied(dictionary.W_skip_od, dictionary.center_d)
    config = {
        "activation": "topk",
        "num_latents": dictionary.n_features,
        "expansion_factor": max(1, dictionary.n_features // dictionary.d_in),
        "k": dictionary.k,
        "normalize_decoder": not isinstance(dictionary, Transcoder),
        "multi_topk": False,
        "skip_connection": skip,
        "transcode": isinstance(dictionary, Transcoder),
        "d_in": dictionary.d_in,
        "model": provenance.model_name,
        "hookpoint": provenance.hook_name,
        "ctx_len": provenance.context_size,
        "dataset": provenance.dataset,
    }

    def fill(place: Path) -> None:
        save_file(as_saved(tensors), place / WEIGHTS_FILE)
        write_json(place / CONFIG_FILE, config)

    write_directory(directory, fill)
