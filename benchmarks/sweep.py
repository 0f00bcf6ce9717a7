"""What does a sweep gain from one pass over the data, and would stacking its dictionaries gain more?

    python benchmarks/sweep.py [--threads 1]

Trains 8 tied autoencoders of the same shape and different α: each alone over the data, all in one pass
(`train_together`), and stacked on a model axis (one batched product for all, as the paper's own code does on a GPU).
Rows/s count a row once for each dictionary that is trained on it. Also: do the stacked ones end with the same bits?
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core import TiedReLU, Trainer, TrainingConfig
from sae_core.sweep import train_together

MODELS = 8
ALPHAS = torch.logspace(-4, -2, MODELS)


def data(d: int, batch: int, steps: int) -> list[Tensor]:
    """Stored in bfloat16 and normalised when read, as an activation store's batches are."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, d, generator=generator).bfloat16() for _ in range(steps)]


def read(stored: list[Tensor]) -> Iterator[Tensor]:
    return ((rows.float() - 0.1) / 1.1 for rows in stored)


def trainers(d: int, n: int, steps: int, dtype: str) -> dict[str, Trainer]:
    config = TrainingConfig(steps=steps, compute_dtype=dtype, gradient_clip=None, log_every=steps)  # pyright: ignore[reportArgumentType]
    return {f"{alpha:.1e}": Trainer(TiedReLU(d, n, alpha.item()), config) for alpha in ALPHAS}


def stacked(start: Tensor, batches: Iterator[Tensor], bfloat16: bool) -> Tensor:
    """The same training with a model axis in front, M: W [M, n, d]."""
    W, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.zeros(start.shape[:2]))
    optimizer = torch.optim.Adam([W, b], lr=1e-3, fused=True)
    for x in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            U = F.normalize(W, dim=2, eps=1e-8)
            rows = x.expand(MODELS, *x.shape)
            codes = (torch.bmm(rows, U.mT) + b[:, None]).relu()
            rebuilt = torch.bmm(codes, U)
            mse = (rebuilt - rows).square().mean((1, 2))
            loss = (mse + ALPHAS * codes.sum(2, dtype=torch.float32).mean(1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return W.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for d, n, batch, steps, dtype in [(64, 256, 512, 100, "float32"), (576, 1152, 1024, 12, "auto")]:
        stored = data(d, batch, steps)

        def alone(d: int = d, n: int = n, dtype: str = dtype, stored: list[Tensor] = stored) -> dict[str, Trainer]:
            made = trainers(d, n, len(stored), dtype)
            for trainer in made.values():
                trainer.train(read(stored))
            return made

        def together(d: int = d, n: int = n, dtype: str = dtype, stored: list[Tensor] = stored) -> dict[str, Trainer]:
            made = trainers(d, n, len(stored), dtype)
            train_together(made, read(stored))
            return made

        fresh = trainers(d, n, steps, dtype)
        bfloat16 = next(iter(fresh.values())).bfloat16
        start = torch.stack([trainer.parameters["W_nd"].detach() for trainer in fresh.values()])
        runs: dict[str, Callable] = {
            "alone": alone,
            "one pass": together,
            "stacked": lambda start=start, stored=stored, bf=bfloat16: stacked(start, read(stored), bf),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        results = {}
        for _ in range(4):  # alternating, so that the machine's moods meet all of them
            for name, run in runs.items():
                started = time.perf_counter()
                results[name] = run()
                seconds[name].append(time.perf_counter() - started)
        best = {name: min(values[1:]) for name, values in seconds.items()}
        print(f"d={d} n={n} batch={batch} {dtype}, {MODELS} dictionaries, {arguments.threads} threads")
        for name, value in best.items():
            rate = MODELS * batch * steps / value
            print(f"  {name:9s} {rate:9,.0f} rows/s   {best['alone'] / value:.2f}x of alone")
        one = torch.stack([trainer.parameters["W_nd"].detach() for trainer in results["one pass"].values()])
        each = torch.stack([trainer.parameters["W_nd"].detach() for trainer in results["alone"].values()])
        print(f"  one pass bit-identical to alone: {torch.equal(one, each)}", end="; ")
        print(f"stacked: {torch.equal(results['stacked'], each)}, off by {(results['stacked'] - each).abs().max():.1e}")


if __name__ == "__main__":
    main()
