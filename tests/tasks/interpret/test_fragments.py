"""The fragments of single features: what is shown is what is there, and nothing is both explained and scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from storage.tables import read_table
from tasks.corpus import token_rows
from tasks.interpret.fragments import FragmentReader, choose
from tasks.language_model import load_tokenizer
from tasks.rows import open_store
from tasks.specs import RowFilter
from tests.tasks.conftest import RESIDUAL
from tests.tasks.evaluate.subjects import reader
from tests.tasks.test_features import LENGTH, dense_codes, features_of


def reader_of(harvested: dict[str, Any], place: Path, seed: int = 0) -> FragmentReader:
    tokens = np.asarray(token_rows(harvested["tokens"], "held_out")[:])
    tokenizer = load_tokenizer(harvested["model"])
    texts = {token: str(tokenizer.decode([token])) for token in np.unique(tokens).tolist()}
    return FragmentReader(place, RESIDUAL, tokens, texts, LENGTH, seed)


def dictionary_of(harvested: dict[str, Any], signed: bool) -> Dictionary:
    if not signed:
        return reader(torch.eye(32), bias=-0.05)
    x = torch.cat(
        [rows for rows, _ in open_store(harvested["activations"], "held_out").iter_rows(RESIDUAL, RowFilter())]
    )
    return fit_pca(iter([x]), k=4)


@pytest.mark.parametrize("signed", [False, True])
def test_fragments_are_pieces_of_the_text_and_none_that_is_explained_is_scored(harvested: dict[str, Any], signed: bool):
    dictionary = dictionary_of(harvested, signed)
    codes = np.nan_to_num(dense_codes(harvested, dictionary))
    place = features_of(harvested, dictionary)
    chosen, enough = choose(place, None, seed=0)
    assert len(chosen) == enough > 10
    tokens = np.asarray(token_rows(harvested["tokens"], "held_out")[:])
    for feature in reader_of(harvested, place).read(chosen):
        lists = {name: getattr(feature, name) for name in feature._fields[1:]}
        places = {name: {(fragment.row, fragment.start) for fragment in those} for name, those in lists.items()}
        assert [len(lists[name]) for name in ("train", "top", "random")] == [5, 5, 5]
        assert all(len(places[name]) == len(lists[name]) for name in lists), "none twice"
        for name in set(lists) - {"train"}:
            assert not places["train"] & places[name]
        assert not places["top"] & places["random"]
        assert not places["silent"] & places["lookalike"]
        for name, fragments in lists.items():
            for fragment in fragments:
                span = slice(fragment.start, fragment.start + LENGTH)
                assert fragment.tokens == tuple(tokens[fragment.row, span])
                assert len(fragment.texts) == LENGTH
                there = codes[fragment.row, span, feature.feature]
                np.testing.assert_allclose(fragment.activations, there, rtol=1e-3, atol=1.1e-5)
                assert (max(fragment.activations) > 0) == (name not in ("silent", "lookalike"))
        strongest = {fragment.tokens[int(np.argmax(fragment.activations))] for fragment in feature.train}
        assert all(strongest & set(fragment.tokens) for fragment in feature.lookalike)


def test_features_are_chosen_by_the_seed_among_those_that_fire_often(harvested: dict[str, Any]):
    place = features_of(harvested, reader(torch.eye(32), bias=-0.05))
    fires = read_table(place / "features.parquet")["fragments"].to_pylist()
    chosen, enough = choose(place, 5, seed=0)
    assert enough == sum(count >= 20 for count in fires)
    assert all(fires[feature] >= 20 for feature in chosen)
    assert chosen == choose(place, 5, seed=0)[0] == sorted(chosen)
    assert chosen != choose(place, 5, seed=1)[0]


def test_silent_fragments_are_a_matter_of_the_seed(harvested: dict[str, Any]):
    dictionary = reader(torch.eye(32), bias=-0.05)
    place = features_of(harvested, dictionary)
    feature = choose(place, 1, seed=0)[0][0]
    first, again, other = (reader_of(harvested, place, seed).of(feature) for seed in (0, 0, 1))
    assert first == again
    assert first.train == other.train
    assert {f[:2] for f in first.silent} != {f[:2] for f in other.silent} or len(first.silent) < 20
