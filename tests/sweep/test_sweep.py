"""Sweeps as typed: killed and continued, by several workers, pruned, stopped, reported."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minires.cli import main
from minires.sweep import work as working
from minires.sweep.check import check_sweep
from minires.sweep.folder import SweepFolder
from minires.sweep.spec import load_spec
from minires.sweep.study import open_study
from minires.training.checkpoint import load_checkpoint
from minires.training.history import read_history

pytest.importorskip("optuna", reason='needs Optuna: pip install -e ".[sweep]"')

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "killed_child.py"

# Each trial has 2 epochs of 4 steps: 72 of 80 images to train on, in batches of 16.
SPEC = """
[sweep]
name = "tiny"
method = "grid"
[base]
dataset = "shapes"
limit = 80
model = "resnet8"
width = 0.25
epochs = 2
batch_size = 16
save_every = 3
device = "cpu"
[search]
lr = [0.05, 0.1, 0.2]
"""
TIMES = {"seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder of its own with the spec in it, and none of the user's variables."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("MINIRES_")]:
        monkeypatch.delenv(name)
    Path("tiny.toml").write_text(SPEC)
    return tmp_path


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


def started(*args, program=(ROOT / "cli.py",), **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MINIRES_")}
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, args)],
        env=clean | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def lines_of(path):
    """The report without times and folders, for comparisons."""
    rows = csv.DictReader(path.read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES | {"run", "threads"}} for row in rows]


def bits(run):
    checkpoint = load_checkpoint(run / "last.safetensors")
    arrays = {**checkpoint.model, **{f"o.{k}": v for k, v in checkpoint.optimizer.items()}}
    return {name: values.tobytes() for name, values in arrays.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing disturbed: its folder and what --json printed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(SPEC)
    child = started("sweep", "tiny.toml", "--threads", 1, "--json", cwd=folder)
    out, err = child.communicate()
    assert child.returncode == 0, err
    return folder / "sweeps/tiny", out, err


def test_json_is_one_object_and_the_files_are_there(whole):
    path, out, err = whole
    summary = json.loads(out)
    assert out.count("\n") == 1
    assert (summary["sweep"], summary["asked"], summary["finished"]) == ("tiny", 3, 3)
    rows = summary["trials"]
    assert [row["options"] for row in rows] == [{"lr": lr} for lr in (0.05, 0.1, 0.2)]
    for number, row in enumerate(rows, 1):
        result = json.loads((path / f"trials/{number:03d}/result.json").read_text())
        assert row["val_accuracy"] == result["best_val_accuracy"]
        assert row["test_accuracy"] == result["test_accuracy"]
        assert result["config"]["lr"] == row["options"]["lr"]
        assert result["threads"] == 1
    assert summary["best"]["val_accuracy"] == max(row["val_accuracy"] for row in rows)
    assert [line["lr"] for line in lines_of(path / "report.csv")] == ["0.05", "0.1", "0.2"]
    assert (path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (path / "spec.toml").read_text() == SPEC
    assert "trial 3/3  finished: validation" in err


def test_killed_three_times_and_continued_is_the_same_sweep(whole, capsys):
    path = Path("sweeps/tiny")
    second, said = path / "trials/002", []
    for moment, step, tested in (("taken", None, False), ("step", 6, False), ("told", 8, True)):
        child = started("sweep", "tiny.toml", "--threads", 1, program=(CHILD, moment))
        said.append(child.communicate()[1])
        assert child.returncode == -signal.SIGKILL, said
        assert second.exists() == (step is not None)
        assert step is None or load_checkpoint(second / "last.safetensors").step == step
        assert (second / "result.json").exists() == tested
    before = (path / "trials/001/result.json").stat().st_mtime_ns
    code, out, err = call(capsys, "sweep", "tiny.toml", "--threads", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["finished"] == 3
    assert (path / "trials/001/result.json").stat().st_mtime_ns == before
    said.append(err)
    assert ["resumed  1 of 3 trials are done, 1 cut off" in err for err in said] == [0, 1, 1, 1]
    assert ["trial 1/3  finished" in err for err in said] == [1, 0, 0, 0]
    assert ["trial 2/3  continued: lr=0.1" in err for err in said] == [0, 1, 1, 1]
    assert ["trial 2/3  resumed  after step 6 of 8" in err for err in said] == [0, 0, 1, 0]
    assert_same_sweep(path, whole[0])


def assert_same_sweep(path, reference):
    """The same report but for times, the same bits in every run, and no epoch done twice."""
    assert lines_of(path / "report.csv") == lines_of(reference / "report.csv")
    for number in ("001", "002", "003"):
        assert bits(path / "trials" / number) == bits(reference / "trials" / number)
        log = read_history(path / "trials" / number / "history.jsonl")
        assert [r["epoch"] for r in log if r["kind"] == "epoch"] == [1, 2]
        assert sum(r["kind"] == "test" for r in log) == 1


def test_two_commands_one_of_two_workers_share_one_sweep(whole):
    """Both begin at the same moment; the study is made once and each trial is done once."""
    commands = [started("sweep", "tiny.toml", "--threads", 1, "--workers", n) for n in (1, 2)]
    said = [child.communicate()[1] for child in commands]
    assert [child.returncode for child in commands] == [0, 0], said
    for number in (1, 2, 3):
        assert sum(f"trial {number}/3  finished" in err for err in said) == 1, said
    assert_same_sweep(Path("sweeps/tiny"), whole[0])


def until_an_epoch(child):
    """Read what `child` says up to the first epoch of a trial."""
    for line in child.stderr:
        if "  epoch " in line:
            return


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_saves_and_the_sweep_goes_on(capsys, workers):
    Path("tiny.toml").write_text(SPEC.replace("epochs = 2", "epochs = 400"))
    child = started("sweep", "tiny.toml", "--workers", workers, "--threads", 1)
    until_an_epoch(child)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    assert (child.returncode, out) == (130, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("error: Ctrl-C: ") and "saved" in last
    assert "the same command continues the sweep in sweeps/tiny" in last
    assert load_checkpoint(Path("sweeps/tiny/trials/001/last.safetensors")).step > 0
    code, out, _ = call(capsys, "sweep", "tiny.toml", "--report", "--json")
    summary = json.loads(out)
    assert (code, summary["finished"]) == (0, 0)
    assert {row["state"] for row in summary["trials"]} == {"cut off"}


def test_the_workers_end_with_their_parent():
    Path("tiny.toml").write_text(SPEC.replace("epochs = 2", "epochs = 400"))
    child = started("sweep", "tiny.toml", "--workers", 2, "--threads", 1)
    until_an_epoch(child)
    child.kill()
    child.communicate(timeout=300)  # comes back when the workers, too, have closed stderr
    folder = SweepFolder(Path("sweeps/tiny"))
    assert not folder.is_held(0) and not folder.is_held(1)
    assert load_checkpoint(folder.run(0).last).step > 0


def test_a_worker_that_died_is_told_of(capfd, monkeypatch):
    """Its trials are left; the line says what to do."""
    monkeypatch.setattr(
        "minires.sweep.workers.program", lambda: [sys.executable, "-c", "raise SystemExit(7)"]
    )
    code, _, err = call(capfd, "sweep", "tiny.toml", "--workers", "2")
    assert code == 1
    assert "3 trials are not done" in err.splitlines()[-1]


# --- what is no plain success ---------------------------------------------------------------


def test_a_trial_far_below_the_others_is_pruned_and_says_so(capsys):
    """The first two are noted by hand as if they had been very good."""
    text = SPEC.replace(
        'method = "grid"', 'method = "grid"\npruning = {method = "median", startup_trials = 2}'
    )
    Path("tiny.toml").write_text(text)
    spec = load_spec("tiny.toml")
    code, _, err = call(capsys, "sweep", "tiny.toml", "--report")
    assert code == 2 and "holds no sweep yet" in err
    study = open_study(SweepFolder(Path("sweeps/tiny")), spec, check_sweep(spec, {}))
    for _ in range(2):
        claim = study.claim()
        for epoch in (1, 2):
            claim.trial.report(0.99, epoch)
        study.finish(claim, {"best_val_accuracy": 0.99, "test_accuracy": 0.98}, pruned=False)
        claim.lock.close()
    code, out, err = call(capsys, "sweep", "tiny.toml", "--threads", "1")
    assert code == 0, err
    assert "trial 3/3  pruned: validation" in err
    assert "2 finished, 1 pruned of 3" in out
    lines = lines_of(Path("sweeps/tiny/report.csv"))
    assert [line["state"] for line in lines] == ["finished", "finished", "pruned"]
    assert lines[2]["note"] == working.PRUNED
    run = Path("sweeps/tiny/trials/003")
    result = json.loads((run / "result.json").read_text())
    assert (result["epochs"], result["stop_reason"]) == (1, working.PRUNED)
    assert read_history(run / "history.jsonl", "stop")[0]["reason"] == working.PRUNED
    code, out, _ = call(capsys, "sweep", "tiny.toml", "--json")
    assert json.loads(out)["pruned"] == 1


def test_a_cut_off_trial_is_judged_again_when_it_goes_on():
    """The kill came after the epoch was saved and before it was reported."""

    class Trainer:
        epochs = 3
        stopped = None

        class state:
            epoch = 1
            val_accuracy = 0.25

        def stop(self, reason):
            self.stopped = reason

    class Trial:
        reported = ()

        def report(self, value, step):
            self.reported += ((value, step),)

        def should_prune(self):
            return True

    trainer, trial = Trainer(), Trial()
    working.FollowTrial(trial).on_start(trainer)
    assert (trial.reported, trainer.stopped) == (((0.25, 1),), working.PRUNED)
    trainer, trial = Trainer(), Trial()
    trainer.epochs = 1
    working.FollowTrial(trial).on_epoch(trainer, {})
    assert (trial.reported, trainer.stopped) == (((0.25, 1),), None)


def test_a_trial_that_diverges_or_has_no_network_fails_and_the_others_go_on(capsys):
    Path("tiny.toml").write_text(
        SPEC.replace('"grid"', '"list"').split("[search]")[0]
        + '[[experiments]]\nname = "wild"\nlr = 1e30\nschedule = "constant"\n'
        + '[[experiments]]\nname = "tame"\nlr = 0.05\n'
    )
    code, out, err = call(capsys, "sweep", "tiny.toml", "--threads", "1")
    assert code == 0, err
    assert "trial 1/2  failed: diverged" in err
    assert "1 finished, 1 failed of 2" in out
    assert "trial 2 (tame)" in out
    wild, tame = lines_of(Path("sweeps/tiny/report.csv"))
    assert (wild["state"], tame["state"]) == ("failed", "finished")
    assert wild["note"].startswith("diverged")
    assert Path("sweeps/tiny/trials/tame/result.json").exists()
    text = Path("tiny.toml").read_text().split('[[experiments]]\nname = "tame"')[0]
    Path("alone.toml").write_text(text.replace('"tiny"', '"alone"'))
    code, _, err = call(capsys, "sweep", "alone.toml", "--threads", "1")
    assert code == 1
    assert "no trial was finished" in err.splitlines()[-1]


def test_refusals_are_one_line(capsys, whole, monkeypatch):
    assert "which sweep?" in fails(capsys, 2, "sweep")
    assert "cpu-eight" in fails(capsys, 2, "sweep", "cpu-eigth")
    Path("bad.toml").write_text(SPEC.replace("lr = [0.05", "lrr = [0.05"))
    assert "bad.toml: [search] lrr" in fails(capsys, 2, "sweep", "bad.toml")
    Path("other.toml").write_text(SPEC.replace("0.2]", "0.4]"))
    err = fails(capsys, 2, "sweep", "other.toml", "--sweep-dir", whole[0])
    assert "[search] lr: [0.05, 0.1, 0.2] in the study, [0.05, 0.1, 0.4] here" in err
    missing = SPEC.replace('"shapes"', '"cifar10"')
    Path("missing.toml").write_text(missing)
    assert "nowhere" in fails(capsys, 3, "sweep", "missing.toml", "--data-dir", "nowhere")
    assert not Path("sweeps").exists()
    Path("file").write_text("")
    assert "file" in fails(capsys, 2, "sweep", "tiny.toml", "--sweep-dir", "file/below")
    monkeypatch.setitem(sys.modules, "optuna", None)
    err = fails(capsys, 2, "sweep", "tiny.toml")
    assert 'pip install -e ".[sweep]"' in err


def test_the_report_alone_trains_nothing_and_is_the_same(whole, capsys):
    path = whole[0]
    before = {p: p.stat().st_mtime_ns for p in path.glob("trials/*/*")}
    table = (path / "report.csv").read_text()
    (path / "report.csv").unlink()
    (path / "report.png").unlink()
    code, out, err = call(capsys, "sweep", path, "--report")
    assert (code, err) == (0, "")
    assert "3 finished of 3" in out and "best     trial" in out
    assert (path / "report.csv").read_text() == table.replace("sweeps/tiny", str(path))
    assert (path / "report.png").exists()
    assert {p: p.stat().st_mtime_ns for p in path.glob("trials/*/*")} == before


def test_the_shipped_sweeps_are_listed(capsys):
    code, out, _ = call(capsys, "sweep", "--list")
    assert code == 0
    assert "cpu-eight" in out and "custom-5m      15 trials" in out
    code, out, _ = call(capsys, "sweep", "--list", "--json")
    assert {"cpu-eight", "custom-5m"} <= {s["name"] for s in json.loads(out)["sweeps"]}
