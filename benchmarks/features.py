"""How long it takes to read the features of a dictionary off held-out activations, and how much memory.

    OMP_NUM_THREADS=2 python benchmarks/features.py --features 24576 --tokens 32768

Activations are random rows, and the dictionary a TopK autoencoder as it is initialised, or with --dense a random basis
behind a ReLU: what it costs does not depend on what was learned. Everything that the step writes is written.
"""

import argparse
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from sae_core import TopK, fit_random
from storage.activations import ActivationStore
from storage.latents import Latents, LatentWriter
from storage.layout import StoreLayout
from storage.row_filter import RowFilter
from storage.seeds import seeded_generator
from tasks.feature_tables import coactivation, fragments, histogram, peaks
from tasks.features import encode
from tasks.fragment_windows import cut

HOOK = "blocks.0.hook_resid_post"
CONTEXT = 256


def store_of(root: Path, tokens: int, width: int) -> ActivationStore:
    layout = StoreLayout(
        model="random",
        hook_points={HOOK: width},
        dtype="bfloat16",
        segments=(tokens // CONTEXT,),
        context_length=CONTEXT,
        seed=0,
        tokens_digest="random",
        chunk_rows=8192,
        chunks_per_part=4,
    )
    store = ActivationStore.create(root, layout)
    for part in store.missing_parts():
        sequences = np.asarray(layout.part_sequences(part))
        ids = np.stack(np.meshgrid(sequences, np.arange(CONTEXT), indexing="ij"), -1).reshape(-1, 2)
        store.write_part(part, {HOOK: torch.randn(len(ids), width)}, ids)
    store.seal()
    return ActivationStore.open(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=24_576)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--dense", action="store_true")
    arguments = parser.parse_args()
    width, n = arguments.width, arguments.features
    torch.manual_seed(0)
    rows = torch.randn(4096, width)
    dictionary = fit_random(lambda: iter([rows]), n, 0) if arguments.dense else TopK(width, n, arguments.k)

    tokens_SP = np.random.default_rng(0).integers(0, 50, (arguments.tokens // CONTEXT, CONTEXT))
    documents_SP = (np.arange(tokens_SP.size) // 200).reshape(tokens_SP.shape)
    windows = cut(tokens_SP, documents_SP, dict.fromkeys(range(50), b"a"), 64, seed=0)
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        store = store_of(Path(folder) / "store", arguments.tokens, width)
        before = peak_mib()
        started = time.perf_counter()

        def took(name: str) -> None:
            nonlocal started
            seconds[name] += time.perf_counter() - started
            started = time.perf_counter()

        writer = LatentWriter(Path(folder) / "scratch", tokens_SP, n)
        _, kept_SP = encode(dictionary, store, HOOK, RowFilter(), writer, "cpu")
        took("encode")
        writer.close(Path(folder) / "latents", {})
        took("sort and write")
        latents = Latents.open(Path(folder) / "latents")
        for part, entries in enumerate(latents.parts()):
            fragments(peaks(entries, windows.number(tokens_SP.shape)), windows, seeded_generator("fragments", 0, part))
            histogram(entries)
        took("fragments and histogram")
        coactivation(latents, kept_SP, seed=0)
        took("co-activation")
        size = sum(file.stat().st_size for file in (Path(folder) / "latents").iterdir())
    print(
        f"{n:,} features, {arguments.tokens:,} tokens, {int(latents.counts_n.sum()):,} codes, {size / 2**20:,.0f} MiB"
    )
    print(f"{sum(seconds.values()):.1f} s: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    print(f"memory: {before:,.0f} MiB before, {peak_mib():,.0f} MiB at most; {torch.get_num_threads()} threads")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
