"""What a home holds that was made from a dictionary: what its features do on the held-out text."""

from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.errors import ExperimentError


def newest(kind: str, dictionary: Path) -> tuple[ArtifactRef, dict[str, Any]]:
    """The newest artifact of this kind that was made from the dictionary in this directory, and its manifest.

    Raises ExperimentError when there is none.
    """
    found = [
        (manifest["created"], str(ref), ref, manifest)
        for ref, manifest in artifacts().list(kind)
        if manifest["inputs"].get("dictionary", {}).get("key") == dictionary.name
    ]
    if not found:
        raise ExperimentError(
            f"{artifacts().uri} holds no {kind} of dictionary/{dictionary.name}. Run an experiment that reads the "
            "features of this dictionary, such as the presets features and interpretability, and export it again."
        )
    *_, ref, manifest = max(found, key=lambda entry: entry[:2])
    artifacts().verify(ref)
    return ref, manifest


def read_by(manifest: dict[str, Any], name: str) -> ArtifactRef:
    """An input of an artifact."""
    return ArtifactRef(**manifest["inputs"][name])
