from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from minires import functional as F
from minires.analysis.gradcheck import substituted
from minires.cli import cli, main


def run(*args):
    return CliRunner().invoke(cli, ["gradcheck", *args])


def test_json_is_one_object_and_nothing_else():
    result = run("--only", "relu", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["passed"] is True and report["worst"] < 1e-5
    names = [check["name"] for check in report["checks"]]
    assert "relu: images" in names and "BasicBlock: plain" not in names
    for check in report["checks"]:
        assert check.keys() == {"name", "max_relative_error", "passed"}
        assert check["passed"] is True and 0 <= check["max_relative_error"] <= report["worst"]
    assert report["kernels"]["device"] == "cpu" and report["kernels"]["checks"]


def test_a_table_with_a_verdict():
    result = run("--only", "pool")
    assert result.exit_code == 0
    for text in ("max_pool2d", "global_avg_pool", "passed", "worst error", "float32 on cpu"):
        assert text in result.stdout
    assert "FAILED" not in result.stdout


def test_verbose_names_every_check():
    result = run("--only", "linear:*", "--verbose")
    assert "linear: transposed in memory" in result.stdout


def test_a_failed_check_is_shown_and_exits_with_1():
    right = F.relu_backward
    with substituted(right, lambda grad_output, cache: grad_output):
        result = run("--only", "relu:*")
        as_json = run("--only", "relu:*", "--json")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout and "relu: images" in result.stdout
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    assert report["passed"] is False and report["worst"] > 0.5


def test_an_infinite_error_is_still_json():
    with substituted(F.relu_backward, lambda g, cache: g * float("nan")):
        result = run("--only", "relu:*", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["worst"] is None


def test_planted_bugs_are_reported_one_by_one():
    result = run("--plant-bug", "--only", "relu_backward")
    assert result.exit_code == 0
    assert "the mask is ignored" in result.stdout and "relu: images" in result.stdout
    assert "of 3 bugs caught" in result.stdout


def test_planted_bugs_as_json():
    result = run("--plant-bug", "--only", "shortcut_a", "--json")
    report = json.loads(result.stdout)
    assert report["passed"] is True and report["worst"] < 1e-5
    assert all(check["passed"] for check in report["checks"])
    for bug in report["bugs"]:
        assert bug["caught"] is True and bug["check"].startswith("shortcut_a")
        assert bug["max_relative_error"] > 1e-3


def test_a_bug_that_is_not_caught_exits_with_1(monkeypatch):
    from minires.analysis import bugs

    harmless = bugs.Bug("harmless", "relu_backward", lambda right, *a: right(*a), ("relu:*",))
    monkeypatch.setattr(bugs, "BUGS", [harmless])
    result = run("--plant-bug")
    assert result.exit_code == 1
    assert "NOT CAUGHT" in result.stdout and "0 of 1 bugs caught" in result.stdout


@pytest.mark.parametrize(
    "args, code, text",
    [
        (["--only", "dense"], 2, "error: --only dense: no check fits"),
        (["--plant-bug", "--only", "dense"], 2, "error: --only dense: no planted bug fits"),
        (["--device", "tpu"], 2, "error: --device tpu: unknown"),
        (["--threads", "0"], 2, "error: --threads 0"),
    ],
)
def test_mistakes_are_one_line(capsys, args, code, text):
    with pytest.raises(SystemExit) as end:
        main(["gradcheck", *args])
    out, err = capsys.readouterr()
    assert end.value.code == code
    assert err.startswith(text) and err.count("\n") == 1 and out == ""
