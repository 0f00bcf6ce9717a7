"""Activations to the dictionaries that trained ones are compared with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.baselines import fit_identity, fit_pca, fit_random
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from tasks.caching import step
from tasks.compute import Compute
from tasks.rows import open_store, rows_to_fit_on
from tasks.specs import BaselineSpec, PCASpec, RandomSpec, RowFilter, n_features


@step(kind="dictionary", code_version="1")
def fit_baseline(
    place: Path,
    activations: ArtifactRef,
    hook_point: str,
    baseline: BaselineSpec,
    rows: RowFilter,
    compute: Compute,
) -> dict[str, Any]:
    """Fit one baseline on the rows that training uses."""
    compute.apply()
    store = open_store(activations, "train")
    rows_seen = 0

    def batches() -> Iterator[Tensor]:
        nonlocal rows_seen
        rows_seen = 0
        for batch in rows_to_fit_on(store, hook_point, rows):
            rows_seen += len(batch)
            yield batch

    dictionary: Dictionary
    if isinstance(baseline, PCASpec):
        dictionary = fit_pca(batches(), baseline.k)
    elif isinstance(baseline, RandomSpec):
        width = store.layout.hook_points[hook_point]
        dictionary = fit_random(batches, n_features(baseline, width), baseline.seed, baseline.k)
    else:
        dictionary = fit_identity(batches(), baseline.k)
    dictionary.save(place)
    return {"rows": rows_seen}
