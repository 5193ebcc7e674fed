r"""Exercises that break a line of the package: the named tests really fail.

    <!-- breaks: tests/functional/test_linear.py::test_frozen_values -->
    ```diff
    --- minires/functional/linear.py
    -    grad_weight = grad_output.T @ cache.x
    +    grad_weight = -grad_output.T @ cache.x
    ```

The lines with `-` stand together exactly once in the file; those with `+` take their place, in a
copy of the project. Several tests may be named; the page must name each of them in its text too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.pages import ROOT, DocumentError, line_of, name_of, pages

MARK = re.compile(
    r"^<!-- breaks: (?P<tests>[^\n]+) -->\n```diff\n--- (?P<file>[^\n]+)\n(?P<diff>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Break:
    """One exercise: the lines `old` of `file` become `new`, and `tests` fail."""

    where: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def breaks(root: Path = ROOT) -> list[Break]:
    """All such exercises of all pages."""
    found = []
    for page in pages(root):
        found += breaks_of(page.read_text(encoding="utf-8"), name_of(page, root))
    return found


def breaks_of(text: str, page: str) -> list[Break]:
    """Those of one page; `DocumentError` where the answer does not name the tests."""
    if len(re.findall(r"^<!-- breaks:", text, re.MULTILINE)) != len(MARK.findall(text)):
        raise DocumentError(f"{page}: a marker `breaks` without its diff")
    found = []
    for match in MARK.finditer(text):
        where = f"{page}:{line_of(text, match.start())}"
        tests = tuple(match["tests"].split())
        for test in tests:
            if test.rpartition("::")[2] not in text[match.end() :]:
                raise DocumentError(f"{where}: the answer does not name {test}")
        found.append(Break(where, match["file"], *_sides(match["diff"]), tests))
    return found


def _sides(diff: str) -> tuple[str, str]:
    """The text before and after; a line without a sign, or with a space, belongs to both."""
    lines = diff.splitlines()
    old = [line[1:] for line in lines if not line.startswith("+")]
    new = [line[1:] for line in lines if not line.startswith("-")]
    return "\n".join(old) + "\n", "\n".join(new) + "\n" if new else ""


def copy_project(target: Path, root: Path = ROOT) -> None:
    """Copy what the tests need: the package, the tests and their settings."""
    ignore = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    for folder in ("minires", "tests"):
        shutil.copytree(root / folder, target / folder, ignore=ignore)
    for file in ("setup.cfg", "pyproject.toml", "cli.py"):
        shutil.copyfile(root / file, target / file)


def problem(exercise: Break, copy: Path) -> str | None:
    """What is wrong with `exercise`, tried in `copy`, which is left as it was; None if nothing."""
    path = copy / exercise.file
    source = path.read_text(encoding="utf-8")
    if source.count(exercise.old) != 1:
        return f"{exercise.where}: these lines stand {source.count(exercise.old)} times in the file"
    path.write_text(source.replace(exercise.old, exercise.new), encoding="utf-8")
    try:
        command = [sys.executable, "-B", "-m", "pytest", "-q", "--tb=no", "-rfE"]
        command += ["-p", "no:cacheprovider", *exercise.tests]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    finally:
        path.write_text(source, encoding="utf-8")
    for test in exercise.tests:
        if f"FAILED {test}" not in run.stdout:
            return f"{exercise.where}: {test} does not fail\n{run.stdout}{run.stderr}"
    return None
