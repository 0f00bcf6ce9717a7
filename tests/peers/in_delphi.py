"""Runs inside the environment of eai-delphi: tells what its loader takes from a latent cache."""

import json
import sys
from pathlib import Path

from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents import LatentDataset
from transformers import AutoTokenizer

here, tokenizer, length = sys.argv[1:]
dataset = LatentDataset(
    Path(here) / "latents",
    SamplerConfig(n_examples_train=1, n_examples_test=1, n_quantiles=1, train_type="top"),
    ConstructorConfig(example_ctx_len=int(length), min_examples=1, n_non_activating=1),
    AutoTokenizer.from_pretrained(tokenizer),
)
records = [
    {
        "latent": record.latent.latent_index,
        "module": record.latent.module_name,
        "frequency": record.per_token_frequency,
        "windows": [[example.tokens.tolist(), example.activations.tolist()] for example in record.examples],
    }
    for record in dataset
]
(Path(here) / "told.json").write_text(json.dumps(records))
