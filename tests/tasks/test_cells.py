"""Numbers and parameters as pages load them."""

from tasks.cells import RANDOM_WEIGHTS, all_rounded, method, method_and_params


def test_numbers_keep_six_digits_whole_ones_and_missing_ones_stay():
    assert all_rounded([1 / 3, 1234567.8, 12345678, None]) == [0.333333, 1234570.0, 12345678, None]


def test_a_dictionary_is_what_it_was_asked_to_be_and_of_a_foreign_one_nothing_is_known():
    spec = {"dictionary": {"method": "topk", "k": 3}, "hook_point": "h"}
    assert method_and_params(spec) == ("topk", {"k": 3})
    assert method_and_params({"baseline": {"method": "pca"}}) == ("pca", {})
    assert method_and_params({"hook_point": "h"}) == (None, {})
    assert spec["dictionary"] == {"method": "topk", "k": 3}


def test_a_model_is_told_where_there_are_several_and_a_control_as_that():
    own, control, other = ({"method": "topk", "model": name} for name in ("a", f"a {RANDOM_WEIGHTS}", "b"))
    assert method(own, [own]) == method(control, [control]) == "topk"
    assert [method(entry, [own, control]) for entry in (own, control)] == ["topk", "topk, random weights"]
    rows = [own, control, other]
    assert [method(entry, rows) for entry in rows] == ["topk, a", "topk, a, random weights", "topk, b"]
