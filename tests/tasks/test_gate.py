import pytest

from tasks.gate import verdicts
from tasks.specs import GateSpec

OLD = {"fvu": 0.1, "l0": 32.0, "ce_recovered": 0.98, "dead_fraction": 0.02, "loss_reconstructed": 3.0}


def broken(old: dict[str, float | None] | None, **new: float | None) -> list[str]:
    return [rule.metric for rule in verdicts(GateSpec(), old, {**OLD, **new}) if not rule.holds]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({}, []),
        ({"fvu": 0.1019}, []),
        ({"fvu": 0.1021}, ["fvu"]),
        ({"fvu": 0.01, "ce_recovered": 1.0, "dead_fraction": 0.0}, []),
        ({"l0": 35.0}, []),
        ({"l0": 36.0}, ["l0"]),
        ({"l0": 28.0}, ["l0"]),
        ({"ce_recovered": 0.9751}, []),
        ({"ce_recovered": 0.974}, ["ce_recovered"]),
        ({"dead_fraction": 0.029}, []),
        ({"dead_fraction": 0.031}, ["dead_fraction"]),
        ({"fvu": 1.0, "l0": 0.0}, ["fvu", "l0"]),
    ],
)
def test_a_new_dictionary_may_be_better_and_hardly_worse(new: dict[str, float], expected: list[str]):
    assert broken(dict(OLD), **new) == expected


def test_what_is_undefined_for_the_new_one_alone_fails():
    assert broken(dict(OLD), ce_recovered=None) == ["ce_recovered"]
    assert broken({**OLD, "ce_recovered": None}, ce_recovered=None) == []
    assert broken({**OLD, "ce_recovered": None}) == []
    assert broken({**OLD, "ce_recovered": None}, ce_recovered=None, loss_reconstructed=None) == ["loss_reconstructed"]
    assert broken(dict(OLD), fvu=None) == ["fvu"]


def test_without_an_old_one_numbers_are_enough():
    assert broken(None, fvu=5.0, dead_fraction=1.0) == []
    assert broken(None, ce_recovered=None) == []
    assert broken(None, fvu=None) == ["fvu"]
