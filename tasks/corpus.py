"""Text to token rows.

Documents of all sources are read in turn, tokenised, each closed by the end-of-text token, joined, and cut to
rows of exactly the context length. A document belongs to the held-out split or to the training split by a hash
of its text, so no text is in both; exact repetitions are dropped.

A corpus grows by going on from the tokens that it gave before, the *base*. Their rows come first, unchanged and in
order, and behind them only documents that the base does not hold, told apart by a fingerprint of their text. Those all
go to the training split: the held-out split stays exactly the same, so that dictionaries from before and after can be
compared on it. Nothing is taken away: documents of files that were changed or removed since stay in the tokens.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from pydantic import BaseModel
from zarr.codecs import BloscCodec, Crc32cCodec

from storage.artifacts import ArtifactRef
from storage.locations import LocalDirectory
from storage.tables import read_table, write_table
from tasks.caching import artifacts, step
from tasks.errors import ExperimentError
from tasks.language_model import load_tokenizer
from tasks.progress import Progress
from tasks.samples import is_samples
from tasks.sources import documents, identity
from tasks.specs import CorpusSpec

SPLITS = ("train", "held_out")
ROWS = "tokens.zarr"
DOCUMENTS = "documents.parquet"
ROWS_PER_CHUNK = 64
ROWS_PER_WRITE = 4096
DOCUMENTS_PER_CALL = 256  # of the tokenizer


class LocatedCorpus(BaseModel, frozen=True):
    """A corpus whose sources were found, each with what identifies its text: a version, a commit or a sha256.

    The text of samples is identified by their artifact.
    """

    spec: CorpusSpec
    """Without `extends`: the base is an input of the step, and the same base may be named in several ways."""
    identities: tuple[str, ...]


class Document(NamedTuple):
    source: str
    text: str
    fingerprint: str
    """The same for the same text, wherever it comes from."""


def locate(spec: CorpusSpec) -> LocatedCorpus:
    """Find every source and identify its text.

    Raises:
        ExperimentError: a source does not exist or holds no text.
    """
    identities = []
    for source in spec.sources:
        identities.append(identity(source))
        # Samples are yet to be written: nothing to look at.
        if not is_samples(source) and next(documents(source, spec), None) is None:
            raise ExperimentError(f"corpus source {source!r} holds no text. Name another in corpus.sources.")
    return LocatedCorpus(spec=spec.model_copy(update={"extends": None}), identities=tuple(identities))


@step(kind="tokens", code_version="3")
def tokenize(
    place: Path,
    model: ArtifactRef,
    corpus: LocatedCorpus,
    base: ArtifactRef | None = None,
    samples: tuple[ArtifactRef, ...] = (),
) -> dict[str, Any]:
    """Write `tokens.zarr/{train,held_out}/{tokens,document}`, each [rows, context length], and documents.parquet.

    Args:
        base: tokens to go on from (see the module); `corpus.spec.tokens` counts theirs too. Where no new document
            fills a row, the result has the base's bytes, hence its digest, and nothing that follows is redone.
        samples: what the model wrote (tasks.samples), of a corpus that has a source of that name; else none.
    """
    tokenizer = load_tokenizer(model)
    end_of_text = tokenizer.eos_token_id
    if not isinstance(end_of_text, int):
        raise ExperimentError("the model's tokenizer has no end-of-text token to separate documents with.")
    writer = TokensWriter(place, corpus.spec, base)
    with Progress("tokenize", writer.capacity_tokens, "tokens", done=writer.tokens) as progress:
        for batch in _batches(writer.new(_documents_in_turn(corpus.spec, *samples))):
            texts = [document.text for document in batch]
            encoded: Any = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            for document, tokens in zip(batch, encoded, strict=True):
                progress.add(writer.add(document, [*tokens, end_of_text]))
            if writer.full:
                break
    return writer.close()


class TokensWriter:
    """The files of a tokens artifact: rows of both splits, and a table of the documents in them; the base's first."""

    def __init__(self, place: Path, spec: CorpusSpec, base: ArtifactRef | None) -> None:
        self.place, self.spec, self.base = place, spec, base
        group = zarr.open_group(LocalDirectory(place / ROWS).zarr_store(), mode="w")
        wanted = {"train": spec.tokens, "held_out": spec.held_out_tokens}
        if base is not None:
            artifacts().verify(base)
            # Fewer than there are already is refused before a run starts; here it means that none is added.
            wanted = {split: max(count, token_rows(base, split).size) for split, count in wanted.items()}
        length = spec.context_length
        self.rows = {split: RowWriter(group.create_group(split), length, wanted[split]) for split in SPLITS}
        columns = ("document", "source", "split", "tokens", "segment", "fingerprint")
        self.table: dict[str, list[Any]] = {column: [] for column in columns}
        self.segments: dict[str, tuple[int, ...]] = dict.fromkeys(SPLITS, ())
        if base is not None:
            for split, rows in self.rows.items():
                rows.copy(token_rows(base, split), document_rows(base, split))
            self.table = read_table(artifacts().path(base) / DOCUMENTS).to_pydict()
            self.segments = {split: segments(base, split) for split in SPLITS}
        self.held = frozenset(self.table["fingerprint"])
        self.met = 0
        """Documents of the base that the sources still give."""

    @property
    def capacity_tokens(self) -> int:
        return sum(rows.capacity_tokens for rows in self.rows.values())

    @property
    def tokens(self) -> int:
        return sum(rows.tokens for rows in self.rows.values())

    @property
    def full(self) -> bool:
        return all(rows.full for split, rows in self.rows.items() if split == "train" or self.base is None)

    def new(self, read: Iterable[Document]) -> Iterator[Document]:
        """The documents that the base does not hold."""
        for document in read:
            if document.fingerprint in self.held:
                self.met += 1
            else:
                yield document

    def add(self, document: Document, tokens: list[int]) -> int:
        """Append a document to its split, unless that is full. Returns the number of tokens taken."""
        split = "train" if self.base else _split(document.text, self.spec)
        if self.rows[split].full:
            return 0
        number = len(self.table["document"])
        self.rows[split].add(tokens, number)
        segment = len(self.segments["train"])
        entry = (number, document.source, split, len(tokens) - 1, segment, document.fingerprint)
        for column, value in zip(self.table.values(), entry, strict=True):
            column.append(value)
        return len(tokens)

    def close(self) -> dict[str, Any]:
        """Finish the files and return notes for the manifest."""
        counts = {split: rows.close() for split, rows in self.rows.items()}
        for split, count in counts.items():
            if count == 0:
                raise ExperimentError(
                    f"the corpus {', '.join(self.spec.sources)} fills no row of {self.spec.context_length} tokens for "
                    f"the {split} split: give it more text, or lower corpus.context_length."
                )
        # What lies wholly behind the last row is not recorded, and so read again when the corpus grows.
        in_rows = 1 + max(rows.last_document for rows in self.rows.values())
        left_over = len(self.table["document"]) - in_rows
        new = in_rows - len(self.held)
        grown = {split: counts[split] - sum(self.segments[split]) for split in SPLITS}
        base = self.base
        if base is not None and not new:
            _say(f"warning: nothing new for {base}: {self.met:,} documents are in it, {left_over:,} others fill no row")
            self._become(base)
            base = base_of(base)
        else:
            write_table(self.place / DOCUMENTS, {name: column[:in_rows] for name, column in self.table.items()})
            if base is not None:
                _say(f"{new:,} new documents follow {base}; {self.met:,} are in it")
        short = [split for split, rows in self.rows.items() if not rows.full]
        for split in short:
            got, asked = self.rows[split].tokens, self.rows[split].capacity_tokens
            _say(f"the corpus gives {got:,} {split} tokens of the {asked:,} asked for")
        return {
            "rows": counts,
            "short_of_wanted": short,
            "documents": {"new": new, "already_there": self.met},
            "base": base.model_dump() if base else None,
            "segments": {split: [*self.segments[split], *([grown[split]] if grown[split] else [])] for split in SPLITS},
        }

    def _become(self, base: ArtifactRef) -> None:
        """Have the very files of the base, whatever version of the libraries wrote them."""
        shutil.rmtree(self.place / ROWS)
        shutil.copytree(artifacts().path(base) / ROWS, self.place / ROWS)
        shutil.copy(artifacts().path(base) / DOCUMENTS, self.place / DOCUMENTS)


