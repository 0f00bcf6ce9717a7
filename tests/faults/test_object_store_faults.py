"""An object store that fails now and then costs time; one that fails for good ends the run with a message. Neither ever
gives numbers that nobody wrote."""

import logging
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.errors import DamagedChunk, StorageError
from storage.leases import Leases
from storage.locations import open_location
from storage.object_storage import ObjectLocation
from storage.remote_artifacts import RemoteArtifactStore
from tests.object_store import Fault, FaultyProxy
from tests.storage.conftest import HOOK, files_of, rows_of, small_layout, write
from tests.storage.killable import TIMES

FOR_GOOD = 1_000_000


@pytest.fixture
def proxy(s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """What stands between this test and the bucket."""
    proxy = FaultyProxy(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture
def place(bucket: str, proxy: FaultyProxy) -> ObjectLocation:
    place = ObjectLocation(f"{bucket}/p")
    place.commit("x", b"x" * 100_000)
    return place


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFLOW_STORE_PATIENCE", "1")


@pytest.mark.parametrize("failing", [(500, 503, 429), ("reset",), ("lost",)])
def test_requests_that_fail_in_passing_are_sent_again(
    place: ObjectLocation, proxy: FaultyProxy, failing: tuple[int | str, ...]
):
    ways = cycle(failing)

    def once(method: str) -> None:
        proxy.faults = [Fault(f"{method} ", next(ways))]

    once("GET")
    assert place.read("x") == b"x" * 100_000
    once("HEAD")
    assert place.size("x") == 100_000
    once("GET")
    assert place.names() == ["x"]
    once("PUT")
    place.commit("y", b"y")
    once("PUT")
    assert place.commit_new("new", b"mine") is True
    once("PUT")
    first = place.create("lease", b"1")
    assert first is not None
    once("PUT")
    second = place.replace("lease", b"2", first)
    assert second is not None
    assert place.replace("lease", b"3", first) is None
    once("PUT")
    ObjectLocation(f"{place.bucket}/copy").copy_from(place, ["y"])
    once("POST")
    place.remove_all(["y", "lease"])
    once("POST")
    place.remove("x")
    proxy.faults = []
    assert {name: place.read(name) for name in place.names()} == {"new": b"mine"}
    assert ObjectLocation(f"{place.bucket}/copy").read("y") == b"y"


def test_a_writer_whose_answers_are_lost_knows_whether_the_file_is_its_own(place: ObjectLocation, proxy: FaultyProxy):
    place.commit_new("theirs", b"same bytes")
    proxy.faults = [Fault("PUT", "lost", times=2)]
    assert place.commit_new("theirs", b"same bytes") is False
    proxy.faults = [Fault("PUT", "lost", times=3)]
    assert place.commit_new("mine", b"same bytes") is True


def test_an_answer_that_is_cut_short_is_read_on(place: ObjectLocation, proxy: FaultyProxy, tmp_path: Path):
    proxy.faults = [Fault("GET", "cut", times=2)]
    assert place.read("x") == b"x" * 100_000
    proxy.faults = [Fault("GET", "cut", times=2)]
    place.download("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"x" * 100_000


def test_an_answer_that_does_not_come_is_asked_for_again(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAEFLOW_STORE_PATIENCE", "4")  # a quarter of it for a stalled answer
    place = ObjectLocation(bucket)
    place.commit("x", b"x" * 100_000)
    proxy.faults = [Fault("GET", "slow", seconds=5)]
    started = time.monotonic()
    assert place.read("x") == b"x" * 100_000
    assert time.monotonic() - started < 4


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (503, r"the store answered 503 Service Unavailable \(Injected: by a test\), at \d+ tries\. Run again once"),
        ("reset", r"the store could not be reached \(Connection reset by peer\).*Check AWS_ENDPOINT_URL"),
        ("slow", r"the store did not answer in time"),
    ],
)
def test_what_fails_for_good_is_told_with_the_objects_name_and_the_servers_answer(
    place: ObjectLocation, proxy: FaultyProxy, what: int | str, message: str
):
    proxy.faults = [Fault("/p/", what, times=FOR_GOOD, seconds=3)]
    started = time.monotonic()
    for ask in (lambda: place.read("x"), lambda: place.commit_new("new", b"")):
        with pytest.raises(StorageError, match=rf"^{place}/(x|new): {message}"):
            ask()
    assert time.monotonic() - started < 20


def test_a_refusal_is_told_at_once(place: ObjectLocation, proxy: FaultyProxy):
    proxy.faults = [Fault("", 403, times=FOR_GOOD)]
    started = time.monotonic()
    for ask in (lambda: place.read("x"), lambda: place.commit("x", b""), lambda: place.remove("x")):
        with pytest.raises(StorageError, match=rf"^{place}/x: the store answered 403 Forbidden.*AWS_ACCESS_KEY_ID"):
            ask()
    with pytest.raises(StorageError, match="allowed to list"):
        place.names()
    assert time.monotonic() - started < 5


def test_a_store_that_is_busy_when_it_is_first_asked_is_waited_for(bucket: str, proxy: FaultyProxy):
    proxy.faults = [Fault("", 503, times=8)]
    assert open_location(bucket).names() == []
    assert len(proxy.seen) > 8


def test_a_lease_outlives_a_storm_and_lost_answers(bucket: str, proxy: FaultyProxy):
    leases = Leases(ObjectLocation(f"{bucket}/locks"), TIMES)
    with leases.hold("tokens", "k") as lease:
        for what in (503, "lost", "reset"):
            proxy.faults = [Fault("PUT", what, times=2)]
            time.sleep(2 * TIMES.renew)
            lease.check()
        lease.renew()
    assert leases.location.names() == []


def test_a_store_written_and_read_through_a_storm_is_the_store_that_calm_would_have_made(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
):
    layout = small_layout(dtype="bfloat16")
    calm = write(tmp_path / "calm", layout)
    place = open_location(f"{bucket}/store")
    faults = (500, "lost", "cut", 503, "reset")
    proxy.faults = [Fault("", what, times=2, after=10 * number) for number, what in enumerate(faults)]
    stormy = write(place, layout)
    proxy.faults = [Fault("GET", what, after=5 * number) for number, what in enumerate(faults)]
    stormy = ActivationStore.open(stormy.location)
    for (ours, our_ids), (theirs, their_ids) in zip(stormy.iter_rows(HOOK), calm.iter_rows(HOOK), strict=True):
        assert torch.equal(ours, theirs)
        assert np.array_equal(our_ids, their_ids)
    proxy.faults = []
    assert {name: place.read(name) for name in place.names()} == files_of(tmp_path / "calm")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("array", ["acts", "row_id"])
def test_a_chunk_that_the_store_denies_or_withholds_is_never_read_as_fill_values(
    bucket: str, proxy: FaultyProxy, array: str
):
    place = open_location(f"{bucket}/store")
    store = write(place, small_layout())
    chunk = f"data.zarr/{HOOK}/{array}/c/3/0"
    proxy.faults = [Fault(f"GET /{bucket.removeprefix('s3://')}/store/{chunk}", 404, times=FOR_GOOD)]
    with pytest.raises(DamagedChunk, match=f"^{place}/{chunk} .*it is missing"):
        list(store.iter_rows(HOOK))
    with pytest.raises(DamagedChunk, match=f"^{place}/{chunk} .*it is missing"):
        store.verify()
    proxy.faults = [Fault(f"{array}/c/3/0", 500, times=FOR_GOOD)]
    with pytest.raises(StorageError, match=f"^{place}/{chunk}: the store answered 500") as error:
        list(store.iter_rows(HOOK))
    assert not isinstance(error.value, DamagedChunk), "the chunk may well be whole: it must not be deleted"


@pytest.mark.usefixtures("impatient")
def test_a_part_whose_chunk_could_not_be_written_is_not_committed(bucket: str, proxy: FaultyProxy):
    layout = small_layout()
    store = ActivationStore.create(f"{bucket}/store", layout)
    proxy.faults = [Fault("row_id/c/2/0", 500, times=FOR_GOOD)]
    store.write_part(0, *rows_of(layout, 0))
    with pytest.raises(StorageError, match=r"row_id/c/2/0: the store answered 500"):
        store.write_part(1, *rows_of(layout, 1))
    proxy.faults = []
    assert ActivationStore.create(f"{bucket}/store", layout).missing_parts() == [1, 2, 3]


@pytest.mark.usefixtures("impatient")
def test_an_upload_through_an_outage_ends_with_a_message_and_goes_on_when_it_is_over(
    bucket: str, proxy: FaultyProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = RemoteArtifactStore(f"{bucket}/home", cache=tmp_path / "cache", times=TIMES)
    made = []

    def make(place: Path) -> None:
        made.append(place)
        for number in range(40):
            (place / f"{number}").write_bytes(b"%d" % number)

    def build():
        return store.build("tokens", "k", make, code_version="1", spec={}, inputs={}, resumable=False)

    proxy.faults = [Fault("", "reset", times=FOR_GOOD, after=25)]
    with pytest.raises(StorageError, match=rf"^{bucket}/home/.*could not be reached"):
        build()
    proxy.faults = []
    with caplog.at_level(logging.WARNING, "saeflow.storage"):
        ref = build()
    assert "took over tokens/k" in caplog.text
    assert len(made) == 1
    store.verify(ref)
    copy = RemoteArtifactStore(store.uri, cache=tmp_path / "elsewhere").path(ref)
    assert files_of(copy) == files_of(store.path(ref))
