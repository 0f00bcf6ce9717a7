"""`saeflow activations`: what harvested activations are like, before anything is trained on them."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.catalogue import Catalogue
from flows.command import Home, Overrides, open_home, stdout_kept_for_the_result
from flows.parameters import load_config, presets
from flows.wording import Paper
from storage.artifacts import ArtifactRef
from storage.errors import DamagedChunk
from storage.locations import remove_file
from storage.row_filter import RowFilter
from tasks.errors import ExperimentError

DIMENSIONS_TOLD = 10

app = typer.Typer(no_args_is_help=True, help="What harvested activations are like.")


@app.callback()
def activations() -> None:
    """Keep `stats` a command of its own, whatever others come."""


@app.command()
def stats(
    which: Annotated[
        str, typer.Argument(metavar="REF|PRESET|FILE.yaml", help="An activations artifact, or an experiment's.")
    ],
    split: Annotated[Literal["train", "held_out"], typer.Option(help="Which split is read.")] = "train",
    hook_point: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
    home: Home = None,
) -> None:
    """Read every row once: norms, outlier dimensions, attention sinks, and how well the order is shuffled."""
    store = open_home(home)
    is_experiment = which in presets() or Path(which).is_file()
    with stdout_kept_for_the_result():
        ref = made_by(which, overrides or []) if is_experiment else named(which, Catalogue.of(store))
        from tasks.activation_statistics import describe
        from tasks.rows import open_store

        try:
            opened = open_store(ref, split)
            keep = RowFilter()
            found = {name: describe(opened, name, keep) for name in hook_point or opened.layout.hook_points}
        except DamagedChunk as error:
            remove_file(error.file)  # as a step does: without it the next run sees the damage and harvests that part
            raise
    if as_json:
        print(json.dumps({"activations": str(ref), "split": split, "hook_points": found}))
        return
    paper = Paper()
    paper.say(f"{ref}  {split}")
    for name, statistics in found.items():
        print_statistics(paper, name, statistics)


def named(typed: str, catalogue: Catalogue) -> ArtifactRef:
    name = catalogue.find(typed)
    if not name.startswith("activations/"):
        raise ExperimentError(f"{name} holds no activations. `saeflow artifacts ls activations` lists what does.")
    return catalogue.ref(name)


def made_by(source: str, overrides: list[str]) -> ArtifactRef:
    """The activations of an experiment, if they are made."""
    config = load_config(source, overrides)
    from flows.preflight import prepare
    from flows.stages import look_up, stages
    from tasks.harvest import harvest

    ref = next(stage.ref for stage in stages(prepare(config), look_up) if stage.job.step is harvest)
    if ref is None:
        raise ExperimentError(
            f"the activations of {config.name} are not made yet. Run it first: saeflow run {source}; "
            f"`saeflow artifacts why {source} harvest` tells what is missing."
        )
    return ref


def print_statistics(paper: Paper, hook_point: str, found: dict[str, Any]) -> None:
    """One hook point, a line for each question."""
    norm, left_out = found["norm"], found["left_out"]
    outliers, sinks, shuffle = found["outliers"], found["sinks"], found["shuffle"]
    paper.say(f"{hook_point}  {found['rows']:,} rows of width {found['width']:,}")
    told = ", ".join(f"{name} {value:.4g}" for name, value in norm.items())
    paper.say(f"  stored     with {found['lost_variance']:.1e} of the variance lost")
    paper.say(f"  norms      {told}")
    paper.say(
        f"  left out   {left_out['share']:.2%} of the rows: {left_out['first_position']:,} at position 0, "
        f"{left_out['norm']:,} more for their norm"
    )
    for sink in sinks["positions"]:
        paper.say(
            f"  sink       position {sink['position']}: norm over 10 times the median in {sink['sequences']:,} of "
            f"{sink['of']:,} sequences"
        )
    if sinks["rows_elsewhere"]:
        paper.say(f"  sinks      {sinks['rows_elsewhere']:,} rows elsewhere have a norm over 10 times the median")
    elif not sinks["positions"]:
        paper.say("  sinks      none: no row has a norm over 10 times the median")
    if outliers is None:
        paper.say(f"  outliers   undefined: {found['undefined']['outliers']}")
    elif not outliers["dimensions"]:
        paper.say("  outliers   none: no dimension is ten times above the others in energy, mean or sd")
    else:
        dimensions = outliers["dimensions"]
        paper.say(f"  outliers   {len(dimensions)} dimensions hold {outliers['energy_share']:.1%} of the raw energy")
        for entry in dimensions[:DIMENSIONS_TOLD]:
            paper.say(
                f"             {entry['dimension']:5}  mean {entry['mean']:8.4g}  sd {entry['sd']:8.4g}  "
                f"energy {entry['energy_share']:.1%}"
            )
        if len(dimensions) > DIMENSIONS_TOLD:
            paper.say(f"             and {len(dimensions) - DIMENSIONS_TOLD} more: --json lists all")
    if shuffle is None:
        paper.say(f"  shuffle    undefined: {found['undefined']['shuffle']}")
    else:
        paper.say(
            f"  shuffle    deff {shuffle['deff']:.2f}: a batch of {shuffle['batch']:,} says as much as "
            f"{shuffle['effective_rows']:,.0f} independent rows ({shuffle['batches']:,} batches)"
        )
