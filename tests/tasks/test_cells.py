"""Numbers and parameters as pages load them."""

from tasks.cells import all_rounded, method_and_params


def test_numbers_keep_six_digits_whole_ones_and_missing_ones_stay():
    assert all_rounded([1 / 3, 1234567.8, 12345678, None]) == [0.333333, 1234570.0, 12345678, None]


def test_a_dictionary_is_what_it_was_asked_to_be_and_of_a_foreign_one_nothing_is_known():
    spec = {"dictionary": {"method": "topk", "k": 3}, "hook_point": "h"}
    assert method_and_params(spec) == ("topk", {"k": 3})
    assert method_and_params({"baseline": {"method": "pca"}}) == ("pca", {})
    assert method_and_params({"hook_point": "h"}) == (None, {})
    assert spec["dictionary"] == {"method": "topk", "k": 3}
