"""The report of a tiny experiment, made once for a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write_text
from tests.tasks.evaluate import subjects
from tests.tasks.site.reports import HOOK_POINTS, Made, make_report


@pytest.fixture(scope="package")
def tiny_report(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    words = write_text(100).split()
    documents = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    with subjects.harvested(
        tiny_model, tmp_path_factory, *HOOK_POINTS, documents=documents, held_out_tokens=4096
    ) as refs:
        yield make_report(**refs)
