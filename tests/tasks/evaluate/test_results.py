"""What is undefined says so."""

import json
from pathlib import Path

import pytest
from scipy import stats

from tasks.evaluate.results import METRICS, over_seeds, write_metrics

COLUMNS = {"recovery": "how much comes back"}


def test_what_is_not_a_number_is_null_and_needs_a_reason(tmp_path: Path):
    for value in (None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="recovery is undefined, and nothing says why"):
            write_metrics(tmp_path, "ioi", COLUMNS, {"recovery": value})
        write_metrics(tmp_path, "ioi", COLUMNS, {"recovery": value}, undefined={"recovery": "the gate"})
        assert json.loads((tmp_path / METRICS).read_text()) == {
            "evaluation": "ioi", "columns": COLUMNS, "recovery": None, "intervals": {},
            "undefined": {"recovery": "the gate"},
        }  # fmt: skip


def test_a_column_without_a_number_needs_a_reason_too(tmp_path: Path):
    with pytest.raises(ValueError, match="recovery is undefined"):
        write_metrics(tmp_path, "ioi", COLUMNS, {})
    assert not (tmp_path / METRICS).exists()


def test_the_interval_over_seeds_is_that_of_students_t():
    values = [1.0, 2.0, 4.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_seeds(values) == pytest.approx([expected.low, expected.high])
    assert over_seeds([3.0]) is None
