"""One ledger for a run, whoever counts in it."""

from pathlib import Path

import pytest
from prefect import flow, task

from tasks.interpret.access import Access
from tasks.interpret.budget import Budget, BudgetSpent, Usage
from tasks.interpret.ledger import ledger_of_this_run


@task
def spend(tokens: int) -> Path:
    """As the evaluation of a dictionary does."""
    ledger = ledger_of_this_run()
    Budget(ledger, Access(budget_tokens=100)).reserve("scoring", Usage(tokens, 0))
    return ledger.file


@flow
def run(*several: int) -> list[Path]:
    return [spend(tokens) for tokens in several]


@pytest.mark.usefixtures("prefect_server")
def test_the_dictionaries_of_a_flow_run_share_a_ledger_and_its_budget(home: Path):
    one, other = run(60, 40)
    assert one == other
    with pytest.raises(BudgetSpent, match="budget_tokens is 100, and 60 are used"):
        run(60, 41)
    (again,) = run(100)
    assert again != one
    assert {one.parent, again.parent} == {home / "spending"}


def test_outside_of_a_flow_run_each_has_its_own(home: Path):
    assert ledger_of_this_run().file != ledger_of_this_run().file
