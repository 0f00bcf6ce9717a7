"""What is made anew although it is there."""

from pathlib import Path

import pytest

from flows.invalidation import remove_once
from flows.parameters import load_config
from flows.preflight import prepare
from flows.stages import Job
from tasks.corpus import tokenize

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def job(tiny_yaml: Path) -> Job:
    prepared = prepare(load_config(str(tiny_yaml)))
    inputs = {"model": prepared.model, "corpus": prepared.corpus, "base": None}
    tokenize.build(**inputs)
    return Job("tokenize", "tokenize", tokenize, inputs)


def test_a_retried_run_keeps_what_it_made_anew_itself(job: Job):
    remove_once([job], "tokenize", flow_run="one")
    assert job.find() is None
    again = tokenize.build(**job.inputs)
    remove_once([job], "tokenize", flow_run="one")
    assert job.find() == again
    remove_once([job], "tokenize", flow_run="two")
    assert job.find() is None


def test_stages_before_the_named_one_stay(job: Job):
    remove_once([job], "harvest", flow_run="one")
    remove_once([job], None, flow_run="one")
    assert job.find() is not None
