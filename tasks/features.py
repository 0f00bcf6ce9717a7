"""What each feature of a dictionary does on the held-out text: the one source for explanations, reports and studies.

One pass over the activations of a hook point encodes them and leaves

    latents/{hook point}/   the codes that are not zero, with their places (storage.latents)
    features.parquet        density, moments, maximum of every feature, and in how many fragments it fires
    windows.parquet         the windows of the text that fragments are (tasks.fragment_windows)
    fragments.parquet       top, random and interval-sampled fragments of each feature
    histogram.parquet       its activations in bins
    coactivation.parquet    the features that it is most often active with

of which the last three are those of tasks.feature_tables. Rows that the filter leaves out (position 0, sinks) count in
no statistics, and as not firing in fragments.

Shapes: B rows, S token rows, P positions, n features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool

from sae_core.dictionary import Dictionary
from sae_core.feature_statistics import FeatureStatistics
from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.latents import Latents, LatentWriter
from storage.manifests import SCRATCH
from storage.row_filter import RowFilter
from storage.seeds import seeded_generator
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.corpus import document_rows, token_rows
from tasks.evaluate.reconstruction import feature_table
from tasks.evaluate.subject import load_subject
from tasks.feature_tables import Columns, coactivation, fragments, histogram, peaks
from tasks.fragment_windows import cut
from tasks.language_model import load_tokenizer
from tasks.pattern_matches import token_bytes
from tasks.progress import Progress
from tasks.rows import open_store

LATENTS = "latents"
WINDOWS = "windows.parquet"
FRAGMENTS = "fragments.parquet"
FEATURES = "features.parquet"

CODES_PER_BATCH = 1 << 22  # 16 MiB in float32; where none is zero, ten times that with their places


@step(kind="features", code_version="2")
def read_features(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    rows: RowFilter,
    fragment_length: int,
    seed: int,
    compute: Compute,
) -> dict[str, Any]:
    """Encode the held-out split, and keep what each feature does there.

    Args:
        model: whose tokens these are.
        fragment_length: tokens of a fragment.
        seed: decides which windows and random fragments are taken.
    """
    compute.apply()
    store = open_store(activations, "held_out")
    evaluated = load_subject(dictionary, store.layout.hook_points[hook_point], compute)
    tokens_SP = np.asarray(token_rows(tokens, "held_out")[:])
    spelling = token_bytes(load_tokenizer(model), np.unique(tokens_SP).tolist())
    windows = cut(tokens_SP, np.asarray(document_rows(tokens, "held_out")[:]), spelling, fragment_length, seed)
    write_table(place / WINDOWS, {"row": windows.row, "start": windows.start})

    writer = LatentWriter(place / SCRATCH, tokens_SP, evaluated.n_features)
    statistics, kept_SP = encode(evaluated, store, hook_point, rows, writer, compute.device)
    writer.close(place / LATENTS / hook_point, {"hookpoint": hook_point})
    latents = Latents.open(place / LATENTS / hook_point)

    number_SP = windows.number(tokens_SP.shape)
    fires_n = torch.zeros(evaluated.n_features, dtype=torch.int64)
    shown: list[Columns] = []
    bins: list[Columns] = []
    for part, entries in enumerate(latents.parts()):
        found = peaks(entries, number_SP)
        fires_n += torch.bincount(torch.from_numpy(found.feature), minlength=len(fires_n))
        shown.append(fragments(found, windows, seeded_generator("fragments", seed, part)))
        bins.append(histogram(entries))
    write_table(place / FRAGMENTS, joined(shown))
    write_table(place / "histogram.parquet", joined(bins))
    write_table(place / "coactivation.parquet", joined([coactivation(latents, kept_SP, seed)]))
    write_table(place / FEATURES, feature_table(statistics.result(), {"fragments": fires_n}))
    return {"rows": statistics.rows, "entries": int(latents.counts_n.sum()), "windows": len(windows.row)}


@torch.inference_mode()
def encode(
    dictionary: Dictionary,
    store: ActivationStore,
    hook_point: str,
    rows: RowFilter,
    writer: LatentWriter,
    device: str,
) -> tuple[FeatureStatistics, Bool[np.ndarray, "S P"]]:
    """Write the codes of all rows that are kept; returns their statistics, and which rows those are."""
    statistics = FeatureStatistics(dictionary.n_features)
    kept_SP = np.zeros(writer.tokens_SP.shape, dtype=bool)
    rows_per_batch = max(1, CODES_PER_BATCH // dictionary.n_features)
    with Progress("features", sum(store.count_kept(hook_point, rows)), "rows") as progress:
        for chunk, row_ids in store.iter_rows(hook_point, rows):
            for start in range(0, len(chunk), rows_per_batch):
                f_Bn = dictionary.encode(chunk[start : start + rows_per_batch].to(device))
                statistics.update(f_Bn)
                row, position = row_ids[start : start + rows_per_batch].T.astype(np.int64)
                kept_SP[row, position] = True
                at_E, feature_E = f_Bn.nonzero(as_tuple=True)
                value_E = f_Bn[at_E, feature_E].float().cpu().numpy()
                at_E = at_E.cpu().numpy()
                writer.add(row[at_E], position[at_E], feature_E.cpu().numpy(), value_E)
                progress.add(len(f_Bn))
    return statistics, kept_SP


def joined(parts: list[Columns]) -> dict[str, pa.Array]:
    """The columns of tables one after another; NaN is null."""
    return {name: pa.array(np.concatenate([part[name] for part in parts]), from_pandas=True) for name in parts[0]}
