"""Activations to the dictionaries that trained ones are compared with."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.baselines import fit_ica, fit_identity, fit_nmf, fit_pca, fit_random
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from storage.seeds import seeded_generator
from tasks.caching import step
from tasks.compute import Compute
from tasks.rows import open_store, rows_to_fit_on
from tasks.specs import BaselineSpec, ICASpec, IdentitySpec, NMFSpec, PCASpec, RandomSpec, RowFilter, n_features

logger = logging.getLogger("saeflow.baselines")


@step(kind="dictionary", code_version="2")
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
        rows_in_this_pass = 0
        for batch in rows_to_fit_on(store, hook_point, rows):
            rows_in_this_pass += len(batch)
            rows_seen = max(rows_seen, rows_in_this_pass)
            yield batch

    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        dictionary = fitted(baseline, batches, store.layout.hook_points[hook_point])
    for warning in caught:
        logger.warning("%s %s: %s", baseline.method, hook_point, warning.message)
    dictionary.save(place)
    return {"rows": rows_seen, "warnings": [str(warning.message) for warning in caught]}


def fitted(baseline: BaselineSpec, batches: Callable[[], Iterator[Tensor]], d_in: int) -> Dictionary:
    """The dictionary that a spec describes; each call of `batches` begins the rows [B, d] anew."""
    match baseline:
        case PCASpec():
            return fit_pca(batches(), baseline.k, centred=baseline.centred, rectify=baseline.rectify)
        case ICASpec():
            return fit_ica(batches(), baseline.seed, baseline.k, rectify=baseline.rectify)
        case NMFSpec():
            return fit_nmf(batches, n_features(baseline, d_in), baseline.seed, baseline.k)
        case RandomSpec():
            # Its seed alone would give the directions that training with the same seed begins with.
            seed = seeded_generator("random directions", baseline.seed).initial_seed()
            return fit_random(batches, n_features(baseline, d_in), seed, baseline.k)
        case IdentitySpec():
            return fit_identity(batches(), baseline.k)
