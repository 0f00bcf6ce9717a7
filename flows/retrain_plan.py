"""What a retraining goes on from, settled before it starts and kept until it is done.

    retrainings/NAME.json

A retraining changes what the next one would go on from: the corpus grows, other dictionaries are promoted. One that was
killed must find what it began with: without this file it would, taken up again, extend the corpus a second time, or
compare its dictionaries with themselves.
"""

import hashlib
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.candidates import RETRAIN, slot
from flows.experiment_records import ExperimentRecords
from flows.extension import latest
from flows.parameters import ExperimentConfig, RetrainConfig
from flows.promotions import Ledger, Slots
from storage.artifacts import ArtifactRef
from storage.locations import Location
from storage.records import canonical_json
from tasks.caching import artifacts
from tasks.corpus import token_rows, tokenize
from tasks.specs import DictionarySpec


class Plan(BaseModel):
    """A retraining under way, or the last one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str
    """A hash of what was asked for."""
    base: ArtifactRef | None
    """The tokens that it goes on from; None where there are none yet."""
    tokens: int
    """To train on, the base's included; at most."""
    promoted: Slots
    """What was promoted when it began: what it starts with, and is compared with."""
    entries: int
    """How many the ledger had then."""
    runs: tuple[str, ...] = ()
    """The flow runs that worked on it."""
    done: bool = False

    def experiment(self, config: RetrainConfig) -> ExperimentConfig:
        """The experiment with the corpus of this retraining, without what is compared beside its dictionaries."""
        corpus = config.experiment.corpus
        told = {"tokens": self.tokens, "extends": str(self.base) if self.base else self._first_extends(config)}
        alone = {"corpus": corpus.model_copy(update=told), "evaluations": (), "random_model": False}
        return config.experiment.model_copy(update=alone)

    def _first_extends(self, config: RetrainConfig) -> str | None:
        # An experiment that is retrained extends itself from the second time on, whether it says so or not.
        extends = config.experiment.corpus.extends
        return None if extends == config.experiment.name else extends

    @classmethod
    def find(cls, config: RetrainConfig, run: str | None) -> Self:
        """The one that flow run `run` has to go on with, or a new one.

        A retraining of the same configuration that is not done is gone on with by whichever run comes next; one that
        is done only by its own run, where that is asked for again. Asked for something else, the next run still begins
        with what the one that is not done began with: nothing was trained on what that one added.
        """
        home = artifacts().home_location
        ledger = Ledger(home, config.experiment.name)
        found = cls._read(home, config.experiment.name)
        if found is None:
            return cls._new(config, ledger, last_tokens(config.experiment.name))
        recorded = {entry.by for entry in ledger.entries()[found.entries :]} & {by(run) for run in found.runs}
        if found.config != _hash(config) or (found.done and run not in found.runs):
            over = found.done or recorded
            return cls._new(config, ledger, last_tokens(config.experiment.name) if over else found.base)
        if not recorded and ledger.promoted() != found.promoted:  # by a person, in between
            entries = len(ledger.entries())
            return found.model_copy(update={"promoted": ledger.promoted(), "entries": entries})
        return found

    def write(self, config: RetrainConfig, run: str, *, done: bool = False) -> Self:
        """Keep it, with the run that works on it."""
        kept = self.model_copy(update={"runs": tuple(dict.fromkeys([*self.runs, run])), "done": done})
        place = artifacts().home_location.child("retrainings")
        place.commit(f"{config.experiment.name}.json", kept.model_dump_json(indent=1).encode())
        return kept

    @classmethod
    def _new(cls, config: RetrainConfig, ledger: Ledger, base: ArtifactRef | None) -> Self:
        total = config.experiment.corpus.tokens
        if base is not None:
            total = token_rows(base, "train").size + config.new_tokens
        return cls(
            config=_hash(config), base=base, tokens=total, promoted=ledger.promoted(), entries=len(ledger.entries())
        )

    @classmethod
    def _read(cls, home: Location, experiment: str) -> Self | None:
        try:
            return cls.model_validate_json(home.child("retrainings").read(f"{experiment}.json"))
        except (FileNotFoundError, ValidationError):  # the latter of another version: then all is settled anew
            return None


def last_tokens(experiment: str) -> ArtifactRef | None:
    """The tokens that an experiment and its retrainings have come to, as far as they are there."""
    records = ExperimentRecords(artifacts().home_location)
    known = {experiment, f"{experiment}{RETRAIN}"} & set(records.names())
    named = {name for record in known for name in records.read(record).get("artifacts", ())}
    there = {str(ref): (ref, manifest) for ref, manifest in artifacts().list(tokenize.kind) if str(ref) in named}
    found = latest(there)
    return found[0] if found else None


def by(run: str) -> str:
    """How the ledger names a flow run."""
    return f"flow run {run}"


def slots(config: RetrainConfig) -> dict[str, tuple[str, DictionarySpec]]:
    """Where each dictionary of the experiment belongs: slot → hook point and spec."""
    experiment = config.experiment
    return {slot(place, spec): (place, spec) for place in experiment.hook_points for spec in experiment.dictionaries}


def _hash(config: RetrainConfig) -> str:
    told = config.model_dump(mode="json")
    del told["experiment"]["compute"]  # where it runs: a run that was killed for want of memory goes on elsewhere
    return hashlib.sha256(canonical_json(told)).hexdigest()
