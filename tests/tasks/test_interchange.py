"""Exporting dictionary artifacts, importing foreign directories: what is found, what is refused, what is recorded."""

import json
from pathlib import Path

import pytest
import torch

from sae_core import Crosscoder, TopK, load_dictionary
from sae_core.interchange import FORMATS, Provenance
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.errors import DamagedArtifact
from tasks.errors import ExperimentError
from tasks.hub import HubFolder
from tasks.interchange import export_dictionary, find_dictionary, import_dictionary, provenance_of

HOOK = "blocks.1.hook_resid_post"


def artifact(home: Path, kind: str, key: str, spec: object, **inputs: ArtifactRef) -> ArtifactRef:
    """An artifact as the steps of an experiment leave it, as far as its manifest goes."""

    def make(place: Path) -> None:
        if kind == "dictionary":
            TopK(6, 10, k=3).save(place)
        (place / "description.json").write_text(json.dumps({"name": "tiny"}))

    return ArtifactStore(home).build(
        kind,
        key,
        make,
        code_version="1",
        spec=spec,
        inputs=inputs,
        resumable=False,  # pyright: ignore
    )


@pytest.fixture
def dictionary(home: Path) -> ArtifactRef:
    corpus = {"spec": {"context_length": 32, "sources": ["/home/me/stories.txt", "package:numpy"]}}
    model = artifact(home, "model", "m", {"located": {"format": "directory", "source": "/home/me/tiny"}})
    tokens = artifact(home, "tokens", "t", {"corpus": corpus}, model=model)
    activations = artifact(home, "activations", "a", {}, model=model, tokens=tokens)
    return artifact(home, "dictionary", "abc123", {"hook_point": HOOK}, activations=activations)


def test_where_a_dictionary_comes_from_is_read_along_the_manifests(home: Path, dictionary: ArtifactRef):
    place = ArtifactStore(home).path(dictionary)
    known = Provenance("tiny", HOOK, 32, False, "stories.txt, package:numpy")
    assert provenance_of(place) == known
    ArtifactStore(home).remove(ArtifactRef(kind="tokens", key="t", digest=""))
    assert provenance_of(place) == Provenance("tiny", HOOK)
    place.rename(home / "moved")
    assert provenance_of(home / "moved") == Provenance()


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_and_imported_is_the_same_dictionary(
    form: str, home: Path, dictionary: ArtifactRef, tmp_path: Path
):
    assert export_dictionary(str(dictionary), form, str(tmp_path / "out")) == str(tmp_path / "out")
    imported = import_dictionary(str(tmp_path / "out"), "auto", None)
    place, x = ArtifactStore(home).path(imported), torch.randn(5, 6)
    torch.testing.assert_close(load_dictionary(place)(x), TopK(6, 10, k=3)(x))
    assert provenance_of(place).hook_name == HOOK
    assert provenance_of(place).context_size == 32
    assert ArtifactStore(home).manifest(imported)["spec"]["dictionary"] == {"method": "topk"}


def test_an_import_is_found_again_and_depends_on_bytes_and_hook_point_alone(home: Path, tmp_path: Path):
    for seed, name in enumerate(("one", "other")):
        sae = TopK(6, 10, k=3)
        sae.initialise(torch.Generator().manual_seed(seed))
        FORMATS["sparsify"].write(sae, tmp_path / name, Provenance(hook_name=HOOK))
    one = import_dictionary(str(tmp_path / "one"), "auto", None)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert import_dictionary(str(tmp_path / "moved"), "sparsify", HOOK) == one
    assert import_dictionary(str(tmp_path / "other"), "auto", None) != one
    assert import_dictionary(str(tmp_path / "moved"), "auto", "blocks.2.hook_resid_post").key != one.key


def test_a_dictionary_is_named_by_path_ref_or_beginning_of_its_key(home: Path, dictionary: ArtifactRef):
    place = ArtifactStore(home).path(dictionary)
    for name in (str(place), "dictionary/abc123", "abc", "dictionary/a"):
        assert find_dictionary(name) == place
    artifact(home, "dictionary", "abd456", {})
    with pytest.raises(ExperimentError, match=r"could be several.*dictionary/abc123, dictionary/abd456"):
        find_dictionary("ab")
    with pytest.raises(ExperimentError, match=r"'xyz' is no directory.*there are: dictionary/abc123"):
        find_dictionary("xyz")
    (place / "config.json").write_text("{}")
    with pytest.raises(DamagedArtifact):
        find_dictionary("abc")


def test_what_cannot_be_exchanged_is_refused(home: Path, dictionary: ArtifactRef, tmp_path: Path):
    with pytest.raises(ExperimentError, match=r"format 'saelense' does not exist. There are: saelens"):
        export_dictionary("abc", "saelense", str(tmp_path / "out"))
    Crosscoder(6, 10, k=3, layers=2).save(tmp_path / "crosscoder")
    with pytest.raises(ValueError, match="sparsify has no crosscoder"):
        export_dictionary(str(tmp_path / "crosscoder"), "sparsify", str(tmp_path / "out"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperimentError, match="cannot be written: File exists"):
        export_dictionary("abc", "sparsify", str(tmp_path / "file" / "out"))
    with pytest.raises(ExperimentError, match="is no directory"):
        import_dictionary(str(tmp_path / "nothing"), "auto", None)
    with pytest.raises(ExperimentError, match=r"hf:someone/saes cannot be read on the Hugging Face hub"):
        import_dictionary("hf:someone/saes", "auto", None)


@pytest.mark.parametrize("name", ["hf:", "hf:user", "hf:user/", "hf:user/repo//x", "hf:user/repo/../x"])
def test_a_place_on_the_hub_has_a_user_and_a_repository(name: str):
    assert str(HubFolder.parse("hf:user/repo/a/b")) == "hf:user/repo/a/b"
    with pytest.raises(ExperimentError, match="names no place on the hub"):
        HubFolder.parse(name)
