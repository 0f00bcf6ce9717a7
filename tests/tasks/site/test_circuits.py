"""A drawing inside a page: links that lead to features, names of its own, and text that stays text."""

import re
from pathlib import Path
from typing import Any

import networkx as nx

from tasks.evaluate.circuit_drawing import draw
from tasks.evaluate.circuit_graph import graph_of
from tasks.site.circuits import inside_a_page

EVIL = "</svg><script>alert(1)</script>"


def drawing(place: Path) -> str:
    def node(level: int, feature: int) -> dict[str, Any]:
        told = {"node": f"{level}/{feature}", "level": level, "feature": feature, "tokens": [EVIL, 'id="x"']}
        return {**told, "hook_point": f"blocks.{level}"}

    edge = {"lower": "0/1", "upper": "1/2", "cut": 1.0, "share": 0.5, "attribution": 1.0, "contexts": 3, "kept": True}
    graph: nx.DiGraph = graph_of([node(1, 2), node(0, 1)], [edge])
    links = {"1/2": "features.html#topk-a-1/2"}
    draw(graph, place / "circuit.svg", links.get)
    return (place / "circuit.svg").read_text(encoding="utf-8")


def test_a_node_leads_to_its_feature_where_there_is_a_page(tmp_path: Path):
    made = inside_a_page(drawing(tmp_path), "one", "A circuit")
    found = re.findall(r'<a xlink:href="([^"]*)"( tabindex="-1")?', made)
    assert {href for href, _ in found} == {"features.html#topk-a-1/2"}
    assert [skipped for _, skipped in found].count("") == 1, "the keyboard stops at it once, however many lines it has"


def test_two_drawings_on_a_page_share_no_name_and_no_style(tmp_path: Path):
    svg = drawing(tmp_path)
    one, two = (inside_a_page(svg, prefix, "A circuit") for prefix in ("one", "two"))
    names = [set(re.findall(r'\bid="([^"]*)"', made)) for made in (one, two)]
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', one))
    assert used <= names[0], "what refers to a name still finds it"
    assert "<style" not in one
    assert "<?xml" not in one


def test_text_in_a_drawing_is_no_markup(tmp_path: Path):
    made = inside_a_page(drawing(tmp_path), "one", EVIL)
    assert "<script" not in made
    assert made.count("</svg>") == 1
    assert "&lt;/svg&gt;" in made
