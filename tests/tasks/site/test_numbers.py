"""Every number on a page, or in a plot of one, is found in a table or a JSON file of the report."""

import html
import json
import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tasks.site.reports import Made

PICKED = 50
NUMBER = re.compile(r"(?<![\w.#/@-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?(?![\w]|\.\d)")


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, those that text holds among them."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        yield from (float(found.rstrip("%")) for found in NUMBER.findall(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def known(made: Made) -> list[float]:
    """What the Parquet and JSON files hold."""
    found: set[float] = set()
    for file in made.place.rglob("*.parquet"):
        found.update(numbers_in(pq.read_table(file).to_pylist()))
    for file in made.place.rglob("*.json"):
        if file.name != "manifest.json":
            found.update(numbers_in(json.loads(file.read_text())))
    return sorted(found)


def is_found(text: str, digits: int, everything: Sequence[float]) -> bool:
    """Whether one of these numbers, told to so many digits, is this one."""
    number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    reach = 0.51 * 10 ** (exponent(number) + 1 - digits)
    at = bisect_left(everything, number - reach)
    return at < len(everything) and everything[at] <= number + reach


def shown(page: Path) -> Iterator[tuple[str, int]]:
    """The numbers that a person reads on a page, with the digits that they are told to."""
    text = page.read_text()
    text = re.sub(r"<(svg|script|style|pre|code|h1|h2|h3|nav)\b.*?</\1>", " ", text, flags=re.DOTALL)
    # What tells dictionaries apart, and what a model wrote, is no measurement.
    text = re.sub(r"\([^()]*=[^()]*\)", " ", text)
    text = html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<td>.*?</td>", " ", text)))
    for found in NUMBER.findall(text):
        digits = re.sub(r"e.*|[-.%]", "", found).lstrip("0")
        yield found, max(len(digits), 1)


def plotted(place: Path) -> Iterator[tuple[str, int]]:
    """The numbers that are drawn, which are told to six digits."""
    text = (place / "data" / "plots.js").read_text()
    figures = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    for figure in figures.values():
        for trace in figure["data"]:
            for axis in ("x", "y"):
                yield from ((repr(value), 6) for value in trace[axis] if isinstance(value, int | float))


def exponent(number: float) -> int:
    return int(f"{abs(number):e}".partition("e")[2]) if number else -300


RULES = ("10%", "95", "0.5", "4201")
"""The verdict's limit, the level of intervals, chance, the report server's port: these are no measurements."""


@pytest.mark.parametrize("seed", [0, 1])
def test_fifty_numbers_are_found_again_in_the_files(tiny_report: Made, seed: int):
    pages = sorted(tiny_report.place.glob("*.html"))
    assert len(pages) >= 6
    on_pages = [(page.name, *entry) for page in pages for entry in shown(page) if entry[0] not in RULES]
    in_plots = [("plots", *entry) for entry in plotted(tiny_report.place)]
    rng, everything = random.Random(seed), known(tiny_report)
    picked = rng.sample(on_pages, PICKED) + rng.sample(in_plots, PICKED)
    assert [entry for entry in picked if not is_found(*entry[1:], everything)] == []


def test_a_number_that_is_a_little_off_is_mostly_not_found(tiny_report: Made):
    """So that to be found says something."""
    everything, rng = known(tiny_report), random.Random(0)
    told = [(f"{float(text) * rng.uniform(1.1, 1.9):.6g}", digits) for text, digits in plotted(tiny_report.place)]
    there = [is_found(*entry, everything) for entry in told if float(entry[0])]
    assert sum(there) < 0.2 * len(there)
