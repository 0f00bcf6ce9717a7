"""What a person can promote by hand: the trained dictionaries of an experiment's last runs, by their slots."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.experiment_records import ExperimentRecords
from flows.promotions import Slots
from flows.stages import label
from flows.wording import listed
from storage.artifacts import ArtifactRef, ref_of
from storage.lineage import short
from tasks.caching import artifacts
from tasks.errors import ExperimentError
from tasks.references import find_name
from tasks.specs import DictionarySpec

RETRAIN = ".retrain"
"""What the name of an experiment is followed by in the name of the record of its last retraining."""


def slot(hook_point: str, spec: DictionarySpec) -> str:
    return f"{hook_point} {label(spec)}"


def chosen(experiment: str, dictionaries: Sequence[str]) -> Slots:
    """The dictionaries that a person names, of the last runs of an experiment; all of the last run if none is named.

    Raises:
        ExperimentError: there was no such run, what is named is not of it, or two are of the same slot.
        DamagedArtifact: a dictionary is gone, or is not whole.
    """
    runs = _runs(experiment)
    if dictionaries:
        known = dict.fromkeys(name for run in runs for name in run)
        whose = f"is no dictionary of the last runs of {experiment!r}"
        names = [find_name(typed, known, artifacts().uri, what="dictionary", no_such=whose) for typed in dictionaries]
    else:
        names = [name for name in runs[0] if _spec(_manifest(name)) is not None]
        if not names:
            raise ExperimentError(f"the last run of {experiment!r} trained no dictionary: there is nothing to promote.")
    slots: Slots = {}
    for name in names:
        manifest = _manifest(name)
        spec = _spec(manifest)
        if spec is None:
            raise ExperimentError(
                f"{short(name)} was not trained by an experiment: only what a retraining can go on from is promoted."
            )
        place = slot(manifest["spec"]["hook_point"], spec)
        if place in slots and str(slots[place]) != name:
            raise ExperimentError(
                f"{short(name)} and {short(str(slots[place]))} are both {place}: name one of them with --dictionary."
            )
        ref = ref_of(manifest)
        artifacts().verify(ref)
        slots[place] = ref
    return slots


def _runs(experiment: str) -> list[list[str]]:
    """The dictionaries (kind/key) of the last run and of the last retraining, the later of the two first."""
    records = ExperimentRecords(artifacts().home_location)
    found = []
    for name in (experiment, f"{experiment}{RETRAIN}"):
        record = records.read(name) if name in records.names() else {}
        names = [entry["ref"] for entry in record.get("dictionaries", ())]
        if names:
            found.append((max(_manifest(ref)["created"] for ref in names), names))
    if not found:
        known = [name for name in records.names() if not name.endswith(RETRAIN)]
        raise ExperimentError(
            f"no run of an experiment {experiment!r} has finished in {artifacts().uri}. There are: "
            f"{listed(known) or 'none'}."
        )
    return [names for _, names in sorted(found, reverse=True)]


def _manifest(name: str) -> dict[str, Any]:
    kind, _, key = name.partition("/")
    return artifacts().manifest(ArtifactRef(kind=kind, key=key, digest=""))


def _spec(manifest: dict[str, Any]) -> DictionarySpec | None:
    """What it was trained by; None for baselines and for what other libraries made."""
    spec = manifest["spec"]
    if "dictionary" not in spec or "imported" in spec:
        return None
    try:
        return TypeAdapter(DictionarySpec).validate_python(spec["dictionary"])
    except ValidationError:  # of an earlier version
        return None
