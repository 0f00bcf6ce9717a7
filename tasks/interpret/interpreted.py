"""What is said of a feature, and what follows from it."""

from typing import NamedTuple


class Explanation(NamedTuple):
    """What a feature responds to; `text` is None where `reason` says why."""

    text: str | None
    reason: str | None


class Simulated(NamedTuple):
    """The values of one fragment; None where there is none, and then `reason` says why."""

    values: tuple[float | None, ...]
    mode: str
    covered: float | None
    """Probability of all values together, averaged; None where there are no probabilities."""
    reason: str | None


class Interpreted(NamedTuple):
    """A feature's explanation, and the activations that it lets one expect."""

    feature: int
    explanation: Explanation
    simulated: tuple[Simulated, ...] | None
    """Of the top fragments and then the random ones; None without an explanation."""
