"""`lr-find` and `sanity` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minires.cli import main

TINY = [
    *("--dataset", "shapes", "--limit", "80", "--depth", "8", "--width", "0.5"),
    *("--batch-size", "16", "--device", "cpu", "--threads", "1"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_lr_find_prints_a_suggestion_and_draws(capsys):
    code, out, err = call(capsys, "lr-find", *TINY, "--steps", "40", "--from", "1e-3")
    assert (code, err) == (0, "")
    assert "suggestion" in out and "lr-find.png" in out
    assert Path("lr-find.png").read_bytes().startswith(b"\x89PNG")


def test_lr_find_json(capsys):
    code, out, _ = call(
        capsys, "lr-find", *TINY, "--steps", "10", "--to", "0.1", "--optimizer", "adam",
        "--output", "a.png", "--json",
    )  # fmt: skip
    assert code == 0
    result = json.loads(out)
    assert len(result["rates"]) == len(result["losses"]) == len(result["smoothed"]) == 10
    assert result["output"] == "a.png" and Path("a.png").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--steps", "3"], "--steps 3"),
        (["--from", "2", "--to", "1"], "--from 2 --to 1"),
        (["--output", "nowhere/a.png"], "--output nowhere/a.png"),
        (["--optimizer", "sdg"], "--optimizer"),
        (["--lr", "0.1"], "--lr"),
    ],
)
def test_lr_find_refuses_in_one_line(capsys, args, word):
    code, out, err = call(capsys, "lr-find", *TINY, *args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and word in err


def test_sanity_passes(capsys):
    code, out, err = call(capsys, "sanity", *TINY, "--lr", "0.1")
    assert (code, err) == (0, ""), out
    assert "8 of 8 checks passed" in out and "FAIL" not in out


def test_sanity_fails_with_exit_code_1_and_advice(capsys):
    code, out, _ = call(capsys, "sanity", *TINY, "--lr", "1e-9", "--steps", "20")
    assert code == 1
    assert "FAIL  update to weight" in out and "lr-find" in out
    code, out, _ = call(capsys, "sanity", *TINY, "--lr", "1e-9", "--steps", "20", "--json")
    result = json.loads(out)
    assert code == 1 and result["passed"] is False
    assert {"name", "passed", "found", "advice"} == set(result["checks"][0])
