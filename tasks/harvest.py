"""Token rows to activations: every hook point of every layer in one forward pass.

While the model works on one part of the store, the part before it is written; a part is the unit of resume. Parts can
be shared between processes, on this machine or on others, that have nothing in common but the store. A corpus that
extends another takes over the parts that were harvested for that one.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.commits import committed_parts
from storage.errors import DamagedArtifact, StorageError
from storage.layout import StoreLayout, default_chunk_rows
from storage.locations import Location, open_location
from storage.manifests import SCRATCH, Filled
from tasks.caching import artifacts, step
from tasks.capture import capture
from tasks.compute import Compute
from tasks.corpus import SPLITS, base_of, segments, token_rows
from tasks.language_model import ModelDescription, description, load
from tasks.progress import Progress
from tasks.specs import StorageSpec
from tasks.workers import run_on_workers

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CHUNKS_PER_PART = 4  # with the reader's buffer of 16 chunks, batches are nearly as varied as iid rows (docs/numbers.md)
PART_BYTES = 1 << 30  # of all hook points together, in float32: a part and the one before it are in memory
FEWEST_CHUNK_ROWS = 256
RUN = f"{SCRATCH}/run"

logger = logging.getLogger("saeflow.harvest")

Parts = tuple[tuple[str, int], ...]
"""Parts to write, each as (split, number)."""


@step(kind="activations", code_version="3", resumable=True, streamed=True)
def harvest(
    place: Location,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_points: tuple[str, ...],
    dtype: str,
    storage: StorageSpec,
    compute: Compute,
) -> Filled:
    """Write one activation store per split, `train/` and `held_out/`. Goes on at the first part not committed.

    Args:
        dtype: precision of the forward pass, "bfloat16" or "float32".
    """
    told = description(model)
    stores = {
        split: ActivationStore.create(
            place.child(split),
            store_layout(
                told,
                tokens.digest,
                segments(tokens, split),
                token_rows(tokens, split).shape[1],
                hook_points,
                storage,
                seed=index,
            ),
        )
        for index, split in enumerate(SPLITS)
    }
    earlier = find_earlier(
        base_of(tokens), model=model, hook_points=hook_points, dtype=dtype, storage=storage, compute=compute
    )
    if earlier is not None:
        for split, store in stores.items():
            store.adopt(ActivationStore.open(artifacts().location(earlier).child(split)))
    missing = tuple((split, part) for split, store in stores.items() for part in store.missing_parts())
    total = sum(store.layout.n_sequences * store.layout.context_length for store in stores.values())
    # Tells the workers of this run from those of one that was killed and left some of its workers at work.
    run = uuid.uuid4().hex
    place.commit(RUN, run.encode())
    n_shares = min(compute.workers, len(missing))
    with Progress("harvest", total, "tokens", done=_rows_committed(stores)) as progress:
        shares = [
            {
                "place": place.uri,
                "run": run,
                "parts": missing[start::n_shares],
                "model": model,
                "tokens": tokens,
                "dtype": dtype,
                "compute": compute,
            }
            for start in range(n_shares)
        ]
        run_on_workers(harvest_share, shares, lambda: progress.add(_rows_committed(stores) - progress.done))
    for store in stores.values():
        store.seal()
    place.remove(RUN)
    files = {f"{split}/{name}": file for split, store in stores.items() for name, file in store.file_records().items()}
    rows = {split: store.n_rows for split, store in stores.items()}
    return Filled({"rows": rows, "goes_on_from": str(earlier) if earlier else None}, files)


@task(name="harvest share", cache_policy=NO_CACHE, persist_result=False)
def harvest_share(
    place: str, run: str, parts: Parts, model: ArtifactRef, tokens: ArtifactRef, dtype: str, compute: Compute
) -> None:
    """Write some parts of the stores under `place`, a URI, for as long as `run` is the run under way there."""
    compute.apply()
    location = open_location(place)
    bridge = load(model, dtype, compute.device)
    for split in SPLITS:
        numbers = [part for of, part in parts if of == split]
        if numbers:
            store = ActivationStore.join(location.child(split))
            fill(store, bridge, token_rows(tokens, split), numbers, lambda: _check_run(location, run))


def fill(
    store: ActivationStore,
    bridge: TransformerBridge,
    rows: Any,
    parts: Sequence[int],
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Harvest parts of a store; `rows` is a [sequences, context length] array of tokens."""
    hook_points = tuple(store.layout.hook_points)
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write-activations") as writer:
        for part in parts:
            before_each()
            sequences = np.sort(store.layout.part_sequences(part))
            activations = capture(bridge, rows.oindex[sequences], hook_points)
            if written is not None:
                written.result()
            written = writer.submit(store.write_part, part, activations, row_ids(sequences, rows.shape[1]))
            del activations  # the writer alone holds them now, and only until they are written
        if written is not None:
            written.result()


def row_ids(sequences: Int[np.ndarray, " n"], context_length: int) -> Int[np.ndarray, "rows 2"]:
    """(sequence, position) of every row of these sequences, in order."""
    positions = np.arange(context_length)
    return np.stack([np.repeat(sequences, context_length), np.tile(positions, len(sequences))], axis=1)


def store_layout(
    model: ModelDescription,
    tokens_digest: str,
    segments: tuple[int, ...],
    context_length: int,
    hook_points: Sequence[str],
    storage: StorageSpec,
    seed: int,
) -> StoreLayout:
    """The layout of a split's store; `segments` counts the sequences of the first corpus and of each extension."""
    widths = {name: model.width(name) for name in hook_points}
    row_bytes = 4 * sum(widths.values())
    chunk_rows = default_chunk_rows(max(widths.values()), 4 if storage.dtype == "float32" else 2)
    while chunk_rows * row_bytes > PART_BYTES and chunk_rows > FEWEST_CHUNK_ROWS:
        chunk_rows //= 2
    chunks_that_fit = PART_BYTES // (chunk_rows * row_bytes)
    # A part holds whole sequences, so a context longer than a chunk takes as many chunks as it fills.
    chunks_per_part = max(math.ceil(context_length / chunk_rows), min(CHUNKS_PER_PART, chunks_that_fit), 1)
    return StoreLayout(
        model=f"{model.name}@{model.weights}",
        hook_points=widths,
        dtype=storage.dtype,
        segments=segments,
        context_length=context_length,
        seed=seed,
        tokens_digest=tokens_digest,
        chunk_rows=chunk_rows,
        chunks_per_part=chunks_per_part,
    )


def find_earlier(base: ArtifactRef | None, **inputs: Any) -> ArtifactRef | None:
    """The activations that a harvest goes on from: those of the tokens `base`, or of those before them."""
    while base is not None:
        try:
            found = harvest.find(tokens=base, **inputs)
            if found is not None:
                return found
            base = base_of(base)
        except (DamagedArtifact, FileNotFoundError) as error:  # then all is harvested anew
            logger.warning("the activations of %s are not gone on from: %s", base, error)
            return None
    return None


def _rows_committed(stores: Mapping[str, ActivationStore]) -> int:
    """By whichever process."""
    return sum(
        len(store.layout.part_sequences(part)) * store.layout.context_length
        for store in stores.values()
        for part in committed_parts(store.location)
    )


def _check_run(place: Location, run: str) -> None:
    try:
        current = place.read(RUN).decode()
    except FileNotFoundError:
        current = "none"
    if current != run:
        raise StorageError(f"another run has taken over the harvest in {place}: this one, which was killed, ends")
