r"""Code in a chapter is the package's own, included by name.

    <!-- code: minires.functional.conv:conv2d_forward -->
    <!-- end code -->

What stands between the two comments is generated: a link to the file and a fenced block with the
source. After the colon comes a function, a class, a constant, or `Class.method`; several names,
separated by commas, give one block. Two things may follow:

    no docstring              leaves the docstrings out
    from "TEXT" to "TEXT"     keeps the lines from the first that holds TEXT to the next that does

Files in another language are included by the lines alone:

    <!-- lines: minires/kernels/cuda/src/conv.cu from "TEXT" to "TEXT" -->
    <!-- end lines -->
"""

from __future__ import annotations

import ast
import os
import re
import textwrap
from pathlib import Path

from tools.pages import ROOT, DocumentError, line_of

MARK = re.compile(
    r"^<!-- code: (?P<module>[\w.]+):(?P<names>[\w.]+(?:, *[\w.]+)*)"
    r"(?P<bare> no docstring)?"
    r'(?: from "(?P<first>[^"\n]+)" to "(?P<last>[^"\n]+)")? -->\n'
    r"(?P<body>.*?)^<!-- end code -->",
    re.DOTALL | re.MULTILINE,
)

LINES = re.compile(
    r'^<!-- lines: (?P<file>[\w./-]+) from "(?P<first>[^"\n]+)" to "(?P<last>[^"\n]+)" -->\n'
    r"(?P<body>.*?)^<!-- end lines -->",
    re.DOTALL | re.MULTILINE,
)
LANGUAGES = {".cu": "cuda", ".cuh": "cuda", ".h": "cpp"}


def refresh(text: str, page: str, root: Path = ROOT) -> str:
    """The page with its included code copied anew; `page` is its name from the root."""
    return _include_lines(_include_code(text, page, root), page, root)


def _include_lines(text: str, page: str, root: Path) -> str:
    def include(match: re.Match) -> str:
        where = f"{page}:{line_of(text, match.start())}"
        path = Path(match["file"])
        if not (root / path).is_file():
            raise DocumentError(f"{where}: there is no {path.as_posix()}")
        try:
            code = extract((root / path).read_text(encoding="utf-8"), match["first"], match["last"])
        except LookupError as error:
            raise DocumentError(f"{where}: {path.as_posix()}: {error.args[0]}") from None
        begin = match[0][: match.start("body") - match.start()]
        fence = f"```{LANGUAGES.get(path.suffix, '')}\n{code}```"
        return f"{begin}{_link(path, page)}\n\n{fence}\n<!-- end lines -->"

    if len(re.findall(r"^<!-- lines:", text, re.MULTILINE)) != len(LINES.findall(text)):
        raise DocumentError(f"{page}: a marker of included lines is misspelt or lacks its end")
    return LINES.sub(include, text)


def _link(path: Path, page: str) -> str:
    target = Path(os.path.relpath(path, Path(page).parent)).as_posix()
    return f"[`{path.as_posix()}`]({target}):"


def _include_code(text: str, page: str, root: Path) -> str:
    def include(match: re.Match) -> str:
        where = f"{page}:{line_of(text, match.start())}"
        path = Path(*match["module"].split(".")).with_suffix(".py")
        if not (root / path).is_file():
            raise DocumentError(f"{where}: there is no {path.as_posix()}")
        source = (root / path).read_text(encoding="utf-8")
        names = [name.strip() for name in match["names"].split(",")]
        try:
            parts = [source_of(source, name, docstring=not match["bare"]) for name in names]
            code = "\n\n".join(parts)
            if match["first"]:
                code = extract(code, match["first"], match["last"])
        except LookupError as error:
            raise DocumentError(f"{where}: {path.as_posix()}: {error.args[0]}") from None
        begin = match[0][: match.start("body") - match.start()]
        return f"{begin}{_link(path, page)}\n\n```python\n{code}```\n<!-- end code -->"

    if len(re.findall(r"^<!-- code:", text, re.MULTILINE)) != len(MARK.findall(text)):
        raise DocumentError(f"{page}: a code marker is misspelt or lacks its end")
    return MARK.sub(include, text)


def source_of(source: str, name: str, docstring: bool = True) -> str:
    """The lines of `source` that define `name`, with decorators, without indentation.

    Raises `LookupError` if nothing of that name is there.
    """
    node, inside = None, ast.parse(source).body
    for part in name.split("."):
        node = next((child for child in inside if part in _names(child)), None)
        if node is None:
            raise LookupError(f"no {name}")
        inside = getattr(node, "body", [])
    lines = source.splitlines(keepends=True)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    dropped = set() if docstring else _docstring_lines(node)
    kept = [lines[n - 1] for n in range(first, node.end_lineno + 1) if n not in dropped]
    return textwrap.dedent("".join(kept))


def extract(code: str, first: str, last: str) -> str:
    """The lines of `code` from one that holds `first` to the next that holds `last`, dedented."""
    lines = code.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if first in line), None)
    if start is None:
        raise LookupError(f"no line with {first!r}")
    end = next((n for n, line in enumerate(lines[start:], start) if last in line), None)
    if end is None:
        raise LookupError(f"no line with {last!r} after {first!r}")
    return textwrap.dedent("".join(lines[start : end + 1]))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _docstring_lines(node: ast.stmt) -> set[int]:
    """The numbers of the lines of all docstrings in `node`."""
    dropped = set()
    for inner in ast.walk(node):
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(inner) is not None and len(inner.body) > 1:
            text = inner.body[0]
            last = text.end_lineno
            if isinstance(inner, ast.ClassDef):  # and the empty line after it
                last = inner.body[1].lineno - 1
            dropped |= set(range(text.lineno, last + 1))
    return dropped
