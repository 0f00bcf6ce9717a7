"""Indirect object identification: how few features, and how small an edit, have the model name somebody else.

Of each prompt, whose next word is a name, there is a counterfactual with another such name (ioi_prompts). The codes of
some features are moved to the counterfactual's, at all positions, and the error of the reconstruction is kept
(ioi_trial). Of such a set of features, with means over prompts, are told

    kl          KL(patched prediction ‖ prediction for the counterfactual)
    recovery    (d(patched) − d(clean)) / (d(counterfactual) − d(clean)), d = logit(new name) − logit(old name)
    edit        ‖x − x'‖, mean over positions

Features are ranked by their integrated gradient on the KL along the line from none to all patched: in one ranking that
serves all prompts (*shared*), and in one for each prompt (*each*), as a dictionary with features for names needs others
for every prompt. On some prompts of the first seed attribution is held against patching features one by one, and the
paper's threshold sweep chooses a set, beginning with the features of largest attribution.

`metrics.json` holds COLUMNS, means over seeds with intervals over seeds, and

    accuracy, logit_difference    the model's preference of the indirect object to the subject, without a patch
    kl_clean                      KL without a patch
    rank_correlation              Spearman's, beside attribution_correlation
    sweep_to_half_kl              features in the smallest set of the sweep whose KL is half or less

Tables:

    curves.parquet      seed, ranking, features, kl, recovery, edit
    seeds.parquet       what is averaged over seeds
    features.parquet    rank, feature, attribution and exact effect on the KL: of the prompts of the sweep
    sweep.parquet       threshold, features, kl, recovery, edit of the set that the threshold leaves
    prompts.parquet     the pairs, and logit(indirect object) − logit(subject)

Where a tokenizer has too few names of one token, or the model does not prefer the indirect object, that is the result:
its numbers are null, and of the tables there is at most the one of prompts.

Shapes: C sets of features, S prompts, n features, K sizes, G groups: the prompts, or all of them as one.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.feature_selection import doubling, fewest, ranks, sweep
from sae_core.interventions import writes
from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.evaluate.ioi_prompts import pairs, words
from tasks.evaluate.ioi_trial import Measured, Trial
from tasks.evaluate.results import correlation, means_over_seeds, over_seeds, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import IOISpec
from tasks.language_model import description, load, load_tokenizer
from tasks.progress import Progress

COLUMNS = {
    "features_to_half_kl": "features, of one ranking for all prompts, with which the KL is half of that with none",
    "edit_to_half_kl": "size of the edit with these",
    "features_to_half_kl_each": "the same with a ranking for each prompt: median over prompts, where one that never "
    "gets there counts as infinite",
    "edit_to_half_kl_each": "size of the edit with these: median over prompts",
    "kl_floor": "KL with all features patched",
    "kl_at_16": "KL with the first 16 features of the one ranking, or all where there are fewer",
    "recovery_at_16": "share of the change in the names' logits that these bring about",
    "attribution_correlation": "Pearson's r of attribution and the effect of patching a feature alone, over the 64 "
    "with the largest attribution",
}

AT = 16
PATCHED_ALONE = 64
SETS_PER_PASS = 8
THRESHOLDS = (1e-5, *(10 ** (power / 4) for power in range(-8, 1)))
"""Of the sweep, from the paper's range. Its lower decades cost the most, and what 1e-5 left stayed until 1e-2."""

Row = dict[str, Any]


