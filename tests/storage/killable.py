"""What tests start as a process of its own, to kill it. Each says how far it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

from storage.leases import Leases, LeaseTimes
from storage.object_storage import ObjectLocation
from storage.remote_artifacts import RemoteArtifactStore

TIMES = LeaseTimes(renew=0.2, dead=1.5, poll=0.1)
FILES = 24


class Killable:
    """One of the functions below, at work."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "tests.storage.killable", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})

    def wait_for(self, said: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == said:
                return
        raise AssertionError(f"it ended before it said {said!r}")

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -9, "it ended before it was killed"

    def finish(self) -> None:
        assert self._process.wait(60) == 0


def hold(place: str) -> None:
    """Hold a lease."""
    with Leases(ObjectLocation(place), TIMES).hold("tokens", "k"):
        say("held")
        time.sleep(60)


def build(home: str, cache: str) -> None:
    """Build an artifact of many files."""

    def make(place: Path) -> dict[str, int]:
        for number in range(FILES):
            (place / f"{number}.bin").write_bytes(content(number))
        say("made")
        return {"files": FILES}

    store = RemoteArtifactStore(home, cache=Path(cache), times=TIMES)
    store.build("tokens", "k", make, code_version="1", spec={}, inputs={}, resumable=False)
    say("built")


def stream(home: str, cache: str) -> None:
    """Build an artifact of many files straight in the object store."""

    def make(place: ObjectLocation) -> None:
        for number in range(FILES):
            if not place.exists(f"{number}.bin"):
                place.commit(f"{number}.bin", content(number))
                say(f"{number}")

    store = RemoteArtifactStore(home, cache=Path(cache), times=TIMES)
    store.build("tokens", "k", make, code_version="1", spec={}, inputs={}, resumable=True, streamed=True)
    say("built")


def content(number: int) -> bytes:
    return bytes([number]) * 1000


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    {"hold": hold, "build": build, "stream": stream}[sys.argv[1]](*sys.argv[2:])
