"""Runs inside the environment of sae-lens: its CacheActivationsRunner over the token rows that harvest.py gives it.

SAELens loads a model that TransformerLens 3 has no name for, such as SmolLM2, through Hugging Face itself. It too ends
the forward pass at the hook point. Arrow has no bfloat16, so it keeps float32, whatever the model computes in.
"""

import argparse
import json
import sys
import time

import numpy as np
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from transformers import AutoConfig

parser = argparse.ArgumentParser()
parser.add_argument("weights")
parser.add_argument("rows")
parser.add_argument("--output", required=True)
parser.add_argument("--layer", type=int, required=True)
parser.add_argument("--sequences", type=int, required=True, help="per forward pass")
parser.add_argument("--dtype", required=True)
parser.add_argument("--threads", type=int, required=True)
arguments = parser.parse_args()

torch.set_num_threads(arguments.threads)
rows = np.load(arguments.rows)
width = AutoConfig.from_pretrained(arguments.weights).hidden_size
hook_name = f"model.layers.{arguments.layer}"
config = CacheActivationsRunnerConfig(
    dataset_path="",
    model_name=arguments.weights,
    model_class_name="AutoModelForCausalLM",
    model_from_pretrained_kwargs={"dtype": getattr(torch, arguments.dtype)},
    model_batch_size=arguments.sequences,
    hook_name=hook_name,
    d_in=width,
    training_tokens=rows.size,
    context_size=rows.shape[1],
    prepend_bos=False,
    new_cached_activations_path=arguments.output,
    device="cpu",
    # It fills whole buffers, past the last token too: one that holds all of them, as the default's 2 GB would.
    buffer_size_gb=(rows.size + 1) * width * 4 / 1e9,
)
runner = CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": rows.tolist()}))
warm_up = torch.from_numpy(rows[: arguments.sequences].astype(np.int64))
with torch.inference_mode():
    runner.model.run_with_cache(warm_up, names_filter=[hook_name], stop_at_layer=arguments.layer + 1)

started = time.perf_counter()
stored = runner.run()
seconds = time.perf_counter() - started

mean = np.mean([np.mean(row, axis=0) for row in stored.with_format("numpy")[hook_name][:]], axis=0)
json.dump({"seconds": seconds, "tokens": len(stored) * rows.shape[1], "mean": mean.tolist()}, sys.stdout)
