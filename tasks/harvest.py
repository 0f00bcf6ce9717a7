"""Token rows to activations: every hook point of every layer in one forward pass.

The pass ends as soon as the last wanted hook point was seen, so layers above it cost nothing. While the model
works on one part of the store, the part before it is written; a part is the unit of resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.layout import StoreLayout, default_chunk_rows
from tasks.caching import step
from tasks.capture import capture
from tasks.compute import Compute
from tasks.corpus import SPLITS, token_rows
from tasks.language_model import ModelDescription, description, load
from tasks.progress import Progress
from tasks.specs import StorageSpec

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CHUNKS_PER_PART = 2  # 16k rows at the width of a small model: seconds of work on a CPU


@step(kind="activations", code_version="1", resumable=True)
def harvest(
    place: Path,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_points: tuple[str, ...],
    dtype: str,
    storage: StorageSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Write one activation store per split, `train/` and `held_out/`. Goes on at the first part not committed.

    Args:
        dtype: precision of the forward pass, "bfloat16" or "float32".
    """
    compute.apply()
    rows = {split: token_rows(tokens, split) for split in SPLITS}
    stores = {
        split: ActivationStore.create(
            place / split,
            store_layout(description(model), tokens.digest, rows[split].shape, hook_points, storage, seed=index),
        )
        for index, split in enumerate(SPLITS)
    }
    total = sum(array.shape[0] * array.shape[1] for array in rows.values())
    with Progress("harvest", total, "tokens", done=sum(store.n_rows for store in stores.values())) as progress:
        if any(store.missing_parts() for store in stores.values()):
            bridge = load(model, dtype, compute.device)
            for split, store in stores.items():
                fill(store, bridge, rows[split], progress)
    for store in stores.values():
        store.seal()
    return {"rows": {split: store.n_rows for split, store in stores.items()}}


def fill(store: ActivationStore, bridge: TransformerBridge, rows: Any, progress: Progress) -> None:
    """Harvest the parts that a store still misses; `rows` is a [sequences, context length] array of tokens."""
    hook_points = tuple(store.layout.hook_points)
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write-activations") as writer:
        for part in store.missing_parts():
            sequences = store.layout.part_sequences(part)
            activations = capture(bridge, rows.oindex[np.sort(sequences)], hook_points)
            if written is not None:
                written.result()
            written = writer.submit(store.write_part, part, activations, row_ids(np.sort(sequences), rows.shape[1]))
            progress.add(len(sequences) * rows.shape[1])
        if written is not None:
            written.result()


def row_ids(sequences: Int[np.ndarray, " n"], context_length: int) -> Int[np.ndarray, "rows 2"]:
    """(sequence, position) of every row of these sequences, in order."""
    positions = np.arange(context_length)
    return np.stack([np.repeat(sequences, context_length), np.tile(positions, len(sequences))], axis=1)


def store_layout(
    model: ModelDescription,
    tokens_digest: str,
    shape: tuple[int, ...],
    hook_points: Sequence[str],
    storage: StorageSpec,
    seed: int,
) -> StoreLayout:
    widths = {name: model.width(name) for name in hook_points}
    itemsize = 4 if storage.dtype == "float32" else 2
    chunk_rows = default_chunk_rows(max(widths.values()), itemsize)
    # A part holds whole sequences, so a context longer than a chunk takes as many chunks as it fills.
    chunks_per_part = max(CHUNKS_PER_PART, math.ceil(shape[1] / chunk_rows))
    return StoreLayout(
        model=f"{model.name}@{model.weights}",
        hook_points=widths,
        dtype=storage.dtype,
        n_sequences=shape[0],
        context_length=shape[1],
        seed=seed,
        tokens_digest=tokens_digest,
        chunk_rows=chunk_rows,
        chunks_per_part=chunks_per_part,
    )
