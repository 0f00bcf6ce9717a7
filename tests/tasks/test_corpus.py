import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.corpus import base_of, document_rows, locate, segments, token_rows, tokenize
from tasks.errors import ExperimentError
from tasks.language_model import load_tokenizer, prepare_model
from tasks.language_model import locate as locate_model
from tasks.sources import documents
from tasks.specs import CorpusSpec, ModelSpec
from tests.conftest import write_text


@pytest.fixture
def model(home: Path, tiny_model: Path) -> ArtifactRef:
    return prepare_model.build(located=locate_model(ModelSpec(source=str(tiny_model))))


def spec(*sources: object, **changes: object) -> CorpusSpec:
    defaults = {"tokens": 4000, "held_out_tokens": 500, "context_length": 32}
    return CorpusSpec.model_validate({"sources": [str(source) for source in sources], **defaults, **changes})


def numbers(tokens: ArtifactRef, split: str) -> list[int]:
    """The document of every token, in order."""
    return np.asarray(document_rows(tokens, split)).reshape(-1).tolist()


def table(tokens: ArtifactRef) -> dict[str, list[Any]]:
    return read_table(artifacts().path(tokens) / "documents.parquet").to_pydict()


def rows(tokens: ArtifactRef, split: str = "train") -> np.ndarray:
    return np.asarray(token_rows(tokens, split))


def write_documents(file: Path, texts: Sequence[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))


def paragraphs(count: int, seed: int) -> list[str]:
    return write_text(count, seed).split("\n\n")


def test_rows_are_the_documents_joined_by_the_end_of_text_token(model: ArtifactRef, tiny_corpus: Path):
    tokens = tokenize.build(model=model, corpus=locate(spec(tiny_corpus)))
    rows = np.asarray(token_rows(tokens, "train"))
    assert rows.shape == (125, 32)
    tokenizer = load_tokenizer(model)
    texts = tokenizer.decode(rows.reshape(-1).tolist()).split("<|end|>")
    originals = {text.strip() for text in documents(str(tiny_corpus), spec(tiny_corpus))}
    assert len(texts) > 3
    assert all(text.strip() in originals for text in texts[:-1]), "the last document is cut, the others are whole"


def test_no_document_is_in_both_splits(model: ArtifactRef, tiny_corpus: Path):
    tokens = tokenize.build(model=model, corpus=locate(spec(tiny_corpus)))
    document = {split: set(numbers(tokens, split)) for split in ("train", "held_out")}
    assert document["train"]
    assert document["held_out"]
    assert not document["train"] & document["held_out"]
    assert {table(tokens)["split"][number] for number in document["held_out"]} == {"held_out"}


def test_the_same_corpus_gives_the_same_bytes_and_another_seed_others(model: ArtifactRef, tiny_corpus: Path):
    first = tokenize.build(model=model, corpus=locate(spec(tiny_corpus)))
    artifacts().remove(first)
    assert tokenize.build(model=model, corpus=locate(spec(tiny_corpus))) == first
    other = tokenize.build(model=model, corpus=locate(spec(tiny_corpus, seed=1)))
    assert other.digest != first.digest


def test_text_that_changed_changes_the_key(tmp_path: Path, tiny_corpus: Path):
    file = tmp_path / "corpus.txt"
    file.write_text("first")
    before = locate(spec(file))
    file.write_text("second")
    assert locate(spec(file)) != before


