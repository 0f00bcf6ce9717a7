"""Jobs on a pool of processes, some of which are killed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows.making import make
from flows.runners import Crew
from flows.stages import Job
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.specs import ComputeSpec
from tests.flows.deadly import share_work, work
from tests.flows.services import wait_until


def job(name: str, dies: bool = False, fails: bool = False) -> Job:
    return Job("train", name, work, {"name": name, "dies": dies, "fails": fails})


def shared(deaths: int) -> Job:
    return Job("harvest", "harvest", share_work, {"deaths": deaths, "compute": Compute(workers=2)})


def made(*stages: Sequence[Job], size: int, **compute: Any) -> list[ArtifactRef]:
    """Stage after stage, in one flow run."""

    @flow
    def experiment() -> Any:
        with Crew(ComputeSpec(**compute), size) as crew:
            return [ref for jobs in stages for ref in make(jobs, crew)]

    return experiment()


def process(ref: ArtifactRef) -> int:
    return artifacts().manifest(ref)["notes"]["process"]


@pytest.mark.usefixtures("prefect_server", "home")
def test_what_can_be_made_in_this_process_is_made_before_a_failure_is_told():
    jobs = [job("one"), job("wrong", fails=True), job("two")]
    with pytest.raises(ValueError, match="wrong cannot be made"):
        made(jobs, size=1)
    assert [entry.find() is not None for entry in jobs] == [True, False, True]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "home")
def test_as_many_jobs_are_made_at_once_as_were_asked_for_however_many_share_a_harvest():
    _, *trained = made([shared(deaths=0)], [job("one"), job("two")], size=1)
    assert {process(ref) for ref in trained} == {os.getpid()}


def test_jobs_go_to_a_cluster_also_one_at_a_time():
    assert Crew(ComputeSpec(runner="processes"), 1).is_here
    assert not Crew(ComputeSpec(runner="dask", address="tcp://127.0.0.1:1"), 1).is_here


@pytest.mark.services
@pytest.mark.usefixtures("prefect_server", "home")
def test_a_job_that_is_killed_each_time_is_named_and_all_others_are_made():
    jobs = [job("one"), job("too large", dies=True), job("two"), job("three")]
    with pytest.raises(ExperimentError, match=r"worked on 'too large' was killed, alone as well\. Most likely memory"):
        made(jobs, size=2)
    assert [entry.find() is not None for entry in jobs] == [True, False, True, True]


@pytest.mark.services
@pytest.mark.usefixtures("prefect_server", "home")
def test_a_job_that_shares_its_work_survives_a_killed_process_and_is_named_when_it_is_killed_alone():
    assert made([shared(deaths=1)], size=1)
    with pytest.raises(ExperimentError, match="worked on 'harvest' was killed, alone as well"):
        made([shared(deaths=9)], size=1)

    def told() -> bool:
        with get_client(sync_client=True) as client:
            shares = [run for run in client.read_task_runs() if run.name.startswith("share-")]
        return bool(shares) and all(run.state and run.state.is_final() for run in shares)

    assert wait_until(told, 60), "the server hears of task runs a little later"


def test_a_process_that_needs_more_than_its_share_of_memory_is_told_so():
    code = "import torch; from tasks.compute import prepare_child; prepare_child(2**30); torch.zeros(2**29)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "allocate memory" in ran.stderr
