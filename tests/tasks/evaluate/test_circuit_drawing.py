"""Graphs and drawings that other programs open, whatever the text in them."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import pytest

from tasks.evaluate.circuit_drawing import draw
from tasks.evaluate.circuit_graph import graph_of, visible, write_graph

NASTY = ["<script>", "&", "$x_{", "\n\x00", "\ufffd", " ((", "'", "漢"]


@pytest.fixture
def graph() -> nx.DiGraph:
    def node(level: int, feature: int) -> dict[str, Any]:
        tokens = [visible(text) for text in NASTY[feature : feature + 3]]
        about = {"hook_point": f"blocks.{level}.hook_resid_post", "tokens": tokens, "attribution_to_target": None}
        return {"node": f"{level}/{feature}", "level": level, "feature": feature, **about}

    def edge(lower: str, upper: str, share: float, kept: bool = True) -> dict[str, Any]:
        return {"lower": lower, "upper": upper, "cut": 2 * share, "share": share, "attribution": share, "contexts": 3,
                "kept": kept}  # fmt: skip

    nodes = [node(2, 0), node(1, 1), node(1, 2), node(0, 3), node(0, 4), node(0, 5)]
    edges = [
        edge("1/1", "2/0", 0.5), edge("1/2", "2/0", 0.2), edge("0/3", "1/2", 0.3), edge("0/4", "1/1", 0.1),
        edge("0/4", "1/2", 0.6), edge("0/5", "1/1", 0.01), edge("0/6", "1/1", 0.001, kept=False),
    ]  # fmt: skip
    return graph_of(nodes, edges)


def test_only_edges_that_are_kept_are_in_the_graph(graph: nx.DiGraph):
    assert set(graph) == {"2/0", "1/1", "1/2", "0/3", "0/4", "0/5"}
    assert graph.number_of_edges() == 6


def test_both_formats_give_back_the_graph(graph: nx.DiGraph, tmp_path: Path):
    write_graph(graph, tmp_path)
    from_json = nx.node_link_graph(json.loads((tmp_path / "graph.json").read_text()), edges="edges")
    from_graphml = nx.read_graphml(tmp_path / "graph.graphml")
    for read in (from_json, from_graphml):
        assert dict(read.nodes(data=True)) == dict(graph.nodes(data=True))
        assert {(a, b): share for a, b, share in read.edges(data="share")} == {
            (a, b): share for a, b, share in graph.edges(data="share")
        }


def test_the_drawing_shows_every_feature_with_its_tokens_as_text(graph: nx.DiGraph, tmp_path: Path):
    draw(graph, tmp_path / "circuit.svg")
    shown = {element.text for element in ElementTree.parse(tmp_path / "circuit.svg").iter() if element.text}
    for node, about in graph.nodes(data=True):
        assert str(about["feature"]) in shown, node
        assert about["tokens"] in shown
    assert not any("script" in element.tag for element in ElementTree.parse(tmp_path / "circuit.svg").iter())


def test_equal_graphs_give_equal_drawings(graph: nx.DiGraph, tmp_path: Path):
    for name in ("one.svg", "two.svg"):
        draw(graph, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_target_alone_is_drawn(tmp_path: Path):
    graph = nx.DiGraph()
    graph.add_node("1/7", level=1, feature=7, hook_point="blocks.1.hook_resid_post", tokens="")
    draw(graph, tmp_path / "circuit.svg")
    assert "blocks.1.hook_resid_post" in (tmp_path / "circuit.svg").read_text()
