"""Links inside the documents lead somewhere; formulas and lines survive GitHub's Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from tools.pages import FENCE, ROOT, line_of, name_of, prose

LINK = re.compile(r"\[[^\]\[]*(?:\[[^\]]*\])?[^\]\[]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
ITEM = re.compile(r" *(?:1[.)]|[-+*]) ")
"""What begins a list, also in the middle of a paragraph; other numbers do not."""

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\w$\\])\$([^$\n]+?)\$(?![\w$])", re.DOTALL)


def problems(page: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the links, formulas and lists of `page`, a line each."""
    text, name = page.read_text(encoding="utf-8"), name_of(page, root)
    return link_problems(text, page, root) + math_problems(text, name) + list_problems(text, name)


def link_problems(text: str, page: Path, root: Path = ROOT) -> list[str]:
    """Links to files that are not there, out of the project, or to headings that no page has."""
    found = []
    blanked = re.sub(r"`[^`\n]+`", lambda m: "x" * len(m[0]), _without_fences(text))
    for match in LINK.finditer(blanked):
        target = match[1]
        where = f"{name_of(page, root)}:{line_of(text, match.start())}"
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or not path.is_relative_to(root.resolve()):
            found.append(f"{where}: {target}: no such file in the project")
        elif anchor and anchor not in anchors(
            text if path == page else path.read_text(encoding="utf-8")
        ):
            found.append(f"{where}: {target}: no such heading")
    return found


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page, and those set by hand."""
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    counts: dict[str, int] = {}
    for heading in HEADING.findall(_without_fences(text)):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = counts.get(slug, 0)
        counts[slug] = number + 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


def math_problems(text: str, page: str) -> list[str]:
    r"""Formulas that Markdown would damage before MathJax sees them.

    Markdown takes a backslash before punctuation for an escape, so `\,` loses its backslash and
    `\\` one of two; it may take `}_` and `*` for emphasis and `<` for a tag. Other spellings do the
    same: `\thinspace`, `\lbrace`, `\ast`, `\lt`, and a `math` fence for several lines.
    """
    found = []
    plain = prose(text)
    for match in MATH.finditer(plain):
        formula = match[1] or match[2]
        where = f"{page}:{line_of(text, match.start())}"
        bad = re.search(r"\\[^A-Za-z\s]|[})'\]]_|\*|<|\n\s*\n", formula)
        if bad:
            found.append(f"{where}: {bad[0]!r} in {formula.strip()!r} will not survive Markdown")
        if match[2] and (formula[0] == " " or formula[-1] == " "):
            found.append(f"{where}: spaces inside the dollars of {formula!r}")
    rest = MATH.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), plain)
    for position in (m.start() for m in re.finditer(r"(?<!\\)\$", rest)):
        found.append(f"{page}:{line_of(text, position)}: a $ without its partner")
    return found


def list_problems(text: str, page: str) -> list[str]:
    """Lines inside a paragraph or a formula that Markdown would take for the item of a list.

    A list of the author's own begins after an empty line.
    """
    found, before, in_list = [], "", False
    for number, line in enumerate(_without_fences(text).splitlines(), start=1):
        is_item = ITEM.match(line) is not None
        if is_item and before.strip() and not in_list:
            found.append(f"{page}:{number}: {line[:20]!r} begins a list inside a paragraph")
        in_list = bool(line.strip()) and (in_list or is_item)
        before = line
    return found


def _without_fences(text: str) -> str:
    return FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
