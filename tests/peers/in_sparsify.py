"""Runs inside the environment of eai-sparsify."""

from collections.abc import Callable
from pathlib import Path

from inside import D, K, N, randomise, run
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig
from torch import Tensor

MADE = {
    "sae": {"num_latents": N},
    "sae_by_factor": {"expansion_factor": 3},
    "sae_skip": {"num_latents": N, "skip_connection": True},
    "transcoder": {"num_latents": N, "transcode": True},
    "transcoder_skip": {"num_latents": N, "transcode": True, "skip_connection": True},
}
REFUSED = {"groupmax": {"num_latents": N, "activation": "groupmax"}}


def load(place: Path) -> Callable[[Tensor], Tensor]:
    coder = SparseCoder.load_from_disk(place)
    return lambda rows: coder(rows).sae_out


def make(made: Path, refused: Path) -> None:
    for folder, configs in ((made, MADE), (refused, REFUSED)):
        for name, own in configs.items():
            coder = SparseCoder(D, SparseCoderConfig(k=K, **own))
            randomise(coder)
            coder.save_to_disk(folder / name)


run(load, make)