@step(kind="evaluation", code_version="1")
def evaluate_ioi(
    place: Path, dictionary: ArtifactRef, model: ArtifactRef, hook_point: str, spec: IOISpec, compute: Compute
) -> dict[str, Any]:
    """Patch a dictionary's features from prompts to their counterfactuals, as few as it takes."""
    compute.apply()
    evaluated = load_subject(dictionary, description(model).width(hook_point), compute)
    tokenizer = load_tokenizer(model)
    known = words(tokenizer, spec.names)
    if known.lacking:
        return _nothing(place, known.lacking)

    bridge, writes_nd = load(model, "float32", compute.device), writes(evaluated).float()

    def trial(seed: int, prompts: int) -> Trial:
        return Trial(bridge, evaluated, writes_nd, hook_point, pairs(tokenizer, known, prompts, seed))

    with torch.no_grad(), Progress("ioi", len(spec.seeds) + 2, "parts") as progress:
        trials = {seed: trial(seed, spec.prompts) for seed in spec.seeds}
        unpatched = [without_patch(of_seed) for of_seed in trials.values()]
        write_table(place / "prompts.parquet", _prompts(trials))
        reason = _no_preference([value for of_seed in trials.values() for value in of_seed.preference_S.tolist()])
        if reason:
            return _nothing(place, reason, _over_seeds(unpatched)[0])

        by_seed, curves = [], []
        for (seed, of_seed), values in zip(trials.items(), unpatched, strict=True):
            found, curve = in_order(of_seed)
            by_seed.append(values | found)
            curves += [{"seed": seed, **row} for row in curve]
            progress.add(1)
        few = trial(spec.seeds[0], min(spec.sweep_prompts, spec.prompts))
        effects_n = few.effects().mean(0)
        features = one_by_one(few, effects_n)
        progress.add(1)
        left = threshold_sweep(few, effects_n, spec.sweep_features, spec.seeds[0]) if spec.sweep_features else []
        progress.add(1)

    write_table(place / "curves.parquet", curves)
    write_table(
        place / "seeds.parquet", [_told({"seed": seed, **row}) for seed, row in zip(trials, by_seed, strict=True)]
    )
    write_table(place / "features.parquet", features)
    if left:
        write_table(place / "sweep.parquet", left)
    values, intervals = _over_seeds(by_seed)
    both = [(row["attribution"], row["exact_effect"]) for row in features if row["exact_effect"] is not None]
    agreement = correlation([attribution for attribution, _ in both], [effect for _, effect in both])
    values |= dict(zip(("attribution_correlation", "rank_correlation"), agreement or (None, None), strict=True))
    values["sweep_to_half_kl"] = min(
        (row["features"] for row in left if row["kl"] <= few.kl_S.mean().item() / 2), default=None
    )
    write_metrics(place, "ioi", COLUMNS, values, intervals, _reasons(values, by_seed))
    return {"prompts": spec.prompts * len(spec.seeds), "names": len(known.names)}


def without_patch(trial: Trial) -> dict[str, float]:
    """How well the model does the task, and how far its predictions are from those for the counterfactuals."""
    return {
        "accuracy": (trial.preference_S > 0).float().mean().item(),
        "logit_difference": trial.preference_S.mean().item(),
        "kl_clean": trial.kl_S.mean().item(),
    }


def in_order(trial: Trial) -> tuple[dict[str, float], list[Row]]:
    """The numbers of one seed, and its curves: features patched in the order of their attribution."""
    effects_Sn, changed_Sn = trial.effects(), trial.changed_Sn
    shared_n = ranks(effects_Sn.sum(0), changed_Sn.any(0))
    shared, shared_curve = along(trial, shared_n.expand_as(effects_Sn), int(changed_Sn.any(0).sum()), pooled=True)
    each, each_curve = along(trial, ranks(effects_Sn, changed_Sn), int(changed_Sn.sum(1).max()), pooled=False)
    at = next(row for row in shared_curve if row["features"] == min(AT, shared_curve[-1]["features"]))
    found = {
        **{f"{name}_to_half_kl": value for name, value in shared.items()},
        **{f"{name}_to_half_kl_each": value for name, value in each.items()},
        "kl_floor": shared_curve[-1]["kl"],
        "kl_at_16": at["kl"],
        "recovery_at_16": at["recovery"],
    }
    rows = [{"ranking": "shared", **row} for row in shared_curve] + [{"ranking": "each", **row} for row in each_curve]
    return found, rows


def along(trial: Trial, rank_Sn: Int[Tensor, "S n"], most: int, pooled: bool) -> tuple[dict[str, float], list[Row]]:
    """How many features, and how large an edit, halve the KL, infinite where none do; and the curve up to `most`.

    Args:
        pooled: the mean KL over prompts is to be halved; otherwise that of each prompt, and the medians are given.
    """

    def pool(value_S: Float[Tensor, "*K S"]) -> Float[Tensor, "*K G"]:
        return value_S.mean(-1, keepdim=True) if pooled else value_S

    def measure(size_G: Int[Tensor, " G"]) -> Measured:
        return trial.measure((rank_Sn < size_G[:, None])[None])

    sizes = doubling(most)
    curve = [measure(torch.tensor([size], device=rank_Sn.device)) for size in sizes]
    kl_KG = pool(torch.cat([measured.kl_CS for measured in curve]))
    fewest_G = fewest(lambda size_G: pool(measure(size_G).kl_CS[0]), sizes, kl_KG, kl_KG[0] / 2)
    edit_S = trial.edit(trial.patched(rank_Sn < fewest_G[:, None]))
    edit_G = pool(edit_S).masked_fill(fewest_G.isinf(), torch.inf)
    rows = [{"features": size, **means(trial, measured)} for size, measured in zip(sizes, curve, strict=True)]
    return {"features": median(fewest_G.tolist()), "edit": median(edit_G.tolist())}, rows


