"""The drawing of a circuit as a part of a page, whose nodes open the pages of their features.

The drawing is made anew from the circuit's graph (tasks.evaluate.circuit_drawing), with a link on each label, and then
taken apart as XML: what is inside a page must not bring style for all of it, nor names that another drawing has too.
Text in it, tokens among them, stays text: it is escaped when it is written.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
from markupsafe import Markup

from tasks.evaluate.circuit_drawing import draw
from tasks.site.material import Material, Study

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
GRAPH = "graph.json"


def drawn(material: Material, study: Study, title: str) -> Markup | None:
    """The drawing; None where there is no circuit."""
    if not (study.place / GRAPH).is_file():
        return None
    graph = nx.node_link_graph(json.loads((study.place / GRAPH).read_text()), edges="edges")

    def href(node: str) -> str | None:
        found = material.browsable.get(study.dictionaries[graph.nodes[node]["level"]])
        return found.href(graph.nodes[node]["feature"]) if found else None

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "circuit.svg"
        draw(graph, file, href)
        text = file.read_text(encoding="utf-8")
    return inside_a_page(text, study.row["ref"].partition("/")[2][:8], f"Circuit of {title}")


def inside_a_page(svg: str, prefix: str, label: str) -> Markup:
    """An SVG file as an element of a page, whose names all begin with `prefix`."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    reached: set[str] = set()
    for link in root.iter(f"{{{SVG}}}a"):  # one for each line of a label
        target = link.get(f"{{{XLINK}}}href", "")
        if target in reached:
            link.set("tabindex", "-1")
        reached.add(target)
    root.attrib |= {"class": "circuit", "role": "group", "aria-label": label}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
