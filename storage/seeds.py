"""Where randomness comes from: a generator for every named use of a seed."""

import hashlib

import torch

from storage.records import canonical_json


def seeded_generator(use: str, *numbers: int) -> torch.Generator:
    """A generator that depends on exactly these arguments, on every machine and in every process.

    The first 8 bytes of the sha256 of their JSON are the seed, so that ("rows", 1, 2) and ("rows", 2, 1), or
    one seed put to two uses, have nothing in common.
    """
    mixed = hashlib.sha256(canonical_json([use, *numbers])).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "big", signed=True))
