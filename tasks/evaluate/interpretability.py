"""Automatic interpretability: explain features, simulate their activations from the explanations, score the simulation.

The protocol of Bills et al. (2023), as Cunningham et al. (2023) used it. Of each feature,

    explained on    the fragments of top ranks 0, 4, 8, 12, 16
    scored on       the fragments of top ranks 2, 6, 10, 14, 18 and five random ones in which it fires
    score           correlation of simulated with true activations over the tokens of those ten fragments
                    (sae_core.interpretability)
    score_top       over those of the top fragments, score_random over those of the random ones
    …_clipped       the same with negative values as 0. Codes of PCA and ICA are negative too, and a correlation with
                    their raw values asks for more than an explanation of where the feature fires can tell.

`metrics.json` holds the means over features; the intervals are Student's, of those means. Tables:

    scores.parquet       every feature with its explanation, its scores, and its statistics on the held-out text
    simulations.parquet  true and simulated activation of every token that was scored

Where a server is asked (tasks.interpret.llm), `detection` and `fuzzing` are balanced accuracies, `intruder` is a
share of intruders found, `abilities` how the server gave probabilities, and `prompts` holds hashes of what it was told.
Beside each of these scores of a feature stand `…_answered` and `…_asked`, in texts (or, for intruders, in trials), and
in `…_missing` why not all were answered.

A feature without an explanation, or whose score is undefined, counts in no mean; why it has none stands in the table.

Shapes: F fragments, P tokens a fragment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.interpretability import Score, score
from storage.artifacts import ArtifactRef
from storage.seeds import seeded_generator
from storage.tables import read_table, write_table
from tasks.caching import artifacts, step
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.evaluate.results import Interval, over_seeds, write_metrics
from tasks.evaluation_specs import InterpretabilitySpec
from tasks.features import FEATURES
from tasks.interpret.access import Access
from tasks.interpret.client import CountTokens
from tasks.interpret.fragments import FeatureFragments, FragmentReader, choose
from tasks.interpret.interpreted import Interpreted
from tasks.interpret.judgements import Found, Judged
from tasks.interpret.llm import Estimate, Explainer, Scorer, estimate, interpret
from tasks.interpret.servers import ServerSpec
from tasks.interpret.token_lookup import look_up
from tasks.language_model import load_tokenizer
from tasks.pattern_matches import token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORES = "scores.parquet"

COLUMNS = {
    "simulation": {
        "score": "correlation of simulated with true activations, on top and random fragments; mean over features",
        "score_clipped": "the same with negative activations as 0",
        "score_top": "on the top fragments alone",
        "score_random": "on the random fragments alone",
        "scored": "features that have a score",
    },
    "detection": {"detection": "balanced accuracy of telling fragments in which the feature fires; mean over features"},
    "fuzzing": {"fuzzing": "balanced accuracy of telling right marks from wrong ones; mean over features"},
    "intruder": {"intruder": "share of the fragments found that do not belong to the others; mean over features"},
}
"""Of each scorer."""

NONE_JUDGED = Judged(None, None, None, 0, 0, None)
NO_PROBABILITIES = "the server gave no probabilities of the answers, or only for texts of one kind"

SUBSETS = ("", "_top", "_random")
CLIPS = ("", "_clipped")
STATISTICS = ("density", "skew", "kurtosis")

Values = dict[str, Any]


@step(kind="evaluation", code_version="2")
def evaluate_interpretability(
    place: Path,
    dictionary: ArtifactRef,
    features: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_point: str,
    spec: InterpretabilitySpec,
    compute: Compute,
) -> dict[str, Any]:
    """Explain some features of a dictionary, and score the explanations.

    Args:
        features: of this dictionary, with fragments of the spec's length.
        model: whose tokens these are.
    """
    compute.apply()
    tokenizer = load_tokenizer(model)
    chosen, enough, fragments_of_each = subjects(features, tokens, tokenizer, hook_point, spec)
    table = read_table(artifacts().path(features) / FEATURES)
    statistics = table.select(["feature", *STATISTICS]).take(pa.array(chosen, pa.int64())).to_pylist()
    rows: list[Values] = []
    simulations: list[pa.Table] = []
    pairs, asked = interpreted_by(spec, fragments_of_each, compute, tokenizer)
    for known, (fragments, interpreted) in zip(statistics, pairs, strict=True):
        rows.append({**known, **scored(fragments, interpreted, spec)})
        simulations.append(simulation_table(fragments, interpreted))
    write_table(place / SCORES, rows)
    table = pa.concat_tables(simulations) if simulations else pa.table({})
    write_table(place / "simulations.parquet", dict(zip(table.column_names, table.columns, strict=True)))

    values, intervals, undefined = means(rows, enough, spec)
    columns = {name: meaning for scorer in spec.scorers for name, meaning in COLUMNS[scorer].items()}
    write_metrics(place, "interpretability", columns, {**values, **asked}, intervals, undefined)
    return {"features": len(rows)}


def subjects(
    features: ArtifactRef,
    tokens: ArtifactRef,
    tokenizer: PreTrainedTokenizerBase,
    hook_point: str,
    spec: InterpretabilitySpec,
) -> tuple[list[int], int, Iterator[FeatureFragments]]:
    """The features that are explained, of how many that could be, and the fragments of each."""
    source = artifacts().path(features)
    tokens_SP = np.asarray(token_rows(tokens, "held_out")[:])
    spelling = token_bytes(tokenizer, np.unique(tokens_SP).tolist())
    texts = {token: piece.decode(errors="replace") for token, piece in spelling.items()}
    chosen, enough = choose(source, spec.features, spec.seed)
    reader = FragmentReader(source, hook_point, tokens_SP, texts, spec.fragment_length, spec.seed)
    return chosen, enough, reader.read(chosen)


def use_of_server(
    features: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_point: str,
    spec: InterpretabilitySpec,
    compute: Compute,
) -> Estimate:
    """What the evaluation would ask its server at most, without asking it."""
    tokenizer = load_tokenizer(model)
    _, _, several = subjects(features, tokens, tokenizer, hook_point, spec)
    return estimate(list(several), *asked_of_server(spec, compute, tokenizer))


def asked_of_server(
    spec: InterpretabilitySpec, compute: Compute, tokenizer: PreTrainedTokenizerBase
) -> tuple[Explainer, Sequence[Scorer], ServerSpec, Access, CountTokens, int]:
    """What `estimate` and `interpret` are told beside the features, of a spec with a server."""
    if spec.server is None or spec.explainer == "token_lookup":  # the one without the other is no spec
        raise TypeError("token_lookup asks no server")

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    return spec.explainer, spec.scorers, spec.server, compute.access, count, spec.seed


def interpreted_by(
    spec: InterpretabilitySpec,
    features: Iterator[FeatureFragments],
    compute: Compute,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Iterator[tuple[FeatureFragments, Interpreted]], Values]:
    """What the explainer and the scorers of the spec make of each feature, and how a server was asked."""
    if spec.server is None:
        return ((fragments, look_up(fragments)) for fragments in features), {}
    several = list(features)
    found = interpret(several, *asked_of_server(spec, compute, tokenizer))
    abilities = {name: ability and ability._asdict() for name, ability in found.abilities._asdict().items()}
    return zip(several, found.features, strict=True), {"abilities": abilities, "prompts": found.prompts}


def scored(fragments: FeatureFragments, interpreted: Interpreted, spec: InterpretabilitySpec) -> Values:
    """A row of `scores.parquet`, but for the feature's statistics."""
    explanation = interpreted.explanation
    row: Values = {"explanation": explanation.text, "missing": explanation.reason}
    if "simulation" in spec.scorers:
        row |= of_simulation(fragments, interpreted, spec)
    return row | judged(interpreted, spec)


