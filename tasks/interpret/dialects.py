"""Models that reason take no `temperature`, and their `max_tokens` have another name.

A request keeps the form that its reply is kept under (tasks.interpret.replies). What a model refuses of it is found out
by sending it, and from then on it is translated on its way:

    temperature   is left out
    max_tokens    becomes max_completion_tokens, with THINKING more: what a model thinks counts, though nobody sees it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import APIStatusError

THINKING = 4096

REFUSABLE = frozenset({"max_tokens", "temperature"})


def refused_by(error: APIStatusError) -> frozenset[str]:
    """The parameters that an error is about, of those that can be done without."""
    if error.status_code != 400:
        return frozenset()
    if error.param:
        return REFUSABLE & {error.param}
    return frozenset(name for name in REFUSABLE if name in error.message)


def translated(body: dict[str, Any], refused: frozenset[str]) -> dict[str, Any]:
    """The body for a model that refuses these."""
    kept = {name: value for name, value in body.items() if name not in refused}
    return kept | {"max_completion_tokens": body["max_tokens"] + thinking(refused)} if "max_tokens" in refused else kept


def thinking(refused: frozenset[str]) -> int:
    """Tokens that a model which refuses these may write beyond its answer."""
    return THINKING if "max_tokens" in refused else 0
