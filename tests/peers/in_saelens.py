"""Runs inside the environment of sae-lens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inside import D, K, N, randomise, run
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from torch import Tensor

HOOK = "blocks.3.hook_resid_post"
SHARED = {"d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu", "metadata": {"hook_name": HOOK}}
TRANSCODER = {"d_out": 7, "apply_b_dec_to_input": False}
OF_X = {"apply_b_dec_to_input": False}

MADE: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "standard_of_x": {"architecture": "standard", **OF_X},
    "gated": {"architecture": "gated"},
    "gated_of_x": {"architecture": "gated", **OF_X},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu_of_x": {"architecture": "jumprelu", **OF_X},
    "topk": {"architecture": "topk", "k": K},
    "topk_of_x": {"architecture": "topk", "k": K, **OF_X},
    "topk_rescaled": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "transcoder": {"architecture": "transcoder", **TRANSCODER},
    "skip_transcoder": {"architecture": "skip_transcoder", **TRANSCODER},
}
TRAINED = {
    "trained_topk": {"architecture": "topk", "k": K},
    "trained_batchtopk": {"architecture": "batchtopk", "k": K},
    "trained_matryoshka": {"architecture": "matryoshka_batchtopk", "k": K, "matryoshka_widths": [8, N]},
}
REFUSED = {
    "abstopk": {"architecture": "abstopk", "k": K},
    "jumprelu_transcoder": {"architecture": "jumprelu_transcoder", **TRANSCODER},
    "layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
}


def load(place: Path) -> Callable[[Tensor], Tensor]:
    sae = SAE.load_from_disk(place)
    # A cfg that SAELens takes for an old one loses its metadata without a word.
    assert sae.cfg.metadata.hook_name == HOOK, place
    return sae


def make(made: Path, refused: Path) -> None:
    for folder, configs in ((made, MADE), (refused, REFUSED)):
        for name, own in configs.items():
            sae = SAE.from_dict(SHARED | own)
            randomise(sae)
            sae.save_model(folder / name)
    for name, own in TRAINED.items():
        cls, config = get_sae_training_class(own["architecture"])
        sae = cls(config.from_dict(SHARED | own))
        randomise(sae)
        sae.save_inference_model(made / name)
    for name in ("standard", "topk"):
        sae = SAE.load_from_disk(made / name)
        sae.save_model(made / f"{name}_version_5")
        config = SHARED | {"hook_point": HOOK, "model_name": "m", "normalize_activations": False}
        del config["metadata"]
        if name == "topk":
            config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
        (made / f"{name}_version_5" / "cfg.json").write_text(json.dumps(config))


run(load, make)
