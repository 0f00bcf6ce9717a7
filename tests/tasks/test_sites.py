"""Every site of many architectures against an independent look at the Hugging Face model itself."""

import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import tasks.capture
from tasks.capture import capture
from tasks.errors import ExperimentError
from tasks.language_model import LocatedModel, ModelDescription, describe, load, locate, prepare_model
from tasks.specs import ModelSpec

SITES = (
    "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out",
    "hook_resid_post",
)  # fmt: skip

TOKENS = np.random.default_rng(0).integers(1, 300, (3, 13))

# Where a module of a layer of the Hugging Face model sees a site: at its input or at its output.
STREAM = {"hook_resid_pre": "in ", "hook_resid_post": "out "}
LLAMA = STREAM | {
    "attn.hook_z": "in self_attn.o_proj",
    "hook_attn_out": "out self_attn",
    "hook_resid_mid": "in post_attention_layernorm",
    "mlp.hook_post": "in mlp.down_proj",
    "hook_mlp_out": "out mlp",
}
GPT2 = STREAM | {
    "attn.hook_z": "in attn.c_proj",
    "hook_attn_out": "out attn",
    "hook_resid_mid": "in ln_2",
    "mlp.hook_post": "in mlp.c_proj",
    "hook_mlp_out": "out mlp",
}
GPTJ = GPT2 | {"attn.hook_z": "in attn.out_proj", "hook_resid_mid": None, "mlp.hook_post": "in mlp.fc_out"}
FAIRSEQ = LLAMA | {
    "attn.hook_z": "in self_attn.out_proj",
    "hook_resid_mid": "in final_layer_norm",
    "mlp.hook_post": "in fc2",
    "hook_mlp_out": "out fc2",
}
FALCON = STREAM | {
    "attn.hook_z": "in self_attention.dense",
    "hook_attn_out": "out self_attention.dense",
    "hook_resid_mid": "in post_attention_layernorm",
    "mlp.hook_post": "in mlp.dense_4h_to_h",
    "hook_mlp_out": "out mlp.dense_4h_to_h",
}
NEOX = FALCON | {"attn.hook_z": "in attention.dense", "hook_attn_out": "out attention"}
GEMMA2 = LLAMA | {
    "hook_attn_out": "out post_attention_layernorm",
    "hook_resid_mid": "in pre_feedforward_layernorm",
    "hook_mlp_out": "out post_feedforward_layernorm",
}
NO_MID = {"hook_resid_mid": None}
NO_HIDDEN = {"mlp.hook_post": None}
NO_ATTENTION = {"attn.hook_z": None, "hook_attn_out": None}
RESIDUAL_ONLY: dict[str, str | None] = dict.fromkeys(SITES) | STREAM

SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GPT_SIZES = {"vocab_size": 320, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GATED = SIZES | {
    "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
EXPERTS = GATED | {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
LINEAR = {
    "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
SLIDING = {"sliding_window": 5}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
SEQUENTIAL_FALCON = {"parallel_attn": False, "multi_query": False}
NEW_FALCON = {"new_decoder_architecture": True, "multi_query": False, "num_kv_heads": 2}
TYPE_OF = {
    "falcon_new": "falcon", "falcon_alibi": "falcon", "gpt_neox_sequential": "gpt_neox", "stablelm_parallel": "stablelm"
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    config: dict[str, Any]
    sites: dict[str, str | None]
    """Of all layers; None where there is no such site."""

    different: dict[int, dict[str, str | None]] = field(default_factory=dict)
    """What single layers have otherwise."""


ARCHITECTURES = {
    # GPT-2 and its neighbours
    "gpt2": Architecture(GPT_SIZES, GPT2),
    "gpt_bigcode": Architecture(GPT_SIZES, GPT2),
    "gpt_neo": Architecture(
        {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4}
        | {"attention_types": [[["global", "local"], 1]]},
        GPT2 | {"attn.hook_z": "in attn.attention.out_proj"},
    ),
    "gptj": Architecture(GPT_SIZES | {"rotary_dim": 4}, GPTJ),
    "codegen": Architecture(GPT_SIZES | {"n_embd": 64, "rotary_dim": 4}, GPTJ),
    "gpt_neox": Architecture(SIZES | {"intermediate_size": 48}, NEOX | NO_MID),
    "gpt_neox_sequential": Architecture(SIZES | {"intermediate_size": 48, "use_parallel_residual": False}, NEOX),
    "opt": Architecture(SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}, FAIRSEQ),
    "bloom": Architecture(
        {"vocab_size": 320, "hidden_size": 32, "n_layer": 3, "n_head": 4}, FALCON
    ),
    "falcon": Architecture(SIZES, FALCON | NO_MID),
    "falcon_new": Architecture(SIZES | NEW_FALCON, FALCON | NO_MID),
    "falcon_alibi": Architecture(SIZES | SEQUENTIAL_FALCON | {"alibi": True}, FALCON),
    "mpt": Architecture(
        {"vocab_size": 320, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
        GPT2 | {"attn.hook_z": "in attn.out_proj", "hook_resid_mid": "in norm_2", "mlp.hook_post": "in ffn.down_proj"}
        | {"hook_mlp_out": "out ffn.down_proj"},
    ),
    # Llama and its neighbours
    "llama": Architecture(GATED, LLAMA),
    "mistral": Architecture(GATED | SLIDING, LLAMA),
    "qwen2": Architecture(GATED | SLIDING | {"use_sliding_window": True, "max_window_layers": 1}, LLAMA),
    "qwen3": Architecture(GATED, LLAMA),
    "gemma": Architecture(GATED, LLAMA),
    "gemma2": Architecture(GATED | SLIDING | {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8}, GEMMA2),
    "gemma3_text": Architecture(GATED | SLIDING | MIXED | {"query_pre_attn_scalar": 8}, GEMMA2),
    "phi": Architecture(
        SIZES | {"intermediate_size": 48},
        LLAMA | NO_MID | {"attn.hook_z": "in self_attn.dense", "mlp.hook_post": "in mlp.fc2"},
    ),
    "phi3": Architecture(GATED, LLAMA),
    "stablelm": Architecture(GATED, LLAMA),
    "stablelm_parallel": Architecture(GATED | {"use_parallel_residual": True, "qk_layernorm": True}, LLAMA | NO_MID),
    "olmo": Architecture(GATED | {"clip_qkv": 1.0}, LLAMA),
    "olmo2": Architecture(GATED, GEMMA2 | {"hook_resid_mid": "in mlp"}),
    # What Granite's layers add is a multiple of what its modules give: only the sum tells.
    "granite": Architecture(
        GATED | {"residual_multiplier": 0.5, "attention_multiplier": 0.3},
        LLAMA | {"hook_attn_out": "", "hook_mlp_out": ""},
    ),
    "cohere": Architecture(GATED, LLAMA | NO_MID),
    "starcoder2": Architecture(GATED, LLAMA | {"mlp.hook_post": "in mlp.c_proj"}),
    "glm4": Architecture(
        GATED, LLAMA | {"hook_attn_out": "out post_self_attn_layernorm", "hook_mlp_out": "out post_mlp_layernorm"}
    ),
    # Mixtures of experts
    "mixtral": Architecture(EXPERTS, LLAMA | NO_HIDDEN),
    "qwen2_moe": Architecture(EXPERTS, LLAMA | NO_HIDDEN),
    "olmoe": Architecture(EXPERTS, LLAMA | NO_HIDDEN),
    "gpt_oss": Architecture(EXPERTS | SLIDING, LLAMA | NO_HIDDEN),
    "deepseek_v3": Architecture(EXPERTS | LATENT, LLAMA | NO_HIDDEN, {0: {"mlp.hook_post": "in mlp.down_proj"}}),
    # Layers without attention
    "qwen3_next": Architecture(
        EXPERTS | LINEAR, LLAMA | NO_HIDDEN | NO_ATTENTION,
        {3: {"attn.hook_z": "in self_attn.o_proj", "hook_attn_out": "out self_attn"}},
    ),
    "bamba": Architecture(
        GATED | MAMBA | {"attn_layer_indices": [1]},
        LLAMA | NO_ATTENTION
        | {"hook_resid_mid": "in pre_ff_layernorm", "mlp.hook_post": "in feed_forward.down_proj"}
        | {"hook_mlp_out": "out feed_forward"},
        {1: {"attn.hook_z": "in self_attn.o_proj", "hook_attn_out": "out self_attn"}},
    ),
    "mamba": Architecture(
        {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}, RESIDUAL_ONLY
    ),
    # Norms come after the sum, so what is added is no part of the residual stream.
    "bert": Architecture(
        SIZES | {"intermediate_size": 48, "is_decoder": True},
        STREAM | NO_MID | {"attn.hook_z": "in attention.output.dense", "hook_attn_out": "out attention"}
        | {"mlp.hook_post": "in output.dense", "hook_mlp_out": "out output.dense"},
    ),
    "openai-gpt": Architecture(
        GPT_SIZES,
        GPT2 | {"hook_attn_out": "out attn.c_proj", "hook_resid_mid": "in mlp", "hook_resid_post": None},
    ),
}  # fmt: skip
NOT_A_SUM = {"bert", "openai-gpt"}


class Case(NamedTuple):
    description: ModelDescription
    everything: dict[str, Tensor]
    """All hook points that the description lists, from one pass."""

    sites: dict[str, Tensor]
    """The sites of all layers, from another."""

    states: tuple[Tensor, ...]
    """The hidden states that Hugging Face gives."""

    modules: dict[str, Tensor]
    """What went into or out of modules of the Hugging Face model, as `2 in mlp.down_proj`."""


@cache
def case(name: str) -> Case:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = random_model(name)
    description = describe(model.config, located(name))
    states, modules = independent(copy.deepcopy(model))
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    listed = [hook_point for layer in range(description.n_layers) for hook_point in description.layer(layer)]
    sites = [hook_point for hook_point in listed if hook_point.split(".", 2)[2] in SITES]
    return Case(description, capture(bridge, TOKENS, listed), capture(bridge, TOKENS, sites), states, modules)


def located(name: str) -> LocatedModel:
    return LocatedModel(source=name, format="directory", path=f"/{name}", weights="")


def random_model(name: str) -> Any:
    config = AutoConfig.for_model(TYPE_OF.get(name, name), **ARCHITECTURES[name].config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # Weights as large as this make attention uneven: with the usual ones it is the mean, whatever mask or rotation.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight += 0.1 * noise
            else:
                weight.copy_(noise if weight.shape[0] == SIZES["vocab_size"] else 1.2 * noise / weight.shape[-1] ** 0.5)
    return model


def independent(model: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Hidden states, and inputs and outputs of all modules of all layers, by hooks of PyTorch alone.

    Attention is the one that its formula spells out, and not the fused kernel.
    """
    model.set_attn_implementation("eager")
    n_layers = model.config.get_text_config().num_hidden_layers
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers)
    seen: dict[str, Tensor] = {}

    def note(key: str, value: Any) -> None:
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, Tensor):
            seen[key] = value.clone()

    for number, layer in enumerate(layers):
        for name, module in layer.named_modules():
            at_input, at_output = f"{number} in {name}", f"{number} out {name}"
            module.register_forward_pre_hook(
                lambda module, args, kwargs, key=at_input: note(key, args or kwargs.get("hidden_states")),
                with_kwargs=True,
            )
            module.register_forward_hook(lambda module, args, output, key=at_output: note(key, output))
    with torch.inference_mode():
        states = model(torch.from_numpy(TOKENS), output_hidden_states=True, use_cache=False).hidden_states
    return states, seen


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    expected = expected.reshape(TOKENS.size, -1)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5 * max(1.0, float(expected.abs().max())))


def wanted(name: str, layer: int) -> dict[str, str | None]:
    return ARCHITECTURES[name].sites | ARCHITECTURES[name].different.get(layer, {})


every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@every_architecture
def test_every_listed_hook_point_is_captured_in_one_pass_at_its_width(name: str):
    model = case(name)
    for layer in range(model.description.n_layers):
        for hook_point, width in model.description.layer(layer).items():
            assert model.everything[hook_point].shape == (TOKENS.size, width), hook_point
    for hook_point, rows in model.sites.items():
        assert_equal(model.everything[hook_point], rows)


@every_architecture
def test_a_layer_offers_the_sites_that_it_has_and_no_others(name: str):
    description = case(name).description
    for layer in range(description.n_layers):
        has = {site for site, place in wanted(name, layer).items() if place is not None}
        assert {site for site in SITES if f"blocks.{layer}.{site}" in description.layer(layer)} == has
        for site in set(SITES) - has:
            with pytest.raises(ExperimentError, match=rf"blocks\.{layer}\.{site}' does not exist .*Nearest: blocks\."):
                description.width(f"blocks.{layer}.{site}")


@every_architecture
def test_a_site_is_what_goes_through_the_module_of_the_model(name: str):
    model = case(name)
    for layer in range(model.description.n_layers):
        for site, place in wanted(name, layer).items():
            if place:
                assert_equal(model.sites[f"blocks.{layer}.{site}"], model.modules[f"{layer} {place}"])


@every_architecture
def test_the_residual_stream_is_the_hidden_states_of_the_model(name: str):
    model = case(name)
    first = 1 if name == "mamba" else 0  # the others begin with the embeddings
    for layer in range(first, model.description.n_layers):
        assert_equal(model.sites[f"blocks.{layer}.hook_resid_pre"], model.states[layer - first])


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - NOT_A_SUM))
def test_attention_and_mlp_add_up_to_the_residual_stream(name: str):
    model = case(name)
    for layer in range(model.description.n_layers):
        pre, _, attention, middle, _, mlp, post = (model.sites.get(f"blocks.{layer}.{site}") for site in SITES)
        if middle is not None and attention is not None:
            assert_equal(middle, pre + attention)
        if middle is not None and mlp is not None:
            assert_equal(post, middle + mlp)
        if attention is not None and mlp is not None:
            assert_equal(post, pre + attention + mlp)


def test_a_site_that_other_layers_have_is_named_with_them():
    description = case("qwen3_next").description
    assert description.hook_points["blocks.{3}.attn.hook_z"] == 32
    with pytest.raises(ExperimentError, match=r"Nearest: blocks\.3\.attn\.hook_z\."):
        description.width("blocks.1.attn.hook_z")


def test_a_model_whose_layers_transformer_lens_does_not_reach_is_named():
    config = AutoConfig.for_model("opt", **ARCHITECTURES["opt"].config, do_layer_norm_before=False)
    with pytest.raises(ExperimentError, match=r"'opt-350m' is of type 'opt', which TransformerLens cannot bridge"):
        describe(config, located("opt-350m"))


@pytest.fixture
def bridge(home: Path, tiny_model: Path) -> Any:
    return load(prepare_model.build(located=locate(ModelSpec(source=str(tiny_model)))), "float32", "cpu")


def test_layers_above_the_last_wanted_one_are_not_run(bridge: Any):
    ran: list[str] = []
    for layer in range(3):
        bridge.add_hook(f"blocks.{layer}.hook_mlp_out", lambda value, hook: ran.append(hook.name) and None)
    capture(bridge, TOKENS, ["blocks.1.hook_resid_post"])
    assert len(ran) == 2


def test_rows_are_in_the_order_of_the_tokens_in_however_many_passes(bridge: Any, monkeypatch: pytest.MonkeyPatch):
    # Both names are of one hook point, and one is wanted twice.
    names = ["blocks.2.hook_mlp_out", "blocks.0.attn.hook_z", "blocks.2.mlp.hook_out", "blocks.0.attn.hook_z"]
    together = capture(bridge, TOKENS, names)
    assert list(together) == list(dict.fromkeys(names))
    assert torch.equal(together["blocks.2.hook_mlp_out"], together["blocks.2.mlp.hook_out"])
    monkeypatch.setattr(tasks.capture, "TOKENS_PER_PASS", 2 * TOKENS.shape[1])
    for name, rows in capture(bridge, TOKENS, names).items():
        torch.testing.assert_close(rows, together[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.hook_resid_pst", "this LlamaForCausalLM does not have hook point blocks.1.hook_resid_pst"),
        ("blocks.1.attn.hook_pattern", "this LlamaForCausalLM does not go through hook point blocks.1.attn.hook_patt"),
    ],
)
def test_a_hook_point_that_cannot_be_captured_is_named(bridge: Any, name: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        capture(bridge, TOKENS, ["blocks.0.hook_resid_post", name])


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text"])
def test_a_capture_leaves_the_bridge_as_it_was(name: str):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = random_model(name)
    bridge: Any = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    tokens = torch.from_numpy(TOKENS)
    with torch.inference_mode():
        before, patterns = bridge.run_with_cache(tokens)
        capture(bridge, TOKENS, ["blocks.1.attn.hook_z"])
        after, patterns_after = bridge.run_with_cache(tokens)
    assert torch.equal(before, after)
    assert patterns.keys() == patterns_after.keys()
    assert torch.equal(patterns["blocks.1.attn.hook_pattern"], patterns_after["blocks.1.attn.hook_pattern"])
