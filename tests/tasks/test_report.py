"""The table of dictionaries, whatever their parameters."""

import json

from tasks.report import parameters
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
