"""The dictionaries of a run, as its report names them."""

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.dictionary import load_dictionary
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from tasks.caching import artifacts
from tasks.cells import slug_of
from tasks.errors import ExperimentError

DICTIONARIES = "dictionaries.json"
STUDIES = "studies.json"
FEATURES = "features.parquet"


@dataclass(frozen=True)
class Entry:
    """One dictionary."""

    row: dict[str, Any]
    """Of dictionaries.json."""
    ref: ArtifactRef
    learned: bool
    """Whether it was trained, and is no baseline."""
    evaluation: ArtifactRef | None
    """What holds the density of its features."""

    @property
    def hook_point(self) -> str:
        return self.row["hook_point"]

    @property
    def method(self) -> str:
        return self.row["method"]

    @property
    def slug(self) -> str:
        """What its feature pages are called."""
        return slug_of(self.method, self.hook_point, str(self.ref))

    @property
    def directions(self) -> Float[Tensor, "n d"]:
        return _directions(str(artifacts().path(self.ref)))

    def densities(self) -> list[float | None]:
        """On which share of the held-out tokens each feature fires; empty where that was not measured."""
        if self.evaluation is None:
            return []
        data = artifacts().location(self.evaluation).read(FEATURES)
        return pq.read_table(io.BytesIO(data), columns=["density"])["density"].to_pylist()


def entries(report: ArtifactRef) -> list[Entry]:
    """The dictionaries of a report, in its order.

    Raises ExperimentError when one of them is not there any more.
    """
    store = artifacts()
    inputs = [ArtifactRef(**ref) for ref in store.manifest(report)["inputs"].values()]
    dictionaries = {str(ref): ref for ref in inputs if ref.kind == "dictionary"}
    measured: dict[str, ArtifactRef] = {}
    for ref in inputs:
        if ref.kind == "evaluation" and store.location(ref).exists(FEATURES):
            of = store.manifest(ref)["inputs"].get("dictionary")
            # By digest: an evaluation is found again for another artifact with the same files, and names the first.
            measured.setdefault(of["digest"] if of else "", ref)
    found = []
    for row in read_rows(report, DICTIONARIES):
        ref = dictionaries[row["ref"]]
        try:
            spec = store.manifest(ref)["spec"]
        except DamagedArtifact as error:
            raise ExperimentError(
                f"{ref} of {report} is not there any more. Run the experiment again: it makes what is missing."
            ) from error
        found.append(Entry(row, ref, "dictionary" in spec, measured.get(ref.digest)))
    return found


def read_rows(report: ArtifactRef, file: str) -> list[dict[str, Any]]:
    """A list that a report holds as JSON."""
    return json.loads(artifacts().location(report).read(file))


@lru_cache(maxsize=8)
def _directions(directory: str) -> Float[Tensor, "n d"]:
    with torch.inference_mode():
        return load_dictionary(directory).directions.float()
