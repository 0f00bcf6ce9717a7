"""A control: the same architecture and tokenizer, with weights that learned nothing.

Every matrix is drawn anew from a normal distribution with its own mean and spread, so that activations are about as
large as the model's own; norms and biases stay. What a dictionary finds there owes nothing to language (Heap et al.
2025): a feature, a score or a circuit means something only where it is more than that.
"""

from pathlib import Path
from typing import Any

import torch

from storage.artifacts import ArtifactRef
from tasks.caching import step
from tasks.cells import RANDOM_WEIGHTS
from tasks.language_model import description, load_plain, load_tokenizer


@step(kind="model", code_version="1")
def randomize_model(place: Path, model: ArtifactRef, seed: int) -> dict[str, Any]:
    """Write the model with random weights, as `prepare_model` leaves one."""
    told = description(model)
    hf_model = load_plain(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in hf_model.parameters():  # one that is tied to another comes once
            if weight.ndim >= 2:
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn * weight.std() + weight.mean())
    hf_model.save_pretrained(place / "weights")
    load_tokenizer(model).save_pretrained(place / "weights")
    weights = f"{told.weights}, random {seed}"
    told = told.model_copy(update={"name": f"{told.name} {RANDOM_WEIGHTS}", "weights": weights})
    (place / "description.json").write_text(told.model_dump_json(indent=1))
    return {"weights": "weights"}
