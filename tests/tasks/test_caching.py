from pathlib import Path

import pytest
from prefect import flow
from prefect.logging import disable_run_logger

from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.caching import VerifiedRefSerializer, artifacts, step
from tasks.compute import Compute
from tasks.specs import TopKSpec

MADE: list[str] = []


@step(kind="note", code_version="1")
def write_note(place: Path, text: str, source: ArtifactRef | None = None, compute: Compute | None = None) -> None:
    """Write a note."""
    MADE.append(text)
    (place / "note.txt").write_text(text)


@pytest.fixture(autouse=True)
def _none_made(home: Path):
    MADE.clear()


def test_the_same_inputs_are_made_once():
    assert write_note.build(text="a") == write_note.build(text="a")
    assert MADE == ["a"]


def test_an_input_that_differs_makes_another_artifact():
    assert write_note.build(text="a").key != write_note.build(text="b").key
    assert MADE == ["a", "b"]


def test_where_a_step_runs_is_not_part_of_its_key():
    first = write_note.key({"text": "a", "compute": Compute(threads=1)})
    assert first == write_note.key({"text": "a", "compute": Compute(threads=8, device="cuda")})


def test_the_digest_of_an_input_enters_the_key_and_its_key_does_not():
    def key(ref: ArtifactRef) -> str:
        return write_note.key({"text": "a", "source": ref})

    one = ArtifactRef(kind="note", key="one", digest="d")
    assert key(one) == key(one.model_copy(update={"key": "two"}))
    assert key(one) != key(one.model_copy(update={"digest": "e"}))


def test_a_code_version_enters_the_key():
    def make(place: Path, text: str) -> None: ...

    keys = {step(kind="note", code_version=version)(make).key({"text": "a"}) for version in ("1", "2")}
    assert len(keys) == 2


def test_specs_enter_the_key_field_by_field():
    keys = {write_note.key({"text": TopKSpec(k=k)}) for k in (1, 2)}
    assert len(keys) == 2
    assert write_note.key({"text": TopKSpec(k=32)}) == write_note.key({"text": TopKSpec()})


def test_an_input_that_cannot_be_a_key_is_refused():
    with pytest.raises(TypeError, match="input 'text' is a set"):
        write_note.build(text={"a"})


def test_a_hit_counts_only_while_the_artifact_is_whole():
    ref = write_note.build(text="a")
    serializer = VerifiedRefSerializer()
    record = serializer.dumps(ref)
    assert serializer.loads(record) == ref
    (artifacts().path(ref) / "note.txt").write_text("b")
    with pytest.raises(DamagedArtifact, match=r"note\.txt"):
        serializer.loads(record)


def test_prefect_finds_what_it_made_and_makes_again_what_was_damaged(prefect_server: str):
    @flow
    def run() -> ArtifactRef:
        return write_note.run("write", text="a")

    with disable_run_logger():
        ref = run()
        assert run() == ref
        assert MADE == ["a"]
        (artifacts().path(ref) / "note.txt").write_text("b")
        assert run() == ref
        assert MADE == ["a", "a"]
        assert (artifacts().path(ref) / "note.txt").read_text() == "a"
        artifacts().remove(ref)
        assert run() == ref
        assert MADE == ["a", "a", "a"]