def test_every_kind_of_source_gives_its_documents(tmp_path: Path):
    texts = ["one", "two", "three\nlines\nof it"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts))
    pq.write_table(pa.table({"body": texts}), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert list(documents(str(tmp_path / name), spec("x", text_field="body"))) == texts
    assert sorted(documents(str(tmp_path), spec("x", text_field="body"))) == sorted(texts * 2)
    assert any("reader-friendly smart element reordering" in text for text in documents("package:einops", spec("x")))


def test_a_book_becomes_several_documents_of_whole_paragraphs(tiny_corpus: Path):
    pieces = list(documents(str(tiny_corpus), spec("x")))
    assert len(pieces) > 10
    assert "".join(pieces) == tiny_corpus.read_text()


def test_a_text_without_paragraphs_becomes_several_documents(tmp_path: Path):
    lines = [f"sentence number {number} of a long list\n" for number in range(1000)]
    (tmp_path / "lines.txt").write_text("".join(lines))
    pieces = list(documents(str(tmp_path / "lines.txt"), spec("x")))
    assert len(pieces) > 3
    assert "".join(pieces) == "".join(lines)


def test_half_a_surrogate_pair_does_not_end_the_work(model: ArtifactRef, tmp_path: Path, tiny_corpus: Path):
    texts = [*documents(str(tiny_corpus), spec("x")), "a \ud83d cat"]
    (tmp_path / "odd.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in reversed(texts)))
    tokens = tokenize.build(model=model, corpus=locate(spec(tmp_path / "odd.jsonl")))
    assert token_rows(tokens, "train").shape == (125, 32)


def test_exact_repetitions_are_dropped(model: ArtifactRef, tmp_path: Path, tiny_corpus: Path):
    texts = list(documents(str(tiny_corpus), spec("x")))[:40]
    for name, repeated in (("once", texts), ("twice", texts + texts)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in repeated))
    digests = {
        tokenize.build(
            model=model, corpus=locate(spec(tmp_path / f"{name}.jsonl", tokens=900, held_out_tokens=100))
        ).digest
        for name in ("once", "twice")
    }
    # documents.parquet names the source, so compare the rows
    assert len(digests) == 2
    rows = [np.asarray(token_rows(ref, "train")) for ref, _ in artifacts().list() if ref.kind == "tokens"]
    assert np.array_equal(*rows)


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("empty.txt", "", "holds no text"),
        ("blank.jsonl", "\n\n", "holds no text"),
        ("other.jsonl", '{"body": "x"}', "no field 'text'"),
        ("broken.jsonl", "{", "line 1 is not JSON"),
        ("latin.jsonl", b'{"text": "\xe9"}', "no valid .jsonl file"),
        ("broken.parquet", "PAR1", "no valid .parquet file"),
        ("missing.txt", None, "no .txt, .jsonl or .parquet file"),
    ],
)
def test_a_source_without_text_is_named_with_advice(
    tmp_path: Path, source: str, content: str | bytes | None, message: str
):
    if content is not None:
        (tmp_path / source).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ExperimentError, match=message):
        locate(spec(tmp_path / source))


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ExperimentError, match=r"package 'no-such-thing' is not installed"):
        locate(spec("package:no-such-thing"))


def test_a_corpus_too_small_for_one_row_says_so(model: ArtifactRef, tmp_path: Path):
    (tmp_path / "short.txt").write_text("a cat")
    with pytest.raises(ExperimentError, match="fills no row of 32 tokens"):
        tokenize.build(model=model, corpus=locate(spec(tmp_path / "short.txt")))


def test_a_corpus_smaller_than_asked_for_gives_what_it_has_and_notes_it(model: ArtifactRef, tiny_corpus: Path):
    tokens = tokenize.build(model=model, corpus=locate(spec(tiny_corpus, tokens=10_000_000, held_out_tokens=2_000_000)))
    notes = artifacts().manifest(tokens)["notes"]
    assert notes["short_of_wanted"] == ["train", "held_out"]
    assert notes["rows"]["train"] == token_rows(tokens, "train").shape[0] > 100


# A corpus that grows: a directory to which files are added.

WANTED = {"tokens": 20_000, "held_out_tokens": 2000}  # more than there is


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(tmp_path / "texts" / "a.jsonl", paragraphs(60, seed=10))
    return tmp_path / "texts"


def grown(model: ArtifactRef, folder: Path, base: ArtifactRef | None, **changes: Any) -> ArtifactRef:
    return tokenize.build(model=model, corpus=locate(spec(folder, **{**WANTED, **changes})), base=base)


