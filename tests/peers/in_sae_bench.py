"""Runs inside the environment of sae-bench: what its core evaluation says of the dictionaries in a folder."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

HOOK_POINT = "blocks.3.hook_resid_post"


class Tokens:
    """What the evaluation asks of an ActivationsStore."""

    context_size = 8
    store_batch_size_prompts = 4

    def __init__(self) -> None:
        self.batch = torch.randint(30, (4, self.context_size), generator=torch.Generator().manual_seed(0))

    def get_batch_tokens(self, size: int) -> torch.Tensor:
        return self.batch[:size]

    def reset_input_dataset(self) -> None:
        pass


def module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"saebench_sae_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


here, width = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
shape = {"n_layers": 4, "d_model": width, "n_heads": 2, "d_head": 4, "n_ctx": 8, "d_vocab": 30, "act_fn": "relu"}
model = HookedTransformer(HookedTransformerConfig(**shape))
tokens = Tokens()
_, cache = model.run_with_cache(tokens.batch, names_filter=HOOK_POINT)
save_file({"acts": cache[HOOK_POINT].flatten(0, 1).contiguous()}, here / "acts.safetensors")
config = CoreEvalConfig(
    batch_size_prompts=4, n_eval_reconstruction_batches=1, n_eval_sparsity_variance_batches=1, compute_kl=True,
    compute_ce_loss=True, compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
    compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
)  # fmt: skip
told = {}
for file in sorted(here.glob("*/saebench_sae.py")):
    metrics, features = run_evals(module(file).load(), tokens, model, config)
    told[file.parent.name] = {"metrics": metrics, "features": features}
(here / "told.json").write_text(json.dumps(told))
