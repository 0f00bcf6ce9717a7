"""Does training find a dictionary that is known to be there? The toy data of Cunningham et al. 2023, d = 64.

    x = Σ_i m_i u_i g_i        128 unit vectors g_i, m_i ~ Bernoulli(p_i), p_i ∝ 0.99^i, Σp = 3, u_i ~ U(0, 1)

    python benchmarks/planted_dictionary.py

prints MMCS in both directions for the paper's tied autoencoder and for its controls: no sparsity, too much of it,
and no training. One direction alone hides half of the truth: dead features in the one, features never found in the
other.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core import (
    ReconstructionMetrics,
    TiedReLU,
    Trainer,
    TrainingConfig,
    learned_to_true,
    train_together,
    true_to_learned,
)

D_IN, N_TRUE, N_LEARNED, MEAN_ACTIVE, BATCH = 64, 128, 256, 3, 512
ALPHAS = {"tied, α=3e-3": 3e-3, "control: α=0": 0.0, "control: α=8e-3": 8e-3}


class Recovery(NamedTuple):
    """How much of the planted dictionary a learned one is."""

    true_to_learned: float
    learned_to_true: float
    """Over all learned features."""
    alive_to_true: float | None
    """Over those alive; None if none is."""
    alive: float
    """The share of learned features active on more than one of 2,000 rows (the authors' definition)."""


def planted_features(generator: torch.Generator) -> Tensor:
    """128 unit vectors in 64 dimensions, [n, d]."""
    return F.normalize(torch.randn(N_TRUE, D_IN, generator=generator), dim=1)


def planted_rows(true_nd: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """A batch of activations [rows, d] made of them."""
    p_n = 0.99 ** torch.arange(N_TRUE)
    p_n = MEAN_ACTIVE * p_n / p_n.sum()
    active_Bn = torch.rand(rows, N_TRUE, generator=generator) < p_n
    return (active_Bn * torch.rand(rows, N_TRUE, generator=generator)) @ true_nd


def recovery(dictionary: TiedReLU, true_nd: Tensor) -> Recovery:
    """Compare directions; feature liveness is taken from rows that training did not see."""
    x_Bd = planted_rows(true_nd, 20_000, torch.Generator().manual_seed(1))
    metrics = ReconstructionMetrics(N_LEARNED)
    with torch.no_grad():
        metrics.update(x_Bd, dictionary(x_Bd), dictionary.encode(x_Bd))
    alive_n = metrics.result().features["density"] > 1 / 2000
    learned_nd = dictionary.directions
    return Recovery(
        true_to_learned(true_nd, learned_nd),
        learned_to_true(learned_nd, true_nd),
        learned_to_true(learned_nd, true_nd, alive_n) if alive_n.any() else None,
        alive_n.double().mean().item(),
    )


def planted_experiment(steps: int = 8000, seed: int = 0, control_steps: int | None = None) -> dict[str, Recovery]:
    """Train one dictionary for each α, all on the same rows in one pass, and compare each with the truth."""
    generator = torch.Generator().manual_seed(seed)
    true_nd = planted_features(generator)
    config = TrainingConfig(steps=steps, learning_rate=1e-3, seed=seed, compute_dtype="float32", log_every=steps)
    configs = {
        name: config if name.startswith("tied") else replace(config, steps=control_steps or steps) for name in ALPHAS
    }
    results = {"control: random": recovery(TiedReLU(D_IN, N_LEARNED, alpha=0), true_nd)}
    trainers = {name: Trainer(TiedReLU(D_IN, N_LEARNED, alpha), configs[name]) for name, alpha in ALPHAS.items()}
    train_together(trainers, planted_batches(true_nd, steps, generator))
    for name, trainer in trainers.items():
        results[name] = recovery(trainer.dictionary, true_nd)  # pyright: ignore[reportArgumentType]
    return results


def planted_batches(true_nd: Tensor, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One batch a step."""
    for _ in range(steps):
        yield planted_rows(true_nd, BATCH, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{'dictionary':18s} {'true→learned':>13s} {'learned→true':>13s} {'alive→true':>11s} {'alive':>6s}")
    for name, row in planted_experiment(arguments.steps, arguments.seed).items():
        alive_to_true = "–" if row.alive_to_true is None else f"{row.alive_to_true:.3f}"
        found = f"{row.true_to_learned:13.3f} {row.learned_to_true:13.3f} {alive_to_true:>11s} {row.alive:6.0%}"
        print(f"{name:18s} {found}")


if __name__ == "__main__":
    main()
