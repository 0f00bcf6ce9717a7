"""A disk that is really full: a small tmpfs. The error names path and bytes; with more room the harvest goes on."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.errors import OutOfSpace
from storage.locations import Location
from storage.manifests import Filled
from tests.storage.conftest import HOOK, rows_of, small_layout

LAYOUT = small_layout(hook_points={HOOK: 64}, segments=(400,), context_length=32, chunk_rows=256)  # 3.4 MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; called again, it becomes as large as that."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def resize(size: int) -> Path:
        nonlocal mounted
        options = f"size={size}" + (",remount" if mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield resize
    if mounted:
        subprocess.run(["umount", place], check=True)


def harvest(home: Path) -> ArtifactRef:
    def make(place: Location) -> Filled:
        store = ActivationStore.create(place.child("train"), LAYOUT)
        for part in store.missing_parts():
            store.write_part(part, *rows_of(LAYOUT, part))
        store.seal()
        return Filled({}, {f"train/{name}": file for name, file in store.file_records().items()})

    return ArtifactStore(home).build(
        "activations", "k", make, code_version="1", spec={}, inputs={}, resumable=True, streamed=True
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_harvest_on_a_full_disk_says_so_and_goes_on_once_there_is_room(disk: Callable[[int], Path], tmp_path: Path):
    expected = harvest(tmp_path / "undisturbed")
    home = disk(1 << 20) / "home"
    with pytest.raises(OutOfSpace) as error:
        harvest(home)
    assert error.value.path.startswith(str(home))
    assert error.value.needed is not None
    assert error.value.needed > error.value.free >= 0
    assert str(home) in str(error.value)
    assert f"{error.value.needed:,} bytes were to be written" in str(error.value)
    written = {file.stat().st_ino for file in home.rglob("commits/*.json")}
    assert written, "the parts before it stay"
    disk(16 << 20)
    assert harvest(home) == expected
    assert written <= {file.stat().st_ino for file in home.rglob("commits/*.json")}, "and are not written again"
