"""Text to token rows.

Documents of all sources are read in turn, tokenised, each closed by the end-of-text token, joined, and cut to
rows of exactly the context length. A document belongs to the held-out split or to the training split by a hash
of its text, so no text is in both; exact repetitions are dropped.
"""

import ast
import hashlib
import importlib.metadata
import json
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from pydantic import BaseModel
from zarr.codecs import BloscCodec, Crc32cCodec

from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import artifacts, step
from tasks.errors import ExperimentError
from tasks.language_model import load_tokenizer
from tasks.progress import Progress
from tasks.specs import CorpusSpec

SPLITS = ("train", "held_out")
TEXT_FILES = {".txt", ".jsonl", ".parquet"}
SHORTEST_DOCSTRING = 200  # characters: shorter ones are mostly one-line summaries of getters
LONGEST_PIECE = 4_000  # characters of whole paragraphs that make one document of a .txt file
ROWS_PER_CHUNK = 64
ROWS_PER_WRITE = 4096
DOCUMENTS_PER_CALL = 256  # of the tokenizer


class LocatedCorpus(BaseModel, frozen=True):
    """A corpus whose sources were found, each with what identifies its text: a version, a commit or a sha256."""

    spec: CorpusSpec
    identities: tuple[str, ...]


def locate(spec: CorpusSpec) -> LocatedCorpus:
    """Find every source and identify its text.

    Raises:
        ExperimentError: a source does not exist or holds no text.
    """
    identities = []
    for source in spec.sources:
        identities.append(_identity(source))
        if next(documents(source, spec), None) is None:
            raise ExperimentError(f"corpus source {source!r} holds no text. Name another in corpus.sources.")
    return LocatedCorpus(spec=spec, identities=tuple(identities))


@step(kind="tokens", code_version="1")
def tokenize(place: Path, model: ArtifactRef, corpus: LocatedCorpus) -> dict[str, Any]:
    """Write `tokens.zarr/{train,held_out}/{tokens,document}`, each [rows, context length], and documents.parquet."""
    spec = corpus.spec
    tokenizer = load_tokenizer(model)
    end_of_text = tokenizer.eos_token_id
    if not isinstance(end_of_text, int):
        raise ExperimentError("the model's tokenizer has no end-of-text token to separate documents with.")
    group = zarr.open_group(place / "tokens.zarr", mode="w")
    wanted = {"train": spec.tokens, "held_out": spec.held_out_tokens}
    rows = {split: RowWriter(group.create_group(split), spec.context_length, wanted[split]) for split in SPLITS}
    table: dict[str, list[Any]] = {"document": [], "source": [], "split": [], "tokens": []}

    with Progress("tokenize", sum(writer.capacity_tokens for writer in rows.values()), "tokens") as progress:
        for batch in _batches(_documents_in_turn(spec)):
            encoded: Any = tokenizer([text for _, text in batch], add_special_tokens=False, verbose=False)["input_ids"]
            for (source, text), tokens in zip(batch, encoded, strict=True):
                split = _split(text, spec)
                if rows[split].full:
                    continue
                rows[split].add([*tokens, end_of_text], document=len(table["document"]))
                progress.add(len(tokens) + 1)
                for name, value in zip(table, (len(table["document"]), source, split, len(tokens)), strict=True):
                    table[name].append(value)
            if all(writer.full for writer in rows.values()):
                break
    counts = {split: writer.close() for split, writer in rows.items()}
    for split, count in counts.items():
        if count == 0:
            raise ExperimentError(
                f"the corpus {', '.join(spec.sources)} fills no row of {spec.context_length} tokens for the {split} "
                "split: give it more text, or lower corpus.context_length."
            )
    write_table(place / "documents.parquet", table)
    short = [split for split in SPLITS if not rows[split].full]
    for split in short:
        got, asked = counts[split] * spec.context_length, wanted[split]
        print(f"tokenize  the corpus gives {got:,} {split} tokens of the {asked:,} asked for", file=sys.stderr)
    return {"rows": counts, "short_of_wanted": short}


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

    @property
    def full(self) -> bool:
        return self.written * self.context_length + len(self.pending[0]) >= self.capacity_tokens

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
        self.pending = (self.pending[0][end:], self.pending[1][end:])
        self.written += count


def token_rows(tokens: ArtifactRef, split: str) -> zarr.Array:
    """The token rows of a split, [rows, context length] uint32."""
    return zarr.open_array(artifacts().path(tokens) / "tokens.zarr" / split / "tokens", mode="r")


def documents(source: str, spec: CorpusSpec) -> Iterator[str]:
    """The documents of one source, one after another."""
    if source.startswith("package:"):
        return _docstrings(source.removeprefix("package:"), spec.seed)
    if source.startswith("hf:"):
        return _dataset(source.removeprefix("hf:"), spec)
    return (text for file in _text_files(source) for text in _file_documents(file, spec.text_field))


