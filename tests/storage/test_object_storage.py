"""A directory and an object store keep the same promises; and what only one writer may write, only one writes."""

import asyncio
import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from zarr.core.buffer import default_buffer_prototype

from storage.activations import ActivationStore
from storage.errors import StorageError
from storage.locations import LocalDirectory, Location, open_location, remove_file
from storage.object_storage import ObjectLocation
from storage.parallel import at_once
from tests.object_store import ENVIRONMENT, new_bucket
from tests.storage.conftest import HOOK, files_of, rows_of, small_layout, write

Places = Callable[[str], Location]


@pytest.fixture(params=["local", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """Makes places by name, all in one directory or one bucket."""
    if request.param == "local":
        return lambda name: open_location(tmp_path / name)
    bucket = request.getfixturevalue("bucket")
    return lambda name: open_location(f"{bucket}/{name}")


def test_what_was_written_is_read_listed_measured_and_gone_once_removed(places: Places):
    place = places("a place")
    place.commit("b.json", b"{}")
    place.commit("folder/sub/a.bin", b"a" * 1000)
    place.commit("folder/c", b"")
    place.commit("folder2/d", b"d")
    assert place.read("folder/sub/a.bin") == b"a" * 1000
    assert place.names() == ["b.json", "folder/c", "folder/sub/a.bin", "folder2/d"]
    assert place.names("folder") == ["folder/c", "folder/sub/a.bin"]
    assert place.names("nothing") == []
    assert place.sizes() == {"b.json": 2, "folder/c": 0, "folder/sub/a.bin": 1000, "folder2/d": 1}
    assert (place.size("b.json"), place.exists("b.json"), place.exists("folder")) == (2, True, False)
    assert place.sha256("folder/sub/a.bin") == hashlib.sha256(b"a" * 1000).hexdigest()
    place.commit("b.json", b"[1]")
    assert place.read("b.json") == b"[1]"
    place.remove("b.json")
    place.remove("b.json")
    assert not place.exists("b.json")
    for ask in (place.read, place.size, place.sha256):
        with pytest.raises(FileNotFoundError, match=r"b\.json"):
            ask("b.json")


def test_a_child_is_the_same_place_seen_from_inside_and_a_uri_leads_back_to_it(places: Places):
    place = places("p")
    place.child("in side").commit("x", b"1")
    assert place.names() == ["in side/x"]
    assert open_location(place.child("in side").uri).read("x") == b"1"
    assert open_location(place) is place
    remove_file(f"{place.uri}/in side/x")
    assert place.names() == []


def test_of_many_writers_of_a_new_file_exactly_one_wins(places: Places):
    place = places("p")
    for attempt in range(4):
        together = threading.Barrier(8)

        def write(number: int, name: str = f"commit-{attempt}", together: threading.Barrier = together) -> bool:
            together.wait()
            return place.commit_new(name, b"%d" % number)

        won = at_once(write, range(8))
        assert sum(won) == 1
        assert place.read(f"commit-{attempt}") == b"%d" % won.index(True)
    assert not place.commit_new("commit-0", b"again")
    assert len(place.names()) == 4


def test_files_that_another_writer_renames_meanwhile_are_listed_or_not(tmp_path: Path):
    place = LocalDirectory(tmp_path)
    names = sorted(str(number) for number in range(50))
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if done.is_set() and number >= len(names):
                return
            (tmp_path / f"{number}.partial").write_bytes(b"x")
            (tmp_path / f"{number}.partial").rename(tmp_path / f"{number % len(names)}")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write)
        try:
            for _ in range(500):
                assert set(place.sizes().values()) <= {0, 1}
        finally:
            done.set()
    assert place.names() == names


@pytest.mark.usefixtures("no_hard_links")
def test_a_directory_without_hard_links_keeps_its_promises(tmp_path: Path):
    place = LocalDirectory(tmp_path / "place")
    assert place.commit_new("x", b"1")
    assert not place.commit_new("x", b"2")
    assert place.read("x") == b"1"
    assert place.names() == ["x"]
    place.child("copy").copy_from(place, ["x"])
    assert place.read("copy/x") == b"1"
    layout = small_layout()
    store = write(tmp_path / "store", layout)
    store.verify()
    longer = ActivationStore.create(tmp_path / "longer", small_layout(segments=(25, 11), tokens_digest="more"))
    longer.adopt(store)
    assert longer.missing_parts() == [4, 5]


def test_files_of_another_place_are_copied(places: Places, tmp_path: Path, bucket: str):
    names = ["a", "folder/b"]
    for source in (places("source"), LocalDirectory(tmp_path / "other"), ObjectLocation(f"{bucket}/other")):
        for name in names:
            source.commit(name, name.encode())
        place = places(f"copy of {str(source)[:2]}")
        place.commit("a", b"was here before")
        place.copy_from(source, names)
        assert {name: place.read(name) for name in place.names()} == {"a": b"a", "folder/b": b"folder/b"}
        place.commit("a", b"changed")
        assert source.read("a") == b"a"


def test_a_local_copy_is_a_link_and_one_in_a_bucket_is_made_by_the_server(tmp_path: Path, bucket: str):
    LocalDirectory(tmp_path / "a").commit("x", b"1")
    LocalDirectory(tmp_path / "b").copy_from(LocalDirectory(tmp_path / "a"), ["x"])
    assert (tmp_path / "a/x").samefile(tmp_path / "b/x")
    place = ObjectLocation(f"{bucket}/a")
    file = tmp_path / "file"
    file.write_bytes(b"1")
    place.upload("x", file, "a checksum")
    ObjectLocation(f"{bucket}/b").copy_from(place, ["x"])
    assert ObjectLocation(f"{bucket}/b").uploaded_sha256("x") == "a checksum"


@pytest.mark.parametrize("kind", ["bucket", "google_bucket"])
def test_a_conditional_write_needs_what_was_seen(kind: str, request: pytest.FixtureRequest):
    place = ObjectLocation(request.getfixturevalue(kind))
    first = place.create("x", b"1")
    assert first is not None
    assert place.create("x", b"2") is None
    second = place.replace("x", b"2", first)
    assert second is not None
    assert place.replace("x", b"3", first) is None
    assert place.read_versioned("x") == (b"2", second)
    place.remove("x")
    assert place.replace("x", b"3", second) is None
    assert place.read_versioned("x") is None


def test_a_large_file_goes_up_and_comes_down_in_pieces(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("storage.object_storage._PIECE", 20 << 20)
    data = np.random.default_rng(0).bytes(21 << 20)
    (tmp_path / "up").write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    place = ObjectLocation(bucket)
    place.upload("x", tmp_path / "up", checksum)
    assert place.uploaded_sha256("x") == checksum
    assert place.download("x", tmp_path / "down") == checksum == place.sha256("x")
    assert (tmp_path / "down").read_bytes() == data


def test_many_files_are_removed_at_once(bucket: str):
    place = ObjectLocation(f"{bucket}/p")
    at_once(lambda number: place.commit(f"{number}", b""), range(20))
    place.remove_all([*place.names()[1:], "never was there"])
    assert place.names() == ["0"]


def test_a_guard_keeps_a_writer_that_lost_its_right_from_changing_anything(bucket: str, tmp_path: Path):
    def refuse() -> None:
        raise StorageError("lost")

    def write_chunk(name: str) -> None:
        asyncio.run(store.set(name, default_buffer_prototype().buffer.from_bytes(b"2")))

    place = ObjectLocation(bucket).child("folder")
    place.commit("x", b"1")
    before = place.listing()
    (tmp_path / "y").write_bytes(b"2")
    late = place.guarded(refuse)
    store = late.zarr_store()
    changes: list[Callable[[], object]] = [
        lambda: late.commit("y", b"2"),
        lambda: late.commit_new("y", b"2"),
        lambda: late.copy_from(LocalDirectory(tmp_path), ["y"]),
        lambda: late.child("sub").copy_from(place, ["x"]),
        lambda: late.upload("x", tmp_path / "y", "a checksum"),
        lambda: late.remove("x"),
        lambda: late.remove_all(["x"]),
        lambda: write_chunk("x"),
        lambda: asyncio.run(store.delete("x")),
    ]
    for change in changes:
        with pytest.raises(StorageError, match="lost"):
            change()
    assert place.listing() == before
    assert late.read("x") == b"1"


def test_an_activation_store_is_the_same_files_in_a_directory_and_in_a_bucket(tmp_path: Path, bucket: str):
    layout = small_layout(dtype="bfloat16")
    stores = []
    for place in (open_location(tmp_path / "store"), open_location(f"{bucket}/runs/store")):
        store = ActivationStore.create(place, layout)
        assert store.missing_parts() == list(range(layout.n_parts))
        for part in (2, 0):  # killed after two parts
            store.write_part(part, *rows_of(layout, part))
        store = ActivationStore.create(place.uri, layout)
        assert store.missing_parts() == [1, 3]
        for part in store.missing_parts():
            store.write_part(part, *rows_of(layout, part))
        store.seal()
        stores.append(ActivationStore.open(place))
    local, remote = stores
    assert {name: remote.location.read(name) for name in remote.location.names()} == files_of(tmp_path / "store")
    remote.verify()
    for ours, theirs in zip(remote.iter_rows(HOOK), local.iter_rows(HOOK), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])


UNUSABLE = {
    "a bucket that does not exist": ({}, "s3://nothing-like-it/x", r"NoSuchBucket.*Create nothing-like-it"),
    "nobody listens": (
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "s3://b/x",
        r"could not be reached.*refused.*AWS_ENDPOINT_URL, now http://127\.0\.0\.1:9",
    ),
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "s3://b/x",
        r"no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_store_that_cannot_be_used_says_within_seconds_what_to_set(
    case: str, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    environment, uri, message = UNUSABLE[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    started = time.monotonic()
    with pytest.raises(StorageError, match=f"^{uri}.*{message}"):
        open_location(uri).names()
    assert time.monotonic() - started < 6


def test_plain_http_needs_an_endpoint_that_says_so(bucket: str, monkeypatch: pytest.MonkeyPatch, s3: str):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.replace("http://", "https://"))
    with pytest.raises(StorageError, match=r"could not be reached.*AWS_ENDPOINT_URL, now https://"):
        open_location(bucket).names()


def test_secrets_are_in_no_message_and_no_file(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    with pytest.raises(StorageError) as error:
        open_location("s3://nothing-like-it/x").names()
    assert "a-secret" not in f"{error.value!r} {error.value}"


def test_opening_a_place_asks_nothing_and_imports_no_client():
    program = "import sys, storage.locations as s; s.open_location('s3://b/x'); sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


FORK = """
import os, sys
from storage.errors import StorageError
from storage.locations import open_location
place = open_location(sys.argv[1])
place.names()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    place.names()
except StorageError as error:
    os._exit(0 if "multiprocessing_context='spawn'" in str(error) else 1)
os._exit(2)
"""


def test_a_forked_process_is_refused_instead_of_waiting_for_ever(bucket: str):
    assert subprocess.run([sys.executable, "-c", FORK, bucket], check=False, timeout=60).returncode == 0


def test_a_new_process_finds_what_another_wrote(bucket: str, s3: str):
    open_location(f"{bucket}/p").commit("x", b"1")
    program = "import sys; from storage.locations import open_location as o; sys.exit(o(sys.argv[1]).read('x') != b'1')"
    environment = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": s3}
    command = [sys.executable, "-c", program, f"{bucket}/p"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert new_bucket(s3) not in bucket
