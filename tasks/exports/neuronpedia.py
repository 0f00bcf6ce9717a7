"""The pages of a dictionary's features as Neuronpedia uploads them.

    DIRECTORY/{model}/{layer}-{set}/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
                                    features/batch-N.jsonl.gz
                                    activations/batch-N.jsonl.gz

Rows have the columns of Neuronpedia's tables, as SAEDashboard's exporter writes them. What was not measured is an empty
list there: alignment with neurons, correlations, the histogram of all logits. `creatorId` is the person who uploads:
$DEFAULT_CREATOR_ID, as in Neuronpedia's own tools.
"""

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from sae_core.interchange.files import write_directory
from sae_core.interchange.provenance import Provenance
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.corpus import token_rows
from tasks.errors import ExperimentError
from tasks.exports.readings import newest, read_by
from tasks.language_model import description, load_tokenizer
from tasks.pattern_matches import spelled, token_bytes

BATCH = 1024
"""Features of a file: as many as Neuronpedia's own exports have."""

CREATOR = "DEFAULT_CREATOR_ID"
NEURONPEDIA = "clkht01d40000jv08hvalcvly"
"""Who uploads where the environment does not say: Neuronpedia's own default."""

Row = dict[str, Any]


class Source(NamedTuple):
    """What every row of an upload names."""

    model: str
    id: str
    creator: str
    created: str

    @property
    def columns(self) -> Row:
        return {"modelId": self.model, "layer": self.id, "creatorId": self.creator, "createdAt": self.created}


def write(source: Path, directory: Path, provenance: Provenance) -> None:
    """Raises ExperimentError where the pages of the features were not made, or the hook point is in no layer."""
    if provenance.layer is None:
        raise ExperimentError(f"Neuronpedia files sources by layer, and {provenance.hook_name!r} is in none.")
    pages, manifest = newest("pages", source)
    (place,) = (artifacts().path(pages) / "browse").iterdir()
    about = json.loads((place / "about.json").read_text())
    model, tokens = read_by(manifest, "model"), np.asarray(token_rows(read_by(manifest, "tokens"), "held_out")[:])
    spelling = token_bytes(load_tokenizer(model), np.unique(tokens).tolist())
    text = {token: spelled(piece) for token, piece in spelling.items()}
    set_name = source_set(about, source.name)
    of = Source(
        model=Path(provenance.model_name or description(model).name).name.lower(),
        id=f"{provenance.layer}-{set_name}",
        creator=os.environ.get(CREATOR) or NEURONPEDIA,
        created=manifest["created"],
    )
    histograms = read_table(artifacts().path(read_by(manifest, "features")) / "histogram.parquet").to_pylist()

    def fill(upload: Path) -> None:
        folder = upload / of.model / of.id
        for part in ("features", "activations"):
            (folder / part).mkdir(parents=True)
        for file, row in heads(of, set_name, about, provenance, tokens.shape, description(model)).items():
            (folder / file).write_bytes(line(row))
        write_batches(folder / "features", features(of, place, histograms))
        contexts = rows_of(read_table(place / "contexts.parquet"))
        write_batches(folder / "activations", activations(of, contexts, tokens, text, about["fragment_length"]))

    write_directory(directory, fill)


def source_set(about: Row, key: str) -> str:
    """`hook-resid-post-topk-2304-0123abcd`: no `__`, which Neuronpedia reads as the beginning of a suffix."""
    site = re.sub(r"^blocks\.\d+\.", "", about["hook_point"])
    name = f"{site}-{about['method']}-{about['n_features']}-{key[:8]}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def heads(
    of: Source, set_name: str, about: Row, provenance: Provenance, shape: tuple[int, ...], model: Any
) -> dict[str, Row]:
    """What the upload is of: one row for each of these files."""
    owner = {"creatorId": of.creator, "createdAt": of.created}
    told = f"{about['method']} with {about['n_features']} features at {about['hook_point']}, trained with saeflow"
    return {
        "release.jsonl": {
            "name": set_name, "description": told, "descriptionShort": told, "creatorName": "", "urls": [],
            "visibility": "PUBLIC", "isNewUi": False, "featured": False, "defaultUmapSourceIds": [], **owner,
        },
        "model.jsonl": {
            "id": of.model, "instruct": "instruct" in of.model or of.model.endswith("-it"),
            "displayNameShort": of.model, "displayName": of.model, "visibility": "PUBLIC", "inferenceEnabled": False,
            "layers": model.n_layers, "neuronsPerLayer": 0, "owner": "", "updatedAt": of.created, **owner,
        },
        "sourceset.jsonl": {
            "modelId": of.model, "name": set_name, "hasDashboards": True, "visibility": "PUBLIC", "description": told,
            "type": "", "creatorName": "", "urls": [], "releaseName": set_name, **owner,
        },
        "source.jsonl": {
            "id": of.id, "modelId": of.model, "setName": set_name, "hasDashboards": True, "inferenceEnabled": False,
            "inferenceHosts": [], "visibility": "PUBLIC", "dataset": provenance.dataset, "num_prompts": shape[0],
            "num_tokens_in_prompt": shape[1], "notes": about["ref"], **owner,
        },
    }  # fmt: skip


