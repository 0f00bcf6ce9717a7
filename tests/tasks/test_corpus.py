import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks.caching import artifacts
from tasks.corpus import documents, locate, token_rows, tokenize
from tasks.errors import ExperimentError
from tasks.language_model import load_tokenizer, prepare_model
from tasks.language_model import locate as locate_model
from tasks.specs import CorpusSpec, ModelSpec


@pytest.fixture
def model(home: Path, tiny_model: Path) -> ArtifactRef:
    return prepare_model.build(located=locate_model(ModelSpec(source=str(tiny_model))))


def spec(*sources: object, **changes: object) -> CorpusSpec:
    defaults = {"tokens": 4000, "held_out_tokens": 500, "context_length": 32}
    return CorpusSpec.model_validate({"sources": [str(source) for source in sources], **defaults, **changes})


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
    document = {split: set(_documents(tokens, split).reshape(-1)) for split in ("train", "held_out")}
    assert document["train"]
    assert document["held_out"]
    assert not document["train"] & document["held_out"]
    table = read_table(artifacts().path(tokens) / "documents.parquet").to_pydict()
    assert {table["split"][number] for number in document["held_out"]} == {"held_out"}


def _documents(tokens: ArtifactRef, split: str) -> np.ndarray:
    array = zarr.open_array(artifacts().path(tokens) / "tokens.zarr" / split / "document", mode="r")
    return np.asarray(array)


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