class RowWriter:
    """Joins documents and writes rows of exactly the context length; the rest at the end is dropped."""

    def __init__(self, group: zarr.Group, context_length: int, wanted_tokens: int) -> None:
        self.capacity = -(-wanted_tokens // context_length)
        self.capacity_tokens = self.capacity * context_length
        self.context_length = context_length
        # Rows are written in blocks, so memory is bounded, and kept in small chunks: a harvest reads them shuffled.
        self.block = max(1, min(self.capacity, ROWS_PER_WRITE // ROWS_PER_CHUNK * ROWS_PER_CHUNK))
        codecs = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=4), Crc32cCodec())
        self.arrays = [
            group.create_array(
                name,
                shape=(self.capacity, context_length),
                chunks=(min(ROWS_PER_CHUNK, self.capacity), context_length),
                dtype="uint32",
                compressors=codecs,
            )
            for name in ("tokens", "document")
        ]
        self.pending: tuple[list[int], list[int]] = ([], [])
        self.written = 0
        self.last_document = -1
        """The one that ends the last row."""

    @property
    def tokens(self) -> int:
        """In rows."""
        return self.written * self.context_length

    @property
    def full(self) -> bool:
        return self.tokens + len(self.pending[0]) >= self.capacity_tokens

    def copy(self, tokens: zarr.Array, document: zarr.Array) -> None:
        """Begin with the rows of these arrays, of which there must be room for all."""
        count = tokens.shape[0]
        for array, earlier in zip(self.arrays, (tokens, document), strict=True):
            for start in range(0, count, ROWS_PER_WRITE):
                stop = min(start + ROWS_PER_WRITE, count)
                array[start:stop] = earlier[start:stop]
        self.written = count
        self.last_document = int(np.asarray(document[-1])[-1])

    def add(self, tokens: list[int], document: int) -> None:
        self.pending[0].extend(tokens)
        self.pending[1].extend([document] * len(tokens))
        if len(self.pending[0]) >= self.block * self.context_length:
            self._write()

    def close(self) -> int:
        """Write what is left and return the number of rows."""
        self._write()
        for array in self.arrays:
            array.resize((self.written, self.context_length))
        return self.written

    def _write(self) -> None:
        count = min(len(self.pending[0]) // self.context_length, self.capacity - self.written)
        end = count * self.context_length
        if count:
            for array, values in zip(self.arrays, self.pending, strict=True):
                block = np.array(values[:end], dtype=np.uint32).reshape(count, self.context_length)
                array[self.written : self.written + count] = block
            self.last_document = self.pending[1][end - 1]
        self.pending = (self.pending[0][end:], self.pending[1][end:])
        self.written += count


def token_rows(tokens: ArtifactRef, split: str) -> zarr.Array:
    """The token rows of a split, [rows, context length] uint32."""
    return zarr.open_array(artifacts().path(tokens) / ROWS / split / "tokens", mode="r")


def document_rows(tokens: ArtifactRef, split: str) -> zarr.Array:
    """The document of every token of a split, [rows, context length] uint32: a row number of documents.parquet."""
    return zarr.open_array(artifacts().path(tokens) / ROWS / split / "document", mode="r")


class HeldOutRows(NamedTuple):
    """Some rows of the held-out split, in order."""

    tokens: np.ndarray
    documents: np.ndarray
    """Of every token."""
    numbers: np.ndarray
    """Which rows of the split they are."""


def spread(tokens: ArtifactRef, max_tokens: int) -> HeldOutRows:
    """Rows spread evenly over the held-out split, at most `max_tokens` in whole rows (one at least)."""
    held_out, documents = token_rows(tokens, "held_out"), document_rows(tokens, "held_out")
    n, length = held_out.shape
    count = min(n, max(1, max_tokens // length))
    numbers = np.linspace(0, n - 1, count).round().astype(int)
    return HeldOutRows(np.asarray(held_out.oindex[numbers]), np.asarray(documents.oindex[numbers]), numbers)


def segments(tokens: ArtifactRef, split: str) -> tuple[int, ...]:
    """How many rows of a split came when: from the first corpus, then from each extension that added some."""
    return tuple(artifacts().manifest(tokens)["notes"]["segments"][split])


def base_of(tokens: ArtifactRef) -> ArtifactRef | None:
    """The tokens that these extend by their last segment; None for those of a first corpus."""
    base = artifacts().manifest(tokens)["notes"]["base"]
    return ArtifactRef(**base) if base else None


def _documents_in_turn(spec: CorpusSpec, samples: ArtifactRef | None = None) -> Iterator[Document]:
    """One document of each source in turn, without exact repetitions."""
    seen: set[str] = set()
    remaining = [(source, documents(source, spec, samples)) for source in spec.sources]
    while remaining:
        for entry in list(remaining):
            source, texts = entry
            text = next(texts, None)
            if text is None:
                remaining.remove(entry)
                continue
            fingerprint = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
            if fingerprint not in seen:
                seen.add(fingerprint)
                # Half of a surrogate pair, which JSON can hold and tokenizers refuse, becomes a question mark.
                yield Document(source, text.encode("utf-8", "replace").decode("utf-8"), fingerprint)


def _batches(items: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(items)
    while batch := list(islice(iterator, DOCUMENTS_PER_CALL)):
        yield batch


def _split(text: str, spec: CorpusSpec) -> str:
    digest = hashlib.blake2b(f"{spec.seed}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = spec.held_out_tokens / (spec.tokens + spec.held_out_tokens)
    return "held_out" if int.from_bytes(digest, "big") < share * 2**64 else "train"


def _say(text: str) -> None:
    print(f"tokenize  {text}", file=sys.stderr, flush=True)
