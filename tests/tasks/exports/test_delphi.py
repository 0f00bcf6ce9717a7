"""The latent cache as delphi's loader reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sae_core.interchange.provenance import Provenance
from storage.artifacts import ArtifactRef
from tasks.corpus import token_rows
from tasks.errors import ExperimentError
from tasks.exports import delphi
from tests.peers.environments import run_in
from tests.tasks.conftest import RESIDUAL
from tests.tasks.evaluate.subjects import saved, zeros
from tests.tasks.test_feature_pages import Pages


def test_the_cache_holds_the_codes_the_tokens_and_what_the_loader_asks_for(
    pages: Pages, dictionary: Path, harvested: dict[str, ArtifactRef], tmp_path: Path
):
    delphi.write(dictionary, tmp_path / "out", Provenance(model_name="tiny", dataset="stories"))
    (module,) = (tmp_path / "out" / "latents").iterdir()
    assert module.name == RESIDUAL
    config = json.loads((module / "config.json").read_text())
    tokens = np.asarray(token_rows(harvested["tokens"], "held_out")[:])
    assert (config["model_name"], config["dataset_repo"]) == ("tiny", "stories")
    assert config["ctx_len"] == config["cache_ctx_len"] == tokens.shape[1]
    codes = np.zeros_like(pages.codes())
    for file in module.glob("*.safetensors"):  # as delphi.latents.loader.TensorBuffer does
        data, first = load_file(file), int(file.stem.split("_")[0])
        row, position, latent = data["locations"].astype(np.int64).T
        codes[row, position, latent + first] = data["activations"]
        assert (data["tokens"] == tokens).all()
    assert (codes == pages.codes()).all()
    assert codes.any()


@pytest.mark.usefixtures("harvested")
def test_a_dictionary_whose_features_nobody_read_is_refused(tmp_path: Path):
    from tasks.caching import artifacts

    source = artifacts().path(saved(zeros(7)))
    with pytest.raises(ExperimentError, match=r"holds no features of dictionary/.*such as the presets"):
        delphi.write(source, tmp_path / "out", Provenance())


@pytest.mark.peers
@pytest.mark.timeout(1800)
def test_delphi_finds_every_active_window_with_its_activations(
    pages: Pages, dictionary: Path, harvested: dict[str, ArtifactRef], tiny_model: Path, tmp_path: Path
):
    delphi.write(dictionary, tmp_path / "out", Provenance(model_name="tiny", dataset="stories"))
    length = 8
    run_in("delphi", tmp_path / "out", tiny_model, str(length))
    records = json.loads((tmp_path / "out" / "told.json").read_text())

    tokens_WP = np.asarray(token_rows(harvested["tokens"], "held_out")[:]).reshape(-1, length)
    codes_WPn = pages.codes().reshape(-1, length, len(pages.each))
    active = [latent for latent in range(len(pages.each)) if codes_WPn[..., latent].any()]
    assert active
    assert sorted(record["latent"] for record in records) == active
    for record in records:
        codes_WP = codes_WPn[..., record["latent"]]
        assert record["module"] == RESIDUAL
        assert record["frequency"] == pytest.approx((codes_WP != 0).mean())
        here = codes_WP.any(1)
        ours = sorted(zip(tokens_WP[here].tolist(), codes_WP[here].tolist(), strict=True))
        assert sorted((tokens, activations) for tokens, activations in record["windows"]) == ours
