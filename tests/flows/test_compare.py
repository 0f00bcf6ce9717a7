"""`saeflow compare`, and the flow that a person starts from the UI."""

import json
from pathlib import Path

import pytest

from tests.flows.command import assert_refused, saeflow
from tests.tasks.test_compare import reported, topk


@pytest.fixture
def two_runs(home: Path) -> Path:
    """A home with the experiments `one` and `two`."""
    (home / "experiments").mkdir(parents=True)
    for number, name in enumerate(("one", "two")):
        record = {"report": f"/elsewhere/{reported(name, topk(24, seed=number))}/report.md", "config": {"name": name}}
        (home / "experiments" / f"{name}.json").write_text(json.dumps(record))
    return home


def test_the_command_tells_what_changed_and_where_the_page_is(two_runs: Path):
    shown = saeflow("compare", "one", "two", "--home", two_runs)
    assert shown.returncode == 0, shown.stderr
    page = shown.stdout.splitlines()[-1].removeprefix("page  ")
    assert Path(page).is_file()
    assert "MMCS" in shown.stdout
    result = json.loads(saeflow("compare", "one", "two", "--home", two_runs, "--json").stdout)
    assert result["page"] == page
    assert result["experiments"] == ["one", "two"]
    assert_refused(
        saeflow("compare", "one", "three", "--home", two_runs), "no experiment 'three'", "Experiments there: two, one"
    )


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_finds_what_the_command_made(two_runs: Path):
    from flows.compare import compare

    made = json.loads(saeflow("compare", "one", "two", "--home", two_runs, "--json").stdout)
    assert compare(a="one", b="two") == made
