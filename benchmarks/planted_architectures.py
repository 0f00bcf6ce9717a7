"""Does every architecture find a dictionary that is known to be there?

    python benchmarks/planted_architectures.py

The data are those of planted_dictionary.py (64 dimensions, 128 features, 3 active in a row), scaled to unit variance.
A transcoder learns to write the second of two layers that share their codes, a crosscoder to rebuild both.

true→learned is the mean over planted features of the largest cosine with a learned one; found, the share of them where
it is above 0.9; alive, the share of the 256 learned features active on more than 10 of 20,000 held-out rows.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from planted_dictionary import BATCH, D_IN, N_LEARNED, planted_features, planted_rows

from sae_core import Trainer, TrainingConfig, create, fit_normalization, true_to_learned

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tied_relu": {"alpha": 0.015},
    "relu": {"l1_coefficient": 3.0},
    "gated": {"l1_coefficient": 8.0},
    "topk": {"k": 4},
    "batch_topk": {"k": 3},
    "matryoshka_batch_topk": {"k": 3, "widths": [64, 128, N_LEARNED]},
    "jumprelu": {"coefficient": 0.01},
    "jumprelu, tanh": {"coefficient": 0.01, "penalty": "tanh"},
    "jumprelu, target": {"coefficient": 0.3, "target_l0": 3},
    "transcoder": {"k": 4, "d_out": D_IN},
    "crosscoder": {"k": 4, "layers": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    steps, generator = arguments.steps, torch.Generator().manual_seed(arguments.seed)
    true_nw = torch.cat([planted_features(generator), planted_features(generator)], dim=1)  # both layers
    sample = planted_rows(true_nw, 20_000, generator)
    normalization = fit_normalization(iter([sample]))
    held_out = normalization.apply(planted_rows(true_nw, 20_000, generator))

    trainers = {}
    for name in arguments.only:
        method = name.partition(",")[0]
        width = 2 * D_IN if method == "crosscoder" else D_IN
        config = TrainingConfig(
            steps=steps,
            lr_decay_steps=steps // 5,
            sparsity_warmup_steps=steps // 10,
            dead_after_rows=50 * BATCH,
            seed=arguments.seed,
            compute_dtype="float32",
        )
        trainers[name] = Trainer(create(method, width, N_LEARNED, **ARCHITECTURES[name]), config)

    for _ in range(steps):
        rows = normalization.apply(planted_rows(true_nw, BATCH, generator))
        for name, trainer in trainers.items():
            trainer.step(rows if name in ("transcoder", "crosscoder") else rows[:, :D_IN])

    print(f"{'architecture':22s} {'true→learned':>13s} {'found':>6s} {'L0':>6s} {'FVU':>7s} {'alive':>6s}")
    for name, trainer in trainers.items():
        true_nd = {"transcoder": true_nw[:, D_IN:], "crosscoder": true_nw}.get(name, true_nw[:, :D_IN])
        learned_nd = trainer.dictionary.directions.detach()
        with torch.no_grad():
            f_Bn = trainer.dictionary.encode(held_out[:, : trainer.dictionary.d_in])
        found = ((F.normalize(true_nd, dim=1) @ learned_nd.T).amax(1) > 0.9).float().mean()
        alive = ((f_Bn > 0).sum(0) > 10).float().mean()
        l0, fvu = (f_Bn > 0).sum(1).float().mean(), trainer.log[-1]["fvu"]
        print(f"{name:22s} {true_to_learned(true_nd, learned_nd):13.3f} {found:6.0%} {l0:6.2f} {fvu:7.4f} {alive:6.0%}")


if __name__ == "__main__":
    main()
