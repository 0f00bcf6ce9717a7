"""What a person types for an artifact: kind/KEY, kind/ and the beginning of a key, or that beginning alone."""

import difflib
from collections.abc import Collection
from pathlib import Path

from storage.lineage import short
from tasks.errors import ExperimentError

LISTED = 5


def find_name(
    typed: str, names: Collection[str], home: Path | str, what: str = "artifact", no_such: str = "is not there"
) -> str:
    """The one of `names` (kind/key) that `typed` means.

    Raises:
        ExperimentError: there is none, or there are several; lists the nearest.
    """
    found = [name for name in names if name == typed] or [name for name in names if begins(name, typed)]
    if len(found) == 1:
        return found[0]
    nearest = sorted(short(name) for name in difflib.get_close_matches(typed, names, n=LISTED, cutoff=0))
    listed = ", ".join(sorted(found)[:LISTED] or nearest) or "none"
    problem = "could be several" if found else no_such
    raise ExperimentError(f"{what} {typed!r} {problem}. In {home} there are: {listed}. `--home` names another.")


def begins(name: str, typed: str) -> bool:
    """Whether `typed` is the beginning of a name, or of the key in it."""
    return (name if "/" in typed else name.partition("/")[2]).startswith(typed)
