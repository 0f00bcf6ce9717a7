"""The browsable data of one dictionary: what its scripts say is what the dictionary, the model and the text have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from sae_core.interventions import writes
from storage.artifacts import ArtifactRef
from storage.latents import Latents
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.evaluate.logit_effects import logit_lens
from tasks.feature_pages import feature_pages
from tasks.features import read_features
from tasks.loss_gradients import loss_gradients, of_rows
from tasks.rows import open_store
from tasks.specs import RowFilter
from tests.conftest import write_model
from tests.tasks.conftest import EMBEDDING, RESIDUAL
from tests.tasks.evaluate import subjects
from tests.tasks.evaluate.subjects import reader, saved

LENGTH = 8
KEPT = {"rows": RowFilter(), "fragment_length": LENGTH, "seed": 0, "compute": Compute()}
HOSTILE = (
    "<script>alert(1)</script>",
    "</textarea>",
    "\u202eabc",
    "\u2028",
    '"\\',
    "\N{SNOWMAN}" * 3500,
    "\N{PILE OF POO}",
)


class Pages:
    """The scripts of one dictionary, read back, with what they are about."""

    def __init__(self, given: dict[str, Any], dictionary: Dictionary, hook_point: str = RESIDUAL) -> None:
        self.dictionary, self.hook_point, self.given = dictionary, hook_point, given
        ref = saved(dictionary)
        at = {"dictionary": ref, "model": given["model"], "tokens": given["tokens"], "hook_point": hook_point}
        features = read_features.build(activations=given["activations"], **at, **KEPT)
        gradients = loss_gradients.build(
            model=given["model"], tokens=given["tokens"], hook_points=(EMBEDDING, RESIDUAL, MLP), dtype="float32",
            compute=Compute(),
        )  # fmt: skip
        made = feature_pages.build(name=str(ref), features=features, gradients=gradients, **at, compute=Compute())
        self.features, place = artifacts().path(features), artifacts().path(made)
        (self.place,) = (place / "browse").iterdir()
        assert artifacts().manifest(made)["notes"]["slug"] == self.place.name
        self.index, self.tokens = self.data("index"), self.data("tokens")
        files = sorted((self.place / "shards").iterdir())
        self.shards = [self.data(f"shards/{file.stem}") for file in files]
        self.each = [feature for shard in self.shards for feature in shard["features"]]

    def data(self, name: str) -> Any:
        text = (self.place / f"{name}.js").read_text(encoding="ascii")
        start = f'saeflow.receive("browse/{self.place.name}/{name}",'
        assert text.startswith(start)
        return json.loads(text.removeprefix(start).removesuffix(");\n"))

    def codes(self) -> np.ndarray:
        """[rows, positions, features], as they are kept."""
        latents = Latents.open(self.features / "latents" / self.hook_point)
        rows = token_rows(self.given["tokens"], "held_out").shape
        codes = np.zeros((*rows, len(self.each)), np.float32)
        for part in latents.parts():
            codes[part.row, part.position, part.latent] = part.activation
        return codes

    def contexts(self) -> list[tuple[int, str, list[Any], list[Any]]]:
        """Feature, kind, context and window of all."""
        return [
            (shard["first"] + at, kind, context, shard["windows"][context[0]])
            for shard in self.shards
            for at, feature in enumerate(shard["features"])
            for kind, contexts in feature["contexts"].items()
            for context in contexts
        ]


MLP = "blocks.1.mlp.hook_post"


@pytest.fixture(scope="module")
def given(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with subjects.harvested(tiny_model, tmp_path_factory, EMBEDDING, RESIDUAL, MLP, held_out_tokens=4096) as refs:
        yield refs


@pytest.fixture(scope="module")
def directions() -> torch.Tensor:
    return torch.randn(100, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pages(given: dict[str, ArtifactRef], directions: torch.Tensor) -> Pages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.feature_contexts.TOKENS_AT_ONCE", 1000)
        dictionary = reader(directions, bias=-0.05)
        with torch.no_grad():
            dictionary.b_enc_n[[3, 77]] = -1e6  # these never fire
        return Pages(given, dictionary)


def test_every_context_shows_what_the_feature_does_there(pages: Pages):
    tokens, codes = np.asarray(token_rows(pages.given["tokens"], "held_out")[:]), pages.codes()
    bridge = language_model.load(pages.given["model"], "float32", "cpu")
    g_SPd = of_rows(bridge, tokens, (RESIDUAL,))[RESIDUAL].bfloat16().float()
    effect_SPn = -codes * (g_SPd @ writes(pages.dictionary).T).numpy()
    spelled = language_model.load_tokenizer(pages.given["model"])
    contexts = pages.contexts()
    assert len(contexts) > 1000
    for feature, _, (_, maximum, _, positions, activations, effects), (row, start, places) in contexts:
        there = codes[row, start : start + LENGTH, feature]
        assert positions == there.nonzero()[0].tolist()
        assert activations == pytest.approx(there[positions].tolist(), rel=1e-5)
        assert maximum == pytest.approx(there.max(), rel=1e-3)
        expected = effect_SPn[row, start : start + LENGTH, feature][positions]
        assert effects == pytest.approx(expected.tolist(), rel=0.02, abs=1e-4 * float(np.abs(effect_SPn).max()))
        text = spelled.decode(tokens[row, start : start + LENGTH].tolist())
        assert "".join(pages.tokens[place] for place in places) == text


def test_contexts_are_of_all_strengths(pages: Pages):
    table = read_table(pages.features / "fragments.parquet").to_pylist()
    for feature in (0, 50, 99):
        contexts = pages.each[feature]["contexts"]
        top = [entry["maximum"] for entry in table if entry["feature"] == feature and entry["kind"] == "top"]
        assert [context[1] for context in contexts["top"]] == pytest.approx(top, rel=1e-5)
        assert len(top) == 20
        assert [context[2] // 2 for context in contexts["interval"]] == list(range(10)), "one of each tenth"
        weakest, *_, strongest = contexts["interval"]
        assert weakest[1] < strongest[1]
        assert len(contexts["random"]) == 5


def test_promoted_tokens_are_those_that_the_lens_favours(pages: Pages):
    bridge = language_model.load(pages.given["model"], "float32", "cpu")
    tokenizer: Any = language_model.load_tokenizer(pages.given["model"])
    table = read_table(pages.place / "logits.parquet").to_pylist()
    for feature in (0, 3, 99):
        logits = logit_lens(bridge, RESIDUAL, writes(pages.dictionary)[feature])
        assert logits is not None
        logits = logits[: len(tokenizer)]
        for kind, largest in (("promoted", True), ("suppressed", False)):
            expected = logits.topk(10, largest=largest)
            told = pages.each[feature][kind]
            assert [logit for _, logit in told] == pytest.approx(expected.values.tolist(), rel=1e-4, abs=1e-6)
            rows = [row for row in table if (row["feature"], row["kind"]) == (feature, kind)]
            assert [row["token"] for row in rows] == expected.indices.tolist()
            assert [pages.tokens[place] for place, _ in told] == [row["text"] for row in rows]


def test_neighbours_are_those_of_the_whole_dictionary(pages: Pages):
    cosines = pages.dictionary.directions @ pages.dictionary.directions.T
    cosines.fill_diagonal_(-1)
    for feature, entry in enumerate(pages.each):
        expected = cosines[feature].topk(10)
        assert [other for other, _ in entry["neighbours"]] == expected.indices.tolist()
        assert [cosine for _, cosine in entry["neighbours"]] == pytest.approx(expected.values.tolist(), rel=1e-4)
    nearest = next(column for column in pages.index["columns"] if column["name"] == "nearest")["values"]
    assert nearest == [entry["neighbours"][0][1] for entry in pages.each]


def test_the_index_has_every_feature_and_says_why_a_number_is_missing(pages: Pages):
    table = read_table(pages.place / "table.parquet").to_pydict()
    source = read_table(pages.features / "features.parquet").to_pydict()
    assert [shard["first"] for shard in pages.shards] == [0, 64]
    assert len(pages.each) == pages.index["n_features"] == 100
    for column in pages.index["columns"]:
        name = {"maximum": "max"}.get(column["name"], column["name"])
        assert table[column["name"]] == source.get(name, table[column["name"]])
        missing = {feature: reason for reason, features in column["missing"] for feature in features}
        for feature, (value, exact) in enumerate(zip(column["values"], table[column["name"]], strict=True)):
            assert (value is None) == (exact is None) == (feature in missing)
            assert value is None or value == pytest.approx(exact, rel=1e-5)
    missing = next(column for column in pages.index["columns"] if column["name"] == "mean")["missing"]
    assert missing == [["never fires on the held-out text", [3, 77]]]
    assert json.loads((pages.place / "about.json").read_text())["n_features"] == 100


def test_a_feature_that_never_fires_has_a_page_all_the_same(pages: Pages):
    silent = pages.each[3]
    assert silent["histogram"] is None
    assert silent["partners"] == []
    assert silent["contexts"] == {"top": [], "interval": [], "random": []}
    assert pages.index["tokens"][3] == []
    assert len(silent["promoted"]) == len(silent["neighbours"]) == 10


def test_histograms_count_every_activation(pages: Pages):
    codes = pages.codes()
    for feature, entry in enumerate(pages.each):
        if entry["histogram"] is None:
            continue
        fires = codes[..., feature][codes[..., feature] != 0]
        assert sum(entry["histogram"]["counts"]) == len(fires)
        assert entry["histogram"]["low"] == pytest.approx(fires.min(), rel=1e-4)
        if fires.max() > fires.min():
            assert entry["histogram"]["high"] == pytest.approx(fires.max(), rel=1e-4)


def test_the_table_names_the_tokens_that_a_feature_is_strongest_on(pages: Pages):
    for feature in (0, 64, 99):
        seen: dict[int, int] = {}
        for of, kind, (_, _, _, positions, activations, _), (_, _, places) in pages.contexts():
            if (of, kind) == (feature, "top"):
                peak = places[positions[int(np.argmax(activations))]]
                seen[peak] = seen.get(peak, 0) + 1
        told = pages.index["tokens"][feature]
        assert len(told) == min(5, len(seen))
        assert [seen[place] for place in told] == sorted(seen.values(), reverse=True)[:5]


def test_the_table_of_contexts_is_what_the_shards_show(pages: Pages):
    table = read_table(pages.place / "contexts.parquet").to_pylist()
    contexts = pages.contexts()
    assert len(table) == len(contexts)
    for exact, (feature, kind, (_, maximum, rank, *lists), (row, start, _)) in zip(table, contexts, strict=True):
        assert (exact["feature"], exact["kind"], exact["rank"]) == (feature, kind, rank)
        assert (exact["row"], exact["start"]) == (row, start)
        assert maximum == pytest.approx(exact["maximum"], rel=1e-5)
        for name, values in zip(("position", "activation", "effect"), lists, strict=True):
            assert values == pytest.approx(exact[name], rel=1e-5)


def test_outside_the_residual_stream_there_are_no_logits_and_a_reason(given: dict[str, ArtifactRef]):
    pages = Pages(given, reader(torch.eye(64)[:3], bias=0), MLP)
    assert "not of the residual stream" in pages.index["logits_undefined"]
    assert {entry["promoted"] for entry in pages.each} == {None}
    assert read_table(pages.place / "logits.parquet").num_rows == 0
    assert any(entry["contexts"]["top"] for entry in pages.each)


def test_a_signed_dictionary_shows_negative_activations(given: dict[str, ArtifactRef]):
    store = open_store(given["activations"], "held_out")
    x = torch.cat([rows for rows, _ in store.iter_rows(RESIDUAL, RowFilter())])
    pages = Pages(given, fit_pca(iter([x]), k=4))
    shown = [value for _, _, (_, _, _, _, activations, _), _ in pages.contexts() for value in activations]
    assert min(shown) < 0 < max(shown)


def test_a_dictionary_of_one_silent_feature_has_pages(given: dict[str, ArtifactRef]):
    pages = Pages(given, reader(torch.eye(32)[:1], bias=-1e6))
    assert pages.each[0]["neighbours"] == []
    nearest = next(column for column in pages.index["columns"] if column["name"] == "nearest")
    assert nearest["missing"] == [["there is no other feature", [0]]]


def test_any_text_of_tokens_survives(tmp_path_factory: pytest.TempPathFactory):
    source = write_model(tmp_path_factory.mktemp("hostile"))
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_tokens(list(HOSTILE))
    tokenizer.save(str(source / "tokenizer.json"))
    _grow(source, tokenizer.get_vocab_size())
    documents = [f"{number} the cat {text} runs {text[:1]}" for number in range(60) for text in HOSTILE]
    with subjects.harvested(source, tmp_path_factory, EMBEDDING, RESIDUAL, MLP, documents=documents) as refs:
        pages = Pages(refs, reader(torch.eye(32)[:5], bias=0))
        assert set(HOSTILE) <= set(pages.tokens)
        assert any("\\x" in text for text in pages.tokens), "a part of a character is told by its bytes"


def _grow(source: Path, vocabulary: int) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(vocabulary)
    model.save_pretrained(source)
