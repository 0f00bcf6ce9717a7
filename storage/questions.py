"""Why an artifact is not the one that is asked for: which parts of two questions differ.

A *question* is what a key is a hash of: kind, code version, spec and the digests of the inputs. Manifests hold
theirs, so the artifact that comes closest to a question can be found, and what keeps it from being the answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.lineage import Manifest, Manifests, inputs_of, short
from storage.records import canonical_json

NOTHING = object()  # where one of two questions has no such part; null is a value
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Difference:
    """One part that two questions do not share."""

    path: str
    """Where: spec.corpus.tokens, code_version, inputs.tokens."""
    old: Any
    new: Any

    def __str__(self) -> str:
        if isinstance(self.old, list) and isinstance(self.new, list):
            return f"{self.path}: {_list_change(self.old, self.new)}"
        return f"{self.path}: {shown(self.old)} → {shown(self.new)}"


def question_of(manifest: Manifest) -> dict[str, Any]:
    """The question that an artifact answers."""
    digests = {name: ref["digest"] for name, ref in manifest["inputs"].items()}
    return {"code_version": manifest["code_version"], "spec": manifest["spec"], "inputs": digests}


def differences(old: Any, new: Any, path: str = "") -> list[Difference]:
    """The parts that differ, one for each leaf of the two JSON objects; lists are compared as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for name in dict.fromkeys([*old, *new])
            for difference in differences(
                old.get(name, NOTHING), new.get(name, NOTHING), f"{path}.{name}" if path else str(name)
            )
        ]
    # As JSON texts, which are what a key is made of: for Python 1, 1.0 and true are the same.
    same = NOTHING not in (old, new) and canonical_json(old) == canonical_json(new)
    return [] if same else [Difference(path, old, new)]


def nearest(question: Manifest, manifests: Manifests) -> tuple[str, list[Difference]] | None:
    """The artifact whose question has the fewest differences from `question`, and these. None where there is none.

    Among equals, one of another hook point comes last: it is about something else. Then the newest is taken.
    """

    def distance(name: str) -> tuple[int, bool]:
        found = candidates[name]
        return len(found), any(difference.path.startswith("spec.hook_point") for difference in found)

    candidates = {name: differences(question_of(manifest), question) for name, manifest in manifests.items()}
    newest_first = sorted(candidates, key=lambda name: manifests[name]["created"], reverse=True)
    best = min(newest_first, key=distance, default=None)
    return None if best is None else (best, candidates[best])


def explain(name: str, wanted: Mapping[str, str], found: list[Difference], manifests: Manifests) -> list[str]:
    """The `found` differences between the artifact `name` and a question, in lines; deeper reasons are indented.

    `wanted` names the artifacts that the question's inputs are: {input name: kind/key}.
    """
    recorded = inputs_of(manifests[name])
    lines: list[str] = []
    for difference in found:
        if not difference.path.startswith("inputs."):
            lines.append(str(difference))
            continue
        input_name = difference.path.removeprefix("inputs.")
        old, new = recorded.get(input_name), wanted.get(input_name)
        told = " → ".join("none" if side is None else short(side) for side in (old, new))
        if old is None or new is None:
            lines.append(f"input {input_name}: {told}")
        elif old == new:
            lines.append(f"input {input_name}: {short(old)} was made anew since, and has other bytes")
        elif old not in manifests or new not in manifests:
            lines.append(f"input {input_name}: {told}, and the former is not here any more")
        else:
            deeper = differences(question_of(manifests[old]), question_of(manifests[new]))
            lines.append(f"input {input_name}: {told}, because")
            lines += [f"  {line}" for line in explain(old, inputs_of(manifests[new]), deeper, manifests)]
    return lines


def shown(value: Any) -> str:
    """A value for people, cut where it is long."""
    if value is NOTHING:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _list_change(old: list[Any], new: list[Any]) -> str:
    gone = [shown(item) for item in old if item not in new]
    added = [shown(item) for item in new if item not in old]
    changes = [f"{word} {', '.join(items)}" for word, items in (("without", gone), ("with", added)) if items]
    return "; ".join(changes) or f"{shown(old)} → {shown(new)}"
