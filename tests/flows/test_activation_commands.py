"""`saeflow activations` as a person runs it."""

import json
from pathlib import Path

import pytest

from storage.artifacts import ArtifactRef
from tests.flows.homes import SmallHome
from tests.flows.test_cli import assert_refused, saeflow
from tests.tasks.test_activation_statistics import HOOK, noise, store_of

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path: Path) -> SmallHome:
    return SmallHome(tmp_path / "home")


@pytest.fixture
def activations(small: SmallHome) -> ArtifactRef:
    def harvest(place: Path) -> None:
        store_of(place / "train", noise)
        store_of(place / "held_out", noise, n_sequences=2)

    return small.store.build("activations", "a1b2", harvest, code_version="1", spec={}, inputs={}, resumable=False)


def test_activations_are_described_for_people_and_as_json(small: SmallHome, activations: ArtifactRef):
    told = saeflow("activations", "stats", "a1", "--home", small.store.uri, COLUMNS="80")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[:2] == ["activations/a1b2  train", f"{HOOK}  8,192 rows of width 16"]
    assert "3.12% of the rows: 256 at position 0, 0 more for their norm" in told.stdout
    assert "sinks      none" in told.stdout
    assert "outliers   none" in told.stdout
    assert "shuffle    deff " in told.stdout
    assert f"look at {HOOK}  100 %" in told.stderr

    held_out = saeflow("activations", "stats", activations, "--split", "held_out", "--json", "--home", small.store.uri)
    found = json.loads(held_out.stdout)
    assert (found["activations"], found["split"]) == (str(activations), "held_out")
    assert found["hook_points"][HOOK]["rows"] == 64
    assert found["hook_points"][HOOK]["shuffle"] is None
    assert found["hook_points"][HOOK]["undefined"] == {"shuffle": "62 kept rows are too few for 32 batches"}


def test_a_damaged_chunk_is_named_and_found_by_the_next_run(small: SmallHome, activations: ArtifactRef):
    chunk = small.store.path(activations) / f"train/data.zarr/{HOOK}/acts/c/1/0"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 4
    chunk.write_bytes(data)
    home = ("--home", small.store.uri)
    assert_refused(saeflow("activations", "stats", activations, *home), str(chunk), "Run again: only its part")
    assert not chunk.exists(), "a harvest that looks only at sizes sees the damage too"


def test_what_has_no_activations_is_refused(small: SmallHome, activations: ArtifactRef, tiny_yaml: Path):
    home = ("--home", small.store.uri)
    misspelt = saeflow("activations", "stats", activations, "--hook-point", "blocks.0.hook_resid_pst", *home)
    assert_refused(misspelt, "no hook point 'blocks.0.hook_resid_pst'", f"Nearest: {HOOK}")
    tokens = small.make("tokens", {})
    assert_refused(saeflow("activations", "stats", tokens, *home), f"{tokens} holds no activations")
    assert_refused(
        saeflow("activations", "stats", "quickstrat", *home), "'quickstrat' is not there", "activations/a1b2"
    )
    not_made = saeflow("activations", "stats", tiny_yaml, *home)
    assert_refused(not_made, "the activations of tiny are not made yet", f"saeflow run {tiny_yaml}")
