"""The pictures of real runs are listed with commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

from minires.cli.plot import command

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
ROW = re.compile(r"^\| \[(picture-[\w.-]+)\]\(\1\) \|[^|]+\| `python cli\.py plot (\w+)", re.M)


def test_each_picture_is_listed_with_its_command():
    listed = dict(ROW.findall((FIGURES / "README.md").read_text(encoding="utf-8")))
    assert set(listed) == {path.name for path in FIGURES.glob("picture-*")}
    assert set(listed.values()) == set(command.list_commands(None))


def test_pictures_are_small():
    for path in FIGURES.glob("picture-*"):
        assert path.stat().st_size < 500_000, path.name
