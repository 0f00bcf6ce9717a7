"""The ledger of promotions, alone: what is promoted after which entries, and what a garbage collection keeps of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from flows.artifact_tables import entries as listed
from flows.catalogue import Catalogue
from flows.promotions import PERSON, PROMOTION, REJECTION, ROLL_BACK, Ledger, ledgers
from flows.pruning import plan
from storage.artifacts import ArtifactRef
from storage.errors import StorageError
from storage.locations import open_location
from tasks.errors import ExperimentError
from tests.flows.command import assert_refused, saeflow
from tests.flows.homes import SmallHome


def ref(number: int) -> ArtifactRef:
    return ArtifactRef(kind="dictionary", key=f"{number:08d}", digest=f"digest{number}")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_location(tmp_path), "tiny")


def test_what_is_promoted_is_the_sum_of_the_entries(ledger: Ledger):
    assert ledger.promoted() == {}
    ledger.record(PROMOTION, {"a": ref(1), "b": ref(2)}, PERSON)
    ledger.record(REJECTION, {"a": ref(3)}, "flow run x")
    ledger.record(PROMOTION, {"b": ref(4)}, "flow run y")
    assert ledger.promoted() == {"a": ref(1), "b": ref(4)}
    ledger.record(ROLL_BACK, ledger.back_to(1), PERSON, back_to=1)
    assert ledger.promoted() == {"a": ref(1), "b": ref(2)}
    ledger.record(ROLL_BACK, ledger.back_to(3), PERSON, back_to=3)
    assert ledger.promoted() == {"a": ref(1), "b": ref(4)}
    assert [entry.number for entry in ledger.entries()] == [1, 2, 3, 4, 5]


def test_what_changes_nothing_is_no_entry(ledger: Ledger):
    assert ledger.record(PROMOTION, {"a": ref(1), "b": ref(2)}, PERSON)
    assert ledger.record(PROMOTION, {"a": ref(1)}, PERSON) is None
    assert ledger.record(ROLL_BACK, ledger.back_to(1), PERSON, back_to=1) is None
    assert len(ledger.entries()) == 1


def test_a_retraining_is_recorded_once_even_after_a_roll_back(ledger: Ledger):
    ledger.record(PROMOTION, {"a": ref(1)}, PERSON)
    inputs = {"activations": ref(7)}
    for kind, made in ((PROMOTION, ref(2)), (REJECTION, ref(3))):
        assert ledger.record(kind, {"a": made}, "flow run x", inputs=inputs)
        assert ledger.record(kind, {"a": made}, "flow run x", inputs=inputs) is None
    ledger.record(ROLL_BACK, ledger.back_to(1), PERSON, back_to=1)
    assert ledger.record(PROMOTION, {"a": ref(2)}, "flow run x", inputs=inputs) is None
    assert ledger.promoted() == {"a": ref(1)}


def test_of_many_writers_none_loses_an_entry(ledger: Ledger):
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda number: ledger.record(PROMOTION, {f"slot {number}": ref(number)}, PERSON), range(24)))
    assert [entry.number for entry in ledger.entries()] == list(range(1, 25))
    assert len(ledger.promoted()) == 24


@pytest.mark.parametrize(("number", "message"), [(9, "9 is no entry"), (2, "2 is a rejection, which promoted nothing")])
def test_there_is_no_way_back_to_what_promoted_nothing(ledger: Ledger, number: int, message: str):
    ledger.record(PROMOTION, {"a": ref(1)}, PERSON)
    ledger.record(REJECTION, {"a": ref(2)}, PERSON)
    with pytest.raises(ExperimentError, match=rf"{message}.* There are: 1\."):
        ledger.back_to(number)


def test_an_entry_that_cannot_be_read_is_named(ledger: Ledger, tmp_path: Path):
    ledger.record(PROMOTION, {"a": ref(1)}, PERSON)
    (tmp_path / "promotions/tiny.ledger/000001.json").write_text("{}")
    with pytest.raises(StorageError, match=r"promotions/tiny\.ledger/000001\.json cannot be read"):
        ledger.promoted()


def test_a_ledger_in_an_object_store_is_the_same(bucket: str):
    home = open_location(bucket)
    ledger = Ledger(home, "tiny")
    assert ledgers(home) == []
    ledger.record(PROMOTION, {"a": ref(1)}, PERSON)
    ledger.record(PROMOTION, {"a": ref(2)}, PERSON)
    assert Ledger(home, "tiny").promoted() == {"a": ref(2)}
    assert [found.experiment for found in ledgers(home)] == ["tiny"]


def test_promoted_dictionaries_are_kept_and_those_before_alone(tmp_path: Path):
    small = SmallHome(tmp_path / "home")
    now, before, never, kept = (small.chain(seed) for seed in range(4))
    small.record("other", *kept.values())
    ledger = Ledger(small.store.home_location, "tiny")
    ledger.record(PROMOTION, {"h topk": before["dictionary"]}, PERSON)
    ledger.record(REJECTION, {"h topk": never["dictionary"]}, PERSON)
    ledger.record(PROMOTION, {"h topk": now["dictionary"]}, PERSON)
    catalogue = Catalogue.of(small.store)
    gone = {str(chain[kind]) for chain in (before, never) for kind in ("evaluation", "activations", "tokens")}
    assert set(plan(catalogue, timedelta()).to_remove) == gone | {str(never["dictionary"]), str(now["evaluation"])}
    assert catalogue.experiments(str(now["activations"])) == ["tiny (promoted)"]
    users = {entry["ref"]: entry["experiments"] for entry in listed(catalogue)["artifacts"]}
    assert users[str(now["dictionary"])] == ["tiny (promoted)"]
    assert users[str(before["dictionary"])] == ["tiny (promoted before)"]
    assert users[str(never["dictionary"])] == []


def test_the_commands_list_the_ledger_and_roll_back(tmp_path: Path):
    small = SmallHome(tmp_path / "home")
    first, second = (small.chain(seed)["dictionary"] for seed in range(2))
    ledger = Ledger(small.store.home_location, "tiny")
    ledger.record(PROMOTION, {"h topk": first}, "flow run 1")
    rules = [{"metric": "fvu", "holds": False, "says": "at most 0.1"}]
    ledger.record(REJECTION, {"h topk": second}, "flow run 2", why={"h topk": {"rules": rules}})
    ledger.record(PROMOTION, {"h topk": second}, PERSON)

    def say(*arguments: object) -> str:
        result = saeflow(*arguments, "--home", tmp_path / "home")
        assert result.returncode == 0, result.stderr
        return result.stdout

    lines = say("promotions", "tiny").splitlines()
    assert [line.split()[0] for line in lines] == ["entry", "1", "2", "3", "tiny:", "h"]
    assert "rejection" in lines[2]
    assert "for fvu" in lines[2]
    assert second.key[:8] in lines[-1]
    assert "entry 4 of tiny: back to entry 1" in say("promote", "tiny", "--back-to", 1)
    assert "promoted already: nothing was changed" in say("promote", "tiny", "--back-to", 1)
    assert json.loads(say("promotions", "--json"))["tiny"]["promoted"] == {"h topk": str(first)}
    assert "tiny: promoted in 1 slot" in say("promotions")
    small.store.remove(second)
    refused = [
        (("promotions", "tinny"), "nothing was promoted of an experiment 'tinny'. There are: tiny"),
        (("promote", "tiny", "--back-to", 7), "7 is no entry that 'tiny' can be rolled back to. There are: 1, 3, 4"),
        (("promote", "tiny", "--back-to", 3), f"artifact dictionary/{second.key} is damaged"),
        (("promote", "tiny"), "say what to promote, in one way"),
        (("promote", "tiny", "--all", "--back-to", 1), "say what to promote, in one way"),
    ]
    for arguments, message in refused:
        assert_refused(saeflow(*arguments, "--home", tmp_path / "home"), message)


def test_an_empty_home_has_promoted_nothing(tmp_path: Path):
    result = saeflow("promotions", "--home", tmp_path / "home")
    assert result.returncode == 0
    assert "nothing is promoted" in result.stdout
