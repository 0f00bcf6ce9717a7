"""What a run may use: tokens and money, counted before a request is sent and corrected once it was answered."""

from typing import NamedTuple

from tasks.errors import ExperimentError
from tasks.interpret.access import Access
from tasks.interpret.ledger import Ledger


class BudgetSpent(ExperimentError):
    """The next request would cost more than is left."""


class Usage(NamedTuple):
    """Tokens of a request: those read, and those written."""

    input: int
    output: int


class Budget:
    """The account of a run, shared by its processes through the ledger.

    What a killed process had under way stays counted: it may have been paid.
    """

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self.ledger, self.access = ledger, access

    def reserve(self, model: str, most: Usage) -> None:
        """Set the most that a request can use aside. Raises BudgetSpent when that is more than is left."""
        with self.ledger.numbers() as numbers:
            told = []
            tokens = numbers.get("tokens used", 0) + sum(most)
            if self.access.budget_tokens is not None and tokens > self.access.budget_tokens:
                told.append(f"budget_tokens is {self.access.budget_tokens:,}, and {tokens - sum(most):,.0f} are used")
            cost = numbers.get("cost", 0) + (self.access.cost(model, *most) or 0)
            if self.access.budget_currency is not None and cost > self.access.budget_currency:
                told.append(f"budget_currency is {self.access.budget_currency:g}, and {numbers.get('cost', 0):.4f}")
                told[-1] += " is spent"
            if told:
                raise BudgetSpent(
                    f"{'; '.join(told)}: the next request would take more than is left. What was answered is kept: "
                    "another run goes on from there, or raise the budget."
                )
            numbers["tokens used"], numbers["cost"] = tokens, cost

    def settle(self, model: str, reserved: Usage, used: Usage) -> None:
        """Put what was really used in the place of what was set aside."""
        with self.ledger.numbers() as numbers:
            numbers["tokens used"] += sum(used) - sum(reserved)
            numbers["cost"] += (self.access.cost(model, *used) or 0) - (self.access.cost(model, *reserved) or 0)