def features(of: Source, place: Path, histograms: list[Row]) -> Iterator[Row]:
    """Rows of the table Neuron, in order."""
    logits, near, bars = (
        grouped(rows)
        for rows in (
            read_table(place / "logits.parquet").to_pylist(),
            read_table(place / "neighbours.parquet").to_pylist(),
            histograms,
        )
    )
    for row in read_table(place / "table.parquet").to_pylist():
        feature = row["feature"]
        favoured = {
            kind: [entry for entry in logits.get(feature, ()) if entry["kind"] == kind]
            for kind in ("promoted", "suppressed")
        }
        yield {
            **of.columns,
            "index": str(feature),
            "sourceSetName": of.id.partition("-")[2],
            "maxActApprox": row["maximum"] or 0.0,
            "frac_nonzero": row["density"],
            "freq_hist_data_bar_heights": [bar["activations"] for bar in bars.get(feature, ())],
            "freq_hist_data_bar_values": [(bar["low"] + bar["high"]) / 2 for bar in bars.get(feature, ())],
            "logits_hist_data_bar_heights": [],
            "logits_hist_data_bar_values": [],
            "pos_str": [entry["text"] for entry in favoured["promoted"]],
            "pos_values": [entry["logit"] for entry in favoured["promoted"]],
            "neg_str": [entry["text"] for entry in favoured["suppressed"]],
            "neg_values": [entry["logit"] for entry in favoured["suppressed"]],
            "topkCosSimIndices": [entry["other"] for entry in near.get(feature, ())],
            "topkCosSimValues": [entry["cosine"] for entry in near.get(feature, ())],
            **{name: [] for name in UNASKED},
            "decoder_weights_dist": [],
            "hasVector": False,
            "vector": [],
            "vectorLabel": None,
            "vectorDefaultSteerStrength": 10,
            "hookName": None,
        }


UNASKED = (
    "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices", "correlated_features_pearson",
    "correlated_features_l1",
)  # fmt: skip


def activations(
    of: Source, contexts: Iterable[Row], tokens_SP: Int[np.ndarray, "S P"], text: dict[int, str], length: int
) -> Iterator[Row]:
    """Rows of the table Activation: the contexts of each feature.

    Neuronpedia's bins are of equal width, and ours hold equally many fragments: only the strongest are in a bin, -1.
    """
    for context in contexts:
        window = tokens_SP[context["row"], context["start"] : context["start"] + length].tolist()
        values = [0.0] * len(window)
        for position, activation in zip(context["position"], context["activation"], strict=True):
            values[position] = round(activation, 4)
        strongest = max(range(len(values)), key=values.__getitem__)
        is_top = context["kind"] == "top"
        yield {
            "id": cuid(of, context),
            **of.columns,
            "index": str(context["feature"]),
            "tokens": [text[token] for token in window],
            "values": values,
            "maxValue": values[strongest],
            "maxValueTokenIndex": strongest,
            "minValue": min(values),
            "qualifyingTokenIndex": strongest,
            "binMin": -1 if is_top else None,
            "binMax": context["maximum"] if is_top else None,
            "binContains": -1 if is_top else None,
            "dataIndex": str(context["row"]),
            "dataSource": None,
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "lossValues": [],
            "logitContributions": None,
        }


def cuid(of: Source, context: Row) -> str:
    """25 characters that are the same whenever the same row is exported."""
    named = [of.model, of.id, *(context[part] for part in ("feature", "kind", "rank"))]
    return "c" + hashlib.sha256(json.dumps(named).encode()).hexdigest()[:24]


def rows_of(table: pa.Table) -> Iterator[Row]:
    """Row by row, of which not all are in memory at once."""
    for batch in table.to_batches(max_chunksize=1 << 14):
        yield from batch.to_pylist()


def grouped(rows: list[Row]) -> dict[int, list[Row]]:
    """Rows by their feature, which they are sorted by but for their kinds."""
    by_feature = sorted(rows, key=itemgetter("feature"))
    return {feature: list(those) for feature, those in groupby(by_feature, key=itemgetter("feature"))}


def write_batches(folder: Path, rows: Iterable[Row]) -> None:
    """Rows that are sorted by their feature, as batch-0.jsonl.gz and so on; equal rows give equal bytes."""
    for number, batch in groupby(rows, key=lambda row: int(row["index"]) // BATCH):
        # mtime: that of the file itself would be in its bytes.
        with gzip.GzipFile(folder / f"batch-{number}.jsonl.gz", "wb", compresslevel=5, mtime=0) as file:
            file.writelines(map(line, batch))


def line(row: Row) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"
