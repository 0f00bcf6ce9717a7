"""Files of other libraries: read without trusting them, written whole or not at all.

Nothing in a foreign file is taken for granted. A key that is missing or of the wrong type, a tensor of the wrong shape,
a file that cannot be parsed: each becomes one ValueError that names the file, the key and what was expected.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class ForeignConfig:
    """A JSON object and the file that it comes from. Keys of nested objects are joined by dots: `trainer.k`."""

    file: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path) -> "ForeignConfig":
        try:
            values = json.loads(_existing(file).read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds a {type(values).__name__} where a JSON object was expected")
        return cls(file, values)

    def get(self, key: str) -> Any:
        """The value of a key that may be missing; None then."""
        value: Any = self.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def whole(self, key: str, most: int | None = None) -> int:
        """A positive integer that must be there, and not above `most`."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
            raise self.error(key, "a positive whole number" + (f" up to {most}" if most is not None else ""))
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "true or false")
        return default if value is None else value

    def text(self, key: str) -> str | None:
        """A string for the provenance: whatever else stands there is as good as not known."""
        value = self.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """A whole number for the provenance."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def error(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.file}: {key} is {json.dumps(self.get(key))[:80]} where {expected} was expected")


@dataclass(frozen=True)
class ForeignWeights:
    """Named tensors and the file that they come from."""

    file: Path
    tensors: Mapping[str, Tensor]

    @classmethod
    def read_safetensors(cls, file: Path) -> "ForeignWeights":
        try:
            return cls(file, load_file(_existing(file)))
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error

    @classmethod
    def read_torch(cls, file: Path) -> "ForeignWeights":
        """A state dict that torch.save wrote. No code in the file is run."""
        try:
            tensors = torch.load(_existing(file), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises whatever it stumbles over
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{file} cannot be read as tensors alone (torch.load, weights_only): {reason}") from error
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(f"{file} holds something else than a flat state dict of tensors")
        return cls(file, tensors)

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor that must be there in this shape, in float32, which holds half precision exactly."""
        if name not in self.tensors:
            raise ValueError(f"{self.file}: tensor {name} is missing; it holds {', '.join(sorted(self.tensors))}")
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self.file}: tensor {name} has shape {list(tensor.shape)} where {list(shape)} was expected"
            )
        return tensor.to(torch.float32)


def write_directory(directory: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a directory beside `directory`, then give it its name: it is there whole or not at all.

    Raises ValueError when `directory` is already there and not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is already there and not empty. Choose another directory, or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    partial.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
    try:
        write(partial)
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def as_saved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a file takes them: contiguous, on the CPU, each with memory of its own, real numbers in float32."""
    return {
        name: tensor.detach()
        .to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        .contiguous()
        for name, tensor in tensors.items()
    }


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return file
