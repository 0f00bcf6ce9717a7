"""What was made from what: artifacts as a graph, whose edges are the inputs in their manifests.

Artifacts go by name here, `kind/key`, and `manifests` holds those that are there. An input may be gone: an artifact
outlives what it was made from.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Manifest = Mapping[str, Any]
Manifests = Mapping[str, Manifest]


def short(name: str) -> str:
    """`kind/` and the beginning of the key: what people read and type."""
    kind, _, key = name.partition("/")
    return f"{kind}/{key[:8]}"


def inputs_of(manifest: Manifest) -> dict[str, str]:
    """Input name → the artifact that was read."""
    return {name: f"{ref['kind']}/{ref['key']}" for name, ref in manifest["inputs"].items()}


def made_from(name: str, manifests: Manifests) -> list[str]:
    """The artifacts that `name` was made from, directly: each once, also those that are gone."""
    return list(dict.fromkeys(inputs_of(manifests[name]).values())) if name in manifests else []


def users_of(name: str, manifests: Manifests) -> list[str]:
    """The artifacts that were made from `name`, directly."""
    return [user for user in manifests if name in made_from(user, manifests)]


def reachable(roots: Iterable[str], manifests: Manifests) -> set[str]:
    """The roots and all that they were made from, as far as it is there."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in manifests and name not in found:
            found.add(name)
            waiting += made_from(name, manifests)
    return found


def users_first(names: Iterable[str], manifests: Manifests) -> list[str]:
    """`names` in an order in which nothing comes before what was made from it: the order to remove them in."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for source in made_from(name, manifests):
                visit(source)
            ordered[name] = None

    wanted = sorted(names)
    for name in wanted:
        visit(name)
    return [name for name in reversed(ordered) if name in set(wanted)]
