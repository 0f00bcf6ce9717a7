"""How fast is shuffled reading, does training notice that its rows come from disk, and what does int8 cost?

    python -m benchmarks.activation_store [--tokens 131072] [--steps 300] [--threads 2] [--home DIR]

Layer 9 of SmolLM2-135M (d = 576), harvested once as bfloat16 and once as int8.

    reading    rows/s of `iter_batches`, batches of 2048, from disk and from memory, with and without the row filter
    shuffling  deff: variance of the mean of a shuffled batch relative to that of independent rows
    training   TopK (n = 2304, k = 32, batch 1024): rows/s from the store, relative to rows that are a float32 tensor
    int8       variance lost, and the held-out FVU of the same TopK trained on either store

Contestants take turns, and medians of the ratios within a round are told: other work on the machine meets all of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from flows.command import prepare_environment
from sae_core import TopK, Trainer, TrainingConfig, fit_normalization
from sae_core.metrics import ReconstructionMetrics
from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.batches import BatchStream
from storage.row_filter import RowFilter
from tasks import corpus, language_model
from tasks.activation_statistics import describe
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.harvest import harvest
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec

HOOK = "blocks.9.hook_resid_post"
KEEP = RowFilter()
ROUNDS = 5


def harvested(dtype: str, tokens: int, threads: int) -> ArtifactRef:
    model = language_model.prepare_model.build(located=language_model.locate(ModelSpec()))
    spec = corpus.locate(CorpusSpec(tokens=tokens))
    return harvest.build(
        model=model,
        tokens=corpus.tokenize.build(model=model, corpus=spec, base=None),
        hook_points=(HOOK,),
        dtype=language_model.resolve_dtype("auto", "cpu"),
        storage=StorageSpec(dtype=dtype),  # pyright: ignore[reportArgumentType]
        compute=Compute(threads=threads),
    )


def opened(activations: ArtifactRef, split: str, resident_bytes: int = 0) -> ActivationStore:
    return ActivationStore.open(artifacts().location(activations).child(split), resident_bytes)


def reading(activations: ArtifactRef) -> None:
    cases = {
        "from disk": (opened(activations, "train"), None),
        "from disk, filtered": (opened(activations, "train"), KEEP),
        "from memory, filtered": (opened(activations, "train", 1 << 30), KEEP),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for epoch in range(ROUNDS + 1):
        for name, (store, keep) in cases.items():
            started = time.perf_counter()
            rows = sum(len(batch) for batch in store.iter_batches(HOOK, 2048, seed=0, epoch=epoch, keep=keep))
            rates[name].append(rows / (time.perf_counter() - started))
    for name, values in rates.items():
        print(f"  {name:24}{statistics.median(values[1:]):12,.0f} rows/s")


def from_memory(rows: Tensor, batch: int) -> Iterator[Tensor]:
    """What the store is compared with: all rows at hand as a float32 tensor, a random batch gathered at a time."""
    epoch = 0
    while True:
        for chosen in torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).split(batch):
            if len(chosen) == batch:
                yield rows[chosen]
        epoch += 1


def training(activations: ArtifactRef, steps: int) -> None:
    store, resident = opened(activations, "train"), opened(activations, "train", 1 << 30)
    rows = torch.cat([chunk for chunk, _ in store.iter_rows(HOOK, KEEP)])
    normalization = fit_normalization(iter(rows.split(8192)))
    list(resident.iter_rows(HOOK, KEEP))
    streams: dict[str, Callable[[], Iterator[Tensor]]] = {
        "tensor in memory": lambda: from_memory(rows, 1024),
        "store on disk": lambda: iter(BatchStream(store, HOOK, 1024, seed=0, keep=KEEP)),
        "store kept in memory": lambda: iter(BatchStream(resident, HOOK, 1024, seed=0, keep=KEEP)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(ROUNDS + 1):
        for name, stream in streams.items():
            trainer = Trainer(TopK(rows.shape[1], 4 * rows.shape[1], 32), TrainingConfig(steps=steps))
            started = time.perf_counter()
            trainer.train(map(normalization.apply, islice(stream(), steps)))
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        ratios = [base / value for base, value in zip(seconds["tensor in memory"], values, strict=True)][1:]
        rate = steps * 1024 / statistics.median(values[1:])
        print(f"  {name:24}{rate:12,.0f} rows/s   {statistics.median(ratios):.3f} of the tensor")


def trained(activations: ArtifactRef, steps: int) -> TopK:
    store = opened(activations, "train", 1 << 30)
    normalization = fit_normalization(rows for rows, _ in store.iter_rows(HOOK, KEEP))
    trainer = Trainer(TopK(576, 2304, 32), TrainingConfig(steps=steps, lr_decay_steps=steps // 5))
    stream = BatchStream(store, HOOK, 1024, seed=0, keep=KEEP)
    trainer.train(map(normalization.apply, islice(stream, steps)))
    return trainer.dictionary.unit_norm().fold_normalization(normalization.mean_d, normalization.scale)  # pyright: ignore[reportReturnType]


@torch.inference_mode()
def fvu(dictionary: TopK, activations: ArtifactRef) -> float:
    metrics = ReconstructionMetrics(dictionary.n_features)
    for rows, _ in opened(activations, "held_out").iter_rows(HOOK, KEEP):
        codes = dictionary.encode(rows)
        metrics.update(rows, dictionary.decode(codes), codes)
    return metrics.result().values["fvu"]  # pyright: ignore[reportReturnType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home")
    arguments = parser.parse_args()
    prepare_environment(arguments.home or tempfile.mkdtemp())
    torch.set_num_threads(arguments.threads)
    bfloat16, int8 = (harvested(dtype, arguments.tokens, arguments.threads) for dtype in ("bfloat16", "int8"))
    for name, activations in (("bfloat16", bfloat16), ("int8", int8)):
        print(f"reading, {name}, {arguments.threads} threads")
        reading(activations)
    print("shuffling")
    shuffle = describe(opened(bfloat16, "train"), HOOK, KEEP)["shuffle"]
    print(f"  deff {shuffle['deff']:.3f} at batch {shuffle['batch']}, over {shuffle['batches']} batches")
    print(f"training, {arguments.steps} steps")
    training(bfloat16, arguments.steps)
    print(f"int8 beside bfloat16, {4 * arguments.steps} steps")
    for name, activations in (("bfloat16", bfloat16), ("int8", int8)):
        lost = opened(activations, "train").statistics(HOOK).lost_variance
        size = sum(file["size"] for file in artifacts().manifest(activations)["files"])
        held_out = fvu(trained(activations, 4 * arguments.steps), bfloat16)
        print(
            f"  {name:10}{size / 2**20:8.1f} MiB   variance lost {lost:.1e}   FVU of held-out bfloat16 {held_out:.4f}"
        )


if __name__ == "__main__":
    main()
