"""`train` and `evaluate` as typed: results, JSON, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minires.cli import main
from minires.devices import why_no_gpu
from minires.training.checkpoint import load_checkpoint
from minires.training.history import read_history

ROOT = Path(__file__).parents[2]
TINY = [
    *("train", "--dataset", "shapes", "--limit", "60", "--depth", "8", "--width", "0.25"),
    *("--epochs", "2", "--batch-size", "16", "--device", "cpu", "--threads", "1"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path_factory, monkeypatch):
    """Work in a folder of its own, with none of the user's variables."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    for name in [n for n in os.environ if n.startswith("MINIRES_")]:
        monkeypatch.delenv(name)
    return folder


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def fails(capsys, code, *args):
    """The one line on stderr of a command that must fail with `code` and print nothing else."""
    got, out, err = call(capsys, *args)
    assert got == code, err
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# --- a training -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: its folder and what --json printed."""
    folder = tmp_path_factory.mktemp("trained")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MINIRES_")}
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", *TINY, "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_json_is_one_object_on_stdout_and_progress_is_on_stderr(trained):
    folder, done = trained
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    keys = "run steps epochs val_accuracy best_val_accuracy test_accuracy images_per_second seconds"
    for key in [*keys.split(), "parameters", "test_checkpoint"]:
        assert key in result
    assert result["run"] == "runs/resnet8-shapes-001"
    assert (result["steps"], result["epochs"]) == (6, 2)  # 54 images make 3 steps of 16
    assert "estimate" in done.stderr
    assert "epoch 2/2" in done.stderr
    assert "mean 0." in done.stderr


def test_the_run_folder_holds_everything(trained):
    folder = trained[0] / "runs/resnet8-shapes-001"
    files = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    expected = "config.toml last.safetensors best.safetensors history.jsonl curves.png result.json"
    assert files == set(expected.split())
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    kinds = [r["kind"] for r in read_history(folder / "history.jsonl")]
    assert kinds == ["epoch", "epoch", "test"]


def test_the_written_config_repeats_the_run(trained, capsys):
    folder = trained[0] / "runs/resnet8-shapes-001"
    code, _, err = call(capsys, "train", "--config", folder / "config.toml", "--run-dir", "again")
    assert code == 0, err
    one, two = (load_checkpoint(f / "last.safetensors") for f in (folder, Path("again")))
    for name, values in one.model.items():
        np.testing.assert_array_equal(values, two.model[name], err_msg=name)


def test_the_last_words_name_accuracy_folder_and_next_command(capsys):
    code, out, _ = call(capsys, *TINY, "--epochs", "1", "--val-split", "0", "--run-dir", "mine")
    assert code == 0
    assert "test accuracy" in out and "weights of the last epoch" in out
    assert "minires evaluate mine" in out
    assert "mine (last checkpoint, " in out
    assert not Path("mine/best.safetensors").exists()
    assert json.loads(Path("mine/result.json").read_text())["test_checkpoint"] == "last"
    assert "--val-split 0" in fails(capsys, 2, "evaluate", "mine", "--split", "val")


# --- evaluate -------------------------------------------------------------------------------


def evaluated(capsys, trained, *args):
    code, out, err = call(
        capsys, "evaluate", trained[0] / "runs/resnet8-shapes-001", *args, "--json"
    )
    assert code == 0, err
    return json.loads(out)


def test_evaluate_gives_what_the_training_reported(trained, capsys):
    result = json.loads(trained[1].stdout)
    test = evaluated(capsys, trained)
    assert test["accuracy"] == result["test_accuracy"]
    assert test["loss"] == pytest.approx(result["test_loss"], rel=1e-5)
    assert test["images"] == 60 == sum(row["images"] for row in test["per_class"])
    assert len(test["per_class"]) == 10
    hits = sum(row["correct"] for row in test["per_class"])
    assert hits / 60 == test["accuracy"]
    val = evaluated(capsys, trained, "--split", "val")
    assert (val["accuracy"], val["images"]) == (result["best_val_accuracy"], 6)
    last = evaluated(capsys, trained, "--split", "val", "--checkpoint", "last")
    assert last["accuracy"] == result["val_accuracy"]
    assert evaluated(capsys, trained, "--split", "train")["images"] == 54


def test_evaluate_prints_a_table(trained, capsys):
    code, out, _ = call(capsys, "evaluate", trained[0] / "runs/resnet8-shapes-001")
    assert code == 0
    assert "accuracy" in out and "loss" in out
    assert len(out.splitlines()) == 15


