"""The pages of the documents, and what their Markdown is made of."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"

FENCE = re.compile(r"^(```+|~~~+)([^\n]*)\n(.*?)^\1[ \t]*$\n?", re.MULTILINE | re.DOTALL)
"""A fenced block: groups are the fence, the words after it, and the text inside."""


class DocumentError(Exception):
    """A page promises something that does not hold; the message says where and what."""


def pages(root: Path = ROOT) -> list[Path]:
    """The front page and all of docs, chapters in order."""
    return [root / "README.md", *sorted((root / "docs").glob("**/*.md"))]


def name_of(page: Path, root: Path = ROOT) -> str:
    """docs/05-convolution.md, also on Windows."""
    return page.relative_to(root).as_posix() if page.is_relative_to(root) else page.name


def line_of(text: str, position: int) -> int:
    """The number of the line, from 1, in which `position` lies."""
    return text.count("\n", 0, position) + 1


def prose(text: str) -> str:
    """The text with fenced blocks, comments and inline code blanked out, lines kept."""
    for pattern in (FENCE, re.compile(r"<!--.*?-->", re.DOTALL), re.compile(r"`[^`\n]+`")):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text
