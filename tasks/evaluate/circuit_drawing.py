"""A drawing of a circuit: layers from left to right, the target last; the larger its share, the wider an edge."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib
import networkx as nx
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

COLUMN = 3.2
"""Inches from one layer to the next."""

ROW = 0.5
WIDEST = 5.0  # points
LABEL_LETTERS = 26

Places = dict[str, tuple[float, float]]


def draw(graph: nx.DiGraph, file: Path, href: Callable[[str], str | None] = lambda node: None) -> None:
    """Draw the circuit, in the format of the file's name; `href` is where a node leads to, in formats with links."""
    columns = _columns(graph)
    places = _places(graph, columns)
    rows = max(len(column) for column in columns)
    # A figure of its own, as pyplot keeps all of a process; the settings make equal drawings equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "circuit", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(COLUMN * len(columns) + 0.8, ROW * max(rows, 4) + 1.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        colours = ScalarMappable(Normalize(0, _largest_share(graph)), "viridis_r")
        for lower, upper, share in graph.edges(data="share"):
            axes.annotate(
                "", xy=places[upper], xytext=places[lower], zorder=1,
                arrowprops={
                    "arrowstyle": "-", "connectionstyle": "arc3", "color": colours.to_rgba(share),
                    "linewidth": 0.5 + WIDEST * share / _largest_share(graph), "shrinkA": 0, "shrinkB": 0,
                },
            )  # fmt: skip
        for node, (x, y) in places.items():
            told = graph.nodes[node]
            # Tokens may hold $, which would begin a formula.
            axes.text(
                x, y, f"{told['feature']}\n{_short(told['tokens'])}", ha="center", va="center", fontsize=7, zorder=2,
                url=href(node), parse_math=False,
                bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "0.6"},
            )  # fmt: skip
        for at, column in enumerate(columns):
            axes.text(at, 1.0, graph.nodes[column[0]]["hook_point"], ha="center", va="bottom", fontsize=8)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(0, 1.06)
        bar = figure.colorbar(colours, ax=axes, shrink=0.6, pad=0.01)
        bar.set_label("share of the right feature's activation\nthat ablating the left one takes away", fontsize=7)
        bar.ax.tick_params(labelsize=7)
        with warnings.catch_warnings():
            # Letters that this font lacks are text in the SVG, and found in another one by whoever shows it.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _columns(graph: nx.DiGraph) -> list[list[str]]:
    """The nodes of each layer, in an order in which few edges cross: each near what it leads to."""
    by_level: dict[int, list[str]] = defaultdict(list)
    for node, level in nx.get_node_attributes(graph, "level").items():
        by_level[level].append(node)
    columns: list[list[str]] = []
    depth: dict[str, float] = {}
    """How far down its column a node is."""
    for level in sorted(by_level, reverse=True):
        columns.insert(0, sorted(by_level[level], key=lambda node: _pull(graph, node, depth)))
        depth |= {node: (place + 0.5) / len(columns[0]) for place, node in enumerate(columns[0])}
    return columns


def _pull(graph: nx.DiGraph, node: str, depth: dict[str, float]) -> tuple[float, float]:
    """Where what a node leads to is, on average, and how strongly it pulls."""
    shares = {upper: share for _, upper, share in graph.out_edges(node, data="share")}
    total = sum(shares.values())
    return (sum(depth[upper] * share for upper, share in shares.items()) / total if total else 0.0), -total


def _places(graph: nx.DiGraph, columns: list[list[str]]) -> Places:
    """Each column spread over the height, the first node on top."""
    return {
        node: (at, 1 - (place + 0.5) / len(column))
        for at, column in enumerate(columns)
        for place, node in enumerate(column)
    }


def _largest_share(graph: nx.DiGraph) -> float:
    return max((share for *_, share in graph.edges(data="share")), default=1.0)


def _short(text: str) -> str:
    return text if len(text) <= LABEL_LETTERS else text[: LABEL_LETTERS - 1] + "…"
