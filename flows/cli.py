"""The `saeflow` command: run an experiment, check one, list the presets; exchange dictionaries with other libraries.

Errors that a person can mend are told in a line or two on stderr and end with exit code 2.
"""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import activation_commands, artifact_commands, promotion_commands, service_commands
from flows.command import Experiment, Home, Overrides, home_uri, prepare_environment, stdout_kept_for_the_result
from flows.parameters import ExperimentConfig, about, load_config, presets
from flows.wording import size
from storage.errors import StorageError
from tasks.errors import ExperimentError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sparse-autoencoder experiments on language models: run, check, exchange dictionaries.",
)
app.add_typer(artifact_commands.app, name="artifacts")
app.add_typer(activation_commands.app, name="activations")
for command in (
    service_commands.up,
    service_commands.deploy,
    service_commands.reports,
    promotion_commands.retrain,
    promotion_commands.promote,
    promotion_commands.promotions,
):
    app.command()(command)


@app.command()
def run(
    experiment: Experiment,
    overrides: Overrides = None,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
) -> None:
    """Run an experiment. What is already made is found; what was interrupted goes on where it was."""
    config = load_config(experiment, overrides or ())
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from flows.experiment import run_experiment

        result = run_experiment(config)
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result)


@app.command()
def check(
    experiment: Experiment,
    overrides: Overrides = None,
    home: Home = None,
    hooks: Annotated[bool, typer.Option("--hooks", help="List the model's hook points and their widths.")] = False,
) -> None:
    """Validate everything about an experiment and print its plan, without running it."""
    config = load_config(experiment, overrides or ())
    prepare_environment(home)
    if hooks:
        print_hook_points(config)
    else:
        print_plan(config)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment's name, or report/KEY.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
) -> None:
    """Compare two finished experiments: features kept, changed, lost and gained, numbers and settings; as a page."""
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from flows import compare as comparison
        from tasks.compare import compare_runs

        result = comparison.told(compare_runs.build(**comparison.inputs(a, b)))
    if as_json:
        print(json.dumps(result))
    else:
        print_comparison(result)


@app.command("presets")
def list_presets() -> None:
    """List the experiments that come with saeflow."""
    for name, file in presets().items():
        config = load_config(name)
        dictionaries = len(config.dictionaries) + len(config.baselines)
        print(
            f"{name}\n  {about(file)}\n  {config.corpus.tokens:,} tokens, {len(config.hook_points)} hook points, ",
            end="",
        )
        print(f"{dictionaries} dictionaries at each\n  {file}")


@app.command("export")
def export_dictionary(
    dictionary: Annotated[str, typer.Argument(help="dictionary/KEY, the beginning of a key, or a directory.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="saelens, dictionary_learning or sparsify; saebench, a module that SAEBench evaluates; and where an "
            "experiment read its features, delphi, their cache, or neuronpedia, an upload of their pages.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="DIRECTORY|hf:USER/REPOSITORY[/FOLDER]",
            help="Where it is written. A repository that is not there yet is made, as a private one.",
        ),
    ],
    home: Home = None,
) -> None:
    """Write a dictionary in the format of another library or tool, to a new directory or to the Hugging Face hub."""
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from tasks import interchange

        place = interchange.export_dictionary(dictionary, form, to)
    print(place)


@app.command("import")
def import_dictionary(
    source: Annotated[str, typer.Argument(metavar="DIRECTORY|hf:USER/REPOSITORY[/FOLDER]")],
    form: Annotated[
        str, typer.Option("--format", help="saelens, dictionary_learning or sparsify; auto tells them by their files.")
    ] = "auto",
    hook_point: Annotated[
        str | None, typer.Option(help="Where the dictionary belongs, if its files do not say so rightly.")
    ] = None,
    home: Home = None,
) -> None:
    """Make a dictionary of another library an artifact of the home; print its name and its directory."""
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from tasks import interchange
        from tasks.caching import artifacts

        reference = interchange.import_dictionary(source, form, hook_point)
        place = artifacts().path(reference)
    print(f"{reference}\n{place}")