def _documents_in_turn(spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    """(source, document), one of each source in turn, without exact repetitions."""
    seen: set[bytes] = set()
    remaining = [(source, documents(source, spec)) for source in spec.sources]
    while remaining:
        for entry in list(remaining):
            source, texts = entry
            text = next(texts, None)
            if text is None:
                remaining.remove(entry)
                continue
            fingerprint = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if fingerprint not in seen:
                seen.add(fingerprint)
                # Half of a surrogate pair, which JSON can hold and tokenizers refuse, becomes a question mark.
                yield source, text.encode("utf-8", "replace").decode("utf-8")


def _batches(items: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, DOCUMENTS_PER_CALL)):
        yield batch


def _split(text: str, spec: CorpusSpec) -> str:
    digest = hashlib.blake2b(f"{spec.seed}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = spec.held_out_tokens / (spec.tokens + spec.held_out_tokens)
    return "held_out" if int.from_bytes(digest, "big") < share * 2**64 else "train"


def _identity(source: str) -> str:
    if source.startswith("package:"):
        name = source.removeprefix("package:")
        try:
            # A local build tag (torch 2.13.0+cpu) does not change the documentation.
            return importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            raise ExperimentError(
                f"corpus source {source!r}: package {name!r} is not installed. Install it or take it out of "
                "corpus.sources."
            ) from None
    if source.startswith("hf:"):
        return _dataset_commit(source.removeprefix("hf:"))
    digest = hashlib.sha256()
    for file in _text_files(source):
        with file.open("rb") as stream:
            # The name tells the format.
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _text_files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in TEXT_FILES)
    elif path.is_file() and path.suffix in TEXT_FILES:
        files = [path]
    else:
        files = []
    if not files:
        raise ExperimentError(
            f"corpus source {source!r} is no .txt, .jsonl or .parquet file, and no directory that holds one. "
            "For a hub dataset write hf:NAME, for the documentation of an installed package package:NAME."
        )
    return files


def _file_documents(file: Path, text_field: str) -> Iterator[str]:
    try:
        yield from _parsed(file, text_field)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise ExperimentError(f"corpus file {file} is no valid {file.suffix} file: {error}") from error


def _parsed(file: Path, text_field: str) -> Iterator[str]:
    if file.suffix == ".txt":
        yield from _pieces(file)
    elif file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _text_of(_json_line(line, file, number), text_field, f"{file} line {number}")
    else:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield from _text_of(record, text_field, str(file))


def _json_line(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ExperimentError(f"corpus file {file}, line {number} is not JSON: {error.msg}") from error


def _text_of(record: Any, text_field: str, where: str) -> Iterator[str]:
    if not isinstance(record, dict) or text_field not in record:
        fields = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise ExperimentError(f"{where} has no field {text_field!r} (it has {fields}). Set corpus.text_field.")
    if record[text_field]:
        yield str(record[text_field])


def _pieces(file: Path) -> Iterator[str]:
    """Whole paragraphs joined up to a size: a book becomes many documents, so that some can be held out.

    Where no paragraph ends for twice that size, any line may end a piece.
    """
    piece: list[str] = []
    length = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            piece.append(line)
            length += len(line)
            if length > (2 * LONGEST_PIECE if line.strip() else LONGEST_PIECE):
                yield "".join(piece)
                piece, length = [], 0
    if "".join(piece).strip():
        yield "".join(piece)


def _docstrings(package: str, seed: int) -> Iterator[str]:
    """The documentation strings of a package's modules, classes and functions; files in an order set by the seed."""
    files = [file for file in importlib.metadata.files(package) or [] if file.suffix == ".py"]
    files.sort(key=str)
    random.Random(seed).shuffle(files)
    for file in files:
        path = Path(str(file.locate()))
        if not path.is_file():
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # other people's invalid escapes
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other Python versions
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= SHORTEST_DOCSTRING:
                    yield text


def _dataset(name: str, spec: CorpusSpec) -> Iterator[str]:
    from datasets import load_dataset  # takes seconds to import, and few corpora need it

    commit = _dataset_commit(name)
    try:
        stream = load_dataset(name, split=spec.hf_split, streaming=True, revision=commit)
    except (OSError, ValueError) as error:
        raise ExperimentError(f"dataset {name!r}, split {spec.hf_split!r}, cannot be read: {error}") from error
    for record in stream:
        yield from _text_of(record, spec.text_field, f"dataset {name}")


def _dataset_commit(name: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, timeout=10).sha)
    except Exception as error:  # the client also raises what its HTTP library does, whichever that is
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExperimentError(
            f"corpus source 'hf:{name}' cannot be reached on the Hugging Face hub ({reason}). Use a local file, or "
            "package:NAME for the documentation of an installed package."
        ) from error
