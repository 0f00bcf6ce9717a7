"""`saeflow export` and `saeflow import` as a person runs them, with directories and with a hub on this machine."""

from pathlib import Path

import pytest
import torch

from sae_core import TopK, load_dictionary
from storage.artifacts import ArtifactStore
from tests.flows.command import Result, assert_refused, saeflow_process
from tests.flows.loopback_hub import hub_of


def printed(result: Result) -> list[str]:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_a_dictionary_travels_over_the_hub(tmp_path: Path):
    sae = TopK(6, 10, k=3)
    sae.save(tmp_path / "sae")
    home = tmp_path / "home"
    with hub_of("someone/saes", token="hf_secret") as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        place = "hf:someone/saes/layer_3"
        export = ("export", tmp_path / "sae", "--format", "saelens", "--to", place)

        refused = saeflow_process(*export, **there)
        assert_refused(refused, "someone/saes", "cannot be written", "$HF_TOKEN is not set")
        assert printed(saeflow_process(*export, HF_TOKEN="hf_secret", **there))[0].startswith(hub.url)
        assert sorted(hub.files) == ["layer_3/cfg.json", "layer_3/sae_weights.safetensors"]

        arguments = ("import", place, "--hook-point", "blocks.3.hook_resid_post", "--home", home)
        reference, directory = printed(saeflow_process(*arguments, HF_TOKEN="hf_secret", **there))
    assert Path(directory) == home / reference
    read = load_dictionary(Path(directory))
    x = torch.randn(5, 6)
    torch.testing.assert_close(read(x), sae(x))
    (_, manifest), *others = ArtifactStore(home).list()
    assert not others
    assert manifest["spec"]["hook_point"] == "blocks.3.hook_resid_post"
    assert manifest["notes"]["source"] == place
    assert b"hf_secret" not in b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
