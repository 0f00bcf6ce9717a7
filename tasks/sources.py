"""The documents of a corpus source: files, the documentation of an installed package, a dataset of the hub, or samples
that the model itself wrote.
"""

import ast
import hashlib
import importlib.metadata
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import ArtifactRef
from tasks.errors import ExperimentError
from tasks.samples import documents_of, is_samples, kinds_of
from tasks.specs import CorpusSpec

TEXT_FILES = {".txt", ".jsonl", ".parquet"}
SHORTEST_DOCSTRING = 200  # characters: shorter ones are mostly one-line summaries of getters
LONGEST_PIECE = 4_000  # characters of whole paragraphs that make one document of a .txt file


def documents(source: str, spec: CorpusSpec, samples: ArtifactRef | None = None) -> Iterator[str]:
    """The documents of one source, one after another. Those of samples are in an artifact, once they are written."""
    if is_samples(source):
        kinds = kinds_of(source)
        return documents_of(samples, kinds) if samples else iter(())
    if source.startswith("package:"):
        return _docstrings(source.removeprefix("package:"), spec.seed)
    if source.startswith("hf:"):
        return _dataset(source.removeprefix("hf:"), spec)
    return (text for file in _text_files(source) for text in _file_documents(file, spec.text_field))


def identity(source: str) -> str:
    """What identifies the text of a source: a version, a commit or a sha256; of samples what asks for them."""
    if is_samples(source):
        return " ".join(kinds_of(source))
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
