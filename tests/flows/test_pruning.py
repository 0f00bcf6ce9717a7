"""What a garbage collection keeps and what it lets go."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from flows.catalogue import Catalogue
from flows.pruning import Plan, plan
from storage.locks import Locks
from tests.flows.homes import SmallHome

WEEK = timedelta(days=7)


@pytest.fixture
def small(tmp_path: Path) -> SmallHome:
    return SmallHome(tmp_path / "home")


def planned(small: SmallHome, *forget: str) -> Plan:
    return plan(Catalogue.of(small.store, forget), WEEK)


def test_what_a_kept_experiment_leads_to_stays_and_the_rest_goes_users_first(small: SmallHome):
    one, two = small.chain(1), small.chain(2)
    small.record("one", one["evaluation"])
    found = planned(small)
    assert found.kept == sorted(map(str, one.values()))
    gone = [str(two[kind]) for kind in ("evaluation", "dictionary", "activations", "tokens")]
    assert found.to_remove == gone  # the model is shared


def test_forgetting_an_experiment_lets_go_what_only_it_needed(small: SmallHome):
    one, two = small.chain(1), small.chain(2)
    small.record("one", *one.values())
    small.record("two", *two.values())
    assert planned(small).to_remove == []
    assert set(planned(small, "two").to_remove) == {str(ref) for ref in two.values()} - {str(one["model"])}
    assert len(planned(small, "one", "two").to_remove) == 9


def test_imported_dictionaries_stay(small: SmallHome):
    small.record("one", small.chain(1)["model"])
    imported = small.make("dictionary", {"dictionary": {"method": "relu"}, "imported": {"format": "saelens"}})
    found = planned(small)
    assert str(imported) in found.kept
    assert str(imported) not in found.to_remove


def test_an_unfinished_build_goes_when_it_is_old_and_nobody_is_at_work_on_it(small: SmallHome):
    small.record("one", *small.chain(1).values())
    with pytest.raises(InterruptedError):
        small.make("tokens", {"n": 1}, fails=True)
    (build,) = small.store.unfinished()
    found = planned(small)
    assert (found.to_discard, found.left_alone) == ([], {str(build): "it is not 7 days old"})
    place = small.store.home / build.kind / f"{build.key}.partial"
    for path in (place, *place.iterdir()):
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    assert planned(small).to_discard == [str(build)]
    with Locks(Path(small.store.uri)).hold(build.kind, build.key):
        found = planned(small)
    assert (found.to_discard, found.left_alone) == ([], {str(build): "a process is at work on it"})


def test_what_cannot_be_judged_is_left_alone(small: SmallHome):
    one, two = small.chain(1), small.chain(2)
    small.record("one", one["evaluation"], one["dictionary"], one["activations"])
    for ref in (one["activations"], two["dictionary"]):
        (small.store.path(ref) / "manifest.json").write_text("{}")
    found = planned(small)
    assert set(found.left_alone) == {str(two["dictionary"])}
    assert str(two["dictionary"]) not in found.to_remove
    assert str(one["activations"]) not in found.to_remove
