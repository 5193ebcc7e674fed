"""The trial on a GPU, with other processes in the place of its own."""

from __future__ import annotations

import importlib
import json

import pytest

from minires.analysis import gpu_trial
from minires.analysis.gpu_trial import Part, main, parts, run_trial
from minires.cli import COMMANDS


def test_each_part_leaves_its_result_and_its_log(tmp_path):
    chosen = [
        Part("good", ("-c", "print('first'); print('{\"speed\": 3}')"), 60),
        Part("bad", ("-c", "import sys; sys.exit('broken')"), 60),
    ]
    trial = run_trial(tmp_path, chosen)
    good, bad = trial["parts"]
    assert good["exit_code"] == 0 and good["result"] == {"speed": 3}
    assert bad["exit_code"] == 1 and bad["result"] is None
    assert "broken" in (tmp_path / "bad.log").read_text()
    assert json.loads((tmp_path / "trial.json").read_text())["parts"] == trial["parts"]


def test_every_precision_and_model_is_timed(tmp_path):
    names = [part.name for part in parts(tmp_path)]
    for precision in gpu_trial.PRECISIONS:
        assert f"steps-resnet18-{precision}" in names and f"steps-resnet20-{precision}" in names
    assert names[0] == "tests" and {"train", "bench-resnet18", "bench-resnet20"} <= set(names)


def test_no_part_gets_more_time_than_is_left(tmp_path, monkeypatch):
    seen = []

    def note(part, out):
        seen.append(part.limit)
        return {}

    monkeypatch.setattr(gpu_trial, "run_part", note)
    monkeypatch.setattr(gpu_trial, "LIMIT", 100.0)
    run_trial(tmp_path, [Part("short", (), 5), Part("long", (), 1000)])
    assert seen[0] == 5 and 1 <= seen[1] <= 100


def test_the_commands_of_a_trial_have_options_that_exist(tmp_path):
    checked = []
    for part in parts(tmp_path):
        if part.arguments[0] == "-c":
            name, *options = part.arguments[2:]
            command = importlib.import_module(COMMANDS[name][0]).command
            command.make_context(name, options)
            checked.append(name)
    assert sorted(checked) == ["bench", "bench", "bench", "train"]


def test_the_rung_that_nobody_has_run_comes_last_and_is_asked_for(tmp_path):
    *before, last = parts(tmp_path)
    assert last.name == "bench-resnet18-tma"
    assert "os.environ['MINIRES_TMA'] = '1'" in last.arguments[1]
    assert not [part for part in before if "MINIRES_TMA" in " ".join(part.arguments)]


def test_without_a_gpu_it_says_why_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_trial, "why_no_gpu", lambda: "no NVIDIA GPU is visible")
    assert main([str(tmp_path)]) == 5
    assert capsys.readouterr().err == "error: no NVIDIA GPU is visible\n"


def test_a_folder_is_needed():
    with pytest.raises(SystemExit):
        main([])
