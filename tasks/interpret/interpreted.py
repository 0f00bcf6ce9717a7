"""What is said of a feature, and what follows from it."""

from typing import NamedTuple

from tasks.interpret.judgements import Found, Judged


class Explanation(NamedTuple):
    """What a feature responds to; `text` is None where `reason` says why."""

    text: str | None
    reason: str | None


class Simulated(NamedTuple):
    """The values of one fragment."""

    values: tuple[float | None, ...]
    """Of each token; None where there is none."""
    mode: str
    covered: float | None
    """Probability of all values together, averaged; None where there are no probabilities."""
    reason: str | None
    """What was wrong with the answer, or why there is none: always there where a value is None."""


class Interpreted(NamedTuple):
    """A feature's explanation, and what each scorer that was asked for made of it; None for the others.

    Without an explanation only intruders are scored.
    """

    feature: int
    explanation: Explanation
    simulated: tuple[Simulated, ...] | None
    """Of the top fragments and then the random ones."""
    detection: Judged | None = None
    fuzzing: Judged | None = None
    intruder: Found | None = None
