"""The table of dictionaries, whatever their parameters."""

import json

from tasks.report import page, parameters
from tests.tasks.test_train import METHODS


def rows() -> list[dict]:
    """One of every method, as manifests give them back."""
    return [{"params": json.loads(spec.model_dump_json(exclude={"method"}))} for spec in METHODS]


def test_every_methods_parameters_fit_into_a_cell():
    told = [parameters(entry["params"], rows()) for entry in rows()]
    assert told[0].startswith("expansion=2, learning_rate=0.001")
    assert "alpha=0.01" in told[0]
    assert "k=6" in told[3]
    assert all("None" not in entry for entry in told)


def test_what_does_not_vary_is_told_only_where_it_is_the_methods_own():
    one = [rows()[5]]
    assert parameters(one[0]["params"], one) == "expansion=3, k=6"
    other = {"params": one[0]["params"] | {"prefixes": [0.5]}}
    assert parameters(other["params"], [*one, other]) == "expansion=3, k=6, prefixes=[0.5]"


def test_the_page_holds_every_dictionary_marks_the_best_and_leaves_what_is_undefined_open():
    numbers = {"l0": 3.0, "cosine": 0.5, "dead_fraction": 0.25, "rows": 992}
    told = [
        {
            **numbers,
            "hook_point": place,
            "method": "topk",
            "parameters": f"k={k}",
            "ref": f"dictionary/{place}{k}",
            "fvu": f,
        }
        for place, k, f in (("a", 1, 0.5), ("a", 2, 0.25), ("b", 1, None), ("b", 2, 0.125))
    ]
    text = page(told)
    assert [entry["ref"] in text for entry in told] == [True] * 4
    best = [line for line in text.splitlines() if 'class="best"' in line]
    assert ["k=2" in line for line in best] == [True, True]
    assert "—" in text
    assert "4 dictionaries at 2 hook points" in text
    assert "http" not in text  # it needs nothing but itself
