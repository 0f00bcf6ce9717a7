"""Retraining: what is new in the corpus → the dictionaries trained further → old and new side by side → a promotion.

Each dictionary starts with the weights of the one that is promoted in its slot, and takes its place only where it is
not worse by the rules of the gate. The outcome is the name of the flow run's state: Promoted, NotPromoted or
NothingNew. None of them is a failure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.announcements import escaped, server_may_fail
from flows.candidates import RETRAIN
from flows.deployed_home import check_home
from flows.experiment_records import ExperimentRecords, RunRecord
from flows.making import make
from flows.parameters import RetrainConfig
from flows.preflight import Prepared
from flows.promotions import PROMOTION, REJECTION, Ledger
from flows.resuming import check_resumes
from flows.retrain_plan import Plan, by, slots
from flows.room import ready
from flows.runners import Crew
from flows.server import one_server
from flows.stages import Job, job_name, named, stages
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.cells import cell
from tasks.evaluate.faithfulness import evaluate_faithfulness
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.gate import Verdict, verdicts
from tasks.output import outlive_readers
from tasks.progress import artifact_key
from tasks.specs import DictionarySpec
from tasks.train import check_warm_start, train, train_further

PROMOTED, NOT_PROMOTED, NOTHING_NEW = "Promoted", "NotPromoted", "NothingNew"

METRICS = ("fvu", "l0", "dead_fraction", "ce_recovered", "kl_score", "loss_clean", "loss_reconstructed")
"""What is told of each dictionary; the gate looks at some of them."""

Metrics = dict[str, float | None]


@flow(name="retrain", flow_run_name="{config.experiment.name}", validate_parameters=True)
def retrain(config: RetrainConfig) -> Any:
    """Train an experiment's dictionaries further on what its corpus has new, and promote those that are not worse.

    Only what is new is harvested. The first time, everything is trained from scratch and promoted. A run that was
    killed goes on where it was, and promotes nothing twice.

    Args:
        config: the experiment, and the rules for a promotion.
    """
    result = retrained(config, str(flow_run.id))
    return Completed(name=result["outcome"], message=result["message"], data=result)


def run_retrain(config: RetrainConfig) -> dict[str, Any]:
    """Run the flow, on a Prefect server of its own if none is configured.

    Raises:
        ExperimentError: something is wrong with the configuration or what it names; no work was started.
    """
    with one_server(meanwhile=lambda: begin(config, None)):
        return retrain(config)


@dataclass(frozen=True)
class Slot:
    """One dictionary to train, and the one that is promoted in its place."""

    name: str
    hook_point: str
    spec: DictionarySpec
    old: ArtifactRef | None


def begin(config: RetrainConfig, run: str | None) -> tuple[Plan, Prepared, list[Slot]]:
    """What a run goes on from, checked; nothing is written.

    Raises:
        ExperimentError: something is wrong with the configuration or what it names.
        DamagedArtifact: a promoted dictionary is gone, or not whole.
    """
    plan = Plan.find(config, run)
    prepared = ready(plan.experiment(config))
    places = [Slot(name, *place, plan.promoted.get(name)) for name, place in slots(config).items()]
    for place in places:
        if place.old is not None:
            width = prepared.description.width(place.hook_point)
            check_warm_start(place.old, place.hook_point, place.spec, width)
    return plan, prepared, places


def retrained(config: RetrainConfig, run: str) -> dict[str, Any]:
    """All of it, within a flow run.

    Returns {experiment, home, outcome, message, tokens, slots: [{slot, dictionary, promoted, old, new, rules}], …}.
    """
    check_home()
    outlive_readers()
    check_resumes(run)
    name = config.experiment.name
    plan, prepared, places = begin(config, run)
    plan = plan.write(config, run)
    store = artifacts()
    told = {"experiment": name, "home": store.uri, "config": config.model_dump(mode="json")}
    record = RunRecord(ExperimentRecords(store.home_location), f"{name}{RETRAIN}", told)
    known = (prepared.model, plan.base, prepared.base, *(place.old for place in places))
    record.uses(str(ref) for ref in known if ref is not None)

    with Crew(prepared.config.compute, prepared.workers) as crew:

        def recorded(jobs: Sequence[Job]) -> list[ArtifactRef]:
            # Before it is made, so that it never looks unused.
            record.uses(f"{job.step.kind}/{job.step.key(job.inputs)}" for job in jobs)
            return make(jobs, crew)

        tokens = named(stages(prepared, recorded, until="tokenize"), "tokenize")
        if plan.base is not None and tokens.digest == plan.base.digest:
            places = [place for place in places if place.old is None]
        if not places:
            record.leave()
            plan.write(config, run, done=True)
            return announced({**told, **nothing_new(tokens)})
        activations = named(stages(prepared, recorded, until="harvest"), "harvest")
        new = recorded([training(place, prepared, activations) for place in places])
        entries = compared(config, prepared, tokens, activations, places, new, recorded)

    result = {**told, **concluded(config, plan, run, tokens, activations, places, new, entries)}
    announced(result)
    dictionaries = [
        {"ref": str(ref), "hook_point": place.hook_point, "method": place.spec.method}
        for place, ref in zip(places, new, strict=True)
    ]
    record.finish({**result, "stages": [], "dictionaries": dictionaries})
    plan.write(config, run, done=True)
    return result


def training(place: Slot, prepared: Prepared, activations: ArtifactRef) -> Job:
    """From the promoted dictionary, if there is one."""
    inputs = {
        "activations": activations,
        "hook_point": place.hook_point,
        "dictionary": place.spec,
        "training": prepared.config.training,
        "compute": prepared.compute,
    }
    name = job_name(place.spec, place.hook_point)
    if place.old is None:
        return Job("train", name, train, inputs, place.spec)
    return Job("train", f"{name} further", train_further, {"warm_start": place.old, **inputs}, place.spec)


def compared(
    config: RetrainConfig,
    prepared: Prepared,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    places: Sequence[Slot],
    new: Sequence[ArtifactRef],
    run: Any,
) -> list[dict[str, Any]]:
    """Old and new of each slot on the same held-out rows: {slot, dictionary, old, new, rules, promoted}."""
    asked = [
        (place, which, ref)
        for place, made in zip(places, new, strict=True)
        for which, ref in (("old", place.old), ("new", made))
        if ref is not None
    ]
    jobs = []
    for place, which, ref in asked:
        on = {
            "dictionary": ref,
            "activations": activations,
            "hook_point": place.hook_point,
            "rows": prepared.config.training.rows,
            "compute": prepared.compute,
        }
        inside = {"model": prepared.model, "tokens": tokens, "dtype": prepared.dtype, "max_tokens": config.ce_tokens}
        name = f"{which} {job_name(place.spec, place.hook_point)}"
        jobs.append(Job("evaluate", f"evaluate {name}", evaluate_reconstruction, on, place.spec))
        jobs.append(Job("evaluate", f"faithfulness of {name}", evaluate_faithfulness, {**on, **inside}, place.spec))
    refs = run(jobs)
    found: dict[tuple[str, str], Metrics] = {
        (place.name, which): metrics(refs[2 * index], refs[2 * index + 1])
        for index, (place, which, _) in enumerate(asked)
    }
    entries = []
    for place, ref in zip(places, new, strict=True):
        old, measured = found.get((place.name, "old")), found[place.name, "new"]
        rules = verdicts(config.gate, old, measured)
        entries.append(
            {
                "slot": place.name,
                "dictionary": str(ref),
                "before": str(place.old) if place.old else None,
                "promoted": all(rule.holds for rule in rules),
                "old": old,
                "new": measured,
                "rules": [rule._asdict() for rule in rules],
            }
        )
    return entries


def metrics(*evaluations: ArtifactRef) -> Metrics:
    """What evaluations of one dictionary found."""
    found: Metrics = {}
    for ref in evaluations:
        found |= json.loads((artifacts().path(ref) / "metrics.json").read_text())
    return {name: found.get(name) for name in METRICS}


def concluded(
    config: RetrainConfig,
    plan: Plan,
    run: str,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    places: Sequence[Slot],
    new: Sequence[ArtifactRef],
    entries: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the outcome into the ledger, and say what it is."""
    ledger = Ledger(artifacts().home_location, config.experiment.name)
    inputs = {"tokens": tokens, "activations": activations} | {
        f"promoted {place.name}": place.old for place in places if place.old is not None
    }
    made = {place.name: ref for place, ref in zip(places, new, strict=True)}
    for kind in (PROMOTION, REJECTION):
        chosen = [entry for entry in entries if entry["promoted"] == (kind == PROMOTION)]
        if chosen:
            why = {entry["slot"]: {key: entry[key] for key in ("old", "new", "rules")} for entry in chosen}
            dictionaries = {entry["slot"]: made[entry["slot"]] for entry in chosen}
            ledger.record(kind, dictionaries, by(run), inputs=inputs, why=why)
    count = sum(entry["promoted"] for entry in entries)
    broken = {rule["metric"] for entry in entries for rule in entry["rules"] if not rule["holds"]}
    failing = f"; the rules for {', '.join(sorted(broken))} do not hold for the others" if broken else ""
    return {
        "outcome": PROMOTED if count else NOT_PROMOTED,
        "message": f"{count} of {len(entries)} retrained dictionaries promoted{failing}",
        "tokens": str(tokens),
        "activations": str(activations),
        "slots": list(entries),
    }


