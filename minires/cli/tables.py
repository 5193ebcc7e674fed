"""Tables on a terminal of any width, and in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Column, Table


def print_table(table: Table, wide: int) -> None:
    """Print `table`, `wide` characters wide where it does not go to a terminal.

    No word is cut: on a terminal that is too narrow for that, the lines run over.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else wide)
    lines = [_longest(_texts(column), whole_lines=True) for column in table.columns]
    words = [_longest(_texts(column), column.no_wrap) for column in table.columns]
    spread = sum(lines) - sum(words)
    needed = needed_width(table)
    room = max(console.width - needed, 0)
    if spread > room:
        for column, line, word in zip(table.columns, lines, words, strict=True):
            column.width = word + room * (line - word) // spread
    console.width = max(console.width, needed)
    console.print(table)


def needed_width(table: Table) -> int:
    """The characters that `table` needs to show each word whole."""
    from rich.console import Console

    columns = table.columns
    lines = sum(_longest(_texts(column), whole_lines=True) for column in columns)
    words = sum(_longest(_texts(column), column.no_wrap) for column in columns)
    return Console(width=10_000).measure(table).maximum - lines + words


def _texts(column: Column) -> list[str]:
    """What stands in `column`, without the marks of colours."""
    from rich.text import Text

    return [Text.from_markup(text).plain for text in (column.header, column.footer, *column.cells)]


def _longest(texts: Iterable[str], whole_lines: bool) -> int:
    """The characters of the longest line in `texts`, or of the longest word."""
    from rich.cells import cell_len

    parts = (text.splitlines() if whole_lines else text.split() for text in texts)
    return max((cell_len(part) for found in parts for part in found), default=1)
