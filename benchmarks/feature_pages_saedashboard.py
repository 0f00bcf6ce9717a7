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
from transformer_lens import HookedTransformerConfig
from transformer_lens.loading_from_pretrained import convert_hf_model_config
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

parser = argparse.ArgumentParser()
parser.add_argument("weights")
parser.add_argument("sae")
parser.add_argument("tokens")
parser.add_argument("place", type=Path)
parser.add_argument("--features", type=int, required=True)
arguments = parser.parse_args()

# It needs transformers 4 and TransformerLens 2. The one looks for the base of the rotary embedding where version 5 does
# not write it any more; the other has no name for this model, and takes the base for 10,000.
ROTARY_BASE = 100_000
hf_config = AutoConfig.from_pretrained(arguments.weights, rope_theta=ROTARY_BASE)
hf_model = AutoModelForCausalLM.from_pretrained(arguments.weights, config=hf_config, torch_dtype=torch.float32)
end = "<|endoftext|>"
fast = PreTrainedTokenizerFast(tokenizer_file=f"{arguments.weights}/tokenizer.json", bos_token=end, eos_token=end)
fast.save_pretrained(arguments.place / "tokenizer")  # TransformerLens loads it again, from where it came
tokenizer = AutoTokenizer.from_pretrained(arguments.place / "tokenizer")
told = convert_hf_model_config(arguments.weights)
told |= {"rotary_base": ROTARY_BASE, "model_name": "SmolLM2-135M-Instruct", "n_ctx": 256, "device": "cpu"}
model = HookedSAETransformer(HookedTransformerConfig.from_dict(told), tokenizer)
model.load_state_dict(convert_llama_weights(hf_model, model.cfg), strict=False)  # without masks and the like
sae = SAE.load_from_disk(arguments.sae)
sae.cfg.rescale_acts_by_decoder_norm = True  # it divides by these norms, which are 1
tokens = torch.from_numpy(np.load(arguments.tokens).astype(np.int64))
with torch.inference_mode():
    _, cache = model.run_with_cache(tokens[:1], names_filter=sae.cfg.metadata.hook_name, stop_at_layer=10)
    expected = hf_model(tokens[:1], output_hidden_states=True).hidden_states[10]
torch.testing.assert_close(cache[sae.cfg.metadata.hook_name], expected, rtol=0.01, atol=0.01)
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