def test_evaluate_refuses_what_is_no_run(trained, capsys, empty_folder):
    assert "nowhere" in fails(capsys, 4, "evaluate", "nowhere")
    assert "no best" in fails(capsys, 4, "evaluate", ".")
    run = trained[0] / "runs/resnet8-shapes-001"
    assert "--checkpoint x" in fails(capsys, 4, "evaluate", run, "--checkpoint", "x")
    Path("junk.safetensors").write_bytes(b"junk")
    assert "junk" in fails(capsys, 4, "evaluate", "junk.safetensors")


# --- what goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--epochs", "x"], "--epochs"),
        (["--epochs", "0"], "--epochs"),
        (["--lr", "nan"], "--lr"),
        (["--depth", "21"], "--depth 21"),
        (["--depth", "20", "--model", "resnet8"], "not both"),
        (["--model", "resnet-20"], "did you mean 'resnet20'"),
        (["--blocks", "1,x,1"], "--blocks: must be whole numbers above 0"),
        (["--max-parameters", "1000"], "parameters with these options"),
        (["--freeze", "layer7"], "--freeze layer7: resnet8 has no such part"),
        (["--schedule", "cosin"], "--schedule"),
        (["--milestones", "a,b"], "--milestones"),
        (["--batch-size", "100"], "--batch-size 100: must be at most 54"),
        (["--device", "tpu"], "--device tpu"),
        (["--recipe", "quikstart"], "quickstart"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--run-dir", "a", "--resume", "b"], "--resume"),
        (["--run-dir", "/dev/null/run"], "--run-dir /dev/null/run"),
        (["surplus"], "surplus"),
    ],
)
def test_an_option_that_cannot_be_used(capsys, args, word):
    base = TINY if "--depth" not in args and "--model" not in args else TINY[:5]
    assert word in fails(capsys, 2, *base, *args)
    assert not Path("runs").exists()


def test_a_folder_that_holds_a_run_is_never_overwritten(trained, capsys):
    run = trained[0] / "runs/resnet8-shapes-001"
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    code, out, err = call(capsys, *TINY, "--run-dir", run)
    assert (code, out) == (2, "")
    assert "holds a run already" in err
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_missing_data_is_named_before_a_folder_is_made(capsys):
    err = fails(capsys, 3, "train", "--data-dir", "nowhere")
    assert "nowhere" in err and "download" in err
    assert not Path("runs").exists()


def test_the_data_folder_also_comes_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", "from_the_environment")
    assert "from_the_environment" in fails(capsys, 3, "train")
    assert "typed" in fails(capsys, 3, "train", "--data-dir", "typed")


def test_resume_of_nothing(capsys, empty_folder):
    assert "nowhere" in fails(capsys, 4, "train", "--resume", "nowhere")
    assert "holds no run" in fails(capsys, 4, "train", "--resume", ".")


def test_a_gpu_that_is_not_there(capsys):
    if why_no_gpu() is None:
        pytest.skip("there is a usable GPU here")
    assert "--device gpu" in fails(capsys, 5, *TINY, "--device", "gpu")


def test_a_rate_far_too_high_stops_and_keeps_the_last_good_checkpoint(capsys):
    code, out, err = call(
        capsys,
        *(*TINY, "--epochs", "5", "--lr", "1e30", "--schedule", "constant", "--run-dir", "run"),
    )
    assert (code, out) == (6, "")
    last = err.strip().splitlines()[-1]
    for words in ("error: diverged", "at step", "learning rate 1e+30", "gradient norm", "last.s"):
        assert words in last
    for values in load_checkpoint(Path("run/last.safetensors")).model.values():
        assert np.isfinite(values).all()


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(empty_folder):
    """A limit on the size of files fails as a full disk does; step 0 is saved before it is set."""
    program = (
        "import resource, sys\n"
        "from minires.training import training\n"
        "from minires.cli import main\n"
        "save = training.save_checkpoint\n"
        "def limited(path, checkpoint):\n"
        "    if checkpoint.step:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "    save(path, checkpoint)\n"
        "training.save_checkpoint = limited\n"
        "main(sys.argv[1:])\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", program, *TINY, "--run-dir", "run"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: run/best.safetensors: cannot be written")
    assert load_checkpoint(Path("run/last.safetensors")).step == 0
