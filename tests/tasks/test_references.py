"""What a person types for an artifact."""

import pytest

from tasks.errors import ExperimentError
from tasks.references import find_name

NAMES = ["tokens/abc1", "tokens/abd2", "dictionary/abc3", "dictionary/fff4"]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("tokens/abc1", "tokens/abc1"),
        ("tokens/abc", "tokens/abc1"),
        ("dictionary/a", "dictionary/abc3"),
        ("abd", "tokens/abd2"),
        ("f", "dictionary/fff4"),
    ],
)
def test_a_name_or_a_beginning_that_no_other_has_is_enough(typed: str, name: str):
    assert find_name(typed, NAMES, "/runs") == name


def test_a_whole_name_is_meant_also_where_another_begins_with_it():
    assert find_name("tokens/abc", ["tokens/abc", "tokens/abc1"], "/runs") == "tokens/abc"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("abc", r"'abc' could be several. In /runs there are: dictionary/abc3, tokens/abc1\."),
        ("tokens/", r"could be several.*tokens/abc1, tokens/abd2"),
        ("", "could be several"),
        ("token/abc1", r"'token/abc1' is not there. In /runs there are: .*tokens/abc1.*`--home` names another"),
        ("xyz", "is not there"),
    ],
)
def test_a_wrong_or_ambiguous_name_is_refused_with_the_nearest(typed: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        find_name(typed, NAMES, "/runs")
    with pytest.raises(ExperimentError, match=r"In /runs there are: none"):
        find_name(typed, [], "/runs")
