"""What of a dictionary other tools take: its weights for SAEBench, what its features do for delphi and Neuronpedia.

    EXPORTS["saebench"](source, directory, provenance)

writes a new directory from that of the dictionary's artifact. The formats that other libraries keep dictionaries in are
in sae_core.interchange.
"""

from collections.abc import Callable
from pathlib import Path

from sae_core.interchange.provenance import Provenance
from tasks.exports import delphi, neuronpedia, saebench

Write = Callable[[Path, Path, Provenance], None]

EXPORTS: dict[str, Write] = {
    "saebench": saebench.write,
    "delphi": delphi.write,
    "neuronpedia": neuronpedia.write,
}

__all__ = ["EXPORTS", "Write"]
