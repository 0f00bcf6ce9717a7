"""One process at a time builds an artifact of a home in an object store: `locks/<kind>-<key>.lease`.

No kernel frees a lock there when its holder dies. So the holder shows that it lives: it writes the lease anew every
few seconds, each time on the condition that nobody else has. Whoever waits takes the lease over once it did not
change for much longer than that, on the same condition. How long that was, each tells by its own clock: clocks of
two machines are never compared.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from storage.errors import StorageError
from storage.object_storage import ObjectLocation, Version

logger = logging.getLogger("saeflow.storage")


@dataclass(frozen=True)
class LeaseTimes:
    """In seconds."""

    renew: float = 5.0
    """How often a holder shows that it lives."""
    dead: float = 30.0
    """After how long without a change it is taken for dead."""
    poll: float = 1.0
    """How often those who wait look."""


class Leases:
    """The leases of the artifacts of one home, in its folder `locks`."""

    def __init__(self, location: ObjectLocation, times: LeaseTimes) -> None:
        self.location = location
        self.times = times

    @contextmanager
    def hold(self, kind: str, key: str, wait: bool = True) -> Iterator["Lease"]:
        """Hold a lease, waiting for it if need be.

        Raises StorageError when its holder is alive and this should not wait.
        """
        lease = self._acquire(f"{kind}-{key}.lease", f"{kind}/{key}", wait)
        with lease.kept():
            yield lease

    def is_held(self, kind: str, key: str) -> bool:
        """Whether a process is at work. Takes some seconds where one is, or was killed at it."""
        name = f"{kind}-{key}.lease"
        first = self.location.read_versioned(name)
        end = time.monotonic() + 2 * self.times.renew
        while first is not None and time.monotonic() < end:
            time.sleep(self.times.poll)
            now = self.location.read_versioned(name)
            if now is None or now.version != first.version:
                return now is not None
        return False

    def _acquire(self, name: str, what: str, wait: bool) -> "Lease":
        lease = Lease(self.location, name, what, self.times)
        seen: Version | None = None
        since, told = 0.0, False
        while True:
            found = self.location.read_versioned(name)
            if found is None:
                if lease.take(None):
                    return lease
                continue
            if found.version != seen:
                if seen and not wait:
                    raise StorageError(f"another process is at work on {what}. Try again when it is done.")
                seen, since = found.version, time.monotonic()
            elif time.monotonic() - since >= self.times.dead and lease.take(seen):
                logger.warning("took over %s from a process that gives no sign of life", what)
                return lease
            if not told:
                logger.warning("waiting for another process that builds %s", what)
                told = True
            time.sleep(self.times.poll)


class Lease:
    """The right to build one artifact, as long as it lasts."""

    def __init__(self, location: ObjectLocation, name: str, what: str, times: LeaseTimes) -> None:
        self.location = location
        self.name = name
        self.what = what
        self.times = times
        self._nonce = uuid.uuid4().hex
        self._beat = 0
        self._version: Version | None = None
        self._renewed = 0.0
        self._failed: tuple[float, StorageError | None] = 0.0, None
        self._one_at_a_time = threading.Lock()

    def take(self, seen: Version | None) -> bool:
        """Take the lease where there is none, or the one that was `seen`. False if another process was faster."""
        started = time.monotonic()
        self._beat += 1
        # An e-tag is a hash of the content: every content is another one.
        content = json.dumps({"nonce": self._nonce, "beat": self._beat}).encode()
        if seen is None:
            self._version = self.location.create(self.name, content)
        else:
            self._version = self.location.replace(self.name, content, seen)
        self._renewed = started
        return self._version is not None

    def renew(self) -> None:
        """Show that this process lives. Raises StorageError when the lease is another's by now."""
        asked = time.monotonic()
        with self._one_at_a_time:
            failed, error = self._failed
            if error is not None and failed > asked:  # many threads ask at once, and one answer holds for them all
                raise error
            try:
                self._renew()
            except StorageError as error:
                self._failed = time.monotonic(), error
                raise

    def check(self) -> None:
        """Raise StorageError when the lease is lost. Costs a request only where the last renewal is long ago."""
        if self._version is None or time.monotonic() - self._renewed > 2 * self.times.renew:
            self.renew()

    def _renew(self) -> None:
        if self._version is not None and self.take(self._version):
            return
        found = self.location.read_versioned(self.name)
        if found is None or self._nonce.encode() not in found.data:
            raise StorageError(
                f"another process has taken over {self.what}: this one gave no sign of life for "
                f"{self.times.dead:g} seconds. Run again: what is finished is found."
            )
        self._version = found.version  # of a renewal that was taken for failed, and had got through

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease from time to time, and give it back at the end."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.times.renew):
                with suppress(StorageError):  # a store that cannot be reached may come back; `check` tells if not
                    self.renew()

        thread = threading.Thread(target=renew, name=f"lease of {self.what}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if time.monotonic() - self._renewed < self.times.dead:  # else others take it over, or the store is away
                with suppress(StorageError):  # whatever ended this work says more
                    self.renew()  # refuses when it is another's by now
                    self.location.remove(self.name)
