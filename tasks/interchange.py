"""Dictionaries from and to the formats of other libraries and tools, in a directory or on the Hugging Face hub."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sae_core.dictionary import CONFIG_FILE, WEIGHTS_FILE, load_dictionary
from sae_core.interchange import FORMATS, Format, Provenance, detect
from storage.artifacts import AnyStore, ArtifactRef, ArtifactStore, content_key
from storage.errors import DamagedArtifact
from storage.manifests import read_manifest
from tasks.errors import ExperimentError
from tasks.exports import EXPORTS, Write
from tasks.hub import PREFIX, HubFolder
from tasks.references import find_name

KIND = "dictionary"
IMPORT_VERSION = "1"
"""Enters the key of what is imported: raise it when the same files would be read as another dictionary than before."""


def export_dictionary(name: str, format_name: str, to: str) -> str:
    """Write a dictionary, named as in `find_dictionary`, to a new directory or to `hf:user/repository[/folder]`.

    Returns where it is now. Raises ValueError when the format cannot hold it, ExperimentError when there is no such
    dictionary, the home lacks what the format wants besides, or the place cannot be written.
    """
    write = _writer(format_name)
    source = find_dictionary(name)
    provenance = provenance_of(source)
    if to.startswith(PREFIX):
        folder = HubFolder.parse(to)
        with TemporaryDirectory() as scratch:
            write(source, Path(scratch) / KIND, provenance)
            return folder.upload(Path(scratch) / KIND)
    directory = Path(to).expanduser().absolute()
    try:
        write(source, directory, provenance)
    except OSError as error:
        raise ExperimentError(f"{directory} cannot be written: {error.strerror}. Choose another directory.") from error
    return str(directory)


def import_dictionary(source: str, format_name: str, hook_point: str | None) -> ArtifactRef:
    """Make a `dictionary` artifact of a directory or of `hf:user/repository[/folder]`; find it when it is already made.

    Its key depends on the files' digests and the hook point, by default the one that the files name. Raises ValueError
    when the files cannot be read exactly, ExperimentError when there are none.
    """
    directory = _fetched(source)
    name = detect(directory) if format_name == "auto" else format_name
    form = _format(name)
    dictionary = form.read(directory)
    provenance = form.read_provenance(directory)
    provenance = replace(provenance, hook_name=hook_point or provenance.hook_name)
    imported = {"format": name, "files": {file: _sha256(directory / file) for file in form.files}}
    spec = {
        "hook_point": provenance.hook_name,
        "dictionary": {"method": dictionary.method},
        "imported": imported,
    }

    def make(place: Path) -> dict[str, Any]:
        dictionary.save(place, extra={"imported": imported})
        return {"source": source, "provenance": asdict(provenance)}

    return ArtifactStore.from_environment().build(
        KIND,
        content_key(KIND, IMPORT_VERSION, spec, {}),
        make,
        code_version=IMPORT_VERSION,
        spec=spec,
        inputs={},
        resumable=False,
    )


def find_dictionary(name: str) -> Path:
    """The directory of a dictionary: a path, `dictionary/KEY` in the home, or what no other key begins with.

    Raises:
        ExperimentError: there is none, or there are several.
    """
    directory = Path(name).expanduser()
    if all((directory / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE)):
        return directory
    store = ArtifactStore.from_environment()
    there = {str(ref): ref for ref, _ in store.list(KIND)}
    no_such = f"is no directory with {CONFIG_FILE} and {WEIGHTS_FILE}, and no artifact"
    found = there[find_name(name, there, store.uri, KIND, no_such)]
    store.verify(found)  # refuses one that is damaged
    return store.path(found)


def provenance_of(directory: Path) -> Provenance:
    """What the manifests of a dictionary's artifact, and of those that it was made from, say of where it comes from."""
    directory = directory.resolve()
    here = ArtifactStore.from_environment()
    # What a remote home has is here as a copy, without what it was made from.
    store = here if directory.is_relative_to(here.scratch.resolve()) else ArtifactStore(directory.parent.parent)
    try:
        manifest = read_manifest(directory, KIND, directory.name)
    except ValueError:  # a directory that is no artifact, or was moved away from the others
        return Provenance()
    if "provenance" in manifest["notes"]:
        return Provenance(**manifest["notes"]["provenance"])
    activations = _input(store, manifest, "activations")
    tokens, model = _input(store, activations, "tokens"), _input(store, activations, "model")
    corpus = tokens["spec"]["corpus"]["spec"] if tokens else {}
    return Provenance(
        model_name=_model_name(store, model) if model else None,
        hook_name=manifest["spec"].get("hook_point"),
        context_size=corpus.get("context_length"),
        prepend_bos=False if tokens else None,  # rows are cut from joined documents
        dataset=", ".join(map(_without_path, corpus.get("sources", ()))) or None,
    )


def _input(store: AnyStore, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The manifest of an input, empty where that is not there any more."""
    recorded = manifest.get("inputs", {}).get(name)
    try:
        return store.manifest(ArtifactRef(**recorded)) if recorded else {}
    except DamagedArtifact:
        return {}


def _model_name(store: AnyStore, model: dict[str, Any]) -> str:
    located = model["spec"]["located"]
    if located["format"] == "hub":
        return located["source"]
    reference = ArtifactRef(kind=model["kind"], key=model["key"], digest=model["digest"])
    return json.loads((store.path(reference) / "description.json").read_text())["name"]


def _without_path(source: str) -> str:
    """A corpus source without the folders of this machine, which are nobody else's business."""
    return source if source.startswith(("package:", PREFIX)) else Path(source).name


def _fetched(source: str) -> Path:
    if source.startswith(PREFIX):
        return HubFolder.parse(source).download({file for form in FORMATS.values() for file in form.files})
    directory = Path(source).expanduser()
    if not directory.is_dir():
        raise ExperimentError(
            f"{source!r} is no directory. Give one that holds the dictionary's files, or hf:user/repository/folder."
        )
    return directory


def _writer(name: str) -> Write:
    if name in EXPORTS:
        return EXPORTS[name]
    if name not in FORMATS:
        raise ExperimentError(f"format {name!r} does not exist. There are: {', '.join([*FORMATS, *EXPORTS])}.")
    return lambda source, directory, provenance: FORMATS[name].write(load_dictionary(source), directory, provenance)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ExperimentError(f"format {name!r} does not exist. There are: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
