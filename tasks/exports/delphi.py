"""A dictionary's features on the held-out text as the latent cache of EleutherAI's delphi.

    DIRECTORY/latents/{hook point}/{first}_{last}.safetensors, config.json

    LatentDataset(DIRECTORY / "latents", SamplerConfig(), ConstructorConfig(), tokenizer)

A `features` artifact is laid out like this already (storage.latents); delphi reads more of config.json. Where the model
is none of the hub's, hand over the tokenizer.
"""

import json
import shutil
from pathlib import Path

from sae_core.interchange.files import write_directory, write_json
from sae_core.interchange.provenance import Provenance
from storage.latents import CONFIG
from tasks.caching import artifacts
from tasks.exports.readings import newest
from tasks.features import LATENTS


def write(source: Path, directory: Path, provenance: Provenance) -> None:
    """Raises ExperimentError where the dictionary's features were not read."""
    ref, manifest = newest("features", source)
    hook_point = manifest["spec"]["hook_point"]
    latents = artifacts().path(ref) / LATENTS / hook_point

    def fill(place: Path) -> None:
        folder = place / LATENTS / hook_point
        folder.mkdir(parents=True)
        for file in latents.glob("*_*.safetensors"):
            shutil.copyfile(file, folder / file.name)
        told = json.loads((latents / CONFIG).read_text())
        corpus = {
            "model_name": provenance.model_name,
            "dataset_repo": provenance.dataset,
            "dataset_split": "held_out",
            "dataset_name": "",
            "dataset_column": "text",
            "cache_ctx_len": told["ctx_len"],
        }
        write_json(folder / CONFIG, told | corpus)

    write_directory(directory, fill)
