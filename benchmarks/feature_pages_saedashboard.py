"""Runs inside the environment of sae-dashboard: its dashboards of the first features of a dictionary.

As saeflow's pages: 20 top sequences and one of each of 10 quantiles, of 64 tokens, in one HTML file.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from sae_dashboard.components_config import (
    ActsHistogramConfig,
    Column,
    FeatureTablesConfig,
    LogitsHistogramConfig,
    LogitsTableConfig,
    SequencesConfig,
)
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.layout import SaeVisLayoutConfig
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE, HookedSAETransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("weights")
parser.add_argument("sae")
parser.add_argument("tokens")
parser.add_argument("place", type=Path)
parser.add_argument("--features", type=int, required=True)
arguments = parser.parse_args()

hf_model = AutoModelForCausalLM.from_pretrained(arguments.weights, torch_dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(arguments.weights)
model = HookedSAETransformer.from_pretrained_no_processing(
    arguments.weights, hf_model=hf_model, tokenizer=tokenizer, device="cpu"
)
sae = SAE.load_from_disk(arguments.sae)
tokens = torch.from_numpy(np.load(arguments.tokens).astype(np.int64))
sequences = SequencesConfig(
    stack_mode="stack-none", buffer=None, n_quantiles=10, top_acts_group_size=20, quantile_group_size=1
)
layout = SaeVisLayoutConfig(
    columns=[
        Column(FeatureTablesConfig()),
        Column(ActsHistogramConfig(), LogitsTableConfig(), LogitsHistogramConfig()),
        Column(sequences),
    ],
    height=750,
)
config = SaeVisConfig(
    hook_point=sae.cfg.metadata.hook_name,
    features=range(arguments.features),
    minibatch_size_tokens=64,
    feature_centric_layout=layout,
    cache_dir=arguments.place / "cache",
)
wall, work = time.perf_counter(), time.process_time()
data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
page = arguments.place / "dashboard.html"
save_feature_centric_vis(data, page)
told = {
    "seconds": time.perf_counter() - wall,
    "cpu": time.process_time() - work,
    "mib": page.stat().st_size / 2**20,
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
}
print(json.dumps(told))
