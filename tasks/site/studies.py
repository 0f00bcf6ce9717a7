"""The pages of case studies: what was asked in plain words, the numbers, and the features that it comes down to.

One page for each evaluation that is about single features: a circuit, a pattern, steering, IOI, erasure. The tables
that it shows lie beside it, in `data/`, in full.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from tasks.cells import cell, with_interval
from tasks.site.circuits import drawn
from tasks.site.figures import Plot
from tasks.site.material import Material, Study
from tasks.study_tables import Row, StudyTable

SHOWN = 10
"""Rows of a small table."""

TEXTS = 3
"""Of each strength of steering."""


class Cell(NamedTuple):
    text: str
    href: str | None = None
    why: str | None = None
    """Why there is nothing."""
    number: bool = False


class Column(NamedTuple):
    name: str
    meaning: str
    number: bool


class SmallTable(NamedTuple):
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    source: Path
    """All of it, in the artifact."""
    file: str
    """The same in the site."""


class Section(NamedTuple):
    """What a study found of one dictionary."""

    title: str
    href: str | None
    """Its features."""
    text: str
    tables: Sequence[SmallTable]
    drawing: Markup | None = None


class Page(NamedTuple):
    name: str
    title: str
    table: StudyTable
    asked: str
    plots: Sequence[Plot]
    sections: Sequence[Section]


ASKED = {
    "circuit": "Which features of earlier layers make a feature fire? Each was taken away where the feature fires, and "
    "what that took from it was measured. A line joins a feature with those that it leans on most; its width is their "
    "share. Beside them, as many random active features are taken away.",
    "pattern": "Is there a feature that fires where the pattern is in the text, and nowhere else? The best one was "
    "sought in one half of the held-out text and measured in the other, beside the best single dimension of the "
    "activations and the best principal component. Then it was taken away: which next tokens become less likely?",
    "steering": "What does the model write when more of a feature is added to its activations? The share of the "
    "written tokens that match the pattern says whether it did what the feature is about, and the perplexity whether "
    "the text is still readable.",
    "ioi": "How few features, and how small an edit, have the model name somebody else? Features are moved from a "
    "prompt to one with another name, those with the largest effect first, until the predictions are half as far from "
    "those for the other prompt.",
    "erasure": "How much of a name's gender does the model lose when one feature is projected out, how far does that "
    "move its activations, and what else does it change? Beside it stand erasures that need no dictionary.",
}
"""What was asked, in plain words."""


def study_pages(material: Material) -> list[tuple[StudyTable, list[tuple[Row, Study]]]]:
    """The tables that have a page."""
    return list(material.of_kind(*ASKED))


def page_name(table: StudyTable) -> str:
    return f"study-{table.name.replace('_', '-')}"


def page_of(
    place: Path, material: Material, table: StudyTable, rows: Sequence[tuple[Row, Study]], plots: Sequence[Plot]
) -> Page:
    """What a page says; its tables are copied into the site."""
    evaluation = rows[0][1].evaluation
    sections = [SECTIONS[evaluation](_Writer(material, row, study)) for row, study in rows]
    shown = _each_table_once(sections)
    for section in shown:
        for small in section.tables:
            shutil.copyfile(small.source, place / small.file)
    own = [plot for plot in plots if plot.study == table.name]
    return Page(page_name(table), table.title, table, ASKED[evaluation], own, shown)


def _each_table_once(sections: Sequence[Section]) -> list[Section]:
    """What is the same for several dictionaries, such as prompts, is shown with the first of them."""
    seen: list[tuple[str, Sequence[Sequence[Cell]]]] = []
    kept = []
    for section in sections:
        new = [table for table in section.tables if (table.caption, table.rows) not in seen]
        seen += [(table.caption, table.rows) for table in new]
        kept.append(section._replace(tables=new))
    return kept


class _Writer:
    """Writes the section of one study."""

    def __init__(self, material: Material, row: Row, study: Study) -> None:
        self.material, self.row, self.study = material, row, study
        told = f"{row['method']} ({row['parameters']})" if row["parameters"] else row["method"]
        self.title = f"{told} at {row['hook_point']}"

    def section(self, text: str, tables: Sequence[SmallTable | None] = (), drawing: Markup | None = None) -> Section:
        own = self.material.browsable.get(self.study.dictionaries[-1])
        there = [table for table in tables if table is not None and table.rows]
        return Section(self.title, own.href() if own else None, text, there, drawing)

    def told(self, name: str) -> str:
        """A number with its interval."""
        return with_interval(self.row[name], self.row["intervals"].get(name))

    def why(self, *names: str) -> str | None:
        """Why the first of these that is undefined is so."""
        return next((str(self.row["undefined"][name]) for name in names if self.row[name] is None), None)

    def feature(self, feature: int | None, dictionary: int = -1) -> Cell:
        """A feature that leads to its page, where it has one."""
        if feature is None:
            return Cell("—", why="there is none", number=True)
        found = self.material.browsable.get(self.study.dictionaries[dictionary])
        return Cell(str(feature), found.href(feature) if found else None, number=True)

    def node(self, name: str) -> Cell:
        """A feature of a circuit, which goes by its layer and number."""
        level, _, feature = name.partition("/")
        return self.feature(int(feature), int(level))._replace(text=name, number=False)

    def table(
        self,
        caption: str,
        file: str,
        columns: dict[str, str],
        chosen: Callable[[list[Row]], list[Row]],
        special: Callable[[Row, str], Cell | None] = lambda row, name: None,
    ) -> SmallTable | None:
        """Some rows and columns of a table; None where the study has none."""
        rows = self.study.read(file)
        if not rows:
            return None
        cells = [[special(row, name) or told(row[name]) for name in columns] for row in chosen(rows)]
        named = [
            Column(name.replace("_", " "), meaning, any(row[at].number for row in cells))
            for at, (name, meaning) in enumerate(columns.items())
        ]
        own = self.row["ref"].partition("/")[2][:8]
        return SmallTable(caption, named, cells, self.study.place / file, f"data/{own}_{file}")


def told(value: object) -> Cell:
    """Text as Python writes it, so that spaces are seen."""
    if value is None:
        return Cell("—", why="not measured", number=True)
    if isinstance(value, str):
        return Cell(value)
    return Cell(cell(value), number=True)


def pattern(writer: _Writer) -> Section:
    row = writer.row
    if row["feature"] is None:
        return writer.section(f"No feature was found: {writer.why('feature')}.")
    text = f"Feature {row['feature']} is the best for the pattern: F1 {writer.told('f1')}, above its best threshold "
    text += f"{writer.told('best_f1')}, beside {writer.told('residual_best_f1')} for the best single dimension and "
    text += f"{writer.told('pca_best_f1')} for the best principal component."
    if row["drop_of_top"] is not None:
        text += (
            f" Without it, the log-probability of the next token that loses most changes by {cell(row['drop_of_top'])}."
        )
    else:
        text += f" What it does there was not measured: {writer.why('drop_of_top')}."

    def with_link(row: Row, name: str) -> Cell | None:
        return writer.feature(row["feature"]) if name == "feature" and row["basis"] == "dictionary" else None

    best = writer.table(
        "The best features, dimensions and components, on the text in which they were sought",
        "features.parquet",
        {"basis": "what it is of", "feature": "", "best_f1": "F1 above its best threshold", "precision": "",
         "recall": "", "density": "share of the tokens on which it fires"},
        lambda rows: [row for basis in dict.fromkeys(row["basis"] for row in rows)
                      for row in [row for row in rows if row["basis"] == basis][:3]],
        with_link,
    )  # fmt: skip
    changes = writer.table(
        "The next tokens that become less likely without it",
        "logit_effects.parquet",
        {"text": "the token", "log_probability_change": "nats", "probability": "", "probability_ablated": ""},
        lambda rows: [row for row in rows if row["change"] == "drop"][:SHOWN],
        lambda row, name: Cell(repr(row[name])) if name == "text" else None,
    )
    lens = writer.table(
        "The tokens that its direction favours",
        "logit_lens.parquet",
        {"text": "the token", "score": "dot product of its direction with that of the token"},
        lambda rows: rows[:SHOWN],
        lambda row, name: Cell(repr(row[name])) if name == "text" else None,
    )
    return writer.section(text, [best, changes, lens])


def steering(writer: _Writer) -> Section:
    row = writer.row
    if row["feature"] is None:
        return writer.section(f"Nothing was steered: {writer.why('feature')}.")
    text = (
        f"Feature {row['feature']} was added. Without it {writer.told('share_unsteered')} of the written tokens match "
    )
    if row["share_steered"] is None:
        text += f"the pattern. With it: {writer.why('share_steered')}."
    else:
        text += (
            f"the pattern, with {cell(row['strength'])} times its mean {writer.told('share_steered')}; the perplexity "
        )
        text += f"goes from {cell(row['perplexity_unsteered'])} to {cell(row['perplexity_steered'])}."
    strengths = writer.table(
        "Strength by strength",
        "strengths.parquet",
        {"strength": "in units of the feature's mean where it fires", "pattern_share": "share of the tokens that match",
         "perplexity": "under the model as it is"},
        lambda rows: rows,
    )  # fmt: skip
    texts = writer.table(
        "What was written",
        "texts.parquet",
        {
            "strength": "",
            "pattern_share": "share of its tokens that match",
            "perplexity": "",
            "text": "with the prompt",
        },
        lambda rows: [row for row in rows if row["sample"] < TEXTS],
    )
    return writer.section(text, [strengths, texts])


def ioi(writer: _Writer) -> Section:
    row = writer.row
    why = writer.why("features_to_half_kl")
    if why is not None:
        text = f"The KL was not halved: {why}."
    else:
        text = f"{writer.told('features_to_half_kl')} features halve the KL, with an edit of size "
        text += f"{writer.told('edit_to_half_kl')}."
    if row["kl_floor"] is not None:
        text += f" With all features patched it is {writer.told('kl_floor')}."
    features = writer.table(
        "The features with the largest effect",
        "features.parquet",
        {"rank": "by attribution", "feature": "", "attribution": "integrated gradient on the KL",
         "exact_effect": "change of the KL when it is patched alone"},
        lambda rows: rows[:SHOWN],
        lambda row, name: writer.feature(row["feature"]) if name == "feature" else None,
    )  # fmt: skip
    prompts = writer.table(
        "Some of the prompts",
        "prompts.parquet",
        {"text": "", "counterfactual": "the prompt with another name",
         "logit_difference": "logit of the right name less that of the other"},
        lambda rows: rows[:4],
    )  # fmt: skip
    return writer.section(text, [features, prompts])


def erasure(writer: _Writer) -> Section:
    row = writer.row
    if row["p_correct"] is None:
        return writer.section(f"Not measured: {writer.why('p_correct')}.")
    text = (
        f"The model tells the gender with P(correct) {writer.told('p_correct_clean')}; with the best feature projected "
    )
    text += f"out, {writer.told('p_correct')}; after LEACE, {writer.told('p_correct_leace')}; with the best random "
    text += f"direction, {writer.told('p_correct_random')}. 0.5 is chance. The feature's edit has size "
    text += f"{writer.told('edit')}."
    features = writer.table(
        "The features that are most like the difference of the classes",
        "features.parquet",
        {"seed": "", "rank": "", "feature": "", "cosine": "of its direction to the difference of the class means",
         "active": "share of the edited positions on which it is active"},
        lambda rows: [row for row in rows if row["rank"] < 3],
        lambda row, name: writer.feature(row["feature"]) if name == "feature" else None,
    )  # fmt: skip
    interventions = writer.table(
        "Interventions, seed by seed",
        "interventions.parquet",
        {"seed": "", "intervention": "", "p_correct": "P(correct)", "transfer_p_correct": "in prompts of another kind",
         "edit": "mean size", "side_effect_kl": "KL of the next token on other text"},
        lambda rows: rows,
    )  # fmt: skip
    return writer.section(text, [features, interventions])


def circuit(writer: _Writer) -> Section:
    row, study = writer.row, writer.study
    if row["depth"] is None:
        return writer.section(f"There is no circuit: {writer.why('target_feature', 'depth')}.")
    text = f"Of feature {row['target_feature']} of {study.row['hook_point'].rpartition(' ')[2]}. Ablating its children "
    text += f"together takes away {writer.told('decrease_children')} of its activation, as many random active features "
    text += f"{writer.told('decrease_random')}. The tree alone keeps up {writer.told('faithfulness')} of it."
    if why := writer.why("decrease_random", "faithfulness"):
        text += f" What is missing: {why}."
    level = {node["node"]: node["level"] for node in study.read("nodes.parquet")}
    nodes = writer.table(
        "Its features",
        "nodes.parquet",
        {"hook_point": "", "feature": "", "tokens": "on which it is largest", "density": "on held-out rows",
         "activation": "mean in the contexts", "attribution_to_target": "estimate of what it adds to the target"},
        lambda rows: rows,
        lambda row, name: writer.feature(row["feature"], level[row["node"]])
        if name == "feature"
        else Cell(" ".join(row["tokens"])) if name == "tokens"
        else Cell("—", why="it is the target", number=True) if row[name] is None
        else None,
    )  # fmt: skip
    edges = writer.table(
        "Its edges",
        "edges.parquet",
        {"lower": "layer/feature that is ablated", "upper": "layer/feature that loses",
         "share": "of the upper one's activation that is cut", "cut": "", "attribution": "estimate of the cut"},
        lambda rows: sorted((row for row in rows if row["kept"]), key=lambda row: -row["share"])[: 3 * SHOWN],
        lambda row, name: writer.node(row[name]) if name in ("lower", "upper") else None,
    )  # fmt: skip
    return writer.section(text, [nodes, edges], drawn(writer.material, study, writer.title))


SECTIONS: dict[str, Callable[[_Writer], Section]] = {
    "circuit": circuit,
    "pattern": pattern,
    "steering": steering,
    "ioi": ioi,
    "erasure": erasure,
}