def nothing_new(tokens: ArtifactRef) -> dict[str, Any]:
    message = "the corpus has no new document that fills a row: nothing was trained"
    return {"outcome": NOTHING_NEW, "message": message, "tokens": str(tokens), "slots": []}


def rows_of(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """A slot, metric by metric: the promoted dictionary's, the new one's, and what the rule says."""
    rules = {rule["metric"]: Verdict(**rule) for rule in entry["rules"]}
    rows = []
    for metric, new in entry["new"].items():
        old = entry["old"][metric] if entry["old"] else None
        rule = rules.get(metric)
        verdict = "" if rule is None else f"{'holds' if rule.holds else 'fails'}: {rule.says}"
        rows.append({"metric": metric, "old": cell(old), "new": cell(new), "verdict": verdict})
    return rows


def announced(result: dict[str, Any]) -> dict[str, Any]:
    """Show it in the Prefect UI, under keys that stay the same: retrain-NAME, retrain-NAME-verdict."""
    name = result["experiment"]
    with server_may_fail():
        if result["slots"]:
            rows = [{"slot": entry["slot"], **row} for entry in result["slots"] for row in rows_of(entry)]
            about = f"The retrained dictionaries of {name} beside the promoted ones, on the same held-out rows"
            create_table_artifact(key=artifact_key("retrain", name), table=rows, description=about)
        create_markdown_artifact(
            key=artifact_key("retrain", f"{name} verdict"),
            markdown=verdict_text(result),
            description=f"What the retraining of {name} came to",
        )
    return result


def verdict_text(result: Mapping[str, Any]) -> str:
    """In Markdown: the outcome, and slot by slot what became of it and why."""
    lines = [f"# {escaped(result['experiment'])}: {result['outcome']}", "", f"{escaped(result['message'])}.", ""]
    for entry in result["slots"]:
        became = "promoted" if entry["promoted"] else "not promoted"
        lines.append(f"- **{escaped(entry['slot'])}**: {became} ({escaped(entry['dictionary'])})")
        lines += [
            f"    - {escaped(row['metric'])}: {row['old']} → {row['new']} {escaped(row['verdict'])}".rstrip()
            for row in rows_of(entry)
        ]
    if result["slots"]:
        lines += ["", f"Roll back: `saeflow promotions {result['experiment']}` lists the entries to go back to."]
    return "\n".join(lines)
