"""Whether a retrained dictionary may take the place of the promoted one, rule by rule.

Both were measured on the same held-out rows. What is undefined for the new one and was not for the old one fails; what
is undefined for both, or was for the old one, decides nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tasks.specs import GateSpec

Metrics = Mapping[str, float | None]

NEEDED = ("fvu", "l0", "dead_fraction", "loss_reconstructed")
"""Without a number for these a dictionary is broken."""

COMPARED = ("fvu", "l0", "ce_recovered", "dead_fraction")


class Verdict(NamedTuple):
    """What one rule says."""

    metric: str
    holds: bool
    says: str


def verdicts(gate: GateSpec, old: Metrics | None, new: Metrics) -> list[Verdict]:
    """What the rules say of the new dictionary; all have to hold. Without an old one it only has to have metrics."""
    missing = [name for name in NEEDED if new.get(name) is None]
    found = [Verdict(name, False, "it has no number") for name in missing]
    if old is None:
        return found or [Verdict(name, True, "nothing is promoted yet") for name in NEEDED]
    return [*found, *(_compared(name, gate, old.get(name), new.get(name)) for name in COMPARED if name not in missing)]


def _compared(name: str, gate: GateSpec, old: float | None, new: float | None) -> Verdict:
    if old is None:
        return Verdict(name, True, "undefined for the promoted one")
    if new is None:
        return Verdict(name, False, "undefined for the new one alone")
    match name:
        case "fvu":
            limit = old * (1 + gate.fvu_tolerance)
            return Verdict(name, new <= limit, f"at most {limit:.4g}")
        case "l0":
            low, high = old * (1 - gate.l0_band), old * (1 + gate.l0_band)
            return Verdict(name, low <= new <= high, f"between {max(low, 0):.4g} and {high:.4g}")
        case "ce_recovered":
            limit = old - gate.ce_recovered_tolerance
            return Verdict(name, new >= limit, f"at least {limit:.4g}")
        case _:
            limit = old + gate.dead_tolerance
            return Verdict(name, new <= limit, f"at most {limit:.4g}")
