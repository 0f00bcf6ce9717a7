"""Tiny models: one whose held-out text has been read, in a home of its own, and a loaded one of each architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import ArtifactRef
from tests.conftest import ARCHITECTURES, write_model, write_text
from tests.tasks.evaluate import subjects

EMBEDDING = "blocks.0.hook_resid_pre"
RESIDUAL = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def harvested(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArtifactRef]]:
    """Model, tokens and activations; of documents about as long as two fragments."""
    words = write_text(100).split()
    documents = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    hook_points = (EMBEDDING, RESIDUAL)
    with subjects.harvested(
        tiny_model, tmp_path_factory, *hook_points, documents=documents, held_out_tokens=8192
    ) as refs:
        yield refs


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A loaded model with random weights, of each architecture."""
    from tasks import language_model
    from tasks.specs import ModelSpec

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(tmp_path_factory.mktemp("home")))
        source = str(write_model(tmp_path_factory.mktemp("model"), request.param))
        model = language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=source)))
        return language_model.load(model, "float32", "cpu")
