"""The report of a tiny experiment, made once for a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.site.reports import Made, tiny_report_of


@pytest.fixture(scope="package")
def tiny_report(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with tiny_report_of(tiny_model, tmp_path_factory) as report:
        yield report
