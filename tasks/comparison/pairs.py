"""Which dictionary of one run is compared with which of the other.

Directions can be compared where they lie in one space: of the same model, at the same hook point, of the same width.
There, those of the same method and the same parameters are pairs. Of the rest those are that agree in most: the same
method, then the fewest different parameters, then the largest MMCS. A learned dictionary is no pair of a baseline, nor
are baselines of two methods.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sae_core.matching import mmcs
from tasks.cells import named
from tasks.comparison.entries import Entry


class Pair(NamedTuple):
    a: Entry
    b: Entry


class LeftOut(NamedTuple):
    """A dictionary that is compared with none."""

    run: str
    entry: Entry
    reason: str


def pair_up(a: Sequence[Entry], b: Sequence[Entry]) -> tuple[list[Pair], list[LeftOut]]:
    """The pairs in the order of a, and what is in none; each dictionary is in one pair at most."""
    alike = [(x, y) for x in range(len(a)) for y in range(len(b)) if why_not(a[x], b[y]) is None]
    # MMCS takes seconds for large dictionaries: only of those that nothing else tells apart.
    exact = {pair for pair in alike if _differing(a[pair[0]], b[pair[1]]) == (False, 0)}
    partner: dict[int, int] = {}
    for x, y in sorted(exact):
        if x not in partner and y not in partner.values():
            partner[x] = y
    left = [(x, y) for x, y in alike if x not in partner and y not in partner.values()]
    ranked = sorted(left, key=lambda pair: (_differing(a[pair[0]], b[pair[1]]), -_likeness(a[pair[0]], b[pair[1]])))
    for x, y in ranked:
        if x not in partner and y not in partner.values():
            partner[x] = y
    left_out = [LeftOut("A", entry, _reason(entry, b, "B")) for x, entry in enumerate(a) if x not in partner]
    taken = set(partner.values())
    left_out += [LeftOut("B", entry, _reason(entry, a, "A")) for y, entry in enumerate(b) if y not in taken]
    return [Pair(a[x], b[partner[x]]) for x in sorted(partner)], left_out


def why_not(one: Entry, other: Entry) -> str | None:
    """Why two dictionaries cannot be compared, or None where they can."""
    if one.hook_point != other.hook_point:
        return "it is of another hook point"
    if one.row["model"] != other.row["model"]:
        return f"it is of another model, {other.row['model']}, whose directions mean nothing in this one's"
    width, others = one.directions.shape[1], other.directions.shape[1]
    if width != others:
        return f"its directions are {others} wide, and these are {width} wide"
    if one.learned != other.learned or (not one.learned and one.method != other.method):
        return "one is learned and one a baseline" if one.learned != other.learned else "it is another baseline"
    return None


def _reason(entry: Entry, others: Sequence[Entry], run: str) -> str:
    """Why an entry has no partner among `others`: of the nearest of them."""
    here = [other for other in others if other.hook_point == entry.hook_point]
    if not here:
        return f"{run} has no dictionary at {entry.hook_point}"
    reasons = {named(other.row, [entry.row, other.row]): why_not(entry, other) for other in here}
    if None in reasons.values():
        return f"those of {run} that it could be compared with are in pairs with others"
    return "; ".join(f"{name} of {run}: {reason}" for name, reason in reasons.items())


def _differing(one: Entry, other: Entry) -> tuple[bool, int]:
    """Whether the methods differ, and in how many parameters."""
    ours, theirs = one.row["params"], other.row["params"]
    return one.method != other.method, sum(ours.get(name) != theirs.get(name) for name in {*ours, *theirs})


def _likeness(one: Entry, other: Entry) -> float:
    return mmcs(one.directions, other.directions) + mmcs(other.directions, one.directions)
