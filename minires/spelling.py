"""The nearest name to a misspelt one, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error line: the one of `words` that was probably meant, or all of them."""
    words = list(words)
    close = get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; use one of: {', '.join(words)}"
