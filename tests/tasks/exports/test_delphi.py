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
