"""What nobody needs any more: whatever no experiment that is kept leads to.

roots      what the records of the kept experiments name, dictionaries that are promoted, and those that were imported
kept       the roots, and all that they were made from; and dictionaries that were promoted before, to roll back to
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.catalogue import Catalogue
from storage.lineage import Manifest, reachable, users_first


@dataclass(frozen=True)
class Plan:
    """What stays and what goes, by kind/key."""

    kept: list[str]
    to_remove: list[str]
    """Artifacts; none comes before what was made from it."""
    to_discard: list[str]
    """Unfinished builds."""
    left_alone: dict[str, str]
    """Unfinished builds and damaged artifacts that stay although nothing leads to them, and why."""


def plan(catalogue: Catalogue, older_than: timedelta) -> Plan:
    """What stays and what goes; an unfinished build goes once it is untouched for `older_than`."""
    named = [name for names in catalogue.used.values() for name in names]
    imported = [name for name, manifest in catalogue.manifests.items() if was_imported(manifest)]
    before = {name for names in catalogue.promoted_before.values() for name in names}
    kept = reachable([*named, *imported], catalogue.manifests) | (before & catalogue.manifests.keys())
    left_alone = dict.fromkeys(catalogue.damaged.keys() - set(named) - before, "its manifest cannot be read")
    to_remove = users_first(catalogue.manifests.keys() - kept, catalogue.manifests)
    to_discard = []
    for name, build in catalogue.unfinished.items():
        if build.at_work:
            left_alone[name] = "a process is at work on it"
        elif datetime.now(UTC) - build.modified < older_than:
            left_alone[name] = f"it is not {older_than / timedelta(days=1):g} days old"
        elif name not in to_remove:
            to_discard.append(name)
    return Plan(
        kept=sorted(kept),
        to_remove=to_remove,
        to_discard=to_discard,
        left_alone=left_alone,
    )


def was_imported(manifest: Manifest) -> bool:
    """Whether this came from another library: no experiment made it, and none makes it again."""
    return "imported" in manifest["spec"]
