"""Tables as Parquet files, which pandas, DuckDB and Polars open as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.durable import write_whole


def write_table(path: Path, table: Mapping[str, Sequence[Any] | Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write columns {name: values} or rows [{name: value}, …] to `path`; equal tables give equal bytes.

    Raises pyarrow.ArrowInvalid for columns of different lengths or mixed types, OutOfSpace.
    """
    columns = pa.table(dict(table)) if isinstance(table, Mapping) else pa.Table.from_pylist(list(table))
    buffer = pa.BufferOutputStream()
    pq.write_table(columns, buffer, compression="zstd")
    write_whole(path, buffer.getvalue().to_pybytes())


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole table, or these columns of it."""
    return pq.read_table(path, columns=None if columns is None else list(columns))
