"""Case study of a pattern: which feature fires where a regular expression matches, and what it does there.

Held-out rows are read in two halves. On the first the best feature is sought: the one whose F1, as a detector of the
tokens that match, is largest at the best of ten thresholds (sae_core.pattern_features). On the second, which shares one
document with the first at most, it is measured:

    precision, recall, f1    of "it fires" as a sign that the token matches
    best_f1                  of "its activation is `threshold` or more": what was best on the first half
    monosemanticity          share of its activations of at least half its largest one that are on tokens that match
    density                  share of the tokens on which it fires

The interval of monosemanticity is a bootstrap over the documents in which it has such activations.

Beside it stand, sought and measured alike on the same rows, the best single dimension of the activations (`residual_…`)
and the best principal component (`pca_…`, fitted on the rows that are sought on), each with either sign.

At up to `spec.contexts` tokens that match and on which the feature has at least half its largest activation, it is
ablated at that position alone, and the change of log p of each next token is averaged over them
(tasks.evaluate.logit_effects).

Written besides:

    features.parquet       the best features, dimensions and components, with their measures on the rows sought on
    histogram.parquet      activations that are not zero, in ten bins, by token: the five commonest and all other
    logit_effects.parquet  the next tokens that become less and more likely, those that change most first; none that are
                           less likely than in a draw of any token
    logit_lens.parquet     the tokens that the feature's direction favours

Where nothing was found, the tables that would be of it are not there.

Shapes: B rows, T of them in the top half, S token rows, P positions, d activation width, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.baselines import fit_identity, fit_pca
from sae_core.dictionary import Dictionary
from sae_core.interventions import write
from sae_core.pattern_features import (
    HALF,
    Detector,
    PatternCounts,
    activations,
    count_one,
    f1_above,
    find_features,
)
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.evaluate.logit_effects import ablated, logit_lens
from tasks.evaluate.results import Interval, bootstrap, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import PatternSpec
from tasks.language_model import description, load, load_tokenizer
from tasks.patching import padded
from tasks.pattern_matches import HeldOut, read_held_out
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

COLUMNS = {
    "feature": "the feature that best tells where the pattern is",
    "precision": "share of the tokens on which it fires that match the pattern",
    "recall": "share of the tokens that match on which it fires",
    "f1": "harmonic mean of the two",
    "best_f1": "the same where only activations above its best threshold count",
    "residual_best_f1": "that of the best single dimension of the activations",
    "pca_best_f1": "that of the best principal component",
    "monosemanticity": "share of its activations of at least half the largest one that are on tokens that match",
    "residual_monosemanticity": "the same of the best single dimension of the activations",
    "pca_monosemanticity": "the same of the best principal component",
    "drop_of_top": "change of the log-probability (nats) of the next token that loses most when the feature is ablated",
}

MEASURES = ("precision", "recall", "f1", "threshold", "best_f1", "monosemanticity", "top_half", "density")
FEATURES_SHOWN = 10
TOKENS_SHOWN = 20
BINS = 10
NAMED_TOKENS = 5


class Undefined(NamedTuple):
    """In place of a number."""

    reason: str


SILENT = Undefined("the feature fires on none of the tokens that it is measured on")

Values = dict[str, Any]
"""Numbers, each of which may be Undefined."""


@step(kind="evaluation", code_version="2")
def evaluate_pattern(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    rows: RowFilter,
    spec: PatternSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Find a dictionary's feature for a pattern in the held-out split, and study it.

    Args:
        activations: those of `tokens`.
    """
    compute.apply()
    evaluated = load_subject(dictionary, description(model).width(hook_point), compute)
    bridge, tokenizer = load(model, "float32", compute.device), load_tokenizer(model)
    with torch.no_grad(), Progress("pattern", 3, "parts") as progress:
        (held_out,) = read_held_out(tokenizer, tokens, activations, [hook_point], rows, spec.pattern, spec.tokens)
        sought, measured = held_out.halves()
        progress.add(1)

        bases = {"dictionary": evaluated, **single_directions(sought.x_Bd)}
        found = {
            name: find_features(basis, sought.x_Bd, sought.matches_B, FEATURES_SHOWN) for name, basis in bases.items()
        }
        values: Values = {"tokens": len(measured.x_Bd), "matching": int(measured.matches_B.sum())}
        intervals: Values = {}
        for name, basis in bases.items():
            prefix = "" if name == "dictionary" else f"{name}_"
            told, interval = measured_as(basis, found[name], sought, measured)
            values |= {prefix + measure: value for measure, value in told.items()}
            intervals[f"{prefix}monosemanticity"] = interval
        write_table(place / "features.parquet", list(feature_rows(found)))
        progress.add(1)

        study = CaseStudy(bridge, tokenizer, evaluated, hook_point, measured)
        values |= study.tables(place, found["dictionary"], spec.contexts)
        progress.add(1)

    numbers, undefined = with_reasons(values)
    bounds, unbounded = with_reasons(intervals)
    undefined |= {f"intervals.{name}": reason for name, reason in unbounded.items()}
    write_metrics(place, "pattern", COLUMNS, numbers, bounds, undefined)
    return {"matching": values["matching"]}


