"""A tiny model whose held-out text has been read, in a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifacts import ArtifactRef
from tests.conftest import write_text
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
