from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.commits import committed_parts
from storage.errors import StorageError
from storage.locations import Location, open_location
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.compute import Compute
from tasks.harvest import PART_BYTES, RUN, harvest, harvest_share, store_layout
from tasks.language_model import ModelDescription
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec
from tests.conftest import CONTEXT, write_text


@pytest.fixture
def model(home: Path, tiny_model: Path) -> ArtifactRef:
    return language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(tiny_model))))


@pytest.fixture
def tokens(model: ArtifactRef, tiny_corpus: Path) -> ArtifactRef:
    spec = CorpusSpec(sources=(str(tiny_corpus),), tokens=4096, held_out_tokens=512, context_length=CONTEXT)
    return corpus.tokenize.build(model=model, corpus=corpus.locate(spec))


def harvested(model: ArtifactRef, tokens: ArtifactRef, *hook_points: str, **changes: Any) -> ArtifactRef:
    inputs = {"dtype": "float32", "storage": StorageSpec(dtype="float32"), "compute": Compute(), **changes}
    return harvest.build(model=model, tokens=tokens, hook_points=hook_points, **inputs)


def test_every_token_of_both_splits_is_stored_once_with_its_place(model: ArtifactRef, tokens: ArtifactRef):
    hook_points = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post")
    activations = harvested(model, tokens, *hook_points)
    bridge = language_model.load(model, "float32", "cpu")
    for split in corpus.SPLITS:
        rows = np.asarray(corpus.token_rows(tokens, split))
        expected = capture(bridge, rows, hook_points)
        store = ActivationStore.open(artifacts().path(activations) / split)
        for hook_point in hook_points:
            place = np.concatenate([ids for _, ids in store.iter_rows(hook_point)])
            values = torch.cat([chunk for chunk, _ in store.iter_rows(hook_point)])
            index = place[:, 0].astype(int) * CONTEXT + place[:, 1]
            assert sorted(index) == list(range(rows.size))
            torch.testing.assert_close(values, expected[hook_point][index], rtol=1e-4, atol=1e-5)


def test_the_training_rows_are_not_in_the_order_of_the_text(model: ArtifactRef, tokens: ArtifactRef):
    activations = harvested(model, tokens, "blocks.0.hook_resid_post")
    store = ActivationStore.open(artifacts().path(activations) / "train")
    _, place = next(store.iter_rows("blocks.0.hook_resid_post"))
    assert np.mean(np.diff(place[:, 0].astype(int)) == 0) < 0.1


def test_one_harvest_of_two_hook_points_equals_two_of_one(model: ArtifactRef, tokens: ArtifactRef):
    names = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")

    def rows(activations: ArtifactRef, name: str) -> torch.Tensor:
        store = ActivationStore.open(artifacts().path(activations) / "held_out")
        return torch.cat([chunk for chunk, _ in store.iter_rows(name)])

    together = harvested(model, tokens, *names)
    for name in names:
        assert torch.equal(rows(together, name), rows(harvested(model, tokens, name), name))


def files_of(activations: ArtifactRef) -> list[dict[str, Any]]:
    return artifacts().manifest(activations)["files"]


def test_any_number_of_workers_gives_the_same_bytes(home: Path, model: ArtifactRef, tokens: ArtifactRef, monkeypatch):
    """Outside of a flow they work one after another; tests/flows/test_runners.py has them side by side."""
    monkeypatch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)
    expected = harvested(model, tokens, "blocks.1.hook_resid_post")
    for workers in (2, 3, 50):
        artifacts().remove(expected)
        assert harvested(model, tokens, "blocks.1.hook_resid_post", compute=Compute(workers=workers)) == expected
    assert not list(home.rglob("scratch"))


