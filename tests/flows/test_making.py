"""Jobs on a pool of processes, some of which are killed."""

import subprocess
import sys
from typing import Any

import pytest
from prefect import flow

from flows.making import make
from flows.runners import Crew
from flows.stages import Job
from tasks.errors import ExperimentError
from tasks.specs import ComputeSpec
from tests.flows.deadly import work


def job(name: str, dies: bool = False) -> Job:
    return Job("train", name, work, {"name": name, "dies": dies})


@pytest.mark.services
@pytest.mark.usefixtures("prefect_server", "home")
def test_a_job_that_is_killed_each_time_is_named_and_all_others_are_made():
    jobs = [job("one"), job("too large", dies=True), job("two"), job("three")]

    @flow
    def experiment() -> Any:
        with Crew(ComputeSpec(), 2) as crew:
            return make(jobs, crew)

    with pytest.raises(ExperimentError, match=r"worked on 'too large' was killed, alone as well\. Most likely memory"):
        experiment()
    assert [entry.find() is not None for entry in jobs] == [True, False, True, True]


def test_a_process_that_needs_more_than_its_share_of_memory_is_told_so():
    code = "import torch; from tasks.compute import prepare_child; prepare_child(2**30); torch.zeros(2**29)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "allocate memory" in ran.stderr
