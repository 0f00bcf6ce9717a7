"""A sparse autoencoder with the interface that SAEBench asks of its custom SAEs.

    from saebench_sae import load
    sae = load(device="cuda")
    run_evals(model_name, [("my_sae", sae)], …)        # sae_bench/custom_saes/run_all_evals_custom_saes.py

It lies beside `sae_weights.safetensors` and `cfg.json`, and needs torch and safetensors alone.

    u = (x − b_dec) W_enc        a = u + b_enc
    relu        f = relu(a)
    topk        f = the k largest of relu(a)
    threshold   f = a where a > max(threshold, 0)
    gated       f = relu(exp(r_mag) u + b_mag) where a > 0
    x̂ = f W_dec + b_dec, with unit rows of W_dec

Shapes: B rows, d activation width, F features.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS_FILE = "sae_weights.safetensors"
CONFIG_FILE = "cfg.json"


@dataclass
class Config:
    """What SAEBench reads of an SAE: the fields of its CustomSAEConfig."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None
    prepend_bos: bool
    dataset_path: str
    architecture: str
    activation: str
    k: int = 0
    """Of topk."""
    dtype: str = "float32"
    device: str = "cpu"
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    dataset_trust_remote_code: bool = False
    training_tokens: int = -100_000
    """Unknown: SAEBench's own value for that."""
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def __post_init__(self) -> None:
        self.architecture_str = self.architecture
        self.model_from_pretrained_kwargs: dict[str, Any] = {}
        self.activation_fn_str = "topk" if self.activation == "topk" else "relu"
        self.activation_fn_kwargs = {"k": self.k} if self.k else {}
        self.finetuning_scaling_factor = False
        self.seqpos_slice = (None,)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class SAE(nn.Module):
    """Rows may carry any leading dimensions."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    r_mag: Tensor
    b_mag: Tensor

    def __init__(self, cfg: Config, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.cfg = cfg
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def encode(self, x: Tensor) -> Tensor:
        u = (x - self.b_dec) @ self.W_enc
        a = u + self.b_enc
        if self.cfg.activation == "gated":
            return (a > 0) * (self.r_mag.exp() * u + self.b_mag).relu()
        if self.cfg.activation == "threshold":
            return a.relu() * (a > self.threshold)
        if self.cfg.activation == "topk":
            kept = a.topk(self.cfg.k, dim=-1, sorted=False)
            return torch.zeros_like(a).scatter(-1, kept.indices, kept.values.relu())
        return a.relu()

    def decode(self, feature_acts: Tensor) -> Tensor:
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def to(self, *args: Any, **kwargs: Any) -> "SAE":
        super().to(*args, **kwargs)
        self.device, self.dtype = self.W_dec.device, self.W_dec.dtype
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        return self


def load(
    directory: str | Path = Path(__file__).parent,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SAE:
    """The SAE that lies in `directory`, by default beside this file."""
    told = json.loads((Path(directory) / CONFIG_FILE).read_text())
    known = {field.name for field in fields(Config)}
    cfg = Config(**{name: value for name, value in told.items() if name in known})
    return SAE(cfg, load_file(Path(directory) / WEIGHTS_FILE)).to(device=device, dtype=dtype)
