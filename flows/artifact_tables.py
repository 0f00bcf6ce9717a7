"""How `saeflow artifacts` tells a person what it found."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

import yaml

from flows.catalogue import Catalogue
from flows.parameters import presets
from flows.pruning import Plan, was_imported
from flows.wording import Paper, age, listed, several, size, took
from storage.lineage import made_from, short, users_of
from storage.locations import is_remote
from storage.manifests import FULL_CHECK_BYTES
from tasks.provenance import provenance_lines

Entries = dict[str, list[dict[str, Any]]]


def entries(catalogue: Catalogue) -> Entries:
    """What `ls` tells, as JSON: {artifacts, damaged, unfinished}."""
    lines = provenance_lines(catalogue.manifests)
    artifacts = [
        {
            "ref": name,
            "kind": manifest["kind"],
            "bytes": catalogue.bytes(name),
            "files": len(manifest["files"]),
            "created": manifest["created"],
            "seconds": manifest["seconds"],
            "experiments": catalogue.experiments(name),
            "provenance": lines[name],
        }
        for name, manifest in catalogue.manifests.items()
    ]
    damaged = [
        {"ref": name, "kind": damage.kind, "problems": list(damage.problems)}
        for name, damage in catalogue.damaged.items()
    ]
    unfinished = [
        {
            "ref": name,
            "kind": build.kind,
            "bytes": build.bytes,
            "modified": build.modified.isoformat(),
            "at_work": build.at_work,
            "experiments": catalogue.experiments(name),
        }
        for name, build in catalogue.unfinished.items()
    ]
    return {"artifacts": artifacts, "damaged": damaged, "unfinished": unfinished}


def print_entries(found: Entries, home: str) -> None:
    paper = Paper()
    if found["artifacts"]:
        rows = [
            (
                short(entry["ref"]),
                size(entry["bytes"]),
                age(datetime.fromisoformat(entry["created"])),
                took(entry["seconds"]),
                listed(entry["experiments"], 2) or "—",
                entry["provenance"],
            )
            for entry in found["artifacts"]
        ]
        paper.table(("artifact", "size", "age", "made in", "for", "what"), rows)
    for entry in found["damaged"]:
        paper.say(f"damaged     {entry['ref']}: {'; '.join(entry['problems'])}")
    for entry in found["unfinished"]:
        state = "a process is at work on it" if entry["at_work"] else "no process is at work on it"
        state += f" (for {listed(entry['experiments'], 2)})" if entry["experiments"] else ""
        moment = age(datetime.fromisoformat(entry["modified"]))
        paper.say(f"unfinished  {short(entry['ref'])}  {size(entry['bytes'])}, last written {moment} ago: {state}")
    for kind in dict.fromkeys(entry["kind"] for entry in found["artifacts"]):
        held = [entry["bytes"] for entry in found["artifacts"] if entry["kind"] == kind]
        paper.say(f"{kind:12}{len(held):6,}  {size(sum(held))}")
    held = [entry["bytes"] for entry in found["artifacts"]]
    paper.say(f"{'together':12}{len(held):6,}  {size(sum(held))}  in {home}")


def print_artifact(name: str, catalogue: Catalogue) -> None:
    """A manifest for people, and where its artifact stands among the others."""
    paper, manifest = Paper(), catalogue.manifests[name]
    lines = provenance_lines(catalogue.manifests)
    versions = ", ".join(f"{package} {version}" for package, version in manifest["versions"].items())
    checkout, machine = manifest.get("checkout"), manifest["machine"]
    if checkout is not None:
        versions += f", commit {checkout['commit']}" + (" with uncommitted changes" if checkout["dirty"] else "")
    made = datetime.fromisoformat(manifest["created"])
    for title, text in {
        name: lines[name],
        "path": f"{catalogue.home}/{name}",
        "digest": manifest["digest"],
        "made": f"{made:%Y-%m-%d %H:%M} UTC ({age(made)} ago) in {took(manifest['seconds'])}",
        "by": f"code version {manifest['code_version']}, {versions}",
        "on": f"{machine['platform']}, {several(machine['cpus'], 'cpu')}",
        "for": listed(catalogue.experiments(name)) or "no experiment that has a record",
    }.items():
        paper.say(f"{title:8}{text}" if title != name else f"{name}  {text}")
    for title in ("spec", "notes"):
        if manifest[title]:
            paper.say(title)
            # YAML escapes what a terminal would obey.
            for line in yaml.safe_dump(manifest[title], allow_unicode=True, width=110, sort_keys=False).splitlines():
                paper.say(f"  {line}")
    paper.say("made from" if manifest["inputs"] else "made from no other artifact")
    _print_sources(paper, name, catalogue, lines, depth=1, told=set())
    users = users_of(name, catalogue.manifests)
    paper.say("used for" if users else "used for no other artifact")
    for user in users:
        paper.say(f"  {short(user)}  {lines[user]}")
    paper.say(f"{several(len(manifest['files']), 'file')}, {size(catalogue.bytes(name))}")
    for group, sizes in grouped(manifest["files"]).items():
        count = "" if len(sizes) == 1 else f"  ({len(sizes):,} files)"
        paper.say(f"  {size(sum(sizes)):>12}  {group}{count}")


def grouped(files: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    """Sizes of files by name, where files whose names differ in numbered parts alone are told as one: c/*/0."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for file in files:
        pattern = re.sub(r"(?<![^/])\d+(?=/|\.|$)", "*", file["name"])
        groups.setdefault(pattern, []).append((file["name"], file["size"]))
    return {
        pattern if len(members) > 1 else members[0][0]: [count for _, count in members]
        for pattern, members in groups.items()
    }


def print_plan(plan: Plan, catalogue: Catalogue) -> None:
    """What a garbage collection keeps, and what it would delete."""
    paper, lines = Paper(), provenance_lines(catalogue.manifests)
    imported = sum(was_imported(catalogue.manifests[name]) for name in plan.kept)
    paper.say(
        f"kept: {several(len(plan.kept), 'artifact')}, {size(sum(map(catalogue.bytes, plan.kept)))}, for "
        f"{several(len(catalogue.used), 'experiment')} ({listed(catalogue.used) or 'none'})"
        + (f", {imported} of them imported" if imported else "")
    )
    for name, reason in plan.left_alone.items():
        paper.say(f"left alone: {short(name)}, {reason}")
    if plan.to_remove or plan.to_discard:
        rows = []
        for name in sorted(plan.to_remove):
            made = datetime.fromisoformat(catalogue.manifests[name]["created"])
            rows.append((short(name), size(catalogue.bytes(name)), age(made), lines[name]))
        for name in plan.to_discard:
            build = catalogue.unfinished[name]
            rows.append((short(name), size(build.bytes), age(build.modified), "an unfinished build"))
        paper.table(("to go", "size", "age", "what"), rows)
    paper.say(f"to go: {counted(plan.to_remove, plan.to_discard, catalogue)}")


def counted(artifacts: Collection[str], builds: Collection[str], catalogue: Catalogue) -> str:
    """3 artifacts and 1 unfinished build, 4.5 MiB."""
    held = sum(map(catalogue.bytes, artifacts)) + sum(catalogue.unfinished[name].bytes for name in builds)
    return f"{several(len(artifacts), 'artifact')} and {several(len(builds), 'unfinished build')}, {size(held)}"


def repair(damaged: Iterable[str], catalogue: Catalogue) -> list[str]:
    """What a person does about damaged artifacts, a line for each remedy."""
    remedies: dict[str, list[str]] = {}
    for name in damaged:
        remedies.setdefault(_remedy(name, catalogue), []).append(short(name))
    return [f"{listed(names)}: {remedy}" for remedy, names in remedies.items()]


def _remedy(name: str, catalogue: Catalogue) -> str:
    manifest = catalogue.manifests.get(name)
    if manifest is not None and was_imported(manifest):
        return f"remove it (saeflow artifacts rm), then saeflow import {manifest['notes'].get('source', '…')}"
    experiments = catalogue.experiments(name)
    if not experiments:
        return "no experiment that has a record needs it: saeflow artifacts rm removes it"
    source = experiments[0] if experiments[0] in presets() else "FILE.yaml"
    again = f"run the experiment {experiments[0]} again (saeflow run {source})"
    if is_remote(catalogue.home) or catalogue.bytes(name) > FULL_CHECK_BYTES:
        # Too much to read at every start: only sizes are compared then.
        return f"{again}. It sees the damage where it reads the file; saeflow artifacts rm --force has all made anew"
    return f"{again}, which repairs it on the way"


def _print_sources(
    paper: Paper, name: str, catalogue: Catalogue, lines: dict[str, str], depth: int, told: set[str]
) -> None:
    """The tree of what an artifact was made from; what was told once is not told again."""
    for source in made_from(name, catalogue.manifests):
        indent = "  " * depth
        if source not in catalogue.manifests:
            paper.say(f"{indent}{short(source)}  is not here any more")
        elif source in told:
            paper.say(f"{indent}{short(source)}  (see above)")
        else:
            told.add(source)
            paper.say(f"{indent}{short(source)}  {lines[source]}")
            _print_sources(paper, source, catalogue, lines, depth + 1, told)