def with_reasons(values: Values) -> tuple[dict[str, Any], dict[str, str]]:
    """None in place of what is undefined, and why it is."""
    reasons = {name: value.reason for name, value in values.items() if isinstance(value, Undefined)}
    return values | dict.fromkeys(reasons), reasons


def single_directions(x_Bd: Float[Tensor, "B d"]) -> dict[str, Dictionary]:
    """What a dictionary is held against: the dimensions of the activations and their components, with either sign."""
    dimensions = fit_identity(iter([x_Bd]))
    dimensions.rectify = False
    return {"residual": dimensions, "pca": fit_pca(iter([x_Bd]))}


def measured_as(
    basis: Dictionary, found: list[Detector], sought: HeldOut, measured: HeldOut
) -> tuple[Values, Interval | Undefined]:
    """The measures of the best feature on other rows than it was found on, and an interval of its monosemanticity."""
    if not found:
        nothing = Undefined(sought.why_no_feature())
        return dict.fromkeys(("feature", "sign", *MEASURES), nothing), nothing
    best = found[0]
    told: Values = {"feature": best.feature, "sign": best.sign}
    if not measured.matches_B.any():
        nothing = Undefined(
            f"none of the {len(measured.x_Bd):,} tokens that features are measured on matches the pattern"
        )
        return told | dict.fromkeys(MEASURES, nothing), nothing

    f_B = activations(basis, measured.x_Bd, best.feature, best.sign)
    best_f1 = f1_above(best.threshold, f_B, measured.matches_B)
    told |= measures(count_one(f_B, measured.matches_B), best.threshold, best_f1)
    if not told["top_half"]:
        return told | dict.fromkeys(("precision", "monosemanticity"), SILENT), SILENT
    return told, monosemanticity_interval(f_B, measured)


def measures(counts: PatternCounts, threshold: float, best_f1: float) -> dict[str, Any]:
    """MEASURES of one feature; `best_f1` is that above the threshold."""
    return {
        "precision": counts.precision[0].item(),
        "recall": counts.recall[0].item(),
        "f1": counts.f1[0].item(),
        "threshold": threshold,
        "best_f1": best_f1,
        "monosemanticity": counts.monosemanticity.item(),
        "top_half": int(counts.fires[HALF]),
        "density": counts.density.item(),
    }


def monosemanticity_interval(f_B: Float[Tensor, " B"], measured: HeldOut) -> Interval | Undefined:
    """Over the documents that have activations of at least half the largest one."""
    top_B = f_B >= f_B.max() / 2
    documents, document_T = np.unique(measured.documents_B[top_B.numpy()], return_inverse=True)
    hits_T = measured.matches_B[top_B].double()
    sums = torch.zeros(len(documents), 2, dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(document_T), torch.stack([hits_T, torch.ones_like(hits_T)], 1))
    bounds, undefined = bootstrap(sums, lambda drawn: {"share": drawn[..., 0] / drawn[..., 1]})
    return bounds["share"] or Undefined(undefined["intervals"])


def feature_rows(found: dict[str, list[Detector]]) -> Iterator[dict[str, Any]]:
    for basis, features in found.items():
        for feature in features:
            own = measures(feature.counts, feature.threshold, feature.counts.f1[feature.level].item())
            yield {"basis": basis, "feature": feature.feature, "sign": feature.sign, **own}


