"""Leases: one holder at a time, handed on when it is done, taken over when it is dead, and never silently."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import StorageError
from storage.leases import Lease, Leases
from storage.object_storage import ObjectLocation, Version
from tests.storage.killable import TIMES, Killable


@pytest.fixture
def leases(bucket: str) -> Leases:
    return Leases(ObjectLocation(f"{bucket}/home/locks"), TIMES)


def test_only_one_process_holds_a_lease_and_nothing_stays_of_it(leases: Leases, caplog: pytest.LogCaptureFixture):
    inside: list[int] = []
    most = 0

    def work(number: int) -> None:
        nonlocal most
        with leases.hold("tokens", "k") as lease:
            inside.append(number)
            most = max(most, len(inside))
            time.sleep(0.3)
            lease.check()
            inside.remove(number)

    with caplog.at_level(logging.WARNING, "saeflow.storage"), ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert most == 1
    assert "waiting for another process that builds tokens/k" in caplog.text
    assert leases.location.names() == []


def test_leases_of_different_artifacts_do_not_wait_for_each_other(leases: Leases):
    with leases.hold("tokens", "k"), leases.hold("tokens", "other"):
        assert leases.location.names() == ["tokens-k.lease", "tokens-other.lease"]


def test_who_should_not_wait_is_refused_while_the_holder_lives(leases: Leases):
    with leases.hold("tokens", "k"):
        started = time.monotonic()
        with (
            pytest.raises(StorageError, match="another process is at work on tokens/k"),
            leases.hold("tokens", "k", wait=False),
        ):
            pytest.fail("two hold the lease")
        assert time.monotonic() - started < TIMES.dead


def test_a_lease_is_renewed_and_taken_over_where_generations_are_compared(google_bucket: str):
    leases = Leases(ObjectLocation(f"{google_bucket}/home/locks"), TIMES)
    with leases.hold("tokens", "k") as lease:
        lease.renew()
        lease.check()
    dead = Lease(leases.location, "tokens-k.lease", "tokens/k", TIMES)
    assert dead.take(None)
    with leases.hold("tokens", "k"), pytest.raises(StorageError, match="taken over"):
        dead.renew()


@pytest.fixture
def killed_holder(leases: Leases) -> None:
    """A process took the lease, and was killed."""
    process = Killable("hold", leases.location.uri)
    process.wait_for("held")
    process.kill()


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.usefixtures("killed_holder")
def test_the_lease_of_a_killed_holder_is_taken_over(leases: Leases, caplog: pytest.LogCaptureFixture, wait: bool):
    assert leases.location.names() == ["tokens-k.lease"]
    assert not leases.is_held("tokens", "k")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "saeflow.storage"), leases.hold("tokens", "k", wait=wait) as lease:
        assert time.monotonic() - started >= TIMES.dead, "a holder may be slow"
        lease.check()
    assert "took over tokens/k from a process that gives no sign of life" in caplog.text


@pytest.mark.usefixtures("killed_holder")
def test_of_those_who_wait_for_a_dead_holder_one_takes_over_and_the_others_wait_for_that_one(leases: Leases):
    inside = []

    def work(number: int) -> None:
        with leases.hold("tokens", "k"):
            inside.append(number)
            assert len(inside) == 1
            time.sleep(TIMES.dead * 1.2)
            inside.remove(number)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


def test_a_holder_that_lives_is_waited_for_however_long_it_takes(leases: Leases):
    with leases.hold("tokens", "k"):
        assert leases.is_held("tokens", "k")
        time.sleep(1.3 * TIMES.dead)
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(
                lambda: Lease(leases.location, "tokens-k.lease", "tokens/k", TIMES).take(Version("an old e-tag", None))
            )
            assert taken.result() is False
    assert not leases.is_held("tokens", "k")


def test_a_lease_that_was_lost_raises_at_the_next_check_and_is_not_given_back(leases: Leases):
    with leases.hold("tokens", "k") as lease:
        leases.location.commit("tokens-k.lease", b"another's")
        time.sleep(3 * TIMES.renew)
        for _ in range(2):
            with pytest.raises(StorageError, match="another process has taken over tokens/k"):
                lease.check()
    assert leases.location.read("tokens-k.lease") == b"another's"


def test_a_lease_that_was_removed_is_lost(leases: Leases):
    with leases.hold("tokens", "k") as lease:
        leases.location.remove("tokens-k.lease")
        with pytest.raises(StorageError, match="taken over"):
            lease.renew()


def test_a_renewal_whose_answer_was_lost_is_no_loss(leases: Leases):
    with leases.hold("tokens", "k") as lease:
        before = lease._version
        lease.renew()
        lease._version = before  # as if the answer had never come
        lease.renew()
        lease.check()
        there = leases.location.read_versioned("tokens-k.lease")
        assert there is not None
        assert lease._version == there.version != before


def test_a_lease_can_be_held_for_a_home_at_the_root_of_a_bucket(bucket: str):
    with Leases(ObjectLocation(bucket).child("locks"), TIMES).hold("tokens", "k"):
        assert ObjectLocation(bucket).names() == ["locks/tokens-k.lease"]
