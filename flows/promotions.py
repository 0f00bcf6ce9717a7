"""The ledger of promotions: which dictionaries of an experiment are the ones to use, since when, and why.

    promotions/NAME.ledger/000001.json, 000002.json, …    one entry each, never changed

What is promoted now is the sum of the entries: a promotion puts dictionaries into their slots, a roll-back has all
slots as they were after an earlier entry, a rejection changes nothing. An entry is written only where there is none of
its number yet, so of two writers none loses an entry.

A slot is a hook point and a method with its parameters: what a retrained dictionary takes the place of.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.artifacts import ArtifactRef
from storage.errors import StorageError
from storage.locations import Location
from tasks.errors import ExperimentError

Slots = dict[str, ArtifactRef]

PROMOTION, ROLL_BACK, REJECTION = "promotion", "roll-back", "rejection"
PERSON = "person"
LEDGER = ".ledger"


class Entry(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    at: datetime
    kind: Literal["promotion", "roll-back", "rejection"]
    by: str
    """`person`, or `flow run ID`."""
    dictionaries: Slots
    """What was promoted or rejected; of a roll-back, all that is promoted from then on."""
    inputs: Slots = {}
    """What they were made from and compared with."""
    why: dict[str, Any] = {}
    """By slot: the metrics of the old and the new one, and what each rule says."""
    back_to: int | None = None
    """Of a roll-back: the entry after which all was so."""


class Ledger:
    """The entries of one experiment."""

    def __init__(self, home: Location, experiment: str) -> None:
        self.experiment = experiment
        # With a dot, which no artifact has in its name: a folder in a folder would else be taken for one.
        self._place = home.child("promotions").child(f"{experiment}{LEDGER}")

    def entries(self) -> list[Entry]:
        """All of them, in order. Raises StorageError for one that cannot be read."""
        return [self._read(name) for name in self._place.names() if re.fullmatch(r"\d{6}\.json", name)]

    def promoted(self) -> Slots:
        """What is promoted now."""
        return promoted_after(self.entries())

    def record(
        self,
        kind: Literal["promotion", "roll-back", "rejection"],
        dictionaries: Mapping[str, ArtifactRef],
        by: str,
        *,
        inputs: Mapping[str, ArtifactRef] | None = None,
        why: Mapping[str, Any] | None = None,
        back_to: int | None = None,
    ) -> Entry | None:
        """Add an entry; None, and nothing is added, where it would change nothing.

        That is so where the dictionaries are promoted already, and where a retraining of the same inputs has
        been recorded with the same result: one that was killed and goes on records nothing twice.
        """
        told, made_from = dict(dictionaries), dict(inputs or {})
        while True:
            entries = self.entries()
            if made_from and any((e.kind, e.dictionaries, e.inputs) == (kind, told, made_from) for e in entries):
                return None
            promoted = promoted_after(entries)
            if kind == PROMOTION and all(promoted.get(slot) == ref for slot, ref in told.items()):
                return None
            if kind == ROLL_BACK and told == promoted:
                return None
            entry = Entry(
                number=1 + max((e.number for e in entries), default=0),
                at=datetime.now(UTC),
                kind=kind,
                by=by,
                dictionaries=told,
                inputs=made_from,
                why=dict(why or {}),
                back_to=back_to,
            )
            if self._place.commit_new(f"{entry.number:06d}.json", entry.model_dump_json(indent=1).encode()):
                return entry

    def back_to(self, number: int) -> Slots:
        """What was promoted after an entry.

        Raises:
            ExperimentError: there is no such entry, or nothing was promoted by it.
        """
        entries = self.entries()
        known = [entry.number for entry in entries if entry.kind != REJECTION]
        listed = ", ".join(map(str, known)) or "none"
        found = next((entry for entry in entries if entry.number == number), None)
        if found is None or found.kind == REJECTION:
            problem = "is no entry" if found is None else "is a rejection, which promoted nothing, and so no entry"
            raise ExperimentError(
                f"{number} {problem} that {self.experiment!r} can be rolled back to. There are: {listed}."
            )
        return promoted_after(entry for entry in entries if entry.number <= number)

    def _read(self, name: str) -> Entry:
        try:
            return Entry.model_validate_json(self._place.read(name))
        except ValidationError as error:
            raise StorageError(
                f"{self._place}/{name} cannot be read ({error.errors()[0]['msg']}), so what is promoted of "
                f"{self.experiment!r} is not known. Restore it from a backup, or remove it and see with "
                f"`saeflow promotions {self.experiment}` what the other entries come to."
            ) from error


def promoted_after(entries: Iterable[Entry]) -> Slots:
    """What is promoted after these entries, in their order."""
    slots: Slots = {}
    for entry in entries:
        if entry.kind == PROMOTION:
            slots |= entry.dictionaries
        elif entry.kind == ROLL_BACK:
            slots = dict(entry.dictionaries)
    return slots


def ledgers(home: Location) -> list[Ledger]:
    """One for each experiment of which anything was promoted or rejected."""
    folders = {PurePosixPath(name).parent.as_posix() for name in home.child("promotions").names()}
    names = sorted(folder.removesuffix(LEDGER) for folder in folders if folder.endswith(LEDGER))
    return [Ledger(home, name) for name in names]
