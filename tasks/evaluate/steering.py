"""What the model writes with a feature added to its activations.

At every position, of the prompt and of what is written, the activations become

    x' = x + strength · m · w        m: mean of the feature's activations where it fires, on held-out tokens
                                     w: what one unit of it writes

and text is drawn from the model's own distribution (temperature 1), of which the end-of-text token is no part. All
strengths draw with the same random numbers, so that strength 0 writes what the model itself writes.

    pattern_share    share of the written tokens that match the pattern
    perplexity       of the written tokens under the model as it is

Of the strengths, that of the headline numbers is the one with the largest share among those whose text is still
readable: with at most READABLE times the perplexity of what is written without steering.

`strengths.parquet` holds both measures of every strength, `texts.parquet` every text. Where there is no feature for the
pattern, neither is there.

Shapes: K strengths, N samples, P positions, T tokens written, d activation width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.interventions import write
from sae_core.pattern_features import activations, find_features
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.results import Interval, over_seeds, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import SteeringSpec
from tasks.language_model import ModelDescription, description, load, load_tokenizer
from tasks.patching import logits, next_logits
from tasks.pattern_matches import HeldOut, matching_tokens, read_held_out
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

COLUMNS = {
    "feature": "the feature that is added",
    "share_unsteered": "share of the written tokens that match the pattern, without steering",
    "share_steered": "the same with the strength that raises it most and leaves the text readable",
    "strength": "that strength, in units of the feature's mean where it fires",
    "perplexity_unsteered": "of what is written without steering, under the model as it is",
    "perplexity_steered": "of what is written with that strength, under the model as it is",
}

READABLE = 10.0


@step(kind="evaluation", code_version="2")
def evaluate_steering(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    rows: RowFilter,
    spec: SteeringSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Write text with more and more of a dictionary's feature.

    Args:
        activations: those of `tokens`.
    """
    compute.apply()
    evaluated = load_subject(dictionary, description(model).width(hook_point), compute)
    bridge, tokenizer = load(model, "float32", compute.device), load_tokenizer(model)
    strengths = sorted({0.0, *spec.strengths})
    with torch.no_grad(), Progress("steering", spec.new_tokens, "tokens") as progress:
        (held_out,) = read_held_out(tokenizer, tokens, activations, [hook_point], rows, spec.pattern, spec.tokens)
        feature = chosen(evaluated, held_out, spec.feature)
        if isinstance(feature, str):
            write_metrics(place, "steering", COLUMNS, {}, undefined=dict.fromkeys(COLUMNS, feature))
            return {"texts": 0}

        end = int(tokenizer.eos_token_id)  # pyright: ignore[reportArgumentType]
        prompt = prompt_of(spec, tokenizer, description(model))
        steering_Kd = torch.outer(torch.tensor(strengths, device=feature.mean_d.device), feature.mean_d)
        tokens_KNP = written(bridge, hook_point, steering_Kd, prompt, end, spec, progress)
        nll_KNT = surprise(bridge, tokens_KNP, len(prompt), end)
    texts = [
        {
            "strength": strength,
            "sample": sample,
            "text": str(tokenizer.decode(row[1:])),
            "pattern_share": matching_tokens(tokenizer, row[None], spec.pattern)[0, len(prompt) :].mean().item(),
            "perplexity": nll_T.mean().exp().item(),
        }
        for strength, rows, nll_NT in zip(strengths, tokens_KNP, nll_KNT, strict=True)
        for sample, (row, nll_T) in enumerate(zip(rows, nll_NT, strict=True))
    ]
    shares_KN = np.array([text["pattern_share"] for text in texts]).reshape(len(strengths), -1)
    table = {
        "strength": strengths,
        "pattern_share": shares_KN.mean(1).tolist(),
        "perplexity": nll_KNT.mean((1, 2)).exp().tolist(),
    }
    write_table(place / "texts.parquet", texts)
    write_table(place / "strengths.parquet", table)
    write_metrics(place, "steering", COLUMNS, *headline(table, shares_KN, feature))
    return {"texts": len(texts)}


def prompt_of(spec: SteeringSpec, tokenizer: PreTrainedTokenizerBase, told: ModelDescription) -> list[int]:
    """The tokens that a text begins with.

    Raises:
        ExperimentError: with what is written behind them they are more than the model reads.
    """
    prompt = [tokenizer.eos_token_id, *tokenizer.encode(spec.prompt, add_special_tokens=False)]
    if told.context_length and len(prompt) + spec.new_tokens > told.context_length:
        raise ExperimentError(
            f"steering: a prompt of {len(prompt)} tokens and {spec.new_tokens} new_tokens are more than the "
            f"{told.context_length} that {told.name} reads. Lower new_tokens, or shorten the prompt."
        )
    return prompt


