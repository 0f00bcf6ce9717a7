"""Sizes, times and foreign text for people."""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console

WIDTH_OF_A_PIPE = 200  # where nobody's window ends: one line a row, for grep


class Paper(Console):
    """Prints text as it is: names and texts of others are no markup of rich, and move no cursor."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH_OF_A_PIPE

    def say(self, text: object = "") -> None:
        """One line, whole: where it ends the terminal decides."""
        self.print(plain(text), soft_wrap=True)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they need; what the window leaves no room for in the last one gets a line of its own.

        Numbers, which is what ends with a unit, belong to the right.
        """
        lines = [tuple(map(plain, row)) for row in (titles, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        numbers = [all(re.match(r"[\d,.:]+ ", cell) for cell in column[1:]) for column in zip(*lines, strict=True)]
        for number, (*cells, last) in enumerate(lines):
            columns = zip(cells, widths, numbers, strict=False)
            start = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in columns)
            fits = len(start) + 2 + len(last) <= self.width
            style = "bold" if number == 0 else None
            self.print(f"{start}  {last}" if fits else f"{start.rstrip()}\n    {last}", soft_wrap=True, style=style)


def plain(text: object) -> str:
    """Text without characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(text))


def size(count: float) -> str:
    """Bytes for people: 1.4 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def age(moment: datetime) -> str:
    """How long ago, in one unit: 3 min, 5 h, 12 days."""
    minutes = (datetime.now(UTC) - moment).total_seconds() / 60
    if minutes < 60:
        return f"{max(minutes, 0):.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"


def took(seconds: float) -> str:
    """How long something took: 0.4 s, 12 s, 3:05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def several(number: int, noun: str) -> str:
    """1 artifact, 2 artifacts."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Iterable[str], most: int = 5) -> str:
    """a, b, c and 4 more."""
    names = list(names)
    told = ", ".join(names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most} more"
