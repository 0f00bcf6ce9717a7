"""How long jobs will take: their arithmetic, divided by what a matrix product reaches on this machine.

    samples     2 · (12 d² · layers + d · vocabulary) a token, at half of that rate: one token of each text at a time
    harvest     2 · 12 d² a token and layer, up to the deepest hook point
    train       6 · d · n a row that is trained on: encoder and decoder, forward and backward
    fit         2 · d · (d + n) a row
    evaluate    4 · d · n a row; what goes through the model 2 · (12 d² · layers + d · vocabulary) a token
    pages       2 · d · n · (vocabulary + n)

Attention, iterations (ICA, NMF), reading and writing are not counted: good to a factor of two or so, for a person to
decide whether to wait.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import torch

from flows.preflight import Prepared
from flows.stages import Job, Stage
from tasks.evaluate.interpretability import use_of_server
from tasks.evaluation_specs import (
    CircuitSpec,
    ErasureSpec,
    InterpretabilitySpec,
    IOISpec,
    PatternSpec,
    ProbingSpec,
    SteeringSpec,
)
from tasks.feature_pages import feature_pages
from tasks.loss_gradients import loss_gradients
from tasks.samples import sample_text
from tasks.specs import n_features

SHARE = 0.5  # of a matrix product's rate, that models and trainings reach
SIZE = 1024


def operations(prepared: Prepared, job: Job) -> float:
    """Floating-point operations of a job."""
    config, model, inputs = prepared.config, prepared.description, job.inputs
    if job.stage == "harvest":
        layers = 1 + max(int(number) for name in config.hook_points for number in re.findall(r"^blocks\.(\d+)", name))
        return 24.0 * model.d_model**2 * layers * prepared.rows
    a_token = 2.0 * (12.0 * model.d_model**2 * model.n_layers + model.d_model * model.vocabulary)
    if job.step is sample_text:
        return 2.0 * a_token * inputs["samples"].tokens
    if job.stage not in ("train", "evaluate"):
        return 0.0
    if job.stage == "evaluate" and job.about is None:
        read = 2.0 * config.corpus.held_out_tokens if job.step is loss_gradients else tokens_of_study(inputs)
        return a_token * read
    d = model.width(inputs["hook_point"])
    if job.step is feature_pages and job.about is not None:
        n = n_features(job.about, d)
        return 2.0 * d * n * (model.vocabulary + n)
    if job.stage == "evaluate":
        return 4.0 * d * n_features(job.about, d) * config.corpus.held_out_tokens if job.about else 0.0
    if "baseline" in inputs:
        return 2.0 * d * (d + n_features(inputs["baseline"], d)) * config.corpus.tokens
    return 6.0 * d * n_features(inputs["dictionary"], d) * config.corpus.tokens * config.training.epochs


def tokens_of_study(inputs: Mapping[str, Any]) -> float:
    """Tokens that an evaluation sends through the model, with a gradient as three times as many."""
    match inputs.get("spec"):
        case IOISpec() as spec:
            return 20.0 * (150 * len(spec.seeds) * spec.prompts + 2 * spec.sweep_features * spec.sweep_prompts)
        case ErasureSpec() as spec:
            return len(spec.seeds) * (6.0 * 50 * 2 * spec.prompts + 6 * spec.side_effect_tokens)
        case PatternSpec() as spec:
            return 200.0 * spec.contexts
        case CircuitSpec() as spec:
            return 64.0 * 500 * spec.contexts
        case ProbingSpec() as spec:
            return 20.0 * 4 * spec.texts * len(spec.seeds)
        case SteeringSpec() as spec:
            return 2.0 * len(spec.strengths) * spec.samples * spec.new_tokens
        case _:  # faithfulness: clean, and three replacements; others need no model
            return 4.0 * inputs.get("max_tokens", 0)


def use_of_servers(stage: Stage) -> str | None:
    """What a job that is not made yet would ask a language model's server, for a person to decide whether to pay."""
    inputs = stage.job.inputs
    spec = inputs.get("spec")
    if stage.ref is not None or not isinstance(spec, InterpretabilitySpec) or spec.server is None:
        return None
    if stage.job.inputs_missing():
        return "what it asks a server can be told once its features are read"
    return str(use_of_server(**{name: value for name, value in inputs.items() if name != "dictionary"}))


def operations_per_second(dtype: str, device: str) -> float:
    """What the CPU's cores, or the GPU, reach together."""
    factor = torch.ones(SIZE, SIZE, dtype=getattr(torch, dtype), device=device)
    best = 0.0
    for _ in range(4):  # the first warms up
        started = time.perf_counter()
        (factor @ factor)[0, 0].item()
        best = max(best, 2 * SIZE**3 / (time.perf_counter() - started))
    return SHARE * best
