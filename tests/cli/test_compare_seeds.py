"""`compare` and `train --seeds` as typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minires.cli import main

ROOT = Path(__file__).parents[2]
TINY = [
    *("train", "--dataset", "shapes", "--limit", "60", "--depth", "8", "--width", "0.25"),
    *("--epochs", "1", "--batch-size", "16", "--device", "cpu", "--threads", "1"),
]
RECORDS = [str(ROOT / f"docs/results/resnet20-6-epochs-seed{seed}") for seed in (0, 1)]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("MINIRES_")]:
        monkeypatch.delenv(name)


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def fails(capsys, code, *args):
    got, out, err = call(capsys, *args)
    assert (got, out) == (code, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_seeds_end_with_their_mean_and_the_next_command(capsys):
    code, out, err = call(capsys, *TINY, "--seeds", "3..4", "--run-dir", "mine")
    assert code == 0, err
    assert "seed3" in out and "seed4" in out and "±" in out
    assert "minires compare mine-*" in out
    code, out, err = call(capsys, *TINY, "--seeds", "3,4", "--run-dir", "mine", "--json")
    assert code == 0 and err.count("finished already") == 2
    group = json.loads(out)
    assert [r["seed"] for r in group["runs"]] == [3, 4]
    assert group["rows"][0]["test_accuracy"]["count"] == 2
    code, out, _ = call(capsys, "compare", "mine-seed3", "mine-seed4", "--json")
    assert json.loads(out) == {"rows": group["rows"], "output": "compare.png"}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--seeds", "4..x"], "--seeds 4..x"),
        (["--seeds", "0..1", "--seed", "3"], "--seed and --seeds"),
        (["--seeds", "0..1", "--resume", "a"], "--resume and --seeds"),
    ],
)
def test_seeds_that_cannot_be(capsys, args, word):
    assert word in fails(capsys, 2, *TINY, *args)
    assert not Path("runs").exists()


def test_compare_prints_a_table_and_draws(capsys):
    code, out, err = call(capsys, "compare", *RECORDS)
    assert (code, err) == (0, "")
    assert "83.79% ± 0.41%" in out and "269,722" in out and "picture  compare.png" in out
    assert Path("compare.png").read_bytes().startswith(b"\x89PNG")


def test_compare_refuses_in_one_line(capsys):
    fails(capsys, 2, "compare")
    assert "nowhere" in fails(capsys, 4, "compare", "nowhere", *RECORDS)
    assert "--output a.gif" in fails(capsys, 2, "compare", *RECORDS, "--output", "a.gif")
    assert not Path("compare.png").exists()
