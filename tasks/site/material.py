"""What a site is made from: the experiment, its dictionaries and studies, and where each of their files lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.cells import method, named, parameters
from tasks.evaluate.interpretability_scores import is_sparse
from tasks.specs import Spec
from tasks.study_tables import Row, StudyTable, dictionaries_of, study_row, study_tables


class About(Spec):
    """What an experiment is called, and what it asks for: all of its parameters but where and how wide it runs."""

    name: str
    config: dict[str, Any]


class Browsable(NamedTuple):
    """A dictionary whose features can be looked at, as tasks.feature_pages left it."""

    dictionary: str
    slug: str
    about: Mapping[str, Any]
    features: str
    """The digest of what its contexts are from: equal steps are found again under other names."""
    place: Path

    def shard(self, feature: int) -> int:
        """The number of the file that holds a feature."""
        return feature // self.about["shard_size"]

    def href(self, feature: int | None = None) -> str:
        return f"features.html#{self.slug}" + ("" if feature is None else f"/{feature}")


class Study(NamedTuple):
    """An evaluation beyond reconstruction."""

    row: Row
    """See tasks.study_tables."""
    dictionaries: tuple[str, ...]
    """Those it is about, in the order of their layers."""
    features: str | None
    """The digest of what its fragments are from, if any."""
    place: Path

    @property
    def evaluation(self) -> str:
        return self.row["evaluation"]

    def read(self, file: str) -> list[Row]:
        """The rows of one of its tables; none where it did not come to write it."""
        path = self.place / file
        return read_table(path).to_pylist() if path.is_file() else []


@dataclass(frozen=True)
class Material:
    """All that the pages of a site are written from."""

    about: About
    rows: Sequence[Row]
    """Of the dictionaries: what is known of each, hook point by hook point."""
    dictionaries: Mapping[str, ArtifactRef]
    reconstructions: Mapping[str, ArtifactRef]
    """By the name of the dictionary that was measured."""
    studies: Sequence[Study]
    comparisons: Sequence[ArtifactRef]
    browsable: Mapping[str, Browsable]
    """By the name of the dictionary."""
    manifests: Mapping[str, Mapping[str, Any]]
    """Of all artifacts that this was made from, as far as they are there; by name."""

    @cached_property
    def tables(self) -> list[StudyTable]:
        return study_tables([study.row for study in self.studies])

    @cached_property
    def hook_points(self) -> list[str]:
        return list(dict.fromkeys(row["hook_point"] for row in self.rows))

    @cached_property
    def flat(self) -> list[Row]:
        """The rows with method and parameters as a table tells them."""
        return [
            {**row, "method": method(row, self.rows), "parameters": parameters(row["params"], self.rows)}
            for row in self.rows
        ]

    def label(self, row: Row) -> str:
        """A dictionary among the others of its hook point."""
        return named(row, self.rows)

    def label_of(self, study: Study) -> str:
        """The dictionary that a study is of; of several, their method."""
        return self.label(self.by_name[study.dictionaries[-1]])

    @cached_property
    def by_name(self) -> dict[str, Row]:
        return {row["ref"]: row for row in self.rows}

    def at(self, hook_point: str) -> list[Row]:
        return [row for row in self.rows if row["hook_point"] == hook_point]

    def trained(self, row: Row) -> bool:
        return "dictionary" in self.manifests[row["ref"]]["spec"]

    def sparse(self, row: Row) -> bool:
        """Whether it is a sparse autoencoder of the model itself, and not a baseline or a control."""
        return self.trained(row) and is_sparse(row)

    def of_table(self, table: StudyTable) -> list[tuple[Row, Study]]:
        """The rows of a table, each with its study."""
        studies = {study.row["ref"]: study for study in self.studies}
        return [(row, studies[row["ref"]]) for row in table.rows]

    def of_kind(self, *evaluations: str) -> Iterator[tuple[StudyTable, list[tuple[Row, Study]]]]:
        """The tables of some evaluations, with their rows."""
        for table in self.tables:
            rows = self.of_table(table)
            if rows[0][1].evaluation in evaluations:
                yield table, rows


def gather(
    about: About,
    rows: Sequence[Row],
    dictionaries: Sequence[ArtifactRef],
    reconstructions: Sequence[ArtifactRef],
    studies: Mapping[str, ArtifactRef],
    comparisons: Sequence[ArtifactRef],
    pages: Sequence[ArtifactRef],
) -> Material:
    """Read what the pages need of the artifacts.

    Args:
        rows: of the dictionaries (tasks.report.row), in the order in which they are shown.
        studies: by their names.
    """
    store = artifacts()
    known = {str(ref): store.manifest(ref) for ref in (*dictionaries, *reconstructions, *studies.values())}
    known |= {str(ref): store.manifest(ref) for ref in (*comparisons, *pages)}
    return Material(
        about=about,
        rows=rows,
        dictionaries={str(ref): ref for ref in dictionaries},
        reconstructions={str(of): ref for of, ref in zip(dictionaries, reconstructions, strict=True)},
        studies=[_study(name, ref, known[str(ref)], dictionaries) for name, ref in studies.items()],
        comparisons=comparisons,
        browsable={found.dictionary: found for found in (_browsable(ref, known[str(ref)]) for ref in pages)},
        manifests=_with_inputs(known),
    )


def _study(name: str, ref: ArtifactRef, manifest: Mapping[str, Any], dictionaries: Sequence[ArtifactRef]) -> Study:
    about = tuple(_named_here(made, dictionaries) for made in dictionaries_of(manifest))
    features = manifest["inputs"].get("features")
    return Study(study_row(artifacts(), name, ref), about, features and features["digest"], artifacts().path(ref))


def _named_here(made: ArtifactRef, dictionaries: Sequence[ArtifactRef]) -> str:
    """A dictionary by its name in this report. An evaluation is found again for equal bytes, and its manifest names
    those that it was first made of."""
    names = [str(ref) for ref in dictionaries if ref.digest == made.digest]
    return str(made) if str(made) in names or not names else names[0]


def _browsable(ref: ArtifactRef, manifest: Mapping[str, Any]) -> Browsable:
    place = artifacts().path(ref)
    told = json.loads(next(place.glob("browse/*/about.json")).read_text())
    return Browsable(told["ref"], told["slug"], told, manifest["inputs"]["features"]["digest"], place)


def _with_inputs(known: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The manifests, and those of all that these were made from; an artifact may outlive what it was made from."""
    found, waiting = dict(known), list(known)
    while waiting:
        for value in found[waiting.pop()]["inputs"].values():
            ref = ArtifactRef(**value)
            if str(ref) in found:
                continue
            try:
                found[str(ref)] = artifacts().manifest(ref)
            except DamagedArtifact:
                continue
            waiting.append(str(ref))
    return found
