"""What SAEBench gets does what the dictionary does, in a module that knows nothing of this project."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from sae_core.baselines import ICA, PCA, Identity
from sae_core.dictionary import Dictionary
from sae_core.interchange.provenance import Provenance
from tasks.exports import saebench
from tests.peers.environments import run_in
from tests.sae_core.zoo import ZOO, D, noise, with_random_biases

FROM = Provenance("gpt2", "blocks.3.hook_resid_post", 128, prepend_bos=False, dataset="stories")
FITTING = [name for name in ZOO if name not in ("transcoder", "crosscoder")]


def exported(dictionary: Dictionary, place: Path, provenance: Provenance = FROM) -> ModuleType:
    dictionary.save(place / "own")
    saebench.write(place / "own", place / "theirs", provenance)
    spec = importlib.util.spec_from_file_location("exported", place / "theirs" / "saebench_sae.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exported"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FITTING)
def test_codes_and_reconstructions_are_ours(name: str, tmp_path: Path):
    dictionary = with_random_biases(ZOO[name]()).float()
    sae = exported(dictionary, tmp_path).load()
    ours = saebench.fitting(dictionary)
    x = noise(3, 50, D).float()
    torch.testing.assert_close(sae.encode(x), ours.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(sae.decode(ours.encode(x)), dictionary(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(sae(x), dictionary(x), rtol=0, atol=1e-5)
    assert (sae.encode(x) != 0).any()
    assert sae.W_enc.shape == (D, dictionary.n_features)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(dictionary.n_features), rtol=0, atol=1e-5)
    assert (sae.b_enc.shape, sae.b_dec.shape) == ((dictionary.n_features,), (D,))


def test_the_configuration_is_what_saebench_reads(tmp_path: Path):
    sae = exported(ZOO["topk"](), tmp_path).load(dtype=torch.float64)
    assert (sae.dtype, sae.device, sae.cfg.dtype) == (torch.float64, torch.device("cpu"), "float64")
    assert (sae.cfg.model_name, sae.cfg.hook_layer, sae.cfg.hook_name) == ("gpt2", 3, "blocks.3.hook_resid_post")
    assert sae.cfg.architecture_str == "topk"
    assert json.loads(json.dumps(sae.cfg.to_dict()))["d_sae"] == 24
    assert sae.cfg.model_from_pretrained_kwargs == {}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (ZOO["transcoder"], "a transcoder writes elsewhere"),
        (ZOO["crosscoder"], "a crosscoder writes elsewhere"),
        (lambda: PCA(8, 8, rectify=False), "signed codes"),
        (lambda: ICA(8, 8, rectify=False), "signed codes"),
        (lambda: Identity(8, 8, rectify=False), "signed codes"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(make: Callable[[], Dictionary], reason: str, tmp_path: Path):
    with pytest.raises(ValueError, match=reason):
        exported(make(), tmp_path)


def test_a_dictionary_of_no_layer_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the hook point None"):
        exported(ZOO["relu"](), tmp_path, Provenance("gpt2"))


def test_it_loads_where_this_project_is_not(tmp_path: Path):
    exported(ZOO["gated"](), tmp_path)
    code = "import sys, saebench_sae; saebench_sae.load(); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "theirs", capture_output=True, text=True, check=True
    )
    assert not {"sae_core", "tasks", "storage"} & set(told.stdout.split())


@pytest.mark.peers
@pytest.mark.timeout(1800)
def test_saebench_measures_what_the_dictionaries_do(tmp_path: Path):
    dictionaries = {name: with_random_biases(ZOO[name]()).float() for name in FITTING}
    for name, dictionary in dictionaries.items():
        dictionary.save(tmp_path / "own" / name)
        saebench.write(tmp_path / "own" / name, tmp_path / "theirs" / name, FROM)
    run_in("sae_bench", tmp_path / "theirs", str(D))
    told = json.loads((tmp_path / "theirs" / "told.json").read_text())
    assert told.keys() == dictionaries.keys()
    acts = load_file(tmp_path / "theirs" / "acts.safetensors")["acts"]
    for name, dictionary in dictionaries.items():
        metrics, features = told[name]["metrics"], told[name]["features"]
        codes, rebuilt = dictionary.encode(acts), dictionary(acts)
        assert metrics["sparsity"]["l0"] == pytest.approx((codes != 0).sum(1).float().mean().item()), name
        assert metrics["shrinkage"]["l2_norm_out"] == pytest.approx(rebuilt.norm(dim=1).mean().item(), rel=1e-4), name
        likeness = torch.cosine_similarity(acts, rebuilt).mean().item()
        assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(likeness, abs=1e-4), name
        density = (codes > 0).float().mean(0)
        assert features["feature_density"] == pytest.approx(density.tolist()), name
