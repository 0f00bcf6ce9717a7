"""A dictionary that is known to be there is found, and the controls do not find it."""

import runpy
from pathlib import Path

import pytest

PLANTED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "planted_dictionary.py"))


@pytest.mark.slow
def test_the_planted_dictionary_is_recovered_and_by_no_control():
    results = PLANTED["planted_experiment"](control_steps=2500)
    found = results.pop("tied, α=3e-3")
    assert found.true_to_learned >= 0.95
    assert found.alive_to_true >= 0.95
    for control in results.values():
        assert control.true_to_learned <= 0.45
