"""How well a dictionary rebuilds held-out activations, and how sparsely.

`metrics.json` holds FVU over the whole sample, L0, cosine, dead features and the rest of
`sae_core.metrics.Reconstruction`; `features.parquet` holds density, mean and maximum of every feature.
"""

import json
from pathlib import Path
from typing import Any

import torch

from sae_core.dictionary import load_dictionary
from sae_core.metrics import ReconstructionMetrics
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.compute import Compute
from tasks.rows import open_store

ROWS_PER_BATCH = 4096


@step(kind="evaluation", code_version="1")
def evaluate_reconstruction(
    place: Path,
    dictionary: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    rows: RowFilter,
    compute: Compute,
) -> dict[str, Any]:
    """Measure a dictionary on the held-out split."""
    compute.apply()
    store = open_store(activations, "held_out")
    model = load_dictionary(artifacts().path(dictionary)).to(compute.device)
    metrics = ReconstructionMetrics(model.n_features)
    with torch.inference_mode():
        for chunk, _ in store.iter_rows(hook_point, rows):
            for x in chunk.split(ROWS_PER_BATCH):
                x = x.to(compute.device)
                codes = model.encode(x)
                metrics.update(x, model.decode(codes), codes)
    result = metrics.result()
    left_out = store.count_left_out(hook_point, rows)
    document = {**result.values, "rows": left_out["kept"], "undefined": result.undefined, "left_out": left_out}
    (place / "metrics.json").write_text(json.dumps(document, indent=1, allow_nan=False))
    # A feature that never fired has no mean: null in the table.
    columns = {name: [None if v != v else v for v in values.tolist()] for name, values in result.features.items()}
    write_table(place / "features.parquet", {"feature": list(range(model.n_features)), **columns})
    return {"rows": left_out["kept"]}
