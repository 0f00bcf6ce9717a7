"""The plots of evaluations: interpretability scores, the curves of the IOI study, and erasure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.tables import write_table
from tasks.site.figures import Marks, Plot, bars, figure, logarithmic, thinned
from tasks.site.headlines import headline_of
from tasks.site.material import Material, Study
from tasks.study_tables import Row

SCORES = 300
"""Of the features of one dictionary, in a violin."""

KL = "KL(patched prediction ‖ prediction for the counterfactual), mean over prompts"
RANKED = "features patched in the order of their integrated gradient on the KL, one ranking for all prompts"


def interpretability(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """Mean scores with their intervals, and how the scores of single features are distributed."""
    for table, rows in material.of_kind("interpretability"):
        headline = headline_of(table, "interpretability")
        if headline is None:
            continue
        metric, formula = headline.metric, table.meanings[headline.metric]
        yield Plot(
            f"{table.name}-means",
            f"{table.title}: mean {headline.told}",
            f"Mean {headline.told} of the explanations of each dictionary's features with its 95 % interval, hook "
            "point by hook point: the higher the better.",
            f"{headline.told} = {formula}; intervals by Student's t",
            figure(_means(material, rows, metric, marks), "", headline.told, **_by_layer(rows)),
            (table.file,),
        )
        scores = [
            {"ref": row["ref"], "hook_point": row["hook_point"], "label": material.label_of(study),
             "feature": entry["feature"], "score": entry[metric]}
            for row, study in rows
            for entry in study.read("scores.parquet")
            if entry[metric] is not None
        ]  # fmt: skip
        if scores:
            file = f"data/{table.name}_scores.parquet"
            write_table(place / file, scores)
            yield Plot(
                f"{table.name}-violins",
                f"{table.title}: {headline.told} of single features",
                f"How the {headline.told} of {len(scores)} features is distributed, dictionary by dictionary.",
                f"{headline.told} = {formula.removesuffix('; mean over features')}",
                figure(_violins(scores, marks), "", headline.told, violinmode="group", **_by_layer(rows)),
                (file,),
            )


def _means(material: Material, rows: Sequence[tuple[Row, Study]], metric: str, marks: Marks) -> Iterator[Any]:
    import plotly.graph_objects as go

    labels = list(dict.fromkeys(material.label_of(study) for _, study in rows))
    for number, label in enumerate(labels):
        own = [row for row, study in rows if material.label_of(study) == label and row[metric] is not None]
        values = [row[metric] for row in own]
        # Beside each other: a category axis has no room between its places but by offset groups of bars.
        yield go.Scatter(
            x=[row["hook_point"] for row in own], y=values, name=label, mode="markers",
            marker=marks.points(label), offsetgroup=str(number), hovertemplate="%{y:.4g}",
            **bars(values, [row["intervals"].get(metric) for row in own]),
        )  # fmt: skip


def _violins(scores: Sequence[Row], marks: Marks) -> Iterator[Any]:
    import plotly.graph_objects as go

    for label in dict.fromkeys(entry["label"] for entry in scores):
        x: list[str] = []
        y: list[float] = []
        for place in dict.fromkeys(entry["hook_point"] for entry in scores):
            own = sorted(entry["score"] for entry in scores if (entry["label"], entry["hook_point"]) == (label, place))
            chosen = [own[at] for at in thinned(len(own), SCORES)]
            x += [place] * len(chosen)
            y += chosen
        yield go.Violin(
            x=x, y=y, name=label, line={"color": marks.colour(label)}, meanline={"visible": True}, points=False,
            scalemode="width", hoverinfo="skip", spanmode="hard", offsetgroup=label,
        )  # fmt: skip


def _by_layer(rows: Sequence[tuple[Row, Study]]) -> dict[str, Any]:
    places = list(dict.fromkeys(row["hook_point"] for row, _ in rows))
    return {"xaxis": {"type": "category", "categoryarray": places}, "scattermode": "group"}


def _labelled(
    material: Material, rows: Sequence[tuple[Row, Study]], read: Callable[[Study], Iterable[Row]]
) -> list[Row]:
    """What is read of each study, with the dictionary that it is about."""
    return [
        {"ref": row["ref"], "hook_point": row["hook_point"], "label": material.label_of(study), **line}
        for row, study in rows
        for line in read(study)
    ]


def ioi(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """KL against how many features are patched, and against how large an edit that is; a band over the seeds."""
    for table, rows in material.of_kind("ioi"):
        lines = _labelled(material, rows, curve)
        if not lines:
            continue
        file = f"data/{table.name}_curves.parquet"
        write_table(place / file, lines)
        for number, hook_point in enumerate(dict.fromkeys(line["hook_point"] for line in lines), 1):
            here = [line for line in lines if line["hook_point"] == hook_point]
            for x, told in (("features", "features patched"), ("edit", "size of the edit, ‖x − x'‖")):
                yield Plot(
                    f"{table.name}-{x}-{number}",
                    f"{table.title}: KL against {'features' if x == 'features' else 'edit'} at {hook_point}",
                    f"KL to the counterfactual against {told}, for each dictionary: mean of the seeds, and from the "
                    "lowest to the highest. The sooner it falls the better.",
                    f"{KL}; {RANKED}" + ("" if x == "features" else "; edit: mean over positions"),
                    figure(
                        _curves(here, x, marks), told, "KL (nats)",
                        **({"xaxis": logarithmic(line[x] for line in here if line[x])} if x == "features" else {}),
                    ),
                    (file,), table.name,
                )  # fmt: skip


def curve(study: Study) -> list[Row]:
    """Of the shared ranking at each number of features: mean over the seeds that have it, lowest and highest."""
    points: dict[int, list[Row]] = {}
    for row in study.read("curves.parquet"):
        if row["ranking"] == "shared" and row["kl"] is not None:
            points.setdefault(row["features"], []).append(row)
    seeds = max((len(several) for several in points.values()), default=0)
    told = []
    for features, several in sorted(points.items()):
        if len(several) < seeds:  # of the last size, which is that of one seed
            continue
        kl = [row["kl"] for row in several]
        edit = [row["edit"] for row in several]
        mean = {"kl": sum(kl) / seeds, "edit": sum(edit) / seeds}
        told.append({"features": features, "seeds": seeds, **mean, "kl_low": min(kl), "kl_high": max(kl)})
    return told


def _curves(lines: Sequence[Row], x: str, marks: Marks) -> Iterator[Any]:
    import plotly.graph_objects as go

    for label in dict.fromkeys(line["label"] for line in lines):
        own = [line for line in lines if line["label"] == label and not (x == "features" and line["features"] == 0)]
        own.sort(key=lambda line: line[x])
        if not own:
            continue
        along = [line[x] for line in own]
        around = [line["kl_high"] for line in own] + [line["kl_low"] for line in reversed(own)]
        yield go.Scatter(
            x=along + along[::-1], y=around, fill="toself", fillcolor=marks.faded(label), line={"width": 0},
            mode="lines", hoverinfo="skip", showlegend=False, legendgroup=label,
        )  # fmt: skip
        yield go.Scatter(
            x=along, y=[line["kl"] for line in own], name=label, mode="lines+markers", line=marks.line(label),
            marker={**marks.points(label), "size": 6}, legendgroup=label, hovertemplate="%{x:.4g}<br>KL %{y:.4g}",
        )  # fmt: skip


def erasure(place: Path, material: Material, marks: Marks) -> Iterator[Plot]:
    """What is left of the gender against how large the edit is, for each intervention."""
    for table, rows in material.of_kind("erasure"):
        lines = _labelled(material, rows, interventions)
        if not lines:
            continue
        file = f"data/{table.name}_interventions.parquet"
        write_table(place / file, lines)
        for number, hook_point in enumerate(dict.fromkeys(line["hook_point"] for line in lines), 1):
            here = [line for line in lines if line["hook_point"] == hook_point]
            yield Plot(
                f"{table.name}-edit-{number}",
                f"{table.title}: P(correct) against edit at {hook_point}",
                "How often the model still tells the gender against how far an edit moves an activation, for each "
                "dictionary's best feature and for interventions without a dictionary: the nearer to 0.5, and the "
                "farther to the left, the better.",
                "P(correct) = mean of p(right) / (p(right) + p(wrong)); edit = mean ‖x' − x‖₂; means over seeds, bars "
                "from the lowest to the highest",
                figure(_erased(here, marks), "edit, ‖x' − x‖₂", "P(correct)", **_chance()),
                (file,),
                table.name,
            )


def interventions(study: Study) -> list[Row]:
    """Of each intervention the means over seeds."""
    by_name: dict[str, list[Row]] = {}
    for row in study.read("interventions.parquet"):
        by_name.setdefault(row["intervention"], []).append(row)
    return [
        {
            "intervention": name,
            "seeds": len(several),
            "p_correct": sum(row["p_correct"] for row in several) / len(several),
            "p_correct_low": min(row["p_correct"] for row in several),
            "p_correct_high": max(row["p_correct"] for row in several),
            "edit": sum(row["edit"] for row in several) / len(several),
        }
        for name, several in by_name.items()
    ]


def _erased(lines: Sequence[Row], marks: Marks) -> Iterator[Any]:
    import plotly.graph_objects as go

    # What needs no dictionary is the same for all of them: it is drawn once.
    alike = [
        line for line in lines if line["intervention"] in ("clean", "leace", "leace_by_position", "mean_difference")
    ]
    first = alike[0]["ref"] if alike else None
    shown = [line for line in alike if line["ref"] == first]
    shown += [line for line in lines if line["intervention"] == "feature"]
    shown += [line for line in lines if line["intervention"] == "random" and line["ref"] == first]
    for line in shown:
        own = line["intervention"] == "feature"
        name = line["label"] if own else line["intervention"].replace("_", " ")
        marker = marks.points(line["label"]) if own else {"color": "#8a8f94", "symbol": "x-thin-open", "size": 10}
        bound = [line["p_correct_low"], line["p_correct_high"]]
        yield go.Scatter(
            x=[line["edit"]], y=[line["p_correct"]], name=name, mode="markers" if own else "markers+text",
            text=None if own else [name], textposition="top center", marker=marker, showlegend=own,
            hovertemplate="edit %{x:.4g}<br>P(correct) %{y:.4g}", **bars([line["p_correct"]], [bound]),
        )  # fmt: skip


def _chance() -> dict[str, Any]:
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 0.5,
        "y1": 0.5,
        "line": {"dash": "dot", "width": 1},
    }
    return {"shapes": [line]}