def one_by_one(trial: Trial, effects_n: Float[Tensor, " n"]) -> list[Row]:
    """Every feature that changes, in the order of attribution; of those of the largest, the effect when it is patched
    alone."""
    changed_n = trial.changed_Sn.any(0)
    largest = _largest(effects_n, changed_n, PATCHED_ALONE)
    exact: dict[int, float] = {}
    for start in range(0, len(largest), SETS_PER_PASS):
        part = largest[start : start + SETS_PER_PASS]
        alone_CSn = torch.stack([trial.only(feature) for feature in part])
        kl_C = trial.measure(alone_CSn).kl_CS.mean(1) - trial.kl_S.mean()
        exact |= dict(zip(part.tolist(), kl_C.tolist(), strict=True))
    order = ranks(effects_n, changed_n).argsort()[: int(changed_n.sum())].tolist()
    return [
        {
            "rank": rank,
            "feature": feature,
            "attribution": effects_n[feature].item(),
            "exact_effect": exact.get(feature),
        }
        for rank, feature in enumerate(order)
    ]


def threshold_sweep(trial: Trial, effects_n: Float[Tensor, " n"], candidates: int, seed: int) -> list[Row]:
    """The sets that the paper's sweep leaves, and what each of them does."""

    def measure(features: Int[Tensor, " f"]) -> Measured:
        return trial.measure(trial.only(features)[None])

    largest = _largest(effects_n, trial.changed_Sn.any(0), candidates)
    left = sweep(
        lambda features: measure(features).kl_CS.mean().item(),
        largest,
        THRESHOLDS,
        torch.Generator().manual_seed(seed),
    )
    return [
        {
            "threshold": accepted.threshold,
            "features": len(accepted.features),
            **means(trial, measure(accepted.features)),
        }
        for accepted in left
    ]


def means(trial: Trial, measured: Measured) -> Row:
    """KL, recovery and edit of one set of features for each prompt."""
    return _told(
        {
            "kl": measured.kl_CS.mean().item(),
            "recovery": trial.recovery(measured.difference_CS).item(),
            "edit": measured.edit_CS.mean().item(),
        }
    )


def _largest(effects_n: Tensor, changed_n: Tensor, count: int) -> Int[Tensor, " f"]:
    """The features of largest attribution, of those that patching changes."""
    size_n = effects_n.abs().masked_fill(~changed_n, -1)
    return size_n.topk(min(count, int(changed_n.sum()))).indices


def _no_preference(preference: list[float]) -> str | None:
    """Why the model cannot be asked, if so."""
    low, high = over_seeds(preference) or (math.nan, math.nan)
    if low > 0:
        return None
    return (
        "the model does not prefer the indirect object to the subject: its logit is higher by "
        f"{fmean(preference):.3g} ({low:.3g} to {high:.3g}) over {len(preference)} prompts"
    )


def _over_seeds(by_seed: list[Row]) -> tuple[Row, dict[str, Any]]:
    """Means and intervals of what is finite for every seed; the others are None."""
    means, intervals = means_over_seeds({name: [row[name] for row in by_seed] for name in by_seed[0]}, len(by_seed))
    return dict.fromkeys(by_seed[0]) | means, intervals


def _reasons(values: dict[str, Any], by_seed: list[dict[str, float]]) -> dict[str, str]:
    """Why numbers may be undefined."""
    floor, clean = values["kl_floor"], values["kl_clean"]
    reasons = {
        "recovery_at_16": "the counterfactuals do not change the difference of the names' logits",
        "sweep_to_half_kl": "no set of a sweep has half the KL",
        **dict.fromkeys(
            ("attribution_correlation", "rank_correlation"), "fewer than 3 features change, or all have one effect"
        ),
    }
    for name in (column for column in COLUMNS if "half" in column):
        never = sum(math.isinf(row[name]) for row in by_seed)
        whose = "of most prompts " if name.endswith("each") else ""
        reasons[name] = (
            f"with {never} of {len(by_seed)} seeds the KL {whose}never comes down to half: it is {clean:.3g} with no "
            f"feature patched and {floor:.3g} with all"
        )
    return {name: reason for name, reason in reasons.items() if not _is_finite(values[name])}


def _prompts(trials: dict[int, Trial]) -> list[Row]:
    return [
        {
            "seed": seed,
            "order": pair.order,
            "text": pair.text,
            "counterfactual": pair.other_text,
            "logit_difference": preference,
        }
        for seed, trial in trials.items()
        for pair, preference in zip(trial.drawn, trial.preference_S.tolist(), strict=True)
    ]


def _told(row: Row) -> Row:
    """What is not finite is null."""
    return {name: value if _is_finite(value) else None for name, value in row.items()}


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _nothing(place: Path, reason: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    write_metrics(place, "ioi", COLUMNS, values or {}, undefined=dict.fromkeys(COLUMNS, reason))
    return {"not_measured": reason}
