"""A home as experiments leave it, but with a few bytes in each artifact."""

from pathlib import Path
from typing import Any

from flows.experiment_records import ExperimentRecords, RunRecord
from storage.artifacts import ArtifactRef, ArtifactStore, content_key
from storage.locations import is_remote
from storage.manifests import digest_of
from storage.remote_artifacts import RemoteArtifactStore

TELL_TIMES = {"index.html", "run.json", "stages.parquet"}
"""Files of a report that say when something was made and how long it took, which no two runs have in common."""


def digests(home: Path | None = None) -> dict[str, str]:
    """The artifacts of a home, by default that of the environment, and what their bytes come to, times left out."""
    store = ArtifactStore.from_environment() if home is None else ArtifactStore(home)
    found = {ref: ref.digest for ref, _ in store.list()}
    for ref in found:
        if ref.kind == "report":
            found[ref] = digest_of([file for file in store.manifest(ref)["files"] if file["name"] not in TELL_TIMES])
    return {str(ref): digest for ref, digest in found.items()}


class SmallHome:
    """Artifacts that are made at once, from specs and inputs as steps have them."""

    def __init__(self, home: Path | str) -> None:
        self.store = RemoteArtifactStore(str(home)) if is_remote(home) else ArtifactStore(home)
        self.records = ExperimentRecords(self.store.home_location)

    def make(self, kind: str, spec: dict[str, Any], fails: bool = False, **inputs: ArtifactRef) -> ArtifactRef:
        key = content_key(kind, "1", spec, {name: ref.digest for name, ref in inputs.items()})

        def write(place: Path) -> None:
            (place / "content.txt").write_text(key * 50)
            if fails:
                raise InterruptedError

        return self.store.build(kind, key, write, code_version="1", spec=spec, inputs=inputs, resumable=False)

    def chain(self, seed: int) -> dict[str, ArtifactRef]:
        """A dictionary and all behind it; the model is the same for every seed."""
        model = self.make("model", {"located": {"source": "tiny"}})
        tokens = self.make("tokens", {"corpus": {"tokens": 1000 + seed}}, model=model)
        activations = self.make("activations", {"hook_points": ["h"]}, model=model, tokens=tokens)
        spec = {"dictionary": {"method": "topk", "k": 4}, "hook_point": "h"}
        dictionary = self.make("dictionary", spec, activations=activations)
        evaluation = self.make("evaluation", {"hook_point": "h"}, dictionary=dictionary, activations=activations)
        refs = (model, tokens, activations, dictionary, evaluation)
        return {ref.kind: ref for ref in refs}

    def record(self, experiment: str, *refs: ArtifactRef) -> None:
        run = RunRecord(self.records, experiment, {"experiment": experiment})
        run.uses(map(str, refs))
        run.finish({"experiment": experiment, "stages": []})
