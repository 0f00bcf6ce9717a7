"""Dictionaries of other libraries, read and written: SAELens, dictionary_learning and EleutherAI's sparsify.

    FORMATS["saelens"].write(dictionary, directory, Provenance(model_name=…, hook_name=…))
    dictionary = FORMATS[detect(directory)].read(directory)

What is written does in the other library what it does here, and the other way round: folded where the two write one
function differently, refused with a ValueError where one cannot say what the other does. Nothing is approximated.
tests/peers holds that against the libraries themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sae_core.dictionary import Dictionary
from sae_core.interchange import dictionary_learning, saelens, sparsify
from sae_core.interchange.provenance import Provenance


@dataclass(frozen=True)
class Format:
    """How one library keeps a dictionary in a directory."""

    config_file: str
    weights_file: str
    read: Callable[[Path], Dictionary]
    read_provenance: Callable[[Path], Provenance]
    write: Callable[[Dictionary, Path, Provenance], None]

    @property
    def files(self) -> tuple[str, str]:
        return self.config_file, self.weights_file


FORMATS: dict[str, Format] = {
    module.NAME: Format(module.CONFIG_FILE, module.WEIGHTS_FILE, module.read, module.read_provenance, module.write)
    for module in (saelens, dictionary_learning, sparsify)
}


def detect(directory: Path) -> str:
    """The name of the format that `directory` is in, by its files. Raises ValueError where it is in none."""
    for name, form in FORMATS.items():
        if all((directory / file).is_file() for file in form.files):
            return name
    inside = sorted({file.parent for form in FORMATS.values() for file in directory.glob(f"*/{form.weights_file}")})
    found = f" Directories inside it that are: {', '.join(map(str, inside[:5]))}." if inside else ""
    needed = "; ".join(f"{name}: {' and '.join(form.files)}" for name, form in FORMATS.items())
    raise ValueError(f"{directory} holds no dictionary of a known format ({needed}).{found}")


__all__ = ["FORMATS", "Format", "Provenance", "detect"]
