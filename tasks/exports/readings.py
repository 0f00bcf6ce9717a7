"""What a home holds that was made from a dictionary: what its features do on the held-out text."""

from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactRef
from storage.manifests import read_manifest
from tasks.caching import artifacts
from tasks.errors import ExperimentError


def newest(kind: str, dictionary: Path) -> tuple[ArtifactRef, dict[str, Any]]:
    """The newest artifact of this kind that was made from the dictionary in this directory, and its manifest.

    Raises ExperimentError when there is none.
    """
    try:
        digest = read_manifest(dictionary, "dictionary", dictionary.name)["digest"]
    except ValueError as error:
        raise ExperimentError(f"{dictionary} is no artifact: import it, and read its {kind} there.") from error
    found = [
        (manifest["created"], str(ref), ref, manifest)
        for ref, manifest in artifacts().list(kind)
        # By digest: what was made is found again for another artifact with the same files, and names the first.
        if manifest["inputs"].get("dictionary", {}).get("digest") == digest
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
