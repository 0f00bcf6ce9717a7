"""Rows per second of one TopK training step: plain float32 autograd against the path that `Trainer` takes.

    python benchmarks/topk_step.py --threads 2

Both variants train the same dictionary on the same rows; they take turns, so that both see the same machine.
The plain one is the textbook: dense codes, autograd's dense backward, float32, Adam without fusing.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sae_core import TopK, Trainer, TrainingConfig
from sae_core.architectures.base import reconstruction_error


def plain_step(d_in: int, n_features: int, k: int) -> Callable[[torch.Tensor], None]:
    """A step of dense float32 autograd on `TopK.encode` and `TopK.decode`, which say what TopK is."""
    topk = TopK(d_in, n_features, k)
    optimizer = torch.optim.Adam(topk.parameters(), lr=1e-3)

    def step(x_Bd: torch.Tensor) -> None:
        f_Bn = topk.encode(x_Bd)
        _, fvu = reconstruction_error(x_Bd, topk.decode(f_Bn))
        optimizer.zero_grad()
        fvu.backward()
        topk.constrain_gradients()
        torch.nn.utils.clip_grad_norm_(topk.parameters(), 1.0)
        optimizer.step()
        topk.constrain_parameters()
        (f_Bn > 0).sum(0)  # the statistics that dead features are known by

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--features", type=int, default=2304)
    parser.add_argument("--k", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, width, features, k = arguments.batch, arguments.width, arguments.features, arguments.k

    trainers = {
        dtype: Trainer(TopK(width, features, k), TrainingConfig(steps=10**9, compute_dtype=dtype))
        for dtype in ("float32", "auto")
    }
    variants: dict[str, Callable[[torch.Tensor], None]] = {
        "plain float32": plain_step(width, features, k),
        "sparse float32": trainers["float32"].step,
        "sparse bfloat16" if trainers["auto"].bfloat16 else "sparse float32 (no bf16)": trainers["auto"].step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    generator = torch.Generator().manual_seed(0)
    for index in range(arguments.steps + 3):
        x_Bd = torch.randn(batch, width, generator=generator)
        for name, step in variants.items():
            start = time.perf_counter()
            step(x_Bd)
            if index >= 3:
                seconds[name].append(time.perf_counter() - start)

    print(f"TopK step: d={width} n={features} k={k} batch={batch}, {torch.get_num_threads()} threads")
    base = statistics.median(seconds["plain float32"])
    for name, times in seconds.items():
        median = statistics.median(times)
        rates = f"{batch / median:9,.0f} rows/s (best {batch / min(times):,.0f})"
        print(f"{name:26s} {median * 1e3:7.1f} ms {rates}  {base / median:5.2f}x")


if __name__ == "__main__":
    main()