class CaseStudy(NamedTuple):
    """What one feature fires on, and what it does there."""

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase
    dictionary: Dictionary
    hook_point: str
    measured: HeldOut

    def tables(self, place: Path, found: list[Detector], most_contexts: int) -> Values:
        """Write the tables of the best feature, if there is one, and tell what its ablation does."""
        names = ("drop_of_top", "top_drops", "lens_tokens")
        if not found:
            return {"contexts": 0, **dict.fromkeys(names, Undefined("there is no feature for the pattern"))}
        feature, sign = found[0].feature, found[0].sign
        f_B = activations(self.dictionary, self.measured.x_Bd, feature, sign)
        write_table(place / "histogram.parquet", histogram(self.texts(self.measured.tokens_B.tolist()), f_B.numpy()))
        return self.lens(place, feature, sign) | self.ablation(place, feature, f_B, most_contexts)

    def lens(self, place: Path, feature: int, sign: int) -> Values:
        scores_V = logit_lens(self.bridge, self.hook_point, sign * write(self.dictionary, feature))
        if scores_V is None:
            return {"lens_tokens": Undefined(f"{self.hook_point} is not of the residual stream, which the lens reads")}
        top = scores_V.argsort(descending=True)[:TOKENS_SHOWN].tolist()
        table = {"token": top, "text": self.texts(top), "score": scores_V[top].tolist()}
        write_table(place / "logit_lens.parquet", table)
        return {"lens_tokens": table["text"]}

    def ablation(self, place: Path, feature: int, f_B: Float[Tensor, " B"], most_contexts: int) -> Values:
        contexts = strong_contexts(self.measured, f_B, most_contexts)
        if not contexts:
            none = Undefined("no token that matches the pattern has an activation of at least half the largest one")
            return {"contexts": 0, **dict.fromkeys(("drop_of_top", "top_drops"), none if f_B.any() else SILENT)}
        prompts, at_S, _ = padded(contexts, filler=0)
        changed = ablated(self.bridge, self.dictionary, self.hook_point, feature, prompts, at_S)
        changes = {"drop": changed.drops(TOKENS_SHOWN), "rise": changed.rises(TOKENS_SHOWN)}
        rows = [
            {
                "change": name,
                "token": token,
                "text": text,
                "log_probability_change": changed.change_V[token].item(),
                "probability": changed.before_V[token].item(),
                "probability_ablated": changed.after_V[token].item(),
            }
            for name, top in changes.items()
            for token, text in zip(top, self.texts(top), strict=True)
        ]
        write_table(place / "logit_effects.parquet", rows)
        drops = [row for row in rows if row["change"] == "drop"]
        none = Undefined("no next token becomes less likely")
        return {
            "contexts": len(contexts),
            "drop_of_top": drops[0]["log_probability_change"] if drops else none,
            "top_drops": [row["text"] for row in drops],
        }

    def texts(self, tokens: list[int]) -> list[str]:
        """Of each token alone."""
        known = {token: str(self.tokenizer.decode([token])) for token in set(tokens)}
        return [known[token] for token in tokens]


def strong_contexts(measured: HeldOut, f_B: Float[Tensor, " B"], most: int) -> list[list[int]]:
    """Token rows up to a token that matches and on which the feature has at least half its largest activation.

    As many as there are or are wanted, at random, and the shortest first: those of a pass are filled up to the longest.
    """
    if not f_B.any():
        return []
    f_SP = torch.zeros(measured.kept_SP.shape)
    f_SP[measured.kept_SP] = f_B.float()
    places = (measured.matches_SP & (f_SP > 0) & (f_SP >= f_SP.max() / 2)).nonzero()
    chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
    contexts = [measured.tokens_SP[row, : at + 1].tolist() for row, at in places[chosen].tolist()]
    return sorted(contexts, key=len)


def histogram(texts: list[str], values: Float[np.ndarray, " B"]) -> list[dict[str, Any]]:
    """Activations that are not zero, in bins of equal width, by token: the commonest ones, and all other."""
    fires: Bool[np.ndarray, " B"] = values > 0
    if not fires.any():
        return []
    fired = np.array(texts, dtype=object)[fires]
    named = [text for text, _ in Counter(fired).most_common(NAMED_TOKENS)]
    edges = np.histogram_bin_edges(values[fires], BINS)
    groups = {text: fired == text for text in named} | {None: ~np.isin(fired, named)}
    return [
        {"low": low, "high": high, "token": text, "activations": count}
        for text, which in groups.items()
        for low, high, count in zip(
            edges[:-1].tolist(), edges[1:].tolist(), np.histogram(values[fires][which], edges)[0].tolist(), strict=True
        )
    ]