def of_simulation(fragments: FeatureFragments, interpreted: Interpreted, spec: InterpretabilitySpec) -> Values:
    """The scores of simulated activations in a row of `scores.parquet`."""
    simulated = interpreted.simulated or ()
    true_FP = torch.tensor([fragment.activations for fragment in (*fragments.top, *fragments.random)])
    simulated_FP = simulated_values(interpreted, true_FP)
    top = len(fragments.top)
    parts = {"": slice(None), "_top": slice(top), "_random": slice(top, None)}
    reasons = (interpreted.explanation.reason, *(each.reason for each in simulated))
    missing = "; ".join(dict.fromkeys(filter(None, reasons)))
    covered = [each.covered for each in simulated if each.covered is not None]
    row: Values = {
        "mode": simulated[0].mode if simulated else None,
        "covered": sum(covered) / len(covered) if covered else None,
        "missing": missing or None,
    }
    for subset, part in parts.items():
        for clip in CLIPS:
            x_FP, y_FP = (values[part].relu() if clip else values[part] for values in (true_FP, simulated_FP))
            found = score(x_FP, y_FP, seeded_generator("bootstrap", spec.seed, fragments.feature))
            row |= told(f"score{subset}{clip}", found)
            if subset == clip == "":
                row |= {"slope": found.slope, "intercept": found.intercept, "tokens": found.tokens}
    return row


