"""A feature told by its tokens."""

import pytest

from tasks.interpret.fragments import FeatureFragments, Fragment
from tasks.interpret.token_lookup import look_up


def fragment(tokens: list[int], activations: list[float]) -> Fragment:
    return Fragment(0, 0, tuple(tokens), tuple(f" t{token}" for token in tokens), tuple(activations))


def feature(train: list[Fragment], top: list[Fragment]) -> FeatureFragments:
    return FeatureFragments(3, tuple(train), tuple(top), (), (), (), ())


def test_a_token_is_simulated_by_its_mean_and_a_new_one_by_zero():
    train = [fragment([1, 2, 1], [4.0, 0.0, 2.0]), fragment([1, 3, 4], [0.0, 1.0, -1.0])]
    told = look_up(feature(train, [fragment([4, 1, 9], [0.0, 7.0, 7.0])]))
    assert told.feature == 3
    assert told.simulated is not None
    assert told.simulated[0].values == (-1.0, 2.0, 0.0)
    assert told.simulated[0].mode == "token_lookup"
    assert told.explanation.text == 'the tokens " t1" and " t3"'


def test_the_strongest_tokens_are_listed_quoted_and_no_more_than_eight():
    told = look_up(feature([fragment(list(range(20)), [float(n) for n in range(20)])], []))
    assert told.explanation.text is not None
    assert told.explanation.text.startswith('the tokens " t19", " t18"')
    assert told.explanation.text.count('"') == 16
    hostile = Fragment(0, 0, (1,), ('"\n<end>',), (1.0,))
    assert look_up(feature([hostile], [])).explanation.text == r'the token "\"\n<end>"'


@pytest.mark.parametrize("activations", [[0.0, 0.0], [-1.0, 0.0], [1.0, -2.0]])
def test_without_a_token_to_name_there_is_no_explanation(activations: list[float]):
    told = look_up(feature([fragment([1, 1], activations)], []))
    assert told.explanation.text is None
    assert told.explanation.reason is not None
    assert told.simulated is None, "and nothing that could be scored"
