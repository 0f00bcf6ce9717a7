"""Drawings of how interpretable features are: one colour and one marker for each method, the same in all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tasks.evaluate.interpretability import STATISTICS
from tasks.evaluate.interpretability_scores import Scored, spearman
from tasks.evaluate.results import over_seeds

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Told apart by people who see colours differently (Okabe & Ito 2008)."""

MARKERS = "osD^vP*X"
SCORE = "score: correlation of simulated\nwith true activations"
CLIPPED = "negative values as 0"
FEWEST_FOR_A_SHAPE = 5
PER_SCATTER_ROW = 2.4  # inches
LETTER = 0.065


def draw_means(read: Sequence[Scored], file: Path) -> None:
    """Mean scores with their 95 % intervals; where clipping changes a mean, the clipped one is an open marker."""
    places = hook_points(read)
    with figure(file, (1.0 + 2.1 * len(places) + room_for_names(read), 3.6)) as drawing:
        axes = drawing.add_subplot()
        for at, colour, marker, each in spread(read):
            for scores, filled in ((each.score, True), (each.clipped, False)):
                if not len(scores) or (not filled and np.isclose(scores.mean(), each.score.mean(), atol=5e-3)):
                    continue
                mean = scores.mean()
                low, high = over_seeds(scores.tolist()) or (mean, mean)
                beside = 0 if filled else 0.25 / methods(read)
                axes.errorbar(
                    at + beside, mean, yerr=[[mean - low], [high - mean]], color=colour, marker=marker, markersize=5,
                    markerfacecolor=colour if filled else "white", capsize=2, linewidth=1,
                )  # fmt: skip
        by_layer(axes, read)
        legend(drawing, read, clipped=True)


def draw_violins(read: Sequence[Scored], file: Path) -> None:
    """How the scores of single features are distributed, with their median."""
    places = hook_points(read)
    with figure(file, (1.0 + 2.8 * len(places) + room_for_names(read), 3.6)) as drawing:
        axes = drawing.add_subplot()
        for at, colour, marker, each in spread(read):
            if len(each.score) >= FEWEST_FOR_A_SHAPE and np.ptp(each.score) > 0:
                parts: Any = axes.violinplot([each.score], [at], widths=0.9 / methods(read), showextrema=False)
                parts["bodies"][0].set(facecolor=colour, edgecolor=colour, alpha=0.35)
            if len(each.score):
                axes.plot(at, np.median(each.score), marker=marker, color=colour, markersize=5)
        by_layer(axes, read)
        legend(drawing, read)


def draw_moments(read: Sequence[Scored], file: Path) -> None:
    """Scores of single features against their density, skew and kurtosis, a row for each layer."""
    places = hook_points(read)
    with figure(file, (8.0 + room_for_names(read), 0.4 + PER_SCATTER_ROW * len(places))) as drawing:
        grid = drawing.subplots(len(places), len(STATISTICS), squeeze=False, sharey=True)
        for place, row in zip(places, grid, strict=True):
            here = [(colour, marker, each) for _, colour, marker, each in spread(read) if each.hook_point == place]
            for moment, axes in zip(STATISTICS, row, strict=True):
                for colour, marker, each in here:
                    axes.scatter(
                        each.moments[moment], each.score, s=9, marker=marker, color=colour, alpha=0.6, linewidths=0
                    )
                if any((each.moments[moment] > 0).any() for *_, each in here):
                    # They go over orders of magnitude, and skew may be negative.
                    axes.set_xscale("symlog" if moment == "skew" else "log")
                axes.set_xlabel(moment)
                scores = np.concatenate([each.score for *_, each in here])
                r, features = spearman(scores, np.concatenate([each.moments[moment] for *_, each in here]))
                told = "undefined" if r is None else f"{r:+.2f}"
                axes.set_title(f"{place}\nall methods: Spearman's r {told}, n = {features}", fontsize=8)
                plain(axes)
            row[0].set_ylabel(SCORE)
        legend(drawing, read)


def hook_points(read: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(each.hook_point for each in read))


def names(read: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(each.name for each in read))


def room_for_names(read: Sequence[Scored]) -> float:
    """Inches that the legend takes."""
    return 0.4 + LETTER * max(len(name) for name in (*names(read), CLIPPED))


def methods(read: Sequence[Scored]) -> int:
    return len(names(read))


def spread(read: Sequence[Scored]) -> Iterator[tuple[float, str, str, Scored]]:
    """Each dictionary with its place beside the others of its layer, its colour and its marker."""
    places, known = hook_points(read), names(read)
    for each in read:
        number = known.index(each.name)
        offset = 0.8 * ((number + 0.5) / len(known) - 0.5)
        at = places.index(each.hook_point) + offset
        yield at, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], each


def by_layer(axes: Axes, read: Sequence[Scored]) -> None:
    places = hook_points(read)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_ylabel(SCORE)
    plain(axes)


def plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def legend(drawing: Figure, read: Sequence[Scored], clipped: bool = False) -> None:
    handles = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], linestyle="")
        for number in range(methods(read))
    ]
    labels = names(read)
    if clipped:
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle=""))
        labels.append(CLIPPED)
    drawing.legend(handles, labels, loc="outside right upper", frameon=False)


@contextmanager
def figure(file: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that becomes the file. Pyplot would keep all of a process; the settings make equal ones equal bytes."""
    salt = file.stem
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "DejaVu Sans", "font.size": 8}
    ):
        drawing = Figure(figsize=size, layout="constrained")
        yield drawing
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            drawing.savefig(file, metadata={"Date": None})
