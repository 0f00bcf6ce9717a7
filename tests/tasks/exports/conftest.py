"""A dictionary whose features were read and whose pages were made."""

from pathlib import Path

import pytest
import torch

from storage.artifacts import ArtifactRef
from tests.tasks.evaluate.subjects import reader
from tests.tasks.test_feature_pages import Pages


@pytest.fixture(scope="module")
def pages(harvested: dict[str, ArtifactRef]) -> Pages:
    directions = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    return Pages(harvested, reader(directions, bias=-0.05))


@pytest.fixture
def dictionary(pages: Pages) -> Path:
    """Where the dictionary is."""
    from tasks.caching import artifacts

    return artifacts().path("dictionary", pages.index["ref"].partition("/")[2])
