"""How long jobs will take: their arithmetic, divided by what a matrix product reaches on this machine.

    harvest     2 · 12 d² a token and layer, up to the deepest hook point
    train       6 · d · n a row that is trained on: encoder and decoder, forward and backward
    fit         2 · d · (d + n) a row
    evaluate    4 · d · n a row

Attention, iterations (ICA, NMF), reading and writing are not counted: good to a factor of two or so, for a person to
decide whether to wait.
"""

import re
import time

import torch

from flows.preflight import Prepared
from flows.stages import Job
from tasks.specs import n_features

SHARE = 0.5  # of a matrix product's rate, that models and trainings reach
SIZE = 1024


def operations(prepared: Prepared, job: Job) -> float:
    """Floating-point operations of a job."""
    config, model, inputs = prepared.config, prepared.description, job.inputs
    if job.stage == "harvest":
        layers = 1 + max(int(number) for name in config.hook_points for number in re.findall(r"^blocks\.(\d+)", name))
        return 24.0 * model.d_model**2 * layers * prepared.rows
    if job.stage not in ("train", "evaluate"):
        return 0.0
    d = model.width(inputs["hook_point"])
    if job.stage == "evaluate":
        return 4.0 * d * n_features(job.about, d) * config.corpus.held_out_tokens if job.about else 0.0
    if "baseline" in inputs:
        return 2.0 * d * (d + n_features(inputs["baseline"], d)) * config.corpus.tokens
    return 6.0 * d * n_features(inputs["dictionary"], d) * config.corpus.tokens * config.training.epochs


def operations_per_second(dtype: str) -> float:
    """What the CPU's cores, or the GPU, reach together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    factor = torch.ones(SIZE, SIZE, dtype=getattr(torch, dtype), device=device)
    best = 0.0
    for _ in range(4):  # the first warms up
        started = time.perf_counter()
        (factor @ factor)[0, 0].item()
        best = max(best, 2 * SIZE**3 / (time.perf_counter() - started))
    return SHARE * best