@pytest.fixture
def place(home: Path, model: ArtifactRef, tokens: ArtifactRef, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A harvest that a run has just begun: no part is committed yet."""
    monkeypatch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)
    place, told = open_location(home / "place"), language_model.description(model)
    hook_points, storage = ("blocks.0.hook_resid_post",), StorageSpec(dtype="float32")
    for seed, split in enumerate(corpus.SPLITS):
        segments = corpus.segments(tokens, split)
        layout = store_layout(told, tokens.digest, segments, CONTEXT, hook_points, storage, seed)
        ActivationStore.create(place.child(split), layout)
    place.commit(RUN, b"the run")
    return place


def committed(place: Location) -> list[int]:
    return sorted(committed_parts(place.child("train")))


def share(place: Location, run: str, model: ArtifactRef, tokens: ArtifactRef) -> None:
    parts = (("train", 0), ("train", 1), ("train", 2))
    harvest_share.fn(place.uri, run, parts, model=model, tokens=tokens, dtype="float32", compute=Compute())


def test_a_worker_of_a_run_that_was_killed_ends(place: Location, model: ArtifactRef, tokens: ArtifactRef):
    with pytest.raises(StorageError, match="another run has taken over"):
        share(place, "a run before", model, tokens)
    assert committed(place) == []
    share(place, "the run", model, tokens)
    assert committed(place) == [0, 1, 2]


def test_a_worker_ends_with_the_part_at_which_another_run_took_over(
    place: Location, model: ArtifactRef, tokens: ArtifactRef, monkeypatch: pytest.MonkeyPatch
):
    def taken_over(bridge: Any, rows: np.ndarray, hook_points: Any) -> Any:
        place.commit(RUN, b"another run")
        return capture(bridge, rows, hook_points)

    monkeypatch.setattr("tasks.harvest.capture", taken_over)
    with pytest.raises(StorageError, match="another run has taken over"):
        share(place, "the run", model, tokens)
    assert committed(place) == [0]


@pytest.fixture
def extended(model: ArtifactRef, tokens: ArtifactRef, tmp_path: Path) -> ArtifactRef:
    more = tmp_path / "more.txt"
    more.write_text(write_text(200, seed=5))
    spec = CorpusSpec(sources=(str(more),), tokens=6144, held_out_tokens=512, context_length=CONTEXT)
    return corpus.tokenize.build(model=model, corpus=corpus.locate(spec), base=tokens)


def test_an_extended_corpus_runs_the_model_on_what_is_new_alone(
    home: Path, model: ArtifactRef, tokens: ArtifactRef, extended: ArtifactRef, monkeypatch
):
    monkeypatch.setattr("tasks.harvest.default_chunk_rows", lambda d, itemsize: 256)
    names = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out")
    anew = harvested(model, extended, *names)
    artifacts().remove(anew)
    first = harvested(model, tokens, *names)
    seen: list[int] = []

    def counting(bridge: Any, rows: np.ndarray, hook_points: Any) -> Any:
        seen.append(rows.size)
        return capture(bridge, rows, hook_points)

    monkeypatch.setattr("tasks.harvest.capture", counting)
    grown = harvested(model, extended, *names)
    assert sum(seen) == 6144 - 4096
    assert files_of(grown) == files_of(anew), "the same bytes as a harvest of all of it"
    assert artifacts().manifest(grown)["notes"]["goes_on_from"] == str(first)
    artifacts().remove(first)
    ActivationStore.open(artifacts().path(grown) / "train").verify()


def test_a_damaged_earlier_harvest_is_not_gone_on_from(
    home: Path, model: ArtifactRef, tokens: ArtifactRef, extended: ArtifactRef, caplog
):
    first = harvested(model, tokens, "blocks.0.hook_resid_post")
    chunk = next(file for file in artifacts().path(first).rglob("acts/c/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    grown = harvested(model, extended, "blocks.0.hook_resid_post")
    assert "not gone on from" in caplog.text
    ActivationStore.open(artifacts().path(grown) / "train").verify()


def test_many_hook_points_make_parts_smaller_and_not_larger_than_memory():
    sites = {
        "resid_pre": 576,
        "resid_mid": 576,
        "resid_post": 576,
        "attn_out": 576,
        "mlp_out": 576,
        "mlp.hook_post": 1536,
    }
    model = ModelDescription(
        name="m", architecture="llama", weights="w", n_layers=30, d_model=576, context_length=2048, vocabulary=1,
        hook_points={f"blocks.{{layer}}.{site}": width for site, width in sites.items()},
    )  # fmt: skip
    few = store_layout(model, "t", (9,), 256, ["blocks.0.resid_pre"], StorageSpec(), seed=0)
    names = [f"blocks.{layer}.{site}" for layer in range(30) for site in sites]
    many = store_layout(model, "t", (9,), 256, names, StorageSpec(), seed=0)
    assert few.part_rows * 576 * 4 <= PART_BYTES
    assert many.part_rows * sum(many.hook_points.values()) * 4 <= PART_BYTES
    assert many.chunk_rows < few.chunk_rows
