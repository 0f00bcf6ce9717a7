"""A home in an object store: what is there is decided there alone, and an artifact is whole or it is not there."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.commits import FileRecord
from storage.errors import DamagedArtifact, DamagedChunk, StorageError
from storage.locations import Location, remove_file
from storage.manifests import Filled
from storage.remote_artifacts import RemoteArtifactStore, cache_of
from tests.object_store import FaultyProxy
from tests.storage.conftest import HOOK, files_of, small_layout, write
from tests.storage.google_storage import GoogleStorage
from tests.storage.killable import FILES, TIMES, Killable, content

Store = ArtifactStore | RemoteArtifactStore


@pytest.fixture
def remote(bucket: str, tmp_path: Path) -> RemoteArtifactStore:
    return RemoteArtifactStore(f"{bucket}/home", cache=tmp_path / "cache", times=TIMES)


@pytest.fixture
def elsewhere(bucket: str, tmp_path: Path) -> RemoteArtifactStore:
    """The same home, as another machine sees it."""
    return RemoteArtifactStore(f"{bucket}/home", cache=tmp_path / "elsewhere", times=TIMES)


@pytest.fixture
def slow(s3: str) -> Iterator[FaultyProxy]:
    """The way to the object store for a process that is to be met at its upload."""
    proxy = FaultyProxy(s3, delay=0.1)
    yield proxy
    proxy.close()


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return ArtifactStore(tmp_path / "home") if request.param == "local" else request.getfixturevalue("remote")


def build(store: Store, make: Callable[..., object], key: str = "k", resumable: bool = False, **options: bool):
    return store.build(
        "tokens",
        key,
        make,  # pyright: ignore[reportArgumentType]
        code_version="1",
        spec={},
        inputs={},
        resumable=resumable,
        **options,
    )


def write_two_files(place: Path) -> dict[str, int]:
    (place / "folder").mkdir(exist_ok=True)
    (place / "folder/a.bin").write_bytes(b"a" * 1000)
    (place / "b.json").write_text("{}")
    return {"rows": 3}


def stream_two_files(place: Location) -> Filled:
    place.commit("folder/a.bin", b"a" * 1000)
    place.commit("b.json", b"{}")
    place.commit("scratch/half", b"h")
    return Filled({"rows": 3}, {"folder/a.bin": FileRecord.of(b"a" * 1000)})


def those_of_builds(place: Location) -> list[str]:
    return [name for name in place.names() if name != "scratch/begun"]


def never(place: object) -> None:
    pytest.fail("it was made again")


def test_an_artifact_is_built_once_found_listed_and_removed(store: Store):
    ref = build(store, write_two_files)
    assert build(store, never) == ref == store.find("tokens", "k")
    store.verify(ref)
    manifest = store.manifest(ref)
    assert manifest["notes"] == {"rows": 3}
    assert [file["name"] for file in manifest["files"]] == ["b.json", "folder/a.bin"]
    other = build(store, write_two_files, key="other")
    assert [found for found, _ in store.list()] == [ref, other] == [found for found, _ in store.list("tokens")]
    assert list(store.list("dictionary")) == []
    assert store.unfinished() == []
    assert files_of(store.path(ref)).keys() == {"folder/a.bin", "b.json", "manifest.json"}
    assert store.location(ref).read("b.json") == b"{}"
    read: list[int] = []
    assert store.check(ref, read.append) == {}
    assert sum(read) == 1002
    store.remove(ref)
    assert store.find("tokens", "k") is None
    assert [found for found, _ in store.list()] == [other]
    with pytest.raises(DamagedArtifact, match="missing"):
        store.verify(ref)


def test_a_failed_build_is_never_seen_can_go_on_and_can_be_discarded(store: Store):
    attempts: list[list[str]] = []

    def make(place: Path) -> None:
        attempts.append(sorted(path.name for path in place.iterdir()))
        (place / f"{len(attempts)}.bin").write_bytes(b"x" * 100)
        if len(attempts) != 2:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        build(store, make, resumable=True)
    assert store.find("tokens", "k") is None
    assert list(store.list()) == []
    [begun] = store.unfinished()
    assert (str(begun), begun.bytes, begun.at_work) == ("tokens/k", 100, False)
    build(store, make, resumable=True)
    assert attempts == [[], ["1.bin"]]
    with pytest.raises(RuntimeError, match="interrupted"):
        build(store, make, key="other", resumable=True)
    store.discard("tokens", "other")
    assert store.unfinished() == []


def test_the_same_build_has_the_same_digest_here_and_there_streamed_or_not(tmp_path: Path, remote: RemoteArtifactStore):
    refs = {
        build(home, make, key=key, streamed=streamed).digest
        for home in (ArtifactStore(tmp_path / "home"), remote)
        for key, make, streamed in (("k", write_two_files, False), ("streamed", stream_two_files, True))
    }
    assert len(refs) == 1


def test_what_a_streamed_build_tells_of_its_files_is_not_read_again(store: Store):
    def make(place: Location) -> Filled:
        place.commit("a.bin", b"a" * 1000)
        place.commit("b.bin", b"b" * 10)
        told = FileRecord(size=1000, sha256="told")
        return Filled({}, {"a.bin": told, "b.bin": told.model_copy(update={"size": 11})})

    files = store.manifest(build(store, make, streamed=True))["files"]
    assert files[0] == {"name": "a.bin", "size": 1000, "sha256": "told"}
    assert files[1]["sha256"] == FileRecord.of(b"b" * 10).sha256, "what has another size than was told is read"


def test_a_streamed_build_goes_on_from_what_is_there_or_from_nothing(store: Store):
    met: list[list[str]] = []

    def make(place: Location) -> None:
        met.append(those_of_builds(place))
        place.commit(f"{len(met)}.bin", b"x")
        place.commit("scratch/half", b"h")
        if len(met) % 2:
            raise RuntimeError("interrupted")

    for resumable in (True, False):
        with pytest.raises(RuntimeError, match="interrupted"):
            build(store, make, key=f"{resumable}", streamed=True, resumable=resumable)
        assert store.find("tokens", f"{resumable}") is None
        ref = build(store, make, key=f"{resumable}", streamed=True, resumable=resumable)
        assert "scratch/half" not in store.location(ref).names()
    assert met == [[], ["1.bin", "scratch/half"], [], []]


def test_damage_is_named_found_and_repaired(store: Store, caplog: pytest.LogCaptureFixture):
    met: list[list[str]] = []

    def make(place: Location) -> None:
        met.append(those_of_builds(place))
        for name in ("a", "b", "c"):
            place.commit(name, name.encode() * 100)

    ref = build(store, make, streamed=True, resumable=True)
    place = store.location(ref)
    place.commit("a", b"a" * 10)
    place.remove("b")
    place.commit("extra", b"")
    problems = ["a has 10 bytes instead of 100", "b is missing", "extra is not in the manifest"]
    assert store.problems("tokens", "k") == problems
    with pytest.raises(DamagedArtifact, match="a has 10 bytes instead of 100; b is missing; extra"):
        store.find("tokens", "k")
    with caplog.at_level(logging.WARNING, "saeflow.storage"):
        assert build(store, make, streamed=True, resumable=True) == ref
    assert "b is missing" in caplog.text
    assert met == [[], ["c"]], "what is whole is kept"
    store.verify(ref)

    place.commit("manifest.json", place.read("manifest.json").replace(b'"k"', b'"l"'))
    with pytest.raises(DamagedArtifact, match=r"manifest\.json cannot be read"):
        store.find("tokens", "k")
    assert list(store.list()) == []
    assert build(store, make, streamed=True, resumable=True) == ref
    assert met[-1] == [], "without a manifest no file can be trusted"


def test_what_was_cut_short_in_the_bucket_is_uploaded_again(remote: RemoteArtifactStore):
    ref = build(remote, write_two_files)
    remote.location(ref).commit("folder/a.bin", b"a" * 10)
    with pytest.raises(DamagedArtifact, match=r"folder/a\.bin has 10 bytes"):
        remote.find("tokens", "k")
    assert build(remote, never) == ref, "the copy of this machine is whole"
    remote.verify(ref)


def test_a_flipped_bit_in_the_bucket_is_found_by_whoever_reads_it_and_repaired_by_the_next_run(
    remote: RemoteArtifactStore, elsewhere: RemoteArtifactStore
):
    ref = build(remote, write_two_files)
    remote.location(ref).commit("folder/a.bin", b"a" * 999 + b"b")
    assert elsewhere.check(ref, lambda size: None) == {"folder/a.bin": "does not have the recorded sha256"}
    with pytest.raises(DamagedArtifact, match=r"folder/a\.bin does not have the recorded sha256"):
        elsewhere.path(ref)
    assert not elsewhere.path("tokens", "k").exists(), "a copy is whole or not at all"
    with pytest.raises(DamagedArtifact, match=r"folder/a\.bin is missing"):
        elsewhere.find("tokens", "k")
    assert build(elsewhere, write_two_files) == ref
    assert (elsewhere.path(ref) / "folder/a.bin").read_bytes() == b"a" * 1000


def test_another_machine_gets_a_copy_and_makes_a_damaged_one_anew(
    remote: RemoteArtifactStore, elsewhere: RemoteArtifactStore
):
    ref = build(remote, write_two_files)
    assert build(elsewhere, never) == ref
    copy = elsewhere.path(ref)
    assert files_of(copy) == files_of(remote.path(ref))
    (copy / "b.json").write_text("[]")
    another_process = RemoteArtifactStore(elsewhere.uri, cache=elsewhere.scratch.rename(elsewhere.scratch.parent / "m"))
    assert (another_process.path(ref) / "b.json").read_text() == "{}"


def test_a_copy_of_something_else_under_the_same_name_is_replaced(
    remote: RemoteArtifactStore, elsewhere: RemoteArtifactStore
):
    def make_something_else(place: Path) -> None:
        (place / "c").write_text("c")

    build(ArtifactStore(elsewhere.scratch), make_something_else)
    ref = build(remote, write_two_files)
    assert files_of(elsewhere.path(ref)).keys() == {"folder/a.bin", "b.json", "manifest.json"}
    with pytest.raises(DamagedArtifact, match="digest"):
        elsewhere.path(ref.model_copy(update={"digest": "0" * 64}))


def test_an_upload_that_was_killed_goes_on_and_sends_nothing_twice(
    remote: RemoteArtifactStore, s3: str, slow: FaultyProxy, monkeypatch: pytest.MonkeyPatch
):
    watched = FaultyProxy(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", watched.url)
    place = remote.home_location.child("tokens/k")
    process = Killable("build", remote.uri, remote.scratch, AWS_ENDPOINT_URL=slow.url)
    process.wait_for("made")
    while not (sent := {name for name in place.names() if name.endswith(".bin")}):
        pass
    process.kill()
    assert len(sent) < FILES
    assert not place.exists("manifest.json")
    assert remote.find("tokens", "k") is None
    [begun] = remote.unfinished()
    assert str(begun) == "tokens/k"

    watched.seen.clear()
    ref = build(remote, never)
    assert not any(line.startswith("PUT") and line.rpartition("/")[2] in sent for line in watched.seen)
    remote.verify(ref)
    assert len(remote.manifest(ref)["files"]) == FILES
    assert remote.unfinished() == []
    watched.close()


def test_a_streamed_build_that_was_killed_goes_on_on_another_machine(
    remote: RemoteArtifactStore, elsewhere: RemoteArtifactStore
):
    process = Killable("stream", remote.uri, remote.scratch)
    process.wait_for("5")
    process.kill()
    [begun] = elsewhere.unfinished()
    assert begun.bytes >= 5000
    wrote = []

    def make(place: Location) -> None:
        for number in range(FILES):
            if not place.exists(f"{number}.bin"):
                place.commit(f"{number}.bin", content(number))
                wrote.append(number)

    ref = build(elsewhere, make, streamed=True, resumable=True)
    assert min(wrote) > 5
    assert remote.find("tokens", "k") == ref
    assert remote.location(ref).read("0.bin") == content(0)


def test_of_two_machines_that_want_the_same_artifact_one_builds_and_the_other_waits_and_finds(
    remote: RemoteArtifactStore,
    elsewhere: RemoteArtifactStore,
    slow: FaultyProxy,
    caplog: pytest.LogCaptureFixture,
):
    process = Killable("build", remote.uri, remote.scratch, AWS_ENDPOINT_URL=slow.url)
    process.wait_for("made")
    with caplog.at_level(logging.WARNING, "saeflow.storage"):
        ref = build(elsewhere, never)
    assert "waiting for another process that builds tokens/k" in caplog.text
    process.finish()
    assert len(elsewhere.manifest(ref)["files"]) == FILES


def test_a_home_in_google_storage_is_writable_and_holds_what_was_built_here_or_streamed(
    google_bucket: str, tmp_path: Path
):
    home = RemoteArtifactStore(f"{google_bucket}/home", cache=tmp_path / "cache", times=TIMES)
    home.check_writable()
    for key, make, streamed in (("k", write_two_files, False), ("streamed", stream_two_files, True)):
        ref = build(home, make, key=key, streamed=streamed)
        assert build(home, never, key=key) == ref
    assert len(list(home.list())) == 2
    assert home.unfinished() == []
    home.remove(ref)
    assert home.find("tokens", "streamed") is None


def test_a_builder_that_lost_its_lease_publishes_nothing(remote: RemoteArtifactStore):
    lease = remote.home_location.child("locks")

    def make(place: Location) -> None:
        place.commit("a", b"a")
        lease.commit("tokens-k.lease", b"another's")

    with pytest.raises(StorageError, match="another process has taken over tokens/k"):
        build(remote, make, streamed=True)
    assert remote.find("tokens", "k") is None


def test_a_builder_that_lost_its_lease_deletes_nothing(remote: RemoteArtifactStore):
    ref = build(remote, write_two_files)

    def make(place: Location) -> None:
        remote.home_location.child("locks").commit("tokens-k.lease", b"another's")
        time.sleep(3 * TIMES.renew)
        place.remove("folder/a.bin")

    place = remote.location(ref)
    place.remove("b.json")
    with pytest.raises(StorageError, match="another process has taken over tokens/k"):
        build(remote, make, streamed=True, resumable=True)
    assert place.exists("folder/a.bin")


def test_a_damaged_chunk_of_a_store_in_a_bucket_is_named_and_costs_one_part(remote: RemoteArtifactStore):
    layout = small_layout()
    missing: list[list[int]] = []

    def harvest(place: Location) -> None:
        missing.append(ActivationStore.create(place.child("train"), layout).missing_parts())
        write(place.child("train"), layout)

    ref = build(remote, harvest, streamed=True, resumable=True)
    place = remote.location(ref).child("train")
    before = place.listing()
    chunk = f"data.zarr/{HOOK}/acts/c/2/0"
    data = bytearray(place.read(chunk))
    data[17] ^= 1
    place.commit(chunk, bytes(data))
    with pytest.raises(DamagedChunk) as damage:
        list(ActivationStore.open(place).iter_rows(HOOK))
    assert damage.value.file == f"{place}/{chunk}"
    remove_file(damage.value.file)  # as a step does that meets it
    assert build(remote, harvest, streamed=True, resumable=True) == ref
    assert missing == [[0, 1, 2, 3], [1]]
    after = place.listing()
    assert {name: after[name]["e_tag"] for name in before} == {name: before[name]["e_tag"] for name in before}
    ActivationStore.open(place).verify()


def test_the_environment_says_which_home_it_is(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAEFLOW_HOME", f"{bucket}/home/")
    monkeypatch.setenv("SAEFLOW_CACHE", str(tmp_path / "caches"))
    store = ArtifactStore.from_environment()
    assert isinstance(store, RemoteArtifactStore)
    assert store.uri == f"{bucket}/home"
    assert store.scratch.parent == tmp_path / "caches"
    assert store.scratch != cache_of(f"{bucket}/another")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert store.scratch != cache_of(store.uri), "the same name elsewhere is another home"
    monkeypatch.setenv("SAEFLOW_HOME", str(tmp_path))
    assert isinstance(ArtifactStore.from_environment(), ArtifactStore)


def test_a_home_is_writable_or_says_what_is_wrong(store: Store, tmp_path: Path, bucket: str):
    store.check_writable()
    assert list(store.home_location.names()) == []
    with pytest.raises(StorageError, match="NoSuchBucket"):
        RemoteArtifactStore("s3://nothing-like-it/home", cache=tmp_path / "c").check_writable()
    (tmp_path / "file").write_text("")
    for unusable in (ArtifactStore(tmp_path / "file"), RemoteArtifactStore(bucket, cache=tmp_path / "file")):
        with pytest.raises(StorageError, match=r"file cannot be written to .*--home"):
            unusable.check_writable()


@pytest.mark.parametrize("ignored", ["create", "replace"])
def test_a_home_whose_store_ignores_conditions_is_refused(
    ignored: Literal["create", "replace"], google: GoogleStorage, google_bucket: str, tmp_path: Path
):
    home = RemoteArtifactStore(google_bucket, cache=tmp_path / "cache")
    google.ignored = ignored
    with pytest.raises(StorageError, match="does not keep to the condition of a conditional write"):
        home.check_writable()
    assert home.home_location.names() == []


def test_files_beside_the_artifacts_have_their_place(store: Store):
    store.home_location.commit("experiments/tiny.json", json.dumps({"a": 1}).encode())
    assert store.home_location.names("experiments") == ["experiments/tiny.json"]
    assert list(store.list()) == []
    assert store.unfinished() == []


def test_what_others_keep_in_the_same_bucket_is_no_artifact_and_is_left_alone(bucket: str, tmp_path: Path):
    store = RemoteArtifactStore(bucket, cache=tmp_path / "cache", times=TIMES)
    theirs = ["photos/2026/a.jpg", "my data/x/y", "photos/2026/manifest.txt"]
    for name in theirs:
        store.home_location.commit(name, b"")
    ref = build(store, write_two_files)
    assert [found for found, _ in store.list()] == [ref]
    assert store.unfinished() == []
    store.discard("photos", "2026")
    store.remove(ref)
    assert store.home_location.names() == sorted(theirs)


def test_a_name_that_is_no_artifacts_is_refused(store: Store):
    with pytest.raises(StorageError, match="names no artifact"):
        store.find("tokens", "../k")
    with pytest.raises(StorageError, match="names no artifact"):
        store.location(ArtifactRef(kind="tokens/x", key="k", digest=""))
    assert os.sep not in store.uri.rpartition("home")[2]
