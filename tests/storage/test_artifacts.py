"""Artifacts: built once, found again, never half there, repaired when damaged."""

import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from storage.artifacts import ArtifactRef, ArtifactStore, content_key
from storage.checkout import Checkout, checkout
from storage.errors import DamagedArtifact, DamagedChunk, OutOfSpace, StorageError
from storage.locks import Locks
from tests.storage.conftest import PROCESSES, files_of, small_layout, write


def build(store, make, key="k", kind="tokens", resumable=False, **spec):
    return store.build(kind, key, make, code_version="1", spec=spec, inputs={}, resumable=resumable)


def write_two_files(place):
    (place / "folder").mkdir(exist_ok=True)
    (place / "folder/a.bin").write_bytes(b"a" * 1000)
    (place / "b.json").write_text("{}")
    return {"rows": 3}


def test_an_artifact_is_built_once_and_then_found(tmp_path):
    store, calls = ArtifactStore(tmp_path), []

    def make(place):
        calls.append(place)
        return write_two_files(place)

    ref = build(store, make, seed=1)
    assert build(store, make, seed=1) == ref == store.find("tokens", "k")
    assert len(calls) == 1
    assert files_of(store.path(ref)).keys() == {"folder/a.bin", "b.json", "manifest.json"}


def test_a_temporary_file_that_its_writer_removes_itself_disturbs_no_build(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path)
    stray = tmp_path / "tokens/k.partial/a.bin.1-2.partial"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"torn")
    unlink = Path.unlink

    def be_late(path, missing_ok=False):
        if path == stray:
            unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", be_late)
    build(store, write_two_files, resumable=True)
    assert not stray.exists()


def test_the_manifest_tells_where_an_artifact_came_from(tmp_path):
    store = ArtifactStore(tmp_path)
    tokens = build(store, write_two_files)
    ref = store.build(
        "activations",
        "x",
        write_two_files,
        code_version="2",
        spec={"n": 1},
        inputs={"tokens": tokens},
        resumable=False,
    )
    manifest = store.manifest(ref)
    assert manifest["inputs"] == {"tokens": tokens.model_dump()}
    assert (manifest["kind"], manifest["key"], manifest["code_version"]) == ("activations", "x", "2")
    assert (manifest["spec"], manifest["notes"]) == ({"n": 1}, {"rows": 3})
    assert [file["name"] for file in manifest["files"]] == ["b.json", "folder/a.bin"]
    assert {"python", "torch", "zarr"} <= manifest["versions"].keys()
    assert manifest["checkout"] == checkout()
    assert json.loads((store.path(ref) / "manifest.json").read_text())["digest"] == ref.digest
    assert [found for found, _ in store.list()] == [ref, tokens]


def test_the_same_bytes_have_the_same_digest_wherever_they_were_made(tmp_path):
    first = build(ArtifactStore(tmp_path / "a"), write_two_files, seed=1)
    second = build(ArtifactStore(tmp_path / "b"), write_two_files, key="other", seed=2)
    assert first.digest == second.digest


def test_the_commit_is_told_and_is_neither_in_a_key_nor_in_a_digest(tmp_path, monkeypatch):
    refs = []
    for home, told in (("a", Checkout(commit="0" * 40, dirty=False)), ("b", Checkout(commit="1" * 40, dirty=True))):
        monkeypatch.setattr("storage.manifests.checkout", lambda told=told: told)
        store = ArtifactStore(tmp_path / home)
        refs.append(build(store, write_two_files, key=content_key("tokens", "1", {}, {})))
        assert store.manifest(refs[-1])["checkout"] == told
    assert refs[0] == refs[1]


def test_a_key_depends_on_everything_asked_for_and_not_on_its_order():
    key = content_key("tokens", "1", {"a": 1, "b": [2.5, None]}, {"text": "d"})
    assert len(key) == 20
    assert key == content_key("tokens", "1", {"b": [2.5, None], "a": 1}, {"text": "d"})
    others = [
        content_key("corpus", "1", {"a": 1, "b": [2.5, None]}, {"text": "d"}),
        content_key("tokens", "2", {"a": 1, "b": [2.5, None]}, {"text": "d"}),
        content_key("tokens", "1", {"a": 2, "b": [2.5, None]}, {"text": "d"}),
        content_key("tokens", "1", {"a": 1, "b": [2.5, None]}, {"text": "e"}),
        content_key("tokens", "1", {"a": 1, "b": [2.5, None]}, {"words": "d"}),
    ]
    assert len({key, *others}) == 6


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object(), np.float32(1)])
def test_a_spec_that_is_not_plain_json_is_no_key(value):
    with pytest.raises(StorageError, match="not plain JSON"):
        content_key("tokens", "1", {"a": value}, {})