def main() -> None:
    """Entry point: errors that a person can mend become a message and exit code 2."""
    try:
        app()
    except (ExperimentError, StorageError, ValueError) as error:
        print(f"saeflow: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("saeflow: interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def print_hook_points(config: ExperimentConfig) -> None:
    with stdout_kept_for_the_result():
        from tasks.language_model import description, locate, prepare_model

        model = description(prepare_model.build(located=locate(config.model)))
    print(f"{model.name}: {{layer}} is 0 to {model.n_layers - 1}")
    for name, width in model.hook_points.items():
        print(f"  {name}  {width}")


def print_plan(config: ExperimentConfig) -> None:
    with stdout_kept_for_the_result():
        from flows.estimates import use_of_servers
        from flows.language_servers import check_servers_of
        from flows.room import ready
        from flows.stages import look_up, stages

        prepared = ready(config)
        plan = stages(prepared, look_up)
        trouble = None
        try:
            check_servers_of(prepared, plan)
        except ExperimentError as error:
            trouble = error
        uses = [use_of_servers(stage) for stage in plan]
    model = prepared.description
    print(f"{config.name}: {model.name} ({model.n_layers} layers, {prepared.dtype}), home {home_uri()}")
    disk = size(sum(prepared.bytes_needed.values()))
    print(f"  {prepared.rows:,} tokens at {len(config.hook_points)} hook points, up to {disk} on disk")
    print(f"  {prepared.workers} processes of {prepared.compute.threads} threads on {prepared.compute.device}")
    for stage, use in zip(plan, uses, strict=True):
        print(f"  {'made ' if stage.ref else 'to do'}  {stage.job.name}  {stage.ref or ''}".rstrip())
        if use is not None:
            print(f"         {use}")
    if trouble is not None:
        print(f"  server  {trouble}")


def print_result(result: dict[str, Any]) -> None:
    from tasks.cells import cell, named
    from tasks.study_tables import study_tables

    rows = result["dictionaries"]
    shown = [
        {
            "hook point": entry["hook_point"],
            "method": named(entry, rows),
            "L0": cell(entry["l0"], ".1f"),
            "FVU": cell(entry["fvu"], ".3f"),
            "dead": cell(entry["dead_fraction"], ".1%"),
        }
        for entry in rows
    ]
    print_table(result["experiment"], shown)
    for table in study_tables(result["studies"]):
        numbers = [{name: table.told(row, name) for name in table.meanings} for row in table.rows]
        print_table(
            table.title, [{**table.about(row), **shown} for row, shown in zip(table.rows, numbers, strict=True)]
        )
        for reason, whose in table.reasons().items():
            print(f"—  {'; '.join(whose)}: {reason}")
    made = [stage for stage in result["stages"] if not stage["cached"]]
    print(
        f"{len(result['stages'])} stages: {len(result['stages']) - len(made)} found, {len(made)} made "
        f"in {sum(stage['seconds'] for stage in made):.0f} s of work"
    )
    for warning in result["warnings"]:
        print(f"warning  {warning}")
    print(f"report  {result['report']}\nhome    {result['home']}")


def print_comparison(result: dict[str, Any]) -> None:
    from tasks.cells import cell

    shown = [
        {
            "dictionaries": pair["name"],
            "features": f"{pair['features_a']}, {pair['features_b']}",
            "MMCS A in B": cell(pair["mmcs_a_in_b"], ".3f"),
            "MMCS B in A": cell(pair["mmcs_b_in_a"], ".3f"),
            "kept": str(pair["states"]["A"].get("kept", 0)),
            "changed": str(pair["states"]["A"].get("changed", 0)),
            "lost": str(pair["states"]["A"].get("lost", 0)),
            "gained": str(pair["states"]["B"].get("gained", 0)),
        }
        for pair in result["pairs"]
    ]
    if shown:
        print_table(" and ".join(result["experiments"]), shown)
    for warning in result["warnings"]:
        print(f"warning  {warning}")
    print(f"page  {result['page']}")


UNBOUNDED = 10_000
"""Characters: wider than any table."""


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Rows of the same columns, the first two of which are words and all others numbers.

    Where not all numbers fit beside each other, further tables have the rest.
    """
    about, numbers = list(rows[0])[:2], list(rows[0])[2:]
    console = Console(width=max(100, Console().width))
    while numbers:
        fitting = len(numbers)
        while fitting > 1 and not _fits(_table(title, rows, about, numbers[:fitting]), console.width):
            fitting -= 1
        console.print(_table(title, rows, about, numbers[:fitting]))
        numbers = numbers[fitting:]


def _table(title: str, rows: list[dict[str, str]], about: list[str], numbers: list[str]) -> Table:
    """Only one column may be wrapped: rich takes width from all that may, past the longest word of the narrower."""
    texts = {name: [row[name].replace(" → ", " →\n") for row in rows] for name in (*about, *numbers)}
    widths = {
        name: max(len(line) for text in (name, *texts[name]) for line in text.splitlines() or [""]) for name in texts
    }
    wrapped = max(about, key=lambda name: widths[name])
    table = Table(title=escape(title))  # which may be a regular expression
    for name, width in widths.items():
        told, justify = name.replace("_", " "), "right" if name in numbers else "left"
        if name == wrapped:
            table.add_column(told)
        else:  # without a least width, rich counts on the longest word of what it then does not wrap
            table.add_column(told, justify=justify, no_wrap=True, min_width=width)
    for row in zip(*texts.values(), strict=True):
        table.add_row(*row)
    return table


def _fits(table: Table, width: int) -> bool:
    return Console(width=UNBOUNDED).measure(table).minimum <= width


if __name__ == "__main__":
    main()
