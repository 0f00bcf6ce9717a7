"""What every method of this library is: a dictionary of n directions in a d-dimensional activation space.

    f = encode(x)        x̂ = decode(f)        directions: n unit vectors, one feature a row

Learned or baseline, a dictionary has this interface and these two files, so an evaluation runs on all of them
alike.

Shapes: B rows, d activation width, n features. Every weight has one feature a row (`W_enc_nd`, `W_dec_nd`).
"""

import copy
import difflib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_FILE = "dictionary.safetensors"
CONFIG_FILE = "config.json"

Entry = TypeVar("Entry")
Class = TypeVar("Class", bound="type[Dictionary]")

DICTIONARIES: dict[str, type["Dictionary"]] = {}
"""Every method that can be loaded, by the name that its config.json carries; filled by `register`."""


def register(cls: Class) -> Class:
    """Class decorator: make a dictionary loadable under its `method` name."""
    DICTIONARIES[cls.method] = cls
    return cls


def named(name: str, known: dict[str, Entry]) -> Entry:
    """`known[name]`, or a ValueError that lists the nearest names."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=2) or sorted(known)
        raise ValueError(f"method {name!r} does not exist. Nearest: {', '.join(nearest)}")
    return known[name]


class Dictionary(nn.Module, ABC):
    """n feature directions with an encoder and a decoder. Rows may carry any leading dimensions."""

    method: ClassVar[str]
    """The name in config.json and in the registry."""

    def __init__(self, d_in: int, n_features: int):
        super().__init__()
        if d_in < 1 or n_features < 1:
            raise ValueError(f"{self.method}: d_in={d_in} and n_features={n_features} must both be at least 1")
        self.d_in = d_in
        self.n_features = n_features

    @abstractmethod
    def encode(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        """Codes of activations: how much of each feature is in each row."""

    @abstractmethod
    def decode(self, f_Bn: Float[Tensor, "*B n"]) -> Float[Tensor, "*B d"]:
        """Activations rebuilt from codes."""

    def forward(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
        """The reconstruction x̂ = decode(encode(x))."""
        return self.decode(self.encode(x_Bd))

    @property
    def weight(self) -> Tensor:
        """One of its tensors: their device and dtype are those that rows must have."""
        return next(iter(self.state_dict().values()))

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "n d"]:
        """What each feature writes, as unit vectors, one feature a row."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able: `type(self)(**self.config())` has the same shapes."""

    @abstractmethod
    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        """In place: act on x = scale·z + mean as the dictionary acted on z, codes scale times as large."""

    def fold_normalization(self, mean_d: Float[Tensor, "d"], scale: float) -> Self:
        """A new dictionary for raw x that does exactly what this one does for (x − mean) / scale.

        Directions stay the same unit vectors and codes come out in raw units:

            folded.encode(x) = scale · encode((x − mean) / scale)
            folded(x)        = scale · self((x − mean) / scale) + mean
        """
        if tuple(mean_d.shape) != (self.d_in,) or not scale > 0:
            raise ValueError(
                f"{self.method}: a normalization needs a mean of shape [{self.d_in}] and a positive scale, "
                f"got shape {list(mean_d.shape)} and scale {scale}"
            )
        folded = copy.deepcopy(self)
        with torch.no_grad():
            folded._to_raw_units(mean_d.to(folded.weight), scale)
        return folded

    def unfold_normalization(self, mean_d: Float[Tensor, "d"], scale: float) -> Self:
        """The inverse: of a dictionary for raw x, a new one that does the same for (x − mean) / scale.

        The normalization need not be the one that was folded in, so a dictionary that was trained on other rows can
        be trained further on these.
        """
        return self.fold_normalization(-mean_d.double() / scale, 1 / scale)

    def check_rows(self, x_Bd: Tensor) -> None:
        """Raise ValueError unless the last dimension is this dictionary's activation width."""
        if x_Bd.ndim == 0 or x_Bd.shape[-1] != self.d_in:
            raise ValueError(
                f"{self.method} acts on activations of width {self.d_in}, got shape {list(x_Bd.shape)}. "
                "Give it the hook point that it was made for"
            )

    def save(self, directory: Path | str, extra: dict[str, Any] | None = None) -> None:
        """Write `dictionary.safetensors` and `config.json`; `extra` is recorded in the latter as it is."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        config = {
            "method": self.method,
            "arguments": self.config(),
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            "extra": extra or {},
        }
        save_file(tensors, directory / WEIGHTS_FILE)
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")


def load_dictionary(directory: Path | str) -> Dictionary:
    """The dictionary that `Dictionary.save` wrote, bit for bit, on the CPU.

    Raises FileNotFoundError when a file is missing; ValueError when the method is unknown or the two files
    disagree.
    """
    directory = Path(directory)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} holds no dictionary: {name} is missing")
    config = json.loads((directory / CONFIG_FILE).read_text())
    tensors = load_file(directory / WEIGHTS_FILE)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    dictionary = named(config["method"], DICTIONARIES)(**config["arguments"])
    expected = {name: list(tensor.shape) for name, tensor in dictionary.state_dict().items()}
    if not shapes == config["shapes"] == expected:
        raise ValueError(
            f"{directory}: {WEIGHTS_FILE} holds {shapes} where {CONFIG_FILE} describes {expected}. "
            "The two files are not of one dictionary; make it again"
        )
    dictionary.load_state_dict(tensors, assign=True)  # assign: the file's dtype stays
    return dictionary