def test_new_documents_follow_the_earlier_rows_and_the_held_out_rows_stay(model: ArtifactRef, folder: Path):
    first = grown(model, folder, None)
    write_documents(folder / "b.jsonl", paragraphs(30, seed=11))
    second = grown(model, folder, first)
    write_documents(folder / "A comes first.jsonl", paragraphs(20, seed=12))
    (folder / "a.jsonl").write_text((folder / "b.jsonl").read_text())  # a file that is gone stays in the tokens
    third = grown(model, folder, second)

    chain = [first, second, third]
    assert [base_of(tokens) for tokens in chain] == [None, first, second]
    for earlier, later in pairwise(chain):
        count = rows(earlier).shape[0]
        assert rows(later).shape[0] > count
        assert np.array_equal(rows(later)[:count], rows(earlier))
        assert numbers(later, "train")[: count * 32] == numbers(earlier, "train")
        assert min(numbers(later, "train")[count * 32 :]) == len(table(earlier)["document"])
        for array in (rows, numbers):
            assert np.array_equal(array(later, "held_out"), array(earlier, "held_out"))
        assert segments(later, "train")[:-1] == segments(earlier, "train")
        assert segments(later, "held_out") == segments(earlier, "held_out") == (rows(earlier, "held_out").shape[0],)
        assert sum(segments(later, "train")) == rows(later).shape[0]
        recorded = {name: column[: len(table(earlier)["document"])] for name, column in table(later).items()}
        assert recorded == table(earlier)

    end = table(third)
    assert end["document"] == list(range(len(end["document"])))
    assert len(set(end["fingerprint"])) == len(end["fingerprint"])
    assert [end["segment"].count(number) for number in (1, 2)] == [30, 20]
    assert set(end["split"][end["segment"].index(1) :]) == {"train"}
    notes = artifacts().manifest(third)["notes"]
    assert notes["documents"] == {"new": 20, "already_there": 30}
    assert notes["short_of_wanted"] == ["train", "held_out"]

    artifacts().remove(third)
    assert grown(model, folder, second) == third


def test_a_document_that_is_held_out_is_never_trained_on(model: ArtifactRef, folder: Path):
    first = grown(model, folder, None)
    held_out = {number for number, split in enumerate(table(first)["split"]) if split == "held_out"}
    texts = paragraphs(60, seed=10)
    assert held_out
    # Under another name, in another order, and beside enough new text.
    write_documents(folder / "b.jsonl", [*reversed(texts), *paragraphs(10, seed=11)])
    second = grown(model, folder, first, seed=5)
    assert not held_out & set(numbers(second, "train"))
    assert len(table(second)["document"]) == len(table(first)["document"]) + 10
    text = load_tokenizer(model).decode(rows(second)[rows(first).shape[0] :].reshape(-1).tolist())
    assert not [old for old in texts if old[:60] in text]


def test_without_new_documents_the_tokens_are_the_very_same(
    model: ArtifactRef, folder: Path, capsys: pytest.CaptureFixture[str]
):
    first = grown(model, folder, None)
    write_documents(folder / "b.jsonl", paragraphs(30, seed=11))
    second = grown(model, folder, first)
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    capsys.readouterr()
    third = grown(model, folder, second)
    assert f"nothing new for {second}: 90 documents are in it, 0 others fill no row" in capsys.readouterr().err
    assert third.key != second.key
    assert third.digest == second.digest
    assert segments(third, "train") == segments(second, "train")
    assert base_of(third) == first


def test_documents_that_fill_no_row_wait_for_more(model: ArtifactRef, folder: Path):
    first = grown(model, folder, None)
    write_documents(folder / "b.jsonl", ["a cat"])
    second = grown(model, folder, first)
    assert second.digest == first.digest
    write_documents(folder / "c.jsonl", ["a dog " * 40])
    third = grown(model, folder, second)
    assert len(table(third)["document"]) == len(table(first)["document"]) + 2
    assert "a cat<|end|>a dog" in load_tokenizer(model).decode(rows(third)[rows(first).shape[0] :].reshape(-1).tolist())


def test_more_tokens_of_the_same_sources_come_from_the_documents_not_read_yet(model: ArtifactRef, folder: Path):
    first = grown(model, folder, None, tokens=1000)
    second = grown(model, folder, first, tokens=3000)
    assert segments(second, "train") == (32, 62)
    assert artifacts().manifest(second)["notes"]["short_of_wanted"] == []
    texts = paragraphs(60, seed=10)
    read = load_tokenizer(model).decode(rows(second)[32:].reshape(-1).tolist()).split("<|end|>")
    trained = [texts.index(text) for text in read[:-1]]
    assert len(trained) == len(set(trained)) > 3
    third = grown(model, folder, second, tokens=1000)  # fewer than there are: none are taken away
    assert third.digest == second.digest


def test_tokens_cannot_be_extended_when_they_are_damaged(model: ArtifactRef, folder: Path):
    first = grown(model, folder, None)
    (artifacts().path(first) / "documents.parquet").write_bytes(b"")
    write_documents(folder / "b.jsonl", paragraphs(30, seed=11))
    with pytest.raises(DamagedArtifact, match=r"documents\.parquet"):
        grown(model, folder, first)
