"""A circuit of features: what in earlier layers makes a feature fire, by ablation and by attribution.

One method's dictionaries at hook points in the order of the forward pass. The target is a feature of the last one: the
one given, or the best for a pattern. M is its largest activation on held-out rows; `contexts` are drawn from the
places where it is in [M/2, M]: the tokens up to there, 64 at most, as long as it has M/2 with these alone.

**Tree.** Each feature of the dictionary before is ablated at all positions, x' = x − f_i w_i, the error kept, and

    cut = m(x) − m(x')        m: the target's code at the last position; mean over contexts

The features with the largest cuts are the target's children. What makes *them* fire is found in the same way, in the
same contexts, each measured where it is largest; so the tree explains the same events at all depths, and a feature
below several others is followed once. `share` is the cut as a share of the activation that there was.

**Attribution** (sae_core.circuits) estimates all cuts at once. It chooses the features of a layer that are ablated
(VERIFIED); `attribution_correlation` says how well it then agrees with the cuts on the target.

**Controls.** The target's children ablated together, and as many random features that are active in the context, DRAWS
times: `decrease_children` and `decrease_random` are shares of the target's activation, and `contexts_won` is how often,
over contexts and draws, the children cut more.

**Faithfulness** of a set C of features of the earlier dictionaries, M all of them (Marks et al. 2024, section 3.2):

    faithfulness(C) = (m(C) − m(∅)) / (m(M) − m(∅))
    completeness(C) = faithfulness(M∖C)                      small where C is complete

In m(C), at each earlier hook point in turn, the features outside C have their mean over held-out rows; those in C, and
the error, are what they are by then. m(M) is the model itself.

Files: metrics.json; edges.parquet (all pairs that were measured; `kept` are in the tree), nodes.parquet,
controls.parquet (context by context), faithfulness.parquet (the tree, as many random active features, and the features
with the largest attribution to the target, more and more of them); graph.json, graph.graphml and circuit.svg. Where
there is nothing to measure, only metrics.json, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.circuits import Effects, active, grow, random_sets
from sae_core.pattern_features import find_features
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.evaluate.circuit_contexts import Site, Stack, draw_contexts
from tasks.evaluate.circuit_graph import Level, edge_rows, graph_of, levels_of, node_rows, write_graph
from tasks.evaluate.results import NotMeasurable, correlation, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import CircuitSpec
from tasks.language_model import description, load, load_tokenizer
from tasks.pattern_matches import read_held_out
from tasks.progress import Progress
from tasks.rows import LiveFilter, open_store

VERIFIED = 100
VERIFIED_EACH = 20
"""So many features of a layer are ablated, or so many for each that is watched, where that is more."""

STEPS = 8
"""Points that gradients are taken at."""

DRAWS = 8
"""Of random features, in each context."""

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""How many features of each layer the attribution's circuits have."""

COLUMNS = {
    "target_feature": "the feature of the last layer that the circuit is of",
    "depth": "how many layers below it have features in the tree",
    "decrease_children": "share of its activation that ablating its children together takes away",
    "decrease_random": "the same of as many random active features",
    "contexts_won": "how often, over contexts and random draws, the children take more away",
    "faithfulness": "share of its activation, above that without any feature, that the tree alone keeps up",
    "completeness": "the same of all features but the tree's; small is complete",
    "attribution_correlation": "Pearson correlation of attribution and measured cut, over the features ablated",
}

Row = dict[str, Any]
Values = dict[str, Any]
Reasons = dict[str, str]
Sets = list[Bool[Tensor, " n"]]
"""Some features of each earlier layer."""


