import time

import pytest

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