class Steered(NamedTuple):
    """A feature, with what it writes on average where it fires."""

    feature: int
    sign: int
    mean: float
    """Of its activations where it fires."""
    mean_d: Float[Tensor, " d"]


def chosen(dictionary: Dictionary, held_out: HeldOut, feature: int | None) -> Steered | str:
    """The feature that is named, or the best one for the pattern; or why there is none."""
    sign = 1
    if feature is None:
        found = find_features(dictionary, held_out.x_Bd, held_out.matches_B)
        if not found:
            return held_out.why_no_feature()
        feature, sign = found[0].feature, found[0].sign
    elif feature >= dictionary.n_features:
        return f"there is no feature {feature}: the dictionary has {dictionary.n_features:,}"
    f_B = activations(dictionary, held_out.x_Bd, feature, sign)
    if not f_B.any():
        return f"feature {feature} fires on none of the {len(f_B):,} held-out tokens"
    mean = f_B[f_B > 0].mean().item()
    return Steered(feature, sign, mean, sign * mean * write(dictionary, feature).float())


def written(
    bridge: TransformerBridge,
    hook_point: str,
    steering_Kd: Float[Tensor, "K d"],
    prompt: list[int],
    end: int,
    spec: SteeringSpec,
    progress: Progress,
) -> Int[np.ndarray, "K N P"]:
    """The prompt and what follows it, for each of the vectors that are added."""
    n_strengths, n_texts = len(steering_Kd), len(steering_Kd) * spec.samples
    added_Rd = steering_Kd.repeat_interleave(spec.samples, 0)
    generator = torch.Generator().manual_seed(spec.seed)
    rows, cache = np.tile(prompt, (n_texts, 1)), None
    for _ in range(spec.new_tokens):
        unread = rows if cache is None else rows[:, -1:]
        predicted_RV, cache = next_logits(
            bridge,
            unread,
            hook_point,
            lambda x: (x.unflatten(0, (n_texts, -1)) + added_Rd[:, None]).flatten(0, 1),
            cache,
        )
        up_to_RV = going_on(predicted_RV, end).exp().double().cumsum(-1).cpu()
        drawn_N = torch.rand(spec.samples, generator=generator, dtype=torch.float64)
        drawn_R1 = drawn_N.repeat(n_strengths)[:, None] * up_to_RV[:, -1:]
        rows = np.concatenate([rows, (up_to_RV <= drawn_R1).sum(1, keepdim=True).numpy()], 1)
        progress.add(1)
    return rows.reshape(n_strengths, spec.samples, -1)


def surprise(
    bridge: TransformerBridge, tokens_KNP: Int[np.ndarray, "K N P"], prompt_length: int, end: int
) -> Float[Tensor, "K N T"]:
    """−log p of each written token under the model as it is."""
    told = []
    for tokens_NP in tokens_KNP:
        log_p_NTV = going_on(logits(bridge, tokens_NP)[:, prompt_length - 1 : -1], end).cpu()
        written_NT1 = torch.from_numpy(tokens_NP[:, prompt_length:, None])
        told.append(-log_p_NTV.gather(-1, written_NT1)[..., 0])
    return torch.stack(told)


def going_on(logits_V: Float[Tensor, "*B V"], end: int) -> Float[Tensor, "*B V"]:
    """log p of each token, given that the text does not end."""
    ends_V = torch.arange(logits_V.shape[-1], device=logits_V.device) == end
    return logits_V.masked_fill(ends_V, -torch.inf).log_softmax(-1)


def headline(
    table: dict[str, list[float]], shares_KN: Float[np.ndarray, "K N"], steered: Steered
) -> tuple[dict[str, Any], dict[str, Interval], dict[str, str]]:
    """The numbers of no steering and of the best strength; intervals over texts; what is undefined."""
    strengths, shares, perplexities = table["strength"], table["pattern_share"], table["perplexity"]
    off = strengths.index(0.0)
    values = {
        "feature": steered.feature,
        "sign": steered.sign,
        "mean_activation": steered.mean,
        "share_unsteered": shares[off],
        "perplexity_unsteered": perplexities[off],
    }
    intervals = {"share_unsteered": over_seeds(shares_KN[off].tolist())}
    readable = [k for k in range(len(strengths)) if k != off and perplexities[k] <= READABLE * perplexities[off]]
    if not readable:
        reason = f"no strength leaves the perplexity within {READABLE:g} times that without steering"
        return values, intervals, dict.fromkeys(("share_steered", "strength", "perplexity_steered"), reason)
    best = max(readable, key=lambda k: (shares[k], -abs(strengths[k])))
    values |= {"share_steered": shares[best], "strength": strengths[best], "perplexity_steered": perplexities[best]}
    return values, intervals | {"share_steered": over_seeds(shares_KN[best].tolist())}, {}
