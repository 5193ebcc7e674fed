"""The README's promises: its tables match the records, its commands and extras exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from tools import tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_table_shows_the_numbers_of_its_record(tmp_path):
    record = {
        "title": "A small one",
        "test_accuracy": 0.8421,
        "epochs": 6,
        "seconds": 600,
        "images_per_second": 512.4,
        "device": "cpu",
        "threads": 2,
        "environment": {"cpu": "Some CPU"},
    }
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "result.json").write_text(json.dumps(record))
    row = tables.training_table(tmp_path).splitlines()[-1]
    for shown in ("A small one", "84.21%", "| 6 |", "10 min", "512", "Some CPU, 2 threads"):
        assert shown in row
    assert "84.21%" in tables.refresh(README, "README.md", tmp_path)
    for page, target in (
        ("README.md", "docs/results/small"),
        ("docs/16-results.md", "results/small"),
        ("docs/results/README.md", "small"),
    ):
        text = "<!-- table: trainings -->\n<!-- end table -->"
        assert f"[small]({target})" in tables.refresh(text, page, tmp_path)


def test_every_command_of_the_readme_exists():
    from minires.cli import cli

    named = set(re.findall(r"python cli\.py ([a-z]+)", README))
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    named |= set(re.findall(r"^\| `([\w-]+)", table, re.MULTILINE))
    assert {"train", "evaluate", "gradcheck", "summary", "download", "info"} <= named
    for name in sorted(named):
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, f"{name}: {result.output}"


@pytest.mark.parametrize("extra", ["test", "fast", "sweep", "cuda12", "cuda13"])
def test_extras_of_the_readme_exist(extra):
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert extra in config["options.extras_require"]
