"""The record of an experiment: what it names while a run is under way, after it, and when it was killed."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.experiment_records import ExperimentRecords, RunRecord
from storage.errors import StorageError
from storage.locations import LocalDirectory


@pytest.fixture
def records(tmp_path: Path) -> ExperimentRecords:
    return ExperimentRecords(LocalDirectory(tmp_path))


def kill_during(work: Callable[[], None]) -> None:
    """Do `work` in a process that is no more when this returns."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    os.waitpid(child, 0)


def test_a_record_names_what_a_run_needs_from_its_beginning_on(records: ExperimentRecords):
    run = RunRecord(records, "tiny", {"config": {"k": 1}})
    assert records.names() == []
    run.uses(["model/m"])
    run.uses(["tokens/t", "model/m"])
    assert records.read("tiny") == {"config": {"k": 1}, "state": "running", "artifacts": ["model/m", "tokens/t"]}
    run.finish({"config": {"k": 1}, "stages": ["tokenize"]})
    finished = {"config": {"k": 1}, "stages": ["tokenize"], "state": "finished", "artifacts": ["model/m", "tokens/t"]}
    assert records.read("tiny") == finished


def test_while_another_run_is_under_way_the_last_result_stands_and_both_runs_are_named(records: ExperimentRecords):
    first = RunRecord(records, "tiny", {"config": {"k": 1}})
    first.uses(["tokens/t", "dictionary/one"])
    first.finish({"config": {"k": 1}, "stages": ["a"]})

    kill_during(lambda: RunRecord(records, "tiny", {"config": {"k": 2}}).uses(["tokens/t", "dictionary/two"]))
    under_way = records.read("tiny")
    assert (under_way["config"], under_way["stages"], under_way["state"]) == ({"k": 1}, ["a"], "running")
    assert under_way["artifacts"] == ["dictionary/one", "dictionary/two", "tokens/t"]

    third = RunRecord(records, "tiny", {"config": {"k": 3}})
    third.uses(["tokens/t", "dictionary/three"])
    assert "dictionary/two" in records.read("tiny")["artifacts"]
    third.finish({"config": {"k": 3}, "stages": ["b"]})
    assert records.read("tiny")["artifacts"] == ["dictionary/three", "tokens/t"]


def test_runs_of_one_name_that_are_under_way_together_keep_what_either_needs(records: ExperimentRecords):
    one, other = RunRecord(records, "tiny", {}), RunRecord(records, "tiny", {})
    one.uses(["tokens/one"])
    other.uses(["tokens/other"])
    one.uses(["dictionary/one"])
    assert records.used() == {"tiny": ["dictionary/one", "tokens/one", "tokens/other"]}
    one.finish({"stages": ["a"]})
    assert records.used() == {"tiny": ["dictionary/one", "tokens/one", "tokens/other"]}
    assert records.read("tiny")["state"] == "running"
    other.finish({"stages": ["b"]})
    assert records.used() == {"tiny": ["tokens/other"]}
    assert records.read("tiny")["state"] == "finished"


def test_a_run_of_some_stages_ends_as_a_part_of_the_record(records: ExperimentRecords):
    kill_during(lambda: RunRecord(records, "tiny", {}).uses(["tokens/killed"]))
    harvest, train = RunRecord(records, "tiny", {"config": {"k": 1}}), RunRecord(records, "tiny", {"config": {"k": 1}})
    harvest.uses(["tokens/t"])
    train.uses(["tokens/t", "dictionary/d"])
    harvest.add()
    assert records.read("tiny")["state"] == "running"
    train.add()
    used = ["dictionary/d", "tokens/killed", "tokens/t"]
    assert records.read("tiny") == {"config": {"k": 1}, "state": "partial", "artifacts": used}
    assert records.run_files("tiny") == []

    whole = RunRecord(records, "tiny", {"config": {"k": 2}})
    whole.uses(["tokens/two"])
    assert records.read("tiny") == {"config": {"k": 2}, "state": "running", "artifacts": [*used, "tokens/two"]}
    whole.finish({"config": {"k": 2}, "stages": ["a"]})
    assert records.used() == {"tiny": ["tokens/two"]}

    part = RunRecord(records, "tiny", {"config": {"k": 3}})
    part.uses(["tokens/three"])
    part.add()
    ended = {"config": {"k": 2}, "stages": ["a"], "state": "finished", "artifacts": ["tokens/three", "tokens/two"]}
    assert records.read("tiny") == ended


def test_the_first_run_to_be_killed_leaves_its_configuration_until_the_next_begins(records: ExperimentRecords):
    RunRecord(records, "tiny", {"config": {"k": 1}}).uses(["tokens/one"])
    RunRecord(records, "tiny", {"config": {"k": 2}}).uses(["tokens/two"])
    assert records.read("tiny")["config"] == {"k": 2}
    assert records.used() == {"tiny": ["tokens/one", "tokens/two"]}


def test_a_record_without_a_list_of_artifacts_leads_to_its_report(records: ExperimentRecords):
    records.write("old", {"report": "/data/runs/report/abc/report.md", "dictionaries": [{"ref": "dictionary/d"}]})
    assert records.used() == {"old": ["report/abc", "dictionary/d"]}


def test_a_damaged_record_is_named_and_replaced_by_the_next_run(
    records: ExperimentRecords, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    records.write("tiny", {"artifacts": []})
    (tmp_path / "experiments" / "tiny.json").write_text("{")
    with pytest.raises(StorageError, match=r"experiments/tiny\.json cannot be read.*--forget tiny"):
        records.used()
    assert records.used(forget=["tiny"]) == {}
    with caplog.at_level(logging.WARNING):
        RunRecord(records, "tiny", {}).uses(["tokens/t"])
    assert "tiny.json cannot be read" in caplog.text
    assert records.used() == {"tiny": ["tokens/t"]}
    records.forget("tiny")
    assert records.names() == []


def test_a_record_is_replaced_whole(records: ExperimentRecords, tmp_path: Path):
    records.write("a.b-c", {"artifacts": ["x/y"]})
    assert [file.name for file in (tmp_path / "experiments").iterdir()] == ["a.b-c.json"]
    assert json.loads((tmp_path / "experiments" / "a.b-c.json").read_text()) == {"artifacts": ["x/y"]}
