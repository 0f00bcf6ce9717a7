"""What a plot of a site is, and the marks that plots have in common.

Plots are built with Plotly in Python and drawn by Plotly in the page (assets/plots.js), which gives them the colours of
the theme. Each has a formula, and a file that holds its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.cells import rounded
from tasks.site.material import Material

COLOURS = ("#3f8fd8", "#e0822b", "#2fa37a", "#c766b0", "#c9a227", "#8179d6", "#cf5650", "#8a8f94")
"""Told apart on light and on dark paper, by people who see colours differently too (after Okabe & Ito 2008)."""

DASHES = ("solid", "dot", "dash", "longdash", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
MANY_POWERS = 5  # of ten, on one axis
HEIGHT = 260
LINE = 20  # of a legend, in pixels

Trace = Mapping[str, Any]


class Plot(NamedTuple):
    """A plot of a page."""

    name: str
    """In `data/plots`, and of its place on the page."""
    title: str
    shows: str
    """In a sentence, for those who do not see it."""
    formula: str
    figure: dict[str, Any]
    """As Plotly's JSON."""
    data: tuple[str, ...]
    """The files of the site that hold its numbers."""
    study: str | None = None
    """The name of the study that it is about, whose page shows it too."""


class Group(NamedTuple):
    """Plots under one heading."""

    title: str
    plots: Sequence[Plot]


class Marks:
    """One colour and one symbol for each dictionary's name, the same in all plots."""

    def __init__(self, material: Material) -> None:
        labels = list(dict.fromkeys(material.label(row) for row in material.rows))
        self.number = {label: number for number, label in enumerate(labels)}

    def colour(self, label: str) -> str:
        return COLOURS[self.number.get(label, 0) % len(COLOURS)]

    def symbol(self, label: str) -> str:
        return SYMBOLS[self.number.get(label, 0) % len(SYMBOLS)]

    def dash(self, label: str) -> str:
        return DASHES[self.number.get(label, 0) // len(COLOURS) % len(DASHES)]

    def line(self, label: str) -> dict[str, Any]:
        return {"color": self.colour(label), "dash": self.dash(label), "width": 2}

    def points(self, label: str) -> dict[str, Any]:
        return {"color": self.colour(label), "symbol": self.symbol(label), "size": 9}

    def faded(self, label: str, alpha: float = 0.18) -> str:
        red, green, blue = (int(self.colour(label)[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},{alpha})"


def figure(traces: Iterable[Any], x: str, y: str, **layout: Any) -> dict[str, Any]:
    """The figure as JSON, without a template: what is not said here is of the theme."""
    import plotly.graph_objects as go  # a second, for those who need it

    drawn = list(traces)
    named = [trace.name for trace in drawn if trace.showlegend is not False]
    # Names are long: the legend stands below the axes, a line for each, and takes nothing from their height.
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "entrywidth": 1}
    legend |= {"entrywidthmode": "fraction", "font": {"size": 12}}
    below = LINE * len(named) + 60
    made = go.Figure(drawn)
    made.update_layout(
        template="none", showlegend=True, legend=legend, height=HEIGHT + below,
        margin={"l": 64, "r": 16, "t": 12, "b": below}, **layout,
    )  # fmt: skip
    made.update_xaxes(title_text=x, title_standoff=10)
    made.update_yaxes(title_text=y, title_standoff=8)
    told: dict[str, Any] = made.to_plotly_json()
    told["layout"].pop("template")
    return plain(told)


def plain(value: Any) -> Any:
    """Lists in place of arrays and tuples, rounded numbers, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else None
    return value


def bars(values: Sequence[float | None], bounds: Sequence[Sequence[float] | None], axis: str = "y") -> dict[str, Any]:
    """The error bars of values that have intervals."""
    pairs = [
        (bound[1] - value, value - bound[0]) if value is not None and bound is not None else (None, None)
        for value, bound in zip(values, bounds, strict=True)
    ]
    if all(up is None for up, _ in pairs):
        return {}
    array = [up for up, _ in pairs]
    told = {"type": "data", "array": array, "arrayminus": [down for _, down in pairs], "symmetric": False}
    return {f"error_{axis}": {**told, "thickness": 1, "width": 4}}


def logarithmic(values: Iterable[float | None]) -> dict[str, Any]:
    """A logarithmic axis for these values, with ticks at 1, 2 and 5; a plain one where they are not all above zero."""
    there = [value for value in values if value is not None]
    if not there or min(there) <= 0:
        return {"type": "linear"}
    powers = range(math.floor(math.log10(min(there))), math.ceil(math.log10(max(there))) + 1)
    steps = (1, 2, 5) if len(powers) < MANY_POWERS else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def thinned(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]
