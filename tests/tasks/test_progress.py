import time

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext

from tasks.progress import Progress


def test_what_has_not_begun_tells_neither_a_rate_nor_an_end(capsys: pytest.CaptureFixture[str]):
    with Progress("harvest", 100, "tokens"):
        pass
    assert capsys.readouterr().err == "harvest    0 %  0/100 tokens  under way\n"


def test_what_is_done_tells_how_long_it_took(capsys: pytest.CaptureFixture[str]):
    with Progress("harvest", 100, "tokens", done=60) as progress:
        time.sleep(0.01)
        progress.add(40)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "harvest  goes on at 60/100 tokens"
    assert last.startswith("harvest  100 %  100/100 tokens")
    assert last.endswith("took 0:00")


def test_what_takes_longer_than_a_second_each_tells_how_long(capsys: pytest.CaptureFixture[str]):
    with Progress("ioi", 5, "parts") as progress:
        progress.started -= 96
        progress.add(2)
    assert capsys.readouterr().err == "ioi   40 %  2/5 parts  48 s each  2:24 left\n"


@pytest.mark.parametrize(
    ("run", "activity", "name"),
    [
        ("ioi pca blocks.9 [evaluation/72764f8c]", "ioi", "ioi pca blocks.9"),
        ("pattern [A-Z] topk blocks.9 [evaluation/72764f8c]", "pattern", "pattern [A-Z] topk blocks.9"),
        ("topk blocks.9 [dictionary/72764f8c]", "train", "topk blocks.9: train"),
        ("harvest (random weights) [activations/72764f8c]", "harvest", "harvest (random weights)"),
    ],
)
def test_in_a_task_run_the_line_tells_whose_work_it_is(run: str, activity: str, name: str):
    with TaskRunContext.model_construct(task_run=TaskRun(task_key="", dynamic_key="", name=run)):
        assert Progress(activity, 1, "parts").name == name
