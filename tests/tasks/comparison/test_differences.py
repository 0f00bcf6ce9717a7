"""Numbers and settings beside each other."""

from typing import Any

from storage.artifacts import ArtifactRef
from tasks.comparison.differences import metric_rows, setting_rows
from tasks.comparison.entries import Entry
from tasks.comparison.pairs import Pair


def entry(**numbers: Any) -> Entry:
    row = {"ref": "dictionary/1", "hook_point": "h", "method": "topk", "params": {"k": 4}, "model": "m", **numbers}
    return Entry(row, ArtifactRef(kind="dictionary", key="1", digest=""), True, None)


def study(**numbers: Any) -> dict[str, Any]:
    about = {
        "ref": "evaluation/1",
        "title": "ioi",
        "hook_point": "h",
        "method": "topk",
        "params": {"k": 4},
        "model": "m",
    }
    return {**about, "asked": {"seed": 0}, "columns": {"auc": "area"}, "intervals": {}, "undefined": {}, **numbers}


def test_every_metric_that_both_have_is_compared_and_no_other():
    pair = Pair(
        entry(fvu=0.5, l0=0.0, only_a=1.0, ce=None, undefined={"ce": "no loss"}, left_out={"kept": 3}),
        entry(fvu=0.25, l0=3, only_b=1.0, ce=0.5),
    )
    of_a = [study(auc=0.5, intervals={"auc": [0.4, 0.6]}), study(title="probing", auc=1.0)]
    of_b = [study(auc=0.75), study(title="probing", auc=2.0, asked={"seed": 1}), study(hook_point="other", auc=9.0)]
    found = {(row["study"], row["metric"]): row for row in metric_rows(1, pair, of_a, of_b)}
    assert set(found) == {("reconstruction", "fvu"), ("reconstruction", "l0"), ("reconstruction", "ce"), ("ioi", "auc")}
    fvu, l0, ce, auc = found.values()
    assert (fvu["difference"], fvu["ratio"]) == (-0.25, 0.5)
    assert (l0["difference"], l0["ratio"], l0["undefined"]) == (3, None, "a ratio to 0 is undefined")
    assert (ce["a"], ce["b"], ce["difference"], ce["undefined"]) == (None, 0.5, None, "A: no loss")
    assert (auc["a_low"], auc["b_low"], auc["meaning"]) == (0.4, None, "area")


def test_settings_go_by_name_and_another_order_is_no_difference():
    topk, relu = {"method": "topk", "k": 4}, {"method": "relu"}
    a = {"training": {"epochs": 2, "new": None}, "dictionaries": [topk, relu], "hook_points": ["h", "i"]}
    b = {"training": {"epochs": 3}, "dictionaries": [relu, {**topk, "k": 8}], "hook_points": ["h", "i"]}
    told = {row["setting"]: (row["a"], row["b"]) for row in setting_rows(a, b) if row["differs"]}
    assert told == {"training.epochs": ("2", "3"), "training.new": ("None", None), "dictionaries.topk.k": ("4", "8")}
