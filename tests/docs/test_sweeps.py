"""Recorded sweeps: what is copied, and the tables that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools import sweeps, tables
from tools.pages import DocumentError

from minires.sweep.folder import SweepFolder
from minires.sweep.report import write_report
from minires.sweep.spec import read_spec
from minires.sweep.study import open_study

pytest.importorskip("optuna", reason='needs Optuna: pip install -e ".[sweep]"')

SPEC = """
[sweep]
name = "pair"
method = "grid"
[base]
recipe = "quickstart"
[search]
lr = [0.05, 0.1]
"""
RESULT = {
    "best_val_accuracy": 0.625,
    "best_epoch": 2,
    "epochs": 2,
    "test_accuracy": 0.5,
    "seconds": 61.5,
    "device": "cpu",
    "threads": 1,
    "environment": {"cpu": "Some CPU", "cores": 2, "commit": "abc"},
}


def test_a_sweep_is_recorded_whole_and_shown(tmp_path):
    study = open_study(SweepFolder(tmp_path / "pair"), read_spec(SPEC, "", ""), "data")
    claim = study.claim()
    study.finish(claim, RESULT, pruned=False)
    claim.lock.close()
    write_report(study)
    results = tmp_path / "results"
    with pytest.raises(DocumentError, match="1 of 2 are done"):
        sweeps.record(tmp_path / "pair", "sweep-pair", "typed", "", results)
    claim = study.claim()
    study.fail(claim, "diverged")
    claim.lock.close()
    sweeps.record(tmp_path / "pair", "sweep-pair", "sweep pair", "killed once", results)
    target = results / "sweep-pair"
    assert {p.name for p in target.iterdir()} == {*sweeps.COPIED, "sweep.json"}
    assert (target / "spec.toml").read_text() == SPEC
    record = json.loads((target / "sweep.json").read_text())
    assert record["environment"]["commit"] == "abc"
    assert [Path(row["run"]) for row in record["trials"]] == [
        Path("trials/001"),
        Path("trials/002"),
    ]
    page = "".join(
        f"<!-- table: {kind} -->\n<!-- end table -->\n" for kind in ("sweeps", "sweep-trials")
    )
    shown = tables.refresh(page, "docs/results/README.md", results)
    for words in (
        "| pair, killed once | 1 finished, 1 failed | 62.50% | 50.00% | Some CPU, 2 cores |",
        "`sweep pair`",
        "[sweep-pair](sweep-pair), [picture](sweep-pair/report.png)",
        "| pair | 1 | `lr=0.05` | 62.50% | 50.00% | 2 | 62 s |",
        "| pair | 2, failed | `lr=0.1` |  |  |  |  |",
    ):
        assert words in shown
