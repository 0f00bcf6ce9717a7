"""The files of an upload: what they say is what the pages say."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_core.interchange.provenance import Provenance
from tasks.errors import ExperimentError
from tasks.exports import neuronpedia
from tests.tasks.conftest import RESIDUAL
from tests.tasks.test_feature_pages import LENGTH, Pages

FROM = Provenance("someone/Tiny-Instruct", RESIDUAL, dataset="stories")


def read(file: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def test_the_upload_is_filed_by_model_and_layer_and_all_of_it_names_its_source(
    dictionary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DEFAULT_CREATOR_ID", "me")
    monkeypatch.setattr(neuronpedia, "BATCH", 5)
    neuronpedia.write(dictionary, tmp_path / "out", FROM)
    (source,) = (tmp_path / "out" / "tiny-instruct").iterdir()
    assert source.name == f"1-hook-resid-post-relu-12-{dictionary.name[:8]}"
    names = {file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()}
    heads = {"release.jsonl", "model.jsonl", "sourceset.jsonl", "source.jsonl"}
    assert names >= heads | {f"features/batch-{number}.jsonl.gz" for number in range(3)}
    (told,) = read(source / "source.jsonl")
    assert (told["id"], told["modelId"], told["creatorId"]) == (source.name, "tiny-instruct", "me")
    (set_,), (release,) = read(source / "sourceset.jsonl"), read(source / "release.jsonl")
    assert told["setName"] == set_["name"] == source.name.partition("-")[2]
    assert set_["releaseName"] == release["name"]
    rows = [row for number in range(3) for row in read(source / f"features/batch-{number}.jsonl.gz")]
    assert [row["index"] for row in rows] == [str(number) for number in range(12)]
    rows += [row for file in (source / "activations").iterdir() for row in read(file)]
    assert {(row["modelId"], row["layer"]) for row in rows} == {("tiny-instruct", source.name)}

    neuronpedia.write(dictionary, tmp_path / "again", FROM)
    for file in names:
        again = tmp_path / "again" / "tiny-instruct" / source.name / file
        assert again.read_bytes() == (source / file).read_bytes()


def test_numbers_are_those_of_the_pages(pages: Pages, dictionary: Path, tmp_path: Path):
    neuronpedia.write(dictionary, tmp_path / "out", FROM)
    (source,) = (tmp_path / "out" / "tiny-instruct").iterdir()
    features = read(source / "features" / "batch-0.jsonl.gz")
    activations = read(source / "activations" / "batch-0.jsonl.gz")
    density = next(column["values"] for column in pages.index["columns"] if column["name"] == "density")
    for feature, (told, shown) in enumerate(zip(features, pages.each, strict=True)):
        assert told["frac_nonzero"] == pytest.approx(density[feature], rel=1e-5)
        assert told["pos_str"] == [pages.tokens[token] for token, _ in shown["promoted"]]
        assert told["neg_values"] == pytest.approx([logit for _, logit in shown["suppressed"]], rel=1e-5)
        assert told["topkCosSimIndices"] == [other for other, _ in shown["neighbours"]]
        histogram = shown["histogram"] or {"counts": []}
        assert told["freq_hist_data_bar_heights"] == histogram["counts"]
        mine = [row for row in activations if row["index"] == str(feature)]
        assert len(mine) == sum(len(those) for those in shown["contexts"].values())
        top = [row for row in mine if row["binContains"] == -1]
        assert [row["maxValue"] for row in top] == pytest.approx([it[1] for it in shown["contexts"]["top"]], rel=1e-3)
        windows = pages.shards[feature // 64]["windows"]
        for row, (number, *_) in zip(top, shown["contexts"]["top"], strict=True):
            assert row["tokens"] == [pages.tokens[token] for token in windows[number][2]]
            assert len(row["values"]) == LENGTH
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
    ids = [row["id"] for row in activations]
    assert len(set(ids)) == len(ids) > 0
    assert np.unique([len(id_) for id_ in ids]).tolist() == [25]


def test_a_hook_point_of_no_layer_is_refused(dictionary: Path, tmp_path: Path):
    with pytest.raises(ExperimentError, match="files sources by layer"):
        neuronpedia.write(dictionary, tmp_path / "out", Provenance("tiny", "hook_embed"))
