"""The session on a GPU, with other processes in the place of its own."""

from __future__ import annotations

import json

import pytest

from minires.analysis import gpu_session
from minires.analysis.gpu_session import Part, main, parts, run_session


def test_each_part_leaves_its_result_and_its_log(tmp_path):
    chosen = [
        Part("good", ("-c", "print('first'); print('{\"speed\": 3}')"), 60),
        Part("bad", ("-c", "import sys; sys.exit('broken')"), 60),
    ]
    session = run_session(tmp_path, chosen)
    good, bad = session["parts"]
    assert good["exit_code"] == 0 and good["result"] == {"speed": 3}
    assert bad["exit_code"] == 1 and bad["result"] is None
    assert "broken" in (tmp_path / "bad.log").read_text()
    assert json.loads((tmp_path / "session.json").read_text())["parts"] == session["parts"]


def test_every_precision_and_model_is_timed(tmp_path):
    names = [part.name for part in parts(tmp_path)]
    for precision in gpu_session.PRECISIONS:
        assert f"steps-resnet18-{precision}" in names and f"steps-resnet20-{precision}" in names
    assert names[0] == "tests" and names[-1] == "train"


def test_without_a_gpu_it_says_why_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_session, "why_no_gpu", lambda: "no NVIDIA GPU is visible")
    assert main([str(tmp_path)]) == 5
    assert capsys.readouterr().err == "error: no NVIDIA GPU is visible\n"


def test_a_folder_is_needed():
    with pytest.raises(SystemExit):
        main([])
