"""The plots of the overview: what there is to see of the dictionaries and of their evaluations.

A plot is there only where its numbers are. What they are drawn from lies beside the page: a table of the report, or
one that is written for the plot into `data/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.tables import read_table, write_table
from tasks.caching import artifacts
from tasks.site.figures import Group, Marks, Plot, bars, figure, logarithmic, thinned
from tasks.site.material import Material
from tasks.site.pages import write_script
from tasks.site.study_plots import erasure, interpretability, ioi
from tasks.study_tables import Row

POINTS = 500
BINS = 40

FVU = "FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖², over held-out rows"
L0 = "L0 = mean over rows of the number of features with f ≠ 0"
CE = "CE recovered = (L_zero − L_reconstructed) / (L_zero − L_clean), L the next-token loss"


def write_plots(place: Path, material: Material) -> list[Group]:
    """Write the tables and `data/plots.js`; returns the plots in their order, under their headings."""
    (place / "data").mkdir(exist_ok=True)
    marks = Marks(material)
    makers: dict[str, Callable[[Path, Material, Marks], Iterator[Plot]]] = {
        "Sparsity and reconstruction": fronts,
        "Interpretability": interpretability,
        "Indirect object identification": ioi,
        "Concept erasure": erasure,
        "Training": training,
        "Density of features": densities,
        "Dead features": dead,
    }
    groups = [Group(title, list(make(place, material, marks))) for title, make in makers.items()]
    groups = [group for group in groups if group.plots]
    write_script(place, "data/plots", {plot.name: plot.figure for group in groups for plot in group.plots})
    return groups


def fronts(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """L0 against what is lost, and against what the model keeps; one plot for each hook point."""
    for number, hook_point in enumerate(material.hook_points, 1):
        here = [row for row in material.at(hook_point) if row["fvu"] is not None and row["l0"] is not None]
        if here:
            yield Plot(
                f"front-{number}",
                f"L0 and FVU at {hook_point}",
                f"Mean number of active features against the fraction of variance unexplained, of {len(here)} "
                "dictionaries: the nearer to the lower left corner the better.",
                f"{L0}. {FVU}",
                _points(material, marks, here, [row["fvu"] for row in here], "FVU"),
                ("dictionaries.parquet",),
            )
        for table, rows in material.of_kind("faithfulness"):
            there = [(row, study.dictionaries[0]) for row, study in rows if row["ce_recovered"] is not None]
            known = [
                (material.by_name[name], row)
                for row, name in there
                if name in material.by_name and material.by_name[name]["hook_point"] == hook_point
            ]
            known = [(own, row) for own, row in known if own["l0"] is not None]
            if known:
                values = [row["ce_recovered"] for _, row in known]
                intervals = [row["intervals"].get("ce_recovered") for _, row in known]
                owners = [own for own, _ in known]
                yield Plot(
                    f"{table.name}-{number}",
                    f"L0 and CE recovered at {hook_point}",
                    f"Mean number of active features against the share of the loss that {len(known)} reconstructions "
                    "recover: the nearer to the upper left corner the better.",
                    f"{L0}. {CE}",
                    _points(material, marks, owners, values, "CE recovered", intervals),
                    ("dictionaries.parquet", table.file),
                )


def _points(
    material: Material,
    marks: Marks,
    rows: Sequence[Row],
    values: Sequence[float],
    y: str,
    intervals: Sequence[Sequence[float] | None] | None = None,
) -> dict[str, Any]:
    import plotly.graph_objects as go

    bounds = intervals or [None] * len(rows)
    traces = [
        go.Scatter(
            x=[row["l0"]], y=[value], name=material.label(row), mode="markers",
            marker=marks.points(material.label(row)), cliponaxis=False, hovertemplate="L0 %{x:.4g}<br>%{y:.4g}",
            **bars([value], [bound]),
        )
        for row, value, bound in zip(rows, values, bounds, strict=True)
    ]  # fmt: skip
    return figure(traces, "L0", y, xaxis=logarithmic(row["l0"] for row in rows), yaxis_rangemode="tozero")


def training(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """How the fraction of variance unexplained and L0 went while training."""
    import plotly.graph_objects as go

    logs: dict[str, Row] = {}
    for row in material.rows:
        file = artifacts().path(material.dictionaries[row["ref"]]) / "training.parquet"
        if file.is_file():
            logs[row["ref"]] = read_table(file).to_pydict()
    if not logs:
        return
    lines = []
    for ref, log in logs.items():
        for at in thinned(len(log["rows"]), POINTS):
            lines.append({"ref": ref, **{name: log[name][at] for name in ("rows", "fvu", "l0", "loss")}})
    write_table(place / "data" / "training.parquet", lines)
    for number, hook_point in enumerate(material.hook_points, 1):
        here = [row for row in material.at(hook_point) if row["ref"] in logs]
        for name, told in (("fvu", "FVU"), ("l0", "L0")):
            traces = []
            for row in here:
                own, label = [line for line in lines if line["ref"] == row["ref"]], material.label(row)
                traces.append(
                    go.Scatter(
                        x=[line["rows"] for line in own], y=[line[name] for line in own], name=label, mode="lines",
                        line=marks.line(label), hovertemplate="%{x:,} rows<br>%{y:.4g}",
                    )
                )  # fmt: skip
            if traces:
                yield Plot(
                    f"training-{name}-{number}",
                    f"{told} while training at {hook_point}",
                    f"The {told} of the batches of {len(traces)} dictionaries, as they were trained on more rows.",
                    (FVU.replace("held-out rows", "the rows of a batch") if name == "fvu" else L0),
                    figure(traces, "rows trained on", told, yaxis=logarithmic(line[name] for line in lines)),
                    ("data/training.parquet",),
                )


def densities(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """How many features fire how often."""
    import plotly.graph_objects as go

    shares: dict[str, np.ndarray] = {}
    for row in material.rows:
        table = read_table(artifacts().path(material.reconstructions[row["ref"]]) / "features.parquet")
        density = table["density"].to_numpy()
        shares[row["ref"]] = np.log10(density[density > 0])
    low = np.floor(min((values.min() for values in shares.values() if len(values)), default=0))
    if not any(len(values) for values in shares.values()):
        return
    edges = np.linspace(min(low, -1), 0, BINS + 1)
    counts = {ref: np.histogram(values, edges)[0].tolist() for ref, values in shares.items()}
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = [
        {"ref": ref, "log10_density": middle, "low": low, "high": high, "features": count}
        for ref, own in counts.items()
        for middle, low, high, count in zip(middles, edges[:-1].tolist(), edges[1:].tolist(), own, strict=True)
    ]
    write_table(place / "data" / "densities.parquet", lines)
    for number, hook_point in enumerate(material.hook_points, 1):
        traces = [
            go.Scatter(
                x=middles, y=counts[row["ref"]], name=material.label(row), mode="lines",
                line={**marks.line(material.label(row)), "shape": "hvh"}, hovertemplate="10^%{x:.2f}<br>%{y} features",
            )
            for row in material.at(hook_point)
        ]  # fmt: skip
        yield Plot(
            f"density-{number}",
            f"Density of features at {hook_point}",
            f"How many features of each of {len(traces)} dictionaries fire on which share of the held-out rows; those "
            "that never fire are left out.",
            "density = share of the held-out rows with f ≠ 0; log₁₀ of it, in bins of equal width",
            figure(traces, "log₁₀ density", "features"),
            ("data/densities.parquet",),
        )


def dead(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """What share of the features never fires."""
    import plotly.graph_objects as go

    labels = list(marks.number)
    traces = []
    for label in labels:
        own = [row for row in material.rows if material.label(row) == label and row["dead_fraction"] is not None]
        if any(row["dead_fraction"] for row in own):
            traces.append(
                go.Bar(
                    x=[row["hook_point"] for row in own], y=[row["dead_fraction"] for row in own], name=label,
                    marker={"color": marks.colour(label)}, hovertemplate="%{y:.4g}",
                )
            )  # fmt: skip
    if traces:
        yield Plot(
            "dead",
            "Features that never fire",
            f"The share of the features that fire on none of the held-out rows, hook point by hook point, of the "
            f"{len(traces)} dictionaries that have any.",
            "dead fraction = share of the features with f = 0 on all held-out rows",
            figure(traces, "", "share of the features", barmode="group"),
            ("dictionaries.parquet",),
        )
