"""Checkpoints: tensors and a JSON state in one safetensors file that appears whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from storage.durable import write_whole
from storage.errors import StorageError
from storage.records import canonical_json, pack_record, unpack_record

# One entry: safetensors writes several in no fixed order, and equal checkpoints must be equal files.
_METADATA = "saeflow"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and `state` (plain JSON) to `path`, atomically and durably.

    Raises OutOfSpace; TypeError or ValueError when `state` is not finite JSON. The file before stays then.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # As text of its own, so that what is loaded has its keys in the order they had.
    text = json.dumps(state, allow_nan=False)
    record = pack_record({"state": text, "tensors_crc32c": _checksum(plain)})
    write_whole(path, save(plain, {_METADATA: record.decode()}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors, on the CPU, and the state; None if there is no file. Raises StorageError when damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = unpack_record(file.metadata()[_METADATA].encode())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if record["tensors_crc32c"] != _checksum(tensors):
        raise _damaged(path, "the tensors do not match their checksum")
    return tensors, json.loads(record["state"])


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """crc32c over names, dtypes, shapes and bytes of the tensors, in the order of their names."""
    checksum = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        header = canonical_json([name, str(tensor.dtype), list(tensor.shape)])
        checksum = google_crc32c.extend(checksum, header)
        checksum = google_crc32c.extend(checksum, tensor.reshape(-1).view(torch.uint8).numpy())
    return checksum


def _damaged(path: Path, problem: str) -> StorageError:
    return StorageError(f"the checkpoint {path} is damaged: {problem}. It cannot be gone on from.")
