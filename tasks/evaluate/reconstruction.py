"""How well a dictionary rebuilds held-out activations, and how sparsely.

`metrics.json` holds FVU over the whole sample, L0, cosine, dead features and the rest of
`sae_core.metrics.Reconstruction`; `features.parquet` holds the `sae_core.feature_statistics` of every feature, its
capacity, and in `undefined` why some of them are null; `l0.parquet` counts the rows by their number of active features.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from sae_core.geometry import capacity
from sae_core.metrics import ReconstructionMetrics
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.evaluate.subject import load_subject
from tasks.rows import open_store

ROWS_PER_BATCH = 4096


@step(kind="evaluation", code_version="2")
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
    model = load_subject(dictionary, store.layout.hook_points[hook_point], compute)
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
    own = {"capacity": capacity(model.directions).cpu().double()}
    write_table(place / "features.parquet", feature_table(result.features, own))
    write_table(place / "l0.parquet", {"l0": range(model.n_features + 1), "rows": result.rows_by_l0.numpy()})
    return {"rows": left_out["kept"]}


def feature_table(statistics: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, pa.Array]:
    """The columns of `features.parquet`: statistics, and more numbers [n]; what is undefined is null, and says why."""
    numbers = {
        name: pa.array(values.numpy(), from_pandas=True)
        for name, values in (statistics | more).items()  # NaN → null
    }
    reasons = [
        "never active" if density == 0 else "the same on every row" if skew != skew else None
        for density, skew in zip(statistics["density"].tolist(), statistics["skew"].tolist(), strict=True)
    ]
    return {
        "feature": pa.array(range(len(reasons))),
        **numbers,
        "undefined": pa.array(reasons, pa.string()),
    }
