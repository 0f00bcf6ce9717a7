from pathlib import Path

import pytest
import torch

from storage.artifacts import ArtifactRef
from tasks.errors import ExperimentError
from tasks.language_model import description, load, load_tokenizer, locate, prepare_model, resolve_device
from tasks.specs import ModelSpec
from tests.conftest import ARCHITECTURES, write_model


def prepared(source: Path | str) -> ArtifactRef:
    return prepare_model.build(located=locate(ModelSpec(source=str(source))))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_description_has_the_layers_and_widths_of_the_model(home: Path, tmp_path: Path, architecture: str):
    model = description(prepared(write_model(tmp_path / architecture, architecture)))
    assert (model.n_layers, model.d_model, model.context_length) == (3, 32, 64)
    widths = {site: model.width(f"blocks.2.{site}") for site in ("hook_resid_post", "hook_mlp_out", "attn.hook_z")}
    assert widths == {"hook_resid_post": 32, "hook_mlp_out": 32, "attn.hook_z": 32}
    assert model.width("blocks.0.mlp.hook_post") == (128 if architecture == "gpt2" else 64)


def test_a_misspelt_hook_point_lists_the_nearest_real_ones(home: Path, tiny_model: Path):
    model = description(prepared(tiny_model))
    for wrong in ("blocks.1.hook_resid_pst", "blocks.9.hook_resid_post", "layers.1.resid"):
        with pytest.raises(ExperimentError, match=r"does not exist .*3 layers.*Nearest: .*hook_"):
            model.width(wrong)
    with pytest.raises(ExperimentError, match=r"Nearest: blocks\.1\.hook_resid_post"):
        model.width("blocks.1.hook_resid_pst")


def test_a_bridge_computes_what_the_model_computes(home: Path, tiny_model: Path):
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(tiny_model)(tokens).logits
        torch.testing.assert_close(load(prepared(tiny_model), "float32", "cpu")(tokens), expected)


def test_weights_that_changed_change_the_model(home: Path, tmp_path: Path):
    directory = write_model(tmp_path / "model")
    before = locate(ModelSpec(source=str(directory)))
    weights = directory / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert locate(ModelSpec(source=str(directory))).weights != before.weights


def test_a_model_that_moved_is_the_same_model_at_another_place(home: Path, tmp_path: Path):
    before = prepared(write_model(tmp_path / "here" / "model"))
    (tmp_path / "there").mkdir()
    after = prepared((tmp_path / "here" / "model").rename(tmp_path / "there" / "model"))
    assert after.key != before.key, "the place of the weights is noted anew"
    assert after.digest == before.digest, "what depends on the model is found again"
    assert load_tokenizer(after).eos_token == "<|end|>"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/model", "no such file or directory"),
        ("missing.gguf", "no such file or directory"),
        ("package:no-such-package", "not installed"),
        ("package:numpy", r"holds 0 \.gguf files"),
        ("nobody/no-such-model", "neither a local path nor reachable"),
    ],
)
def test_a_model_that_cannot_be_found_is_named_with_advice(source: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        locate(ModelSpec(source=source))


def test_a_directory_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(ExperimentError, match=r"has no config\.json"):
        locate(ModelSpec(source=str(tmp_path)))


def test_asking_for_cuda_where_there_is_none_says_so():
    if torch.cuda.is_available():
        assert resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(ExperimentError, match="no CUDA device"):
            resolve_device("cuda")
