"""How far a long computation is, on one line of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable


def counter(what: str = "batch") -> Callable[[int, int], None] | None:
    """A function of (done, all) that shows "batch 3/40" on stderr; None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, number: int) -> None:
        text = f"{what} {done:,}/{number:,}" if done < number else ""
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return show
