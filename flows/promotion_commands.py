"""`saeflow promotions`, `saeflow promote`, `saeflow retrain`: which dictionaries are the ones to use, and new ones."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from flows.command import Experiment, Home, Overrides, open_home, prepare_environment, stdout_kept_for_the_result
from flows.parameters import RetrainConfig, load_config, problems
from flows.promotions import PERSON, PROMOTION, REJECTION, ROLL_BACK, Entry, Ledger, ledgers
from flows.wording import Paper, age, listed, several
from storage.lineage import short
from storage.locations import Location
from tasks.errors import ExperimentError
from tasks.specs import GateSpec

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An experiment's name.")]


def promotions(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="An experiment's name; all if empty.")] = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """List which dictionaries are promoted, since when and why; the whole ledger of one experiment."""
    store = open_home(home)
    found = ledgers(store.home_location) if name is None else [known_ledger(store.home_location, name)]
    if as_json:
        print(json.dumps({ledger.experiment: told(ledger) for ledger in found}))
        return
    paper = Paper()
    if not found:
        paper.say(f"nothing is promoted in {store.uri}. `saeflow retrain` and `saeflow promote` do it.")
    for ledger in found:
        entries, promoted = ledger.entries(), ledger.promoted()
        if name is not None:
            rows = [(f"{entry.number}", age(entry.at), entry.kind, entry.by, summary(entry)) for entry in entries]
            paper.table(("entry", "age", "what", "by", "dictionaries"), rows)
        paper.say(f"{ledger.experiment}: promoted in {several(len(promoted), 'slot')}")
        for slot, ref in promoted.items():
            paper.say(f"  {slot}  {short(str(ref))}")


def promote(
    name: Name,
    dictionary: Annotated[
        list[str] | None, typer.Option(metavar="dictionary/KEY", help="Of its last run; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that its last run trained.")] = False,
    back_to: Annotated[
        int | None, typer.Option(metavar="ENTRY", help="Roll back: promote again what was promoted after this entry.")
    ] = None,
    home: Home = None,
) -> None:
    """Promote dictionaries by hand, or roll back to what was promoted before."""
    if sum((bool(dictionary), everything, back_to is not None)) != 1:
        raise ExperimentError(
            "say what to promote, in one way: --dictionary dictionary/KEY (may be repeated), --all, or --back-to ENTRY."
        )
    store = open_home(home)
    if back_to is not None:
        ledger = known_ledger(store.home_location, name)
        slots = ledger.back_to(back_to)
        for ref in slots.values():
            store.verify(ref)
        entry = ledger.record(ROLL_BACK, slots, PERSON, back_to=back_to)
    else:
        prepare_environment(home)
        with stdout_kept_for_the_result():
            from flows.candidates import chosen

            slots = chosen(name, dictionary or ())
        ledger = Ledger(store.home_location, name)
        entry = ledger.record(PROMOTION, slots, PERSON, why={slot: {"reason": "by hand"} for slot in slots})
    paper = Paper()
    if entry is None:
        paper.say("that is promoted already: nothing was changed")
    else:
        paper.say(f"entry {entry.number} of {name}: {summary(entry)}")
    for slot, ref in slots.items():
        paper.say(f"  {slot}  {short(str(ref))}")


def retrain(
    experiment: Experiment,
    overrides: Overrides = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens of new documents are added at most.")
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME=NUMBER", help="Of the gate: fvu_tolerance=0.05; may be repeated."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train an experiment's dictionaries further on what its corpus has new; promote those that are not worse."""
    config = retrain_config(experiment, overrides or (), new_tokens, rules or ())
    prepare_environment(home)
    with stdout_kept_for_the_result():
        from flows.retrain import run_retrain

        result = run_retrain(config)
    if as_json:
        print(json.dumps(result))
    else:
        print_retraining(result)


def retrain_config(
    experiment: str, overrides: Sequence[str], new_tokens: int | None, rules: Sequence[str]
) -> RetrainConfig:
    """Raises ExperimentError for what is wrong with any of it."""
    gate: dict[str, Any] = {}
    for rule in rules:
        name, separator, number = rule.partition("=")
        if not separator or name not in GateSpec.model_fields:
            raise ExperimentError(f"--rule {rule!r} is not NAME=NUMBER. The names: {', '.join(GateSpec.model_fields)}.")
        gate[name] = number
    asked = {} if new_tokens is None else {"new_tokens": new_tokens}
    config = load_config(experiment, overrides)
    try:
        return RetrainConfig.model_validate({"experiment": config, "gate": gate, **asked})
    except ValidationError as error:
        raise ExperimentError(f"this cannot be retrained: {'; '.join(problems(error))}") from error


def known_ledger(home: Location, experiment: str) -> Ledger:
    """Raises ExperimentError when nothing of this name was promoted or rejected."""
    known = {ledger.experiment: ledger for ledger in ledgers(home)}
    if experiment not in known:
        raise ExperimentError(
            f"nothing was promoted of an experiment {experiment!r}. There are: {listed(known) or 'none'}."
        )
    return known[experiment]


def told(ledger: Ledger) -> dict[str, Any]:
    """A ledger as JSON."""
    entries = [entry.model_dump(mode="json") for entry in ledger.entries()]
    return {"promoted": {slot: str(ref) for slot, ref in ledger.promoted().items()}, "entries": entries}


def summary(entry: Entry) -> str:
    """An entry in a line: which dictionaries, and of a rejection which rules did not hold."""
    what = listed((short(str(ref)) for ref in entry.dictionaries.values()), 3)
    if entry.kind == ROLL_BACK:
        return f"back to entry {entry.back_to}: {what}"
    if entry.kind == REJECTION:
        broken = {rule["metric"] for why in entry.why.values() for rule in why.get("rules", ()) if not rule["holds"]}
        return f"{what}, for {listed(sorted(broken))}"
    return what


def print_retraining(result: Mapping[str, Any]) -> None:
    from flows.retrain import rows_of

    paper = Paper()
    if result["slots"]:
        rows = [
            (entry["slot"], row["metric"], row["old"], row["new"], row["verdict"])
            for entry in result["slots"]
            for row in rows_of(entry)
        ]
        paper.table(("slot", "metric", "promoted", "new", "verdict"), rows)
    paper.say(f"{result['outcome']}: {result['message']}")
    paper.say(f"home    {result['home']}")
