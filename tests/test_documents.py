"""The README's promises: its tables match the records, its Python runs, its commands exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def load_make():
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_match_the_records():
    make = load_make()
    for page in make.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert make.regenerate(text, page) == text, f"{page}: run python docs/make.py"


def test_a_table_shows_the_numbers_of_its_record(tmp_path):
    make = load_make()
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
    row = make.training_table(tmp_path).splitlines()[-1]
    for shown in ("A small one", "84.21%", "| 6 |", "10 min", "512", "Some CPU, 2 threads"):
        assert shown in row
    assert "84.21%" in make.regenerate(README, "README.md", tmp_path)


def test_python_of_the_readme_runs(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    assert "(16, 16, 3, 3)" in capsys.readouterr().out


def test_every_command_of_the_readme_exists():
    from minires.cli import cli

    named = set(re.findall(r"python cli\.py ([a-z]+)", README))
    named |= set(re.findall(r"^\| `(\w+)", README, re.MULTILINE))
    assert {"train", "evaluate", "gradcheck", "summary", "download", "info"} <= named
    for name in sorted(named):
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, f"{name}: {result.output}"


def test_links_of_the_readme_lead_somewhere():
    for page in ("README.md", "docs/results/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("extra", ["test", "fast", "cuda12", "cuda13"])
def test_extras_of_the_readme_exist(extra):
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert extra in config["options.extras_require"]
