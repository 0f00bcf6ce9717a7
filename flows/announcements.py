"""What a run shows in the Prefect UI, under keys that stay the same from run to run.

    NAME-plan          before work starts: what is made already, what will be made, tokens, disk, time
    NAME-dictionaries  the table of dictionaries and metrics
    NAME-ioi, …        a table for each evaluation that was asked for
    NAME-verdict       in words: the best dictionary of each hook point, and what changed since the last run
    NAME-report        a link to the report

The run itself is tagged with the keys of its tokens, activations and report.
Progress artifacts are those of the steps (tasks.progress). Texts of others are escaped. A server that cannot be told
stops no work.
"""

import contextlib
import html
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.estimates import operations, operations_per_second
from flows.invalidation import to_make
from flows.parameters import ExperimentConfig
from flows.preflight import Prepared
from flows.report_links import report_url
from flows.stages import Stage, look_up, stages
from flows.wording import size, took
from tasks.cells import cell, method, named, parameters
from tasks.progress import artifact_key
from tasks.report import COLUMNS
from tasks.specs import StageName
from tasks.study_tables import study_tables

logger = logging.getLogger("saeflow.experiment")

LOWER_IS_BETTER = ("fvu", "dead_fraction")
TAGGED = ("tokens", "activations", "report")
NOTEWORTHY = 0.01  # relative change of a metric that is told


def plan(prepared: Prepared, until: StageName) -> None:
    """Say what is made already and what the run will make."""
    found = stages(prepared, look_up, until)
    to_do = to_make(found, prepared.config.invalidate_from)
    with server_may_fail():
        create_markdown_artifact(
            key=artifact_key(prepared.config.name, "plan"),
            markdown=plan_text(prepared, found, to_do),
            description=f"{len(found) - len(to_do)} of {len(found)} found, {len(to_do)} to make",
        )


def plan_text(prepared: Prepared, found: Sequence[Stage], to_do: Sequence[Stage]) -> str:
    config = prepared.config
    lines = [
        f"# Plan of {escaped(config.name)}",
        "",
        f"- model: {escaped(prepared.description.name)} ({prepared.description.n_layers} layers, {prepared.dtype})",
        f"- {prepared.rows:,} tokens at {len(config.hook_points)} hook points",
        f"- disk: up to {size(sum(prepared.bytes_needed.values()))}, what is there already included",
        f"- {prepared.workers} processes of {prepared.compute.threads} threads on {prepared.compute.device}",
    ]
    if to_do:
        rate = operations_per_second(prepared.dtype, prepared.compute.device)
        seconds = {stage.job.name: operations(prepared, stage.job) / rate for stage in to_do}
        # One after another or side by side: the cores are the same.
        lines.append(f"- time: about {took(sum(seconds.values()))} (good to a factor of two)")
    else:
        seconds = {}
        lines.append("- nothing to do: all is found")
    lines += ["", "| stage | job | | about |", "|---|---|---|---|"]
    for stage in found:
        state = "to make" if stage in to_do else "found"
        about = took(seconds[stage.job.name]) if seconds.get(stage.job.name) else ""
        lines.append(f"| {stage.job.stage} | {escaped(stage.job.name)} | {state} | {about} |")
    return "\n".join(lines)


def results(config: ExperimentConfig, result: Mapping[str, Any], last: Mapping[str, Any] | None) -> None:
    """Show the table of dictionaries, the verdict beside the last run of this experiment, and where the report is."""
    rows = result["dictionaries"]
    with server_may_fail():
        create_table_artifact(
            key=artifact_key(config.name, "dictionaries"),
            table=[{**_told(entry, rows), "dictionary": entry["ref"]} for entry in rows],
            description=f"The dictionaries of {config.name} on held-out activations",
        )
        for table in study_tables(result["studies"]):
            create_table_artifact(
                key=artifact_key(config.name, table.name),
                table=[table.shown(row) for row in table.rows],
                description=f"{table.title}, of the dictionaries of {config.name}",
            )
        create_markdown_artifact(
            key=artifact_key(config.name, "verdict"),
            markdown=verdict(config.name, rows, last["dictionaries"] if last else None),
            description=f"What the run of {config.name} says",
        )
        url = report_url(result["stages"][-1]["ref"])
        key, about = artifact_key(config.name, "report"), f"The report of {config.name}"
        if url.startswith("http"):
            create_link_artifact(key=key, link=url, link_text="Open the report", description=about)
        else:  # a browser follows no link from the UI to a file
            create_markdown_artifact(key=key, markdown=f"    {url}", description=about)


def tags(done: Sequence[Stage]) -> None:
    """Tag the flow run with the keys of what it came to: in the UI, runs that share it are found by them."""
    keys = [f"{stage.ref.kind}/{stage.ref.key[:8]}" for stage in done if stage.ref and stage.ref.kind in TAGGED]
    with server_may_fail(), get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(str(flow_run.id)))
        client.update_flow_run(run.id, tags=list(dict.fromkeys([*run.tags, *keys])))


def verdict(name: str, rows: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]] | None) -> str:
    """The best dictionary of each hook point, and what improved or fell since the last run; in Markdown."""
    lines = [f"# {escaped(name)}", ""]
    for hook_point in dict.fromkeys(row["hook_point"] for row in rows):
        here = [row for row in rows if row["hook_point"] == hook_point and row["fvu"] is not None]
        if not here:
            lines.append(f"- **{escaped(hook_point)}**: no dictionary has a defined FVU.")
            continue
        best = min(here, key=lambda row: row["fvu"])
        lines.append(
            f"- **{escaped(hook_point)}**: {escaped(named(best, rows))} leaves the least variance unexplained, "
            f"{cell(best['fvu'], '.3f')} at L0 {cell(best['l0'], '.1f')}."
        )
    lines.append("")
    if last is None:
        return "\n".join([*lines, "There is no earlier run of this experiment to compare with."])
    before = {_identity(row): row for row in last}
    compared = [(row, before[_identity(row)]) for row in rows if _identity(row) in before]
    changes = [text for row, old in compared for text in _changes(row, old, rows)]
    new = len(rows) - len(compared)
    gone = len(before) - len(compared)
    lines.append(
        f"Beside the last run: {len(compared)} dictionaries are in both, {new} are new, {gone} are not there any more. "
        + ("" if changes else f"No metric changed by {NOTEWORTHY:.0%} or more.")
    )
    return "\n".join([*lines, "", *(f"- {change}" for change in changes)])


def escaped(text: object) -> str:
    """Text of others as Markdown that shows it: no markup, no HTML, no end of a table's cell."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", plain)


def _told(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    told = {"method": method(entry, rows), "parameters": parameters(entry["params"], rows)}
    return {name: told[name] if name in told else cell(entry[name]) for name in COLUMNS}


def _identity(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('model')} {entry['hook_point']} {entry['method']} {sorted(entry['params'].items())}"


def _changes(row: Mapping[str, Any], old: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    where = f"{escaped(row['hook_point'])}, {escaped(named(row, rows))}"
    for metric in ("fvu", "l0", "dead_fraction"):
        now, then = row[metric], old.get(metric)
        if now is None or then is None or abs(now - then) < NOTEWORTHY * max(abs(then), 1e-3):
            continue
        better = "" if metric not in LOWER_IS_BETTER else " (better)" if now < then else " (worse)"
        yield f"{where}: {metric.replace('_', ' ')} {cell(then)} → {cell(now)}{better}"


@contextlib.contextmanager
def server_may_fail() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("the Prefect UI is not told: %s", error)
