"""A circuit as tables of its nodes and edges, and as a graph in the formats that other programs read.

A node is called by its level and feature, "2/1234"; level 0 is the first dictionary. Edges lead from what is ablated to
what that cuts. `graph.json` is networkx' node-link form, `graph.graphml` opens in Gephi, yEd and Cytoscape.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.circuits import Effects, Watched, watch
from tasks.evaluate.circuit_contexts import Site, Stack

LABEL_ROWS = 20
LABEL_TOKENS = 3

Row = dict[str, Any]


class Level(NamedTuple):
    """The features that a circuit has in one layer."""

    at: int
    site: Site
    watched: Watched


def levels_of(stack: Stack, effects: Sequence[Effects]) -> list[Level]:
    """From the target's down."""
    top = len(stack.sites) - 1
    levels = [Level(top, stack.sites[top], stack.target)]
    for at, found in zip(range(top - 1, -1, -1), effects, strict=False):
        if len(found.children):
            levels.append(Level(at, stack.sites[at], watch(stack.layers[at], found.children)))
    return levels


def node_rows(
    levels: Sequence[Level], attributions: Sequence[Float[Tensor, " n"]], text: Callable[[int], str]
) -> list[Row]:
    """Features, with the tokens on which each is largest, and how active it is in the contexts and on held-out rows."""
    rows = []
    for at, site, watched in levels:
        features = watched.features_J.tolist()
        # In the contexts a feature of a signed dictionary may have either sign; that which it mostly has is told of.
        sign_J = watched.clean_JS.sum(1).sign().cpu()
        codes_BJ = site.codes(features) * sign_J
        tokens_B = torch.from_numpy(site.held_out.tokens_SP.astype("int64"))[site.held_out.kept_SP]
        for j, feature in enumerate(features):
            rows.append(
                {
                    "node": _name(at, feature),
                    "level": at,
                    "hook_point": site.hook_point,
                    "feature": feature,
                    "sign": int(sign_J[j]),
                    "tokens": _commonest(tokens_B[codes_BJ[:, j].topk(min(LABEL_ROWS, len(codes_BJ))).indices], text),
                    "density": float((codes_BJ[:, j] > 0).float().mean()),
                    "contexts": int(watched.fires_JS[j].sum()),
                    "activation": float(watched.mean(watched.clean_JS.abs())[j]),
                    "attribution_to_target": float(attributions[at][feature]) if at < len(attributions) else None,
                }
            )
    return rows


def edge_rows(levels: Sequence[Level], effects: Sequence[Effects]) -> list[Row]:
    """All pairs of features that were measured; those in the circuit are `kept`."""
    rows = []
    for level, found in zip(levels, effects, strict=False):
        size_J = found.size_J.tolist()
        for j, upper in enumerate(level.watched.features_J.tolist()):
            columns = (found.lower_F, found.cut_JF[j], found.attribution_JF[j], found.kept_JF[j])
            for lower, cut, attribution, kept in zip(*(column.tolist() for column in columns), strict=True):
                ends = {"lower": _name(level.at - 1, lower), "upper": _name(level.at, upper)}
                share = {"cut": cut, "share": cut / size_J[j], "attribution": attribution}
                rows.append({**ends, **share, "contexts": int(found.watched.fires_JS[j].sum()), "kept": kept})
    return rows


def graph_of(nodes: Sequence[Row], edges: Sequence[Row]) -> nx.DiGraph:
    """The circuit: all nodes, and the edges that are kept."""
    graph = nx.DiGraph()
    for node in nodes:
        told = {name: value for name, value in node.items() if name not in ("node", "tokens") and value is not None}
        graph.add_node(node["node"], **told, tokens=" ".join(node["tokens"]))
    for edge in edges:
        if edge["kept"]:
            numbers = {name: edge[name] for name in ("cut", "share", "attribution", "contexts")}
            graph.add_edge(edge["lower"], edge["upper"], **numbers)
    return graph


def write_graph(graph: nx.DiGraph, place: Path) -> None:
    """Write graph.json and graph.graphml."""
    document = nx.node_link_data(graph, edges="edges")
    (place / "graph.json").write_text(json.dumps(document, indent=1, allow_nan=False))
    nx.write_graphml(graph, place / "graph.graphml")


def _name(level: int, feature: int) -> str:
    return f"{level}/{feature}"


def _commonest(tokens: Tensor, text: Callable[[int], str]) -> list[str]:
    counts = Counter(tokens.tolist()).most_common(LABEL_TOKENS)
    return [visible(text(token)) for token, _ in counts]


def visible(text: str) -> str:
    """In quotes, as Python shows it: spaces are seen, and no character that XML forbids is left."""
    return repr(text.replace("\N{REPLACEMENT CHARACTER}", "?"))