@step(kind="evaluation", code_version="2")
def evaluate_circuit(
    place: Path,
    dictionaries: tuple[ArtifactRef, ...],
    model: ArtifactRef,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_points: tuple[str, ...],
    rows: RowFilter,
    spec: CircuitSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Find the circuit of a feature of the last dictionary.

    Args:
        dictionaries: one for each hook point, in the order of the forward pass.
        activations: those of `tokens`.
    """
    compute.apply()
    tokenizer: Any = load_tokenizer(model)
    bridge = load(model, "float32", compute.device)
    held_out = read_held_out(tokenizer, tokens, activations, hook_points, rows, spec.pattern, spec.tokens)
    store, widths = open_store(activations, "held_out"), description(model)
    sites = [
        Site(
            hook_point,
            load_subject(ref, widths.width(hook_point), compute),
            there,
            LiveFilter.of(store, hook_point, rows),
        )
        for ref, hook_point, there in zip(dictionaries, hook_points, held_out, strict=True)
    ]
    values: Values = {}
    undefined: Reasons = {}
    try:
        with Progress("circuit", 4, "parts") as progress:
            values["target_feature"], sign = find_target(sites[-1], spec)
            contexts = draw_contexts(
                bridge, sites[-1], values["target_feature"], sign, spec.contexts, tokenizer.eos_token_id, spec.seed
            )
            stack = Stack(bridge, sites, contexts, values["target_feature"])
            progress.add(1)
            found, undefined = measure(place, stack, spec, lambda token: str(tokenizer.decode([token])), progress)
            values |= found
    except NotMeasurable as why:
        undefined = {name: str(why) for name in COLUMNS if name not in values}
    write_metrics(place, "circuit", COLUMNS, values, undefined=undefined)
    return {name: values.get(name) for name in ("target_feature", "depth")}


def find_target(site: Site, spec: CircuitSpec) -> tuple[int, int]:
    """The feature, and the sign with which it fires."""
    if spec.feature is None:
        found = find_features(site.dictionary, site.held_out.x_Bd, site.held_out.matches_B)
        if not found:
            matching = int(site.held_out.matches_B.sum())
            raise NotMeasurable(
                f"no feature of {site.hook_point} fires on the {matching} held-out tokens of the pattern"
            )
        return found[0].feature, found[0].sign
    n = site.dictionary.n_features
    if spec.feature >= n:
        raise NotMeasurable(f"there is no feature {spec.feature}: the dictionary of {site.hook_point} has {n:,}")
    f_B = site.codes([spec.feature])
    return spec.feature, 1 if f_B.max() >= -f_B.min() else -1


def measure(
    place: Path, stack: Stack, spec: CircuitSpec, text: Callable[[int], str], progress: Progress
) -> tuple[Values, Reasons]:
    """Grow the tree and write its tables and drawing; the numbers of metrics.json, and why some are undefined."""
    if not stack.target.fires_JS.any():
        raise NotMeasurable("in the contexts the target fires on attention sinks alone")
    effects = grow(stack.links, stack.target, spec.children, VERIFIED, STEPS, VERIFIED_EACH)
    progress.add(1)
    below = stack.sites[-2].hook_point
    if not effects:
        raise NotMeasurable(f"no feature of {below} is active where the target fires")
    attributions = attributions_to_target(stack)
    levels = levels_of(stack, effects)
    nodes, edges = node_rows(levels, attributions, text), edge_rows(levels, effects)
    write_table(place / "nodes.parquet", nodes)
    write_table(place / "edges.parquet", edges)
    graph = graph_of(nodes, edges)
    write_graph(graph, place)
    from tasks.evaluate.circuit_drawing import draw  # seconds, for those who draw

    draw(graph, place / "circuit.svg")

    values: Values = {
        "contexts": len(stack.contexts.last_S),
        "target_activation": effects[0].size_J.item(),
        "depth": sum(bool(found.kept_JF.any()) for found in effects),
    }
    correlated, undefined = correlations(effects[0])
    values |= correlated
    if not values["depth"]:
        progress.add(2)
        reason = f"no feature of {below} has a part in the target"
        return values, undefined | {name: reason for name in COLUMNS if name not in {*values, "target_feature"}}
    generator = torch.Generator().manual_seed(spec.seed)
    taken, not_taken = controls(place, stack, effects[0], generator)
    progress.add(1)
    kept, not_kept = faithfulness(place, stack, tree_sets(stack, levels), attributions, generator)
    progress.add(1)
    return values | taken | kept, undefined | not_taken | not_kept


def correlations(effects: Effects) -> tuple[Values, Reasons]:
    """How attribution and cut agree on the target."""
    names = ("attribution_correlation", "attribution_rank_correlation")
    found = correlation(effects.attribution_JF[0].double().tolist(), effects.cut_JF[0].double().tolist())
    if found is None:
        return dict.fromkeys(names), dict.fromkeys(names, "too few features, or all have the same effect")
    return dict(zip(names, found, strict=True)), {}


def controls(place: Path, stack: Stack, effects: Effects, generator: torch.Generator) -> tuple[Values, Reasons]:
    """The target without its children, and without random features, context by context."""
    link, target = stack.links[-1], stack.target
    size_S = target.clean_JS[0].abs()
    children_n = _as_set(effects.lower_F[effects.kept_JF[0]], link.lower.f_SPn.shape[-1])
    children_S = link.without_sets(target, children_n.expand(1, len(size_S), -1))[0, 0]
    values: Values = {"decrease_children": (children_S.mean() / size_S.mean()).item()}
    others_Sn = active(link.lower.f_SPn) & ~children_n
    if not others_Sn.any():
        names = ("decrease_random", "contexts_won")
        return values | dict.fromkeys(names), dict.fromkeys(names, "no other feature is active in the contexts")
    drawn_CSn = random_sets(others_Sn, int(children_n.sum()), DRAWS, generator)
    random_CS = link.without_sets(target, drawn_CSn)[:, 0]
    values["decrease_random"] = (random_CS.mean() / size_S.mean()).item()
    values["contexts_won"] = (children_S > random_CS).float().mean().item()
    by_random = {"cut_by_random": random_CS.mean(0), "most_cut_by_random": random_CS.amax(0)}
    columns = {"activation": size_S, "cut_by_children": children_S, **by_random}
    table = {name: column.tolist() for name, column in columns.items()}
    write_table(place / "controls.parquet", {"context": list(range(len(size_S))), **table})
    return values, {}


def attributions_to_target(stack: Stack) -> list[Float[Tensor, " n"]]:
    """Those of every feature of each earlier layer, mean over contexts."""
    target = stack.target
    return [target.mean(link.attributions(target, STEPS).permute(2, 0, 1))[:, 0] for link in stack.to_target]


def tree_sets(stack: Stack, levels: Sequence[Level]) -> Sets:
    """The tree's features in each earlier layer."""
    chosen = {level.at: level.watched.features_J for level in levels}
    nobody = stack.target.features_J[:0]
    return [_as_set(chosen.get(at, nobody), layer.f_SPn.shape[-1]) for at, layer in enumerate(stack.layers[:-1])]


def faithfulness(
    place: Path, stack: Stack, tree: Sets, attributions: Sequence[Tensor], generator: torch.Generator
) -> tuple[Values, Reasons]:
    """That of the tree, of as many random active features, and of those with the largest attributions."""
    nothing = stack.response([torch.zeros_like(chosen_n) for chosen_n in tree])
    whole = stack.response([torch.ones_like(chosen_n) for chosen_n in tree]) - nothing

    def row(name: str, sets: Sets) -> Row:
        kept, removed = stack.response(sets), stack.response([~chosen_n for chosen_n in sets])
        shares = {"faithfulness": (kept - nothing) / whole, "completeness": (removed - nothing) / whole}
        return {"set": name, "features": sum(int(chosen_n.sum()) for chosen_n in sets), **shares}

    values: Values = {"target_without_features": nothing}
    if whole <= 0:
        names = ("faithfulness", "completeness", "faithfulness_random")
        reason = "with all features of the earlier layers at their means the target is no less active"
        return values | dict.fromkeys(names), dict.fromkeys(names, reason)
    by_chance = [
        random_sets(active(layer.f_SPn).any(0)[None], int(chosen_n.sum()), 1, generator)[0, 0]
        for layer, chosen_n in zip(stack.layers, tree, strict=False)
    ]
    rows = [row("tree", tree), row("random", by_chance)]
    for size in SIZES:
        if all(size < len(chosen_n) for chosen_n in tree):
            largest = [attribution_n.abs().topk(size).indices for attribution_n in attributions]
            rows.append(
                row("attribution", [_as_set(top, len(all_n)) for top, all_n in zip(largest, tree, strict=True)])
            )
    write_table(place / "faithfulness.parquet", rows)
    told = {name: rows[0][name] for name in ("faithfulness", "completeness")}
    return values | told | {"faithfulness_random": rows[1]["faithfulness"]}, {}


def _as_set(features: Int[Tensor, " some"], n: int) -> Bool[Tensor, " n"]:
    chosen_n = torch.zeros(n, dtype=torch.bool, device=features.device)
    chosen_n[features] = True
    return chosen_n
