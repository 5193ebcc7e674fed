"""Names in messages and titles: the nearest to a misspelt one, and those that are no text."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def printable(name: str) -> str:
    """A file's `name` for a title: bytes that are no UTF-8, which nothing can draw, become ?."""
    return name.encode("utf-8", "replace").decode("utf-8")


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error line: the one of `words` that was probably meant, or all of them."""
    words = list(words)
    close = get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; use one of: {', '.join(words)}"