def judged(interpreted: Interpreted, spec: InterpretabilitySpec) -> Values:
    """The scores of yes-or-no questions in a row of `scores.parquet`, of how many answers, and why not of all."""
    row: Values = {}
    for name in spec.scorers:
        if name == "simulation":
            continue
        found: Judged | Found | None = getattr(interpreted, name)
        reason = interpreted.explanation.reason if found is None else found.reason
        if name == "intruder":
            row[name] = found.share if isinstance(found, Found) else None
        else:
            scores = found if isinstance(found, Judged) else NONE_JUDGED
            row |= {name: scores.balanced_accuracy, f"{name}_f1": scores.f1, f"{name}_auc": scores.auc}
            undefined = reason if scores.balanced_accuracy is None else NO_PROBABILITIES
            row[f"{name}_auc_undefined"] = undefined if scores.auc is None else None
        row |= {
            f"{name}_undefined": reason if row[name] is None else None,
            f"{name}_answered": found.answered if found is not None else 0,
            f"{name}_asked": found.asked if found is not None else 0,
            f"{name}_missing": reason if found is not None and found.answered < found.asked else None,
        }
    return row


def simulated_values(interpreted: Interpreted, true_FP: Float[Tensor, "F P"]) -> Float[Tensor, "F P"]:
    """NaN where there is none."""
    if interpreted.simulated is None:
        return torch.full_like(true_FP, torch.nan)
    rows = [[torch.nan if value is None else value for value in each.values] for each in interpreted.simulated]
    return torch.tensor(rows, dtype=true_FP.dtype)


def told(name: str, found: Score) -> Values:
    return {name: found.r, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_undefined": found.reason}


def simulation_table(fragments: FeatureFragments, interpreted: Interpreted) -> pa.Table:
    """The tokens of a feature that were scored, one a row."""
    of_kind = {"top": fragments.top, "random": fragments.random}
    shown = [(kind, rank, fragment) for kind, those in of_kind.items() for rank, fragment in enumerate(those)]
    length = len(shown[0][2].tokens)
    true_FP = torch.tensor([fragment.activations for *_, fragment in shown])

    def each(values: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(values), length)

    def joined(name: str) -> list[Any]:
        return [value for *_, fragment in shown for value in getattr(fragment, name)]

    start = np.array([fragment.start for *_, fragment in shown])
    return pa.table(
        {
            "feature": np.full(true_FP.numel(), fragments.feature),
            "kind": each([kind for kind, *_ in shown]),
            "fragment": each([rank for _, rank, _ in shown]),
            "row": each([fragment.row for *_, fragment in shown]),
            "position": (start[:, None] + np.arange(length)).ravel(),
            "token": joined("tokens"),
            "text": joined("texts"),
            "true": true_FP.ravel().numpy(),
            "simulated": pa.array(simulated_values(interpreted, true_FP).ravel().numpy(), from_pandas=True),
        }
    )


def means(
    rows: Sequence[Values], enough: int, spec: InterpretabilitySpec
) -> tuple[Values, dict[str, Interval], dict[str, str]]:
    """Values, intervals and what is undefined, of all features together."""
    values: Values = {
        "enough_fragments": enough,
        "features": len(rows),
        "density": sum(row["density"] for row in rows) / len(rows) if rows else None,
    }
    names = [name for name in spec.scorers if name != "simulation"]
    if "simulation" in spec.scorers:
        names = [f"score{subset}{clip}" for subset in SUBSETS for clip in CLIPS] + names
        values |= {
            "scored": sum(row["score"] is not None for row in rows),
            "without_score": dict(Counter(why_none(row) for row in rows if row["score"] is None)),
            "modes": dict(Counter(row["mode"] for row in rows if row["mode"] is not None)),
        }
    intervals: dict[str, Interval] = {}
    undefined = {} if rows else {"density": "no feature fires in enough fragments"}
    for name in names:
        scores = [row[name] for row in rows if row[name] is not None]
        values[name] = sum(scores) / len(scores) if scores else None
        intervals[name] = over_seeds(scores)
        if not scores:
            undefined[name] = undefined.get("density", "no feature has this score: see scores.parquet")
    return values, intervals, undefined


def why_none(row: Values) -> str:
    return row["missing"] or row["score_undefined"]