def test_a_failed_build_is_never_seen_and_a_resumable_one_goes_on(tmp_path):
    store, attempts = ArtifactStore(tmp_path), []

    def make(place):
        attempts.append(sorted(path.name for path in place.iterdir()))
        (place / f"{len(attempts)}.bin").write_bytes(b"x")
        if len(attempts) < 3:
            raise RuntimeError("interrupted")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="interrupted"):
            build(store, make, resumable=True)
        assert store.find("tokens", "k") is None
        assert list(store.list()) == []
    build(store, make, resumable=True)
    assert attempts == [[], ["1.bin"], ["1.bin", "2.bin"]]


def test_a_build_that_is_not_resumable_starts_from_nothing(tmp_path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        build(store, lambda place: (place / "left").write_bytes(b"x") / 0)
    ref = build(store, write_two_files)
    assert not (store.path(ref) / "left").exists()


def test_scratch_waits_for_the_next_attempt_and_is_no_part_of_the_artifact(tmp_path):
    store = ArtifactStore(tmp_path)

    def fail(place):
        (place / "scratch").mkdir()
        (place / "scratch/checkpoint").write_text("half")
        raise KeyboardInterrupt

    def go_on(place):
        assert (place / "scratch/checkpoint").read_text() == "half"
        return write_two_files(place)

    with pytest.raises(KeyboardInterrupt):
        build(store, fail, resumable=True)
    ref = build(store, go_on, resumable=True)
    assert files_of(store.path(ref)).keys() == {"folder/a.bin", "b.json", "manifest.json"}


@pytest.mark.parametrize("resumable", [True, False])
def test_a_build_killed_just_before_the_rename_is_not_made_again(tmp_path, monkeypatch, resumable):
    store = ArtifactStore(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            build(store, write_two_files, resumable=resumable)
    assert store.find("tokens", "k") is None
    ref = build(store, killed, resumable=resumable)
    assert store.find("tokens", "k") == ref


def test_every_flipped_bit_is_named_and_repaired(tmp_path, caplog):
    store = ArtifactStore(tmp_path)
    ref = build(store, write_two_files)
    rng = np.random.default_rng(0)
    for name in [*files_of(store.path(ref)), *["manifest.json"] * 20]:
        path = store.path(ref) / name
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with pytest.raises(DamagedArtifact, match=rf"tokens/k is damaged: {name}"):
            store.find("tokens", "k")
        with caplog.at_level(logging.WARNING, "saeflow.storage"):
            assert build(store, write_two_files) == ref
        assert name in caplog.text
        caplog.clear()
        store.verify(ref)


def test_missing_cut_and_extra_files_are_named(tmp_path):
    store = ArtifactStore(tmp_path)
    place = store.path(build(store, write_two_files))
    (place / "b.json").unlink()
    (place / "folder/a.bin").write_bytes(b"a" * 10)
    (place / "extra").write_bytes(b"")
    assert store.problems("tokens", "k") == [
        "b.json is missing",
        "extra is not in the manifest",
        "folder/a.bin has 10 bytes instead of 1000",
    ]


def test_repairing_a_resumable_artifact_keeps_what_is_whole(tmp_path):
    store, met = ArtifactStore(tmp_path), []

    def make(place):
        met.append(sorted(files_of(place)))
        return write_two_files(place)

    ref = build(store, make, resumable=True)
    (store.path(ref) / "b.json").write_text("[]")
    assert build(store, make, resumable=True) == ref
    assert met == [[], ["folder/a.bin"]]


def test_a_flipped_bit_in_an_activation_chunk_costs_one_part(tmp_path):
    store, layout = ArtifactStore(tmp_path), small_layout()

    def harvest(place):
        write(place / "store", layout)

    ref = build(store, harvest, kind="activations", resumable=True)
    chunks = sorted(store.path(ref).glob("store/data.zarr/*/acts/c/*/0"))
    before = {path: path.stat().st_mtime_ns for path in chunks}
    data = bytearray(chunks[2].read_bytes())
    data[17] ^= 1
    chunks[2].write_bytes(data)
    assert build(store, harvest, kind="activations", resumable=True) == ref
    rewritten = {path.parent.name for path in chunks if path.stat().st_mtime_ns != before[path]}
    assert chunks[2].parent.name in rewritten
    assert len(rewritten) == 2  # the chunks of one part


def test_another_build_under_the_same_name_is_not_the_artifact_meant(tmp_path):
    store = ArtifactStore(tmp_path)
    ref = build(store, write_two_files)
    with pytest.raises(DamagedArtifact, match="digest"):
        store.verify(ref.model_copy(update={"digest": "0" * 64}))
    store.remove(ref)
    assert store.find("tokens", "k") is None
    with pytest.raises(DamagedArtifact, match="missing"):
        store.verify(ref)


def test_two_processes_that_want_the_same_artifact_build_it_once(tmp_path):
    with PROCESSES.Pool(2) as pool:
        refs = pool.map(_build_slowly, [tmp_path, tmp_path], chunksize=1)
    assert refs[0] == refs[1]
    assert len((tmp_path / "log").read_text().split()) == 1


def _build_slowly(home):
    def make(place):
        with (home / "log").open("a") as log:
            log.write("built\n")
        time.sleep(0.5)
        write_two_files(place)

    return build(ArtifactStore(home), make)


def test_a_home_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.* cannot be written"):
        build(ArtifactStore(tmp_path / "file"), write_two_files)
    with pytest.raises(StorageError, match="ftp://host/runs is no place that can be used"):
        ArtifactStore("ftp://host/runs")
    with pytest.raises(StorageError, match="names no artifact"):
        ArtifactStore(tmp_path).path("tokens", "../k")
    monkeypatch.setenv("SAEFLOW_HOME", f"file://{tmp_path}/runs")
    assert ArtifactStore.from_environment().home == tmp_path / "runs"


def test_looking_for_artifacts_waits_for_no_heavy_import():
    heavy = "{'torch', 'zarr', 'numpy', 'pyarrow'}"
    program = f"import sys, storage.artifacts, storage.locations; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_errors_and_refs_survive_the_trip_between_processes():
    things = [
        DamagedArtifact("tokens", "k", ["a is missing"]),
        DamagedChunk("a/c/0/0", "gone", "blocks.0", 3),
        OutOfSpace("/x", 10, 5),
        StorageError("what, where"),
    ]
    for thing in things:
        copy = pickle.loads(pickle.dumps(thing))
        assert type(copy) is type(thing)
        assert str(copy) == str(thing)
        assert vars(copy) == vars(thing)
    ref = ArtifactRef(kind="tokens", key="k", digest="d")
    assert ArtifactRef.model_validate_json(ref.model_dump_json()) == ref
    assert str(ref) == "tokens/k"


def test_a_check_reads_every_byte_and_names_what_the_disk_does_not_give_back(tmp_path):
    store = ArtifactStore(tmp_path)

    def make(place):
        write_two_files(place)
        (place / "empty").touch()

    ref, read = build(store, make), []
    assert store.check(ref, read.append) == {}
    assert sum(read) == 1002
    place = store.path(ref)
    data = bytearray((place / "folder/a.bin").read_bytes())
    data[500] ^= 1
    (place / "folder/a.bin").write_bytes(data)
    (place / "b.json").unlink()
    (place / "empty").unlink()
    (place / "empty").symlink_to("/proc/self/mem")  # as long as it, and every read of it fails
    assert store.check(ref, read.append) == {
        "b.json": "is missing",
        "empty": "cannot be read (Input/output error)",
        "folder/a.bin": "does not have the recorded sha256",
    }
    store.remove(ref)
    assert store.check(ref, read.append) == {"manifest.json": "is missing"}


def test_an_unfinished_build_is_listed_and_discarded_once_nobody_is_at_work_on_it(tmp_path):
    store, seen = ArtifactStore(tmp_path), []

    def make(place):
        write_two_files(place)
        seen.extend(store.unfinished())
        with pytest.raises(StorageError, match=r"another process is at work on tokens/k"):
            store.discard("tokens", "k")
        raise KeyboardInterrupt

    assert store.unfinished() == []
    started = datetime.now(UTC) - timedelta(seconds=1)  # file systems count in ticks
    with pytest.raises(KeyboardInterrupt):
        build(store, make)
    (left,) = store.unfinished()
    assert [(str(build), build.bytes, build.at_work) for build in (*seen, left)] == [
        ("tokens/k", 1002, True),
        ("tokens/k", 1002, False),
    ]
    assert started <= left.modified <= datetime.now(UTC)
    assert not store.at_work("tokens", "k")
    store.discard("tokens", "k")
    assert store.unfinished() == []
    assert files_of(tmp_path) == {}  # its lock is gone too


def test_what_is_removed_leaves_no_lock_and_can_be_built_again(tmp_path):
    store = ArtifactStore(tmp_path)
    ref = build(store, write_two_files)
    store.remove(ref)
    assert files_of(tmp_path) == {}
    assert build(store, write_two_files) == ref
    store.discard(ref.kind, ref.key)  # there is nothing unfinished of it
    assert store.find("tokens", "k") == ref


def test_who_waited_for_a_lock_that_was_dropped_holds_the_new_one(tmp_path, caplog):
    locks, held = Locks(tmp_path), []

    def wait():
        with locks.hold("tokens", "k"):
            held.append(locks.is_held("tokens", "k"))

    waiting = threading.Thread(target=wait)
    with locks.hold("tokens", "k"):
        waiting.start()
        while "waiting for another process" not in caplog.text:  # by then it has opened the file
            time.sleep(0.01)
        locks.drop("tokens", "k")
    waiting.join()
    assert held == [True]
