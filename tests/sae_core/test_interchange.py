"""Dictionaries in the formats of other libraries: round trips, closed forms of planted files, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core import BatchTopK, Dictionary, JumpReLU, MatryoshkaBatchTopK, ReLU, TopK, Transcoder
from sae_core.interchange import FORMATS, Provenance, detect
from tests.peers.dictionaries import DICTIONARIES, HELD_BY, random_dictionary, random_rows

PROVENANCE = Provenance("a-model", "blocks.3.hook_resid_post", 256, False, "package:numpy")
CASES = [(form, name) for form in FORMATS for name in DICTIONARIES]
B, D, N, K = 33, 6, 10, 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, W_ENC, W_DEC = noise(B, D), noise(N, D, seed=1), noise(N, D, seed=2) / 2
B_ENC, B_DEC = noise(N, seed=3) / 3, noise(D, seed=4)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[1] in HELD_BY[case[0]]])
def test_what_is_written_and_read_is_the_same_function(form: str, name: str, tmp_path: Path):
    dictionary, x = random_dictionary(name), random_rows()
    FORMATS[form].write(dictionary, tmp_path / "out", PROVENANCE)
    assert detect(tmp_path / "out") == form
    read = FORMATS[form].read(tmp_path / "out")
    expected = dictionary(x)
    assert (read(x) - expected).abs().max() < 1e-6 * max(1, expected.abs().max().item())
    assert torch.equal(read.encode(x) > 0, dictionary.encode(x) > 0)
    torch.testing.assert_close(read.directions, dictionary.directions)


@pytest.mark.parametrize(("form", "name"), [case for case in CASES if case[1] not in HELD_BY[case[0]]])
def test_what_a_format_cannot_say_is_refused_before_anything_is_written(form: str, name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no|have a ReLU and no k|signed codes|as many dimensions"):
        FORMATS[form].write(random_dictionary(name), tmp_path / "out", PROVENANCE)
    assert not list(tmp_path.iterdir())


def test_what_the_format_says_of_a_method_survives(tmp_path: Path):
    sae = random_dictionary("matryoshka_batch_topk")
    FORMATS["dictionary_learning"].write(sae, tmp_path / "dl", PROVENANCE)
    read = FORMATS["dictionary_learning"].read(tmp_path / "dl")
    assert isinstance(read, MatryoshkaBatchTopK)
    assert read.config() == sae.config()
    FORMATS["saelens"].write(sae, tmp_path / "sl", PROVENANCE)
    assert isinstance(FORMATS["saelens"].read(tmp_path / "sl"), JumpReLU)


@pytest.mark.parametrize(
    ("form", "known"),
    [
        ("saelens", {"model_name", "hook_name", "context_size", "prepend_bos", "dataset"}),
        ("dictionary_learning", {"model_name", "hook_name", "context_size"}),
        ("sparsify", {"model_name", "hook_name", "context_size", "dataset"}),
    ],
)
def test_provenance_is_written_and_read_as_far_as_the_format_goes(form: str, known: set[str], tmp_path: Path):
    for provenance in (PROVENANCE, Provenance()):
        directory = tmp_path / str(provenance.model_name)
        FORMATS[form].write(random_dictionary("topk"), directory, provenance)
        expected = Provenance(**{name: getattr(provenance, name) for name in known})
        assert FORMATS[form].read_provenance(directory) == expected
    assert (PROVENANCE.layer, Provenance().layer) == (3, None)


# Planted files, in the layouts that the module docstrings describe


def saelens(directory: Path, tensors: dict[str, Tensor], **config: Any) -> Dictionary:
    directory.mkdir()
    tensors = {"W_enc": W_ENC.T, "W_dec": W_DEC, "b_dec": B_DEC} | tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "sae_weights.safetensors")
    (directory / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": N, "dtype": "float32"} | config))
    return FORMATS["saelens"].read(directory)


def dictionary_learning(directory: Path, tensors: dict[str, Tensor], **trainer: Any) -> Dictionary:
    directory.mkdir()
    torch.save(tensors, directory / "ae.pt")
    (directory / "config.json").write_text(
        json.dumps({"trainer": {"activation_dim": D, "dict_size": N} | trainer, "buffer": {}})
    )
    return FORMATS["dictionary_learning"].read(directory)


def sparsify(directory: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Dictionary:
    directory.mkdir()
    shared = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    save_file(shared | (tensors or {}), directory / "sae.safetensors")
    (directory / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": N, "k": K} | config))
    return FORMATS["sparsify"].read(directory)


def topk(a: Tensor, k: int) -> Tensor:
    kept = a.relu().topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, kept.indices, kept.values)


@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens_reads_codes_from_x_or_from_x_minus_b_dec(subtracts: bool, tmp_path: Path):
    x = X - B_DEC if subtracts else X
    flag = {"apply_b_dec_to_input": subtracts}
    a = x @ W_ENC.T
    relu = saelens(tmp_path / "relu", {"b_enc": B_ENC}, architecture="standard", **flag)
    close(relu(X), (a + B_ENC).relu() @ W_DEC + B_DEC)
    threshold, r_mag, b_mag = noise(N, seed=5).abs(), noise(N, seed=6), noise(N, seed=7)
    jump = saelens(tmp_path / "jump", {"b_enc": B_ENC, "threshold": threshold}, architecture="jumprelu", **flag)
    close(jump.encode(X), (a + B_ENC).relu() * (a + B_ENC > threshold))
    biases = {"b_gate": B_ENC, "r_mag": r_mag, "b_mag": b_mag}
    gated = saelens(tmp_path / "gated", biases, architecture="gated", **flag)
    close(gated.encode(X), (a + B_ENC > 0) * (r_mag.exp() * a + b_mag).relu())


def test_saelens_may_choose_the_k_largest_in_units_of_the_decoders_norms(tmp_path: Path):
    W_dec, norms = W_DEC * torch.linspace(0.2, 5, N)[:, None], (W_DEC * torch.linspace(0.2, 5, N)[:, None]).norm(dim=1)
    own = {"architecture": "topk", "k": K}
    a = (X - B_DEC) @ W_ENC.T + B_ENC
    plain = saelens(tmp_path / "plain", {"b_enc": B_ENC, "W_dec": W_dec}, **own)
    close(plain(X), topk(a, K) @ W_dec + B_DEC)
    tensors = {"b_enc": B_ENC, "W_dec": W_dec}
    rescaled = saelens(tmp_path / "rescaled", tensors, rescale_acts_by_decoder_norm=True, **own)
    close(rescaled.encode(X), topk(a * norms, K))
    close(rescaled(X), topk(a * norms, K) / norms @ W_dec + B_DEC)


def test_saelens_transcoders_are_relu_transcoders(tmp_path: Path):
    W_dec, b_dec, W_skip = noise(N, 4, seed=8), noise(4, seed=9), noise(4, D, seed=10)
    tensors = {"b_enc": B_ENC, "W_dec": W_dec, "b_dec": b_dec}
    own = {"d_out": 4, "apply_b_dec_to_input": False}
    plain = saelens(tmp_path / "plain", tensors, architecture="transcoder", **own)
    close(plain(X), (X @ W_ENC.T + B_ENC).relu() @ W_dec + b_dec)
    skip = saelens(tmp_path / "skip", tensors | {"W_skip": W_skip}, architecture="skip_transcoder", **own)
    close(skip(X), plain(X) + X @ W_skip.T)


def test_saelens_is_told_to_join_heads(tmp_path: Path):
    for name, reshaped in (("blocks.1.attn.hook_z", "hook_z"), ("blocks.1.hook_resid_post", "none")):
        FORMATS["saelens"].write(random_dictionary("topk"), tmp_path / name, Provenance(hook_name=name))
        assert json.loads((tmp_path / name / "cfg.json").read_text())["reshape_activations"] == reshaped


def test_saelens_files_from_before_version_6(tmp_path: Path):
    old = {"hook_point": "blocks.2.hook_resid_pre", "model_name": "m", "normalize_activations": False}
    a = (X - B_DEC) @ W_ENC.T + B_ENC
    relu = saelens(tmp_path / "relu", {"b_enc": B_ENC, "scaling_factor": torch.ones(N)}, **old)
    close(relu(X), a.relu() @ W_DEC + B_DEC)
    assert FORMATS["saelens"].read_provenance(tmp_path / "relu") == Provenance("m", "blocks.2.hook_resid_pre")
    function = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    for own in ({}, {"architecture": "topk"}):
        kept = saelens(tmp_path / f"topk{len(own)}", {"b_enc": B_ENC}, **own, **function, **old)
        close(kept.encode(X), topk(a, K))
    scale = noise(N, seed=11)
    tuned = saelens(
        tmp_path / "tuned", {"b_enc": B_ENC, "scaling_factor": scale}, finetuning_scaling_factor=True, **old
    )
    close(tuned(X), (a.relu() * scale) @ W_DEC + B_DEC)


def test_half_precision_is_read_exactly(tmp_path: Path):
    halves = {"W_enc": W_ENC.T.bfloat16(), "W_dec": W_DEC.bfloat16(), "b_dec": B_DEC.bfloat16()}
    sae = saelens(tmp_path / "sae", halves | {"b_enc": B_ENC.bfloat16()}, architecture="standard", dtype="bfloat16")
    assert isinstance(sae, ReLU)
    assert torch.equal(sae.W_enc_nd, W_ENC.bfloat16().float())
    assert sae(X).dtype == torch.float32


def test_dictionary_learning_classes(tmp_path: Path):
    linear = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}
    direct = {"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    a, of_x = (X - B_DEC) @ W_ENC.T + B_ENC, X @ W_ENC.T + B_ENC
    numbers = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.4)}

    relu = dictionary_learning(tmp_path / "relu", linear | {"bias": B_DEC}, dict_class="AutoEncoder")
    close(relu(X), a.relu() @ W_DEC + B_DEC)
    new = dictionary_learning(tmp_path / "new", linear | {"decoder.bias": B_DEC}, dict_class="AutoEncoderNew")
    close(new(X), of_x.relu() @ W_DEC + B_DEC)
    kept = dictionary_learning(
        tmp_path / "topk", linear | {"b_dec": B_DEC} | numbers, dict_class="AutoEncoderTopK", k=K
    )
    assert isinstance(kept, TopK)
    close(kept.encode(X), topk(a, K))
    batch = dictionary_learning(tmp_path / "batch", linear | {"b_dec": B_DEC} | numbers, dict_class="BatchTopKSAE", k=K)
    assert isinstance(batch, BatchTopK)
    close(batch.encode(X), a * (a > 0.4))
    untrained = numbers | {"threshold": torch.tensor(-1.0), "group_sizes": torch.tensor([4, 6])}
    nested = dictionary_learning(tmp_path / "nested", direct | untrained, dict_class="MatryoshkaBatchTopKSAE", k=K)
    assert isinstance(nested, MatryoshkaBatchTopK)
    assert nested.widths == (4, N)
    close(nested.encode(X), a.relu())
    threshold = noise(N, seed=5).abs()
    jump = dictionary_learning(tmp_path / "jump", direct | {"threshold": threshold}, dict_class="JumpReluAutoEncoder")
    close(jump.encode(X), of_x * (of_x > threshold))


@pytest.mark.parametrize("transcode", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_sparsify_coders(transcode: bool, skip: bool, tmp_path: Path):
    W_skip = noise(D, D, seed=8)
    flags = {"transcode": transcode, "skip_connection": skip}
    coder = sparsify(tmp_path / "coder", {"W_skip": W_skip} if skip else {}, **flags)
    assert isinstance(coder, Transcoder if transcode or skip else TopK)
    a = (X if transcode else X - B_DEC) @ W_ENC.T + B_ENC
    close(coder(X), topk(a, K) @ W_DEC + B_DEC + (X @ W_skip.T if skip else 0))


# Refusals


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (saelens, {"architecture": "temporal"}, r'cfg.json: architecture is "temporal".*standard, topk'),
        (saelens, {"architecture": "topk"}, "cfg.json: k is null where a positive whole number up to 10"),
        (saelens, {"d_sae": 9}, r"tensor W_enc has shape \[6, 10\] where \[6, 9\]"),
        (saelens, {"d_sae": "9"}, 'd_sae is "9"'),
        (saelens, {"architecture": "jumprelu"}, "tensor threshold is missing; it holds W_dec, W_enc"),
        (saelens, {"normalize_activations": "layer_norm"}, "layer_norm.*scales every row by its own norm"),
        (saelens, {"normalize_activations": "expected_average_only_in"}, "its factors are not in the file"),
        (saelens, {"activation_fn": "tanh-relu"}, "activation function 'tanh-relu' cannot be read"),
        (dictionary_learning, {"dict_class": "IdentityDict"}, 'trainer.dict_class is "IdentityDict".*AutoEncoderTopK'),
        (dictionary_learning, {"dict_class": ["AutoEncoder"]}, "trainer.dict_class"),
        (dictionary_learning, {"dict_class": "AutoEncoder", "dict_size": 0}, "dict_size is 0"),
        (sparsify, {"activation": "groupmax"}, 'activation is "groupmax" where "topk"'),
        (sparsify, {"k": 11}, "k is 11 where a positive whole number up to 10"),
        (sparsify, {"signed": True}, "signed codes"),
        (sparsify, {"transcode": "yes"}, 'transcode is "yes" where true or false'),
        (sparsify, {"skip_connection": True}, "tensor W_skip is missing"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(
    make: Callable[..., Dictionary], config: dict[str, Any], message: str, tmp_path: Path
):
    tensors = {"b_enc": B_ENC} if make is saelens else {}
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "sae", tensors, **config)


def test_code_in_a_pickle_is_not_run(tmp_path: Path):
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "ran").mkdir, ()

    with pytest.raises(ValueError, match=r"ae.pt cannot be read as tensors alone"):
        dictionary_learning(tmp_path / "sae", {"bias": Payload()}, dict_class="AutoEncoder")  # pyright: ignore
    assert not (tmp_path / "ran").exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no dictionary of a known format \(saelens: cfg.json and"):
        detect(tmp_path)
    FORMATS["sparsify"].write(random_dictionary("topk"), tmp_path / "layers.3", PROVENANCE)
    with pytest.raises(ValueError, match=r"Directories inside it that are: .*layers.3"):
        detect(tmp_path)
    (tmp_path / "layers.3" / "sae.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"sae.safetensors cannot be read as safetensors"):
        FORMATS["sparsify"].read(tmp_path / "layers.3")
    (tmp_path / "layers.3" / "cfg.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"cfg.json holds a list"):
        FORMATS["sparsify"].read(tmp_path / "layers.3")


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_write_leaves_nothing(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, out = FORMATS[form].write, tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write(random_dictionary("topk"), out, PROVENANCE)
    assert not list(tmp_path.iterdir())
    write(random_dictionary("topk"), out, PROVENANCE)
    with pytest.raises(ValueError, match="already there and not empty"):
        write(random_dictionary("topk", seed=1), out, PROVENANCE)
    assert sorted(file.name for file in out.iterdir()) == sorted(FORMATS[form].files)


def test_dictionary_learning_has_whole_k_only(tmp_path: Path):
    with pytest.raises(ValueError, match=r"k=2.5"):
        FORMATS["dictionary_learning"].write(BatchTopK(D, N, k=2.5), tmp_path / "out", PROVENANCE)
