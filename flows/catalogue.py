"""All that a home holds, looked up once: artifacts, builds that did not end, and what uses them."""

from collections.abc import Collection
from dataclasses import dataclass

from flows.experiment_records import ExperimentRecords
from flows.promotions import REJECTION, ledgers, promoted_after
from storage.artifacts import AnyStore, ArtifactRef, Unfinished
from storage.errors import DamagedArtifact
from storage.lineage import Manifest, reachable
from tasks.references import find_name


@dataclass(frozen=True)
class Catalogue:
    """What is in a home, by kind/key."""

    home: str
    manifests: dict[str, Manifest]
    damaged: dict[str, DamagedArtifact]
    """Artifacts whose manifest cannot be read; of their files nothing is known."""
    unfinished: dict[str, Unfinished]
    used: dict[str, set[str]]
    """Experiment → the artifacts that its record names, and what they were made from; and by `NAME (promoted)`, what is
    promoted of an experiment."""
    promoted_before: dict[str, set[str]]
    """`NAME (promoted before)` → dictionaries to which a roll-back would lead, without what they were made from."""

    @classmethod
    def of(cls, store: AnyStore, forget: Collection[str] = ()) -> "Catalogue":
        """The home of `store`, as if the experiments `forget` had no record. Raises StorageError."""
        unreadable: list[DamagedArtifact] = []
        manifests: dict[str, Manifest] = {
            str(ref): manifest for ref, manifest in store.list(unreadable=unreadable.append)
        }
        damaged = {f"{damage.kind}/{damage.key}": damage for damage in unreadable}
        unfinished = {str(build): build for build in store.unfinished()}
        named = ExperimentRecords(store.home_location).used(forget)
        used = {experiment: {*names, *reachable(names, manifests)} for experiment, names in named.items()}
        before: dict[str, set[str]] = {}
        for ledger in ledgers(store.home_location):
            entries = ledger.entries()
            now = set(map(str, promoted_after(entries).values()))
            ever = {str(ref) for entry in entries if entry.kind != REJECTION for ref in entry.dictionaries.values()}
            used[f"{ledger.experiment} (promoted)"] = now | reachable(now, manifests)
            before[f"{ledger.experiment} (promoted before)"] = ever - now
        return cls(store.uri, manifests, damaged, unfinished, used, before)

    def find(self, typed: str, *, unfinished: bool = False) -> str:
        """The artifact that a person means, or with `unfinished` a build that did not end. Raises ExperimentError."""
        builds = self.unfinished if unfinished else {}
        return find_name(typed, sorted({**self.manifests, **self.damaged, **builds}), self.home)

    def ref(self, name: str) -> ArtifactRef:
        kind, _, key = name.partition("/")
        return ArtifactRef(kind=kind, key=key, digest=self.manifests[name]["digest"] if name in self.manifests else "")

    def bytes(self, name: str) -> int:
        """Of its files; 0 where they are not known."""
        return sum(file["size"] for file in self.manifests[name]["files"]) if name in self.manifests else 0

    def experiments(self, name: str) -> list[str]:
        """The experiments that used an artifact, or promoted it."""
        return [user for user, names in (*self.used.items(), *self.promoted_before.items()) if name in names]
