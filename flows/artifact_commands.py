"""`saeflow artifacts`: what a home holds, where it came from, whether it is whole, and how to be rid of it."""

import json
from datetime import timedelta
from typing import Annotated

import typer

from flows.artifact_tables import counted, entries, print_artifact, print_entries, print_plan, repair
from flows.catalogue import Catalogue
from flows.command import Experiment, Home, Overrides, open_home, prepare_environment, stdout_kept_for_the_result
from flows.experiment_records import ExperimentRecords
from flows.parameters import load_config
from flows.pruning import plan
from flows.wording import Paper, listed, several, size
from storage.lineage import short, users_first, users_of
from tasks.errors import ExperimentError

app = typer.Typer(no_args_is_help=True, help="What the home holds: list, show, explain, verify, remove, prune.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="kind/KEY, kind/ and the beginning of a key, or that beginning alone.")
]
Refs = Annotated[list[str], typer.Argument(metavar="REF", help="As in `artifacts show`.")]


@app.command("ls")
def list_artifacts(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="tokens, activations, dictionary, …")] = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """List every artifact, and the builds that were begun and not finished."""
    catalogue = Catalogue.of(open_home(home))
    found = entries(catalogue)
    if kind is not None:
        kinds = sorted({entry["kind"] for group in found.values() for entry in group})
        if kind not in kinds:
            raise ExperimentError(f"{catalogue.home} holds no {kind!r}. There are: {', '.join(kinds) or 'none'}.")
        found = {group: [entry for entry in held if entry["kind"] == kind] for group, held in found.items()}
    if as_json:
        print(json.dumps(found))
    else:
        print_entries(found, catalogue.home)


@app.command()
def show(ref: Ref, as_json: AsJson = False, home: Home = None) -> None:
    """Show one artifact: what was asked for, what it was made from, what was made from it, and its files."""
    store = open_home(home)
    catalogue = Catalogue.of(store)
    name = catalogue.find(ref)
    if name in catalogue.damaged:
        raise catalogue.damaged[name]
    if as_json:
        print(json.dumps(catalogue.manifests[name]))
    else:
        print_artifact(name, catalogue)


@app.command()
def why(
    experiment: Experiment,
    stage: Annotated[str | None, typer.Argument(metavar="STAGE", help="Part of a stage's name; all if empty.")] = None,
    overrides: Overrides = None,
    home: Home = None,
) -> None:
    """Say for each stage of an experiment whether it would be found, and if not, what keeps it from that."""
    config = load_config(experiment, overrides or ())
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from flows.why import answers, chosen

        told = chosen(answers(config), stage)
    paper = Paper()
    for answer in told:
        paper.say(f"{answer.state:8}{answer.job.name}  {short(answer.name) if answer.name else ''}".rstrip())
        for reason in answer.reasons:
            paper.say(f"          {reason}")
    found = sum(answer.state == "found" for answer in told)
    paper.say(f"{found} of {several(len(told), 'stage')} would be found")


@app.command()
def verify(
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF", help="All artifacts if empty.")] = None,
    home: Home = None,
) -> None:
    """Read every byte and compare it with the recorded checksums. Exit code 1 if anything is damaged."""
    store = open_home(home)
    catalogue = Catalogue.of(store)
    everything = sorted({**catalogue.manifests, **catalogue.damaged})
    names = list(dict.fromkeys(map(catalogue.find, refs))) if refs else everything
    from tasks.progress import Progress  # Prefect, which takes seconds

    paper, damaged = Paper(), []
    files = 0
    with Progress("verify", sum(map(catalogue.bytes, names)), "bytes") as progress:
        for name in names:
            damage = store.check(catalogue.ref(name), progress.add)
            for file, problem in damage.items():
                paper.say(f"damaged  {short(name)}  {file} {problem}")
            damaged += [name] if damage else []
            files += len(damage)
    checked = f"{several(len(names), 'artifact')}, {size(sum(map(catalogue.bytes, names)))}"
    if not damaged:
        paper.say(f"{checked}: all are whole")
        return
    paper.say(f"{checked}: {several(files, 'damaged file')} in {several(len(damaged), 'artifact')}")
    for line in repair(damaged, catalogue):
        paper.say(line)
    raise typer.Exit(1)


@app.command("rm")
def remove(
    refs: Refs,
    force: Annotated[bool, typer.Option("--force", help="Also if other artifacts were made from it.")] = False,
    home: Home = None,
) -> None:
    """Remove artifacts, and what killed builds left."""
    store = open_home(home)
    catalogue = Catalogue.of(store)
    names = list(dict.fromkeys(catalogue.find(ref, unfinished=True) for ref in refs))
    for name in names:
        kind, _, key = name.partition("/")
        if store.at_work(kind, key):
            raise ExperimentError(f"{name} is not removed: a process is at work on it. Try again when it is done.")
        users = [short(user) for user in users_of(name, catalogue.manifests) if user not in names]
        if users and not force:
            raise ExperimentError(
                f"{name} is not removed. Made from it: {listed(users)}. Remove these too, or use --force."
            )
    paper = Paper()
    for name in users_first(names, catalogue.manifests):
        kind, _, key = name.partition("/")
        if name in catalogue.manifests or name in catalogue.damaged:
            store.remove(catalogue.ref(name))
        else:
            store.discard(kind, key)
        held = catalogue.bytes(name) + (catalogue.unfinished[name].bytes if name in catalogue.unfinished else 0)
        needed = catalogue.experiments(name)
        again = f"; the next run makes it again: {listed(needed)}" if needed else ""
        paper.say(f"removed  {name}  {size(held)}{again}")


@app.command("gc")
def collect_garbage(
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed; without, nothing changes.")] = False,
    forget: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An experiment that is not kept; may be repeated.")
    ] = None,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Unfinished builds go when untouched for so long.")
    ] = 7,
    home: Home = None,
) -> None:
    """Delete what no experiment needs: all that the records in experiments/ do not lead to. Imports are kept."""
    store = open_home(home)
    records, forgotten = ExperimentRecords(store.home_location), forget or []
    known = records.names()
    for name in forgotten:
        if name not in known:
            raise ExperimentError(f"{store.uri} has no record of experiment {name!r}. There are: {listed(known)}.")
    if not known:
        raise ExperimentError(
            f"{store.uri} has no record of any experiment, so nothing tells what is still needed. "
            "`saeflow artifacts rm` removes what you name."
        )
    catalogue = Catalogue.of(store, forgotten)
    going = plan(catalogue, timedelta(days=older_than))
    print_plan(going, catalogue)
    paper = Paper()
    if not delete:
        paper.say("nothing was deleted: --delete does it")
        return
    for name in forgotten:  # first: killed in between, this leaves what the next run of this command finds
        records.forget(name)
    removed, discarded = [], []
    for name in (*going.to_remove, *going.to_discard):
        kind, _, key = name.partition("/")
        if store.at_work(kind, key):
            paper.say(f"left alone: {short(name)}, a process is at work on it")
        elif name in going.to_discard:
            store.discard(kind, key)
            discarded.append(name)
        else:
            store.remove(catalogue.ref(name))
            removed.append(name)
    paper.say(f"deleted: {counted(removed, discarded, catalogue)}")
