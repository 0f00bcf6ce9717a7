"""What tells an artifact from the others of its kind, in one line.

    dictionary    topk at blocks.9.hook_resid_post, expansion=4, k=32
    tokens        sources=package:torch,package:scipy,…(9), tokens=300000, context_length=256

Some parameters are always told; any other only where the artifacts of the kind differ in it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from storage.lineage import Manifest, Manifests, inputs_of, short
from storage.questions import shown
from storage.records import canonical_json

ALWAYS = {"hook_points", "source", "sources", "tokens", "context_length", "dtype", "format"}
ALWAYS |= {"expansion", "k", "alpha", "l1_coefficient", "target_l0"}
# `method` and `hook_point` come first; where a source lies is its `path`; a report's `names` are its inputs.
NEVER = {"method", "hook_point", "path", "names"}
LISTED = 2  # items of a list


def provenance_lines(manifests: Manifests) -> dict[str, str]:
    """One line for each artifact; what was made from a dictionary is told by that dictionary."""
    kinds: dict[str, dict[str, Manifest]] = {}
    for name, manifest in manifests.items():
        kinds.setdefault(manifest["kind"], {})[name] = manifest
    parts = {name: told for alike in kinds.values() for name, told in _parts_of_a_kind(alike).items()}

    def line(name: str) -> str:
        dictionary = inputs_of(manifests[name]).get("dictionary")
        if dictionary is None:
            return ", ".join(parts[name])
        known = parts.get(dictionary, [short(dictionary)])
        own = [part for part in parts[name] if not any(told.endswith(part) for told in known)]
        return ", ".join([*own, f"of {', '.join(known)}"])

    return {name: line(name) for name in manifests}


def _parts_of_a_kind(alike: Manifests) -> dict[str, list[str]]:
    specs = {name: dict(_leaves(manifest["spec"])) for name, manifest in alike.items()}
    inputs = {name: inputs_of(manifest) for name, manifest in alike.items()}
    telling_paths, telling_inputs = _varying(specs.values()), _varying(inputs.values()) - {"dictionary"}

    def parts(name: str) -> Iterator[str]:
        spec = specs[name]
        last = {path: path.rpartition(".")[2] for path in spec}
        method = next((str(spec[path]) for path in spec if last[path] == "method"), "")
        place = f"at {spec['hook_point']}" if spec.get("hook_point") else ""
        if method or place:
            yield f"{method} {place}".strip()
        for path, value in spec.items():
            if last[path] not in NEVER and (last[path] in ALWAYS or path in telling_paths) and value is not None:
                unique = list(last.values()).count(last[path]) == 1
                yield f"{last[path] if unique else path}={_value(value)}"
        listed = Counter(input_name.partition(".")[0] for input_name in inputs[name] if "." in input_name)
        yield from (f"{count} {input_name}" for input_name, count in listed.items())
        for input_name, source in inputs[name].items():
            if input_name in telling_inputs and "." not in input_name:
                yield f"from {short(source)}"

    return {name: list(parts(name)) for name in alike}


def _leaves(spec: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is no mapping."""
    for name, value in spec.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _varying(told: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names that do not have the same value wherever they are there."""
    values: dict[str, set[bytes]] = {}
    for entry in told:
        for name, value in entry.items():
            values.setdefault(name, set()).add(canonical_json(value))
    return {name for name, different in values.items() if len(different) > 1}


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        items = [_value(item) for item in value]
        return ",".join(items if len(items) <= LISTED else [*items[:LISTED], f"…({len(items)})"])
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value):
        return value[:8]  # a checksum
    return shown(value)
