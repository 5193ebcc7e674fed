"""A training that is killed, stopped or refused, in child processes as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minires.devices import can_fork
from minires.training.checkpoint import load_checkpoint, save_checkpoint
from minires.training.history import read_history

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "killed_child.py"

# 3 epochs of 4 steps: 72 of 80 images to train on, in batches of 16.
TINY = [
    *("train", "--dataset", "shapes", "--limit", "80", "--depth", "8", "--width", "0.25"),
    *("--epochs", "3", "--batch-size", "16", "--save-every", "3", "--log-every", "2"),
    *("--device", "cpu", "--threads", "1"),
]


def environment():
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MINIRES_")}
    return clean | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def run(cwd, *args, program=(ROOT / "cli.py",)):
    return subprocess.run(
        [sys.executable, *map(str, program), *map(str, args)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
    )


def tensors(path):
    checkpoint = load_checkpoint(path)
    return {**checkpoint.model, **{f"o.{k}": v for k, v in checkpoint.optimizer.items()}}


def assert_same_run(run_folder, reference):
    """The same bits in both checkpoints and the same log, but for times."""
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = tensors(run_folder / name), tensors(reference / name)
        assert ours.keys() == theirs.keys()
        for key, values in theirs.items():
            assert ours[key].tobytes() == values.tobytes(), f"{name}: {key}"
    assert timeless(run_folder) == timeless(reference)


def timeless(folder):
    return [
        {k: v for k, v in record.items() if "second" not in k}
        for record in read_history(folder / "history.jsonl")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, *TINY, "--run-dir", "run", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_result_is_one_json_object(whole):
    result = json.loads((whole / "result.json").read_text())
    assert result["steps"] == 12
    assert result["epochs"] == 3
    assert result["test_checkpoint"] == "best"
    best = max(r["val_accuracy"] for r in read_history(whole / "history.jsonl", "epoch"))
    assert result["best_val_accuracy"] == best


@pytest.mark.parametrize(
    ("moment", "step", "saved"),
    [
        ("step", 2, 0),  # before anything but the start was saved
        ("step", 8, 6),  # just before the end of the second epoch; step 6 was saved
        ("last", 8, 6),  # between best and last, after the epoch's line in the log
        ("step", 10, 9),
    ],
)
def test_killed_and_resumed_is_the_same_run(tmp_path, whole, moment, step, saved):
    killed = run(tmp_path, *TINY, "--run-dir", "run", program=(CHILD, moment, step))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert load_checkpoint(tmp_path / "run/last.safetensors").step == saved
    done = run(tmp_path, "train", "--resume", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 12
    assert_same_run(tmp_path / "run", whole)


# The same 3 epochs of 4 steps with 270 of 300 images, in batches that two processes share.
SHARED = [*TINY, "--limit", "300", "--batch-size", "64", "--threads", "2"]
needs_fork = pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked")


@needs_fork
def test_two_processes_killed_and_resumed_are_the_same_run(tmp_path):
    whole = run(tmp_path, *SHARED, "--run-dir", "whole")
    assert whole.returncode == 0, whole.stderr
    assert "in 2 processes" in whole.stderr
    killed = run(tmp_path, *SHARED, "--run-dir", "run", program=(CHILD, "step", 10))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run(tmp_path, "train", "--resume", "run", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["processes"]) == (12, 2)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@needs_fork
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_a_training_saves(tmp_path, number, code):
    """What a terminal does at Ctrl-C, and a service manager at the end."""
    child = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", *SHARED, "--run-dir", "run", "--epochs", "400"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in child.stderr:
        if line.startswith("epoch "):
            os.killpg(child.pid, number)
            break
    last = child.stderr.readlines()[-1]  # ends when no worker holds it open any more
    assert child.wait() == code
    child.stderr.close()
    assert "saved; to continue: python cli.py train --resume run" in last


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_continues(tmp_path, number, code):
    long = [*TINY, "--run-dir", "run", "--epochs", "400"]
    child = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", *long],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith("epoch "):
            child.send_signal(number)
            break
    lines += child.stderr.readlines()
    assert child.wait() == code
    child.stdout.close()
    child.stderr.close()
    assert lines[-1].startswith("error: ")
    assert "saved; to continue: python cli.py train --resume run" in lines[-1]
    saved = load_checkpoint(tmp_path / "run/last.safetensors")
    assert f"after step {saved.step} of" in lines[-1]
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so(tmp_path, whole):
    done = run(tmp_path, "train", "--resume", whole, "--json")
    assert done.returncode == 0
    assert "finished already" in done.stderr
    assert json.loads(done.stdout) == json.loads((whole / "result.json").read_text())


@pytest.fixture
def stopped(tmp_path):
    killed = run(tmp_path, *TINY, "--run-dir", "run", program=(CHILD, "step", 5))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return tmp_path / "run"


def refused(done, *words):
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_another_training_is_refused_with_a_list(stopped):
    before = (stopped / "last.safetensors").read_bytes()
    history = (stopped / "history.jsonl").read_bytes()
    done = run(stopped, "train", "--resume", ".", "--epochs", "9", "--depth", "14")
    refused(done, "model: resnet8 in the run, resnet14 asked for", "epochs: 3 in the run, 9 asked")
    assert (stopped / "last.safetensors").read_bytes() == before
    assert (stopped / "history.jsonl").read_bytes() == history


def test_other_data_is_refused(stopped):
    path = stopped / "last.safetensors"
    checkpoint = load_checkpoint(path)
    other = {**vars(checkpoint), "data_fingerprint": "0" * 64}
    save_checkpoint(path, type(checkpoint)(**other))
    refused(run(stopped, "train", "--resume", "."), "fingerprint 000000000000")


def test_a_damaged_checkpoint_is_refused(stopped):
    path = stopped / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(run(stopped, "train", "--resume", "."), "last.safetensors")


def test_what_does_not_change_the_result_may_change(stopped, whole):
    done = run(stopped, "train", "--resume", ".", "--save-every", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert_same_run(stopped, whole)


def test_the_schedule_is_that_of_the_whole_training(whole):
    rates = np.array([r["lr"] for r in read_history(whole / "history.jsonl", "step")])
    assert len(rates) == 6
    assert rates.argmax() == 1  # steps 2, 4, ...: the peak of 30% of 12 steps is step 3.6
