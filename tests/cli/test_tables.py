"""Tables on terminals of different widths: every word stays whole."""

from __future__ import annotations

import pytest
from click import unstyle
from rich.box import SIMPLE_HEAD
from rich.table import Table

from minires.cli import main
from minires.cli.tables import print_table


def table_of_two():
    table = Table(box=SIMPLE_HEAD)
    table.add_column("layer")
    table.add_column("what it is")
    table.add_row("layer1.0.conv1", "a convolution over windows of three by three pixels")
    table.add_row("fc", "[bold]scores[/]")
    return table


@pytest.fixture
def terminal(monkeypatch):
    def narrow_to(columns):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")

    return narrow_to


@pytest.mark.parametrize("columns", [10, 40, 60, 200])
def test_no_word_is_cut(capsys, terminal, columns):
    terminal(columns)
    print_table(table_of_two(), 120)
    out = unstyle(capsys.readouterr().out)
    words = "layer what it is layer1.0.conv1 a convolution over windows three by pixels fc scores"
    assert set(words.split()) <= set(out.split())
    # The longest words, 14 and 11 letters, and 7 characters around them.
    assert max(map(len, out.splitlines())) <= max(columns, 14 + 11 + 7)


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_names_of_recipes_are_whole(capsys, terminal, columns):
    terminal(columns)
    with pytest.raises(SystemExit) as end:
        main(["recipes"])
    out = unstyle(capsys.readouterr().out)
    assert end.value.code == 0
    for name in ("quickstart", "resnet50-transfer", "/resnet20", "24,039,242", "4,087.7"):
        assert name in out
    assert "\u2026" not in out
