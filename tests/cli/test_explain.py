from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from minires.analysis.explanations import EXPLANATIONS
from minires.cli import cli, main


def exit_code(*args):
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    return stopped.value.code


def run(*args):
    result = CliRunner().invoke(cli, ["explain", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_each_kind_is_found_in_some_network(name):
    text = run(name, "--no-source", "--batch-size", "2", "--width", "0.1")
    explanation = EXPLANATIONS[name]
    for line in (explanation.says, *explanation.forward, *explanation.backward):
        assert line in text
    assert re.search(r"^read (docs/\d\d-|chapter \d)", text, re.MULTILINE)


def test_without_a_layer_it_lists_kinds_and_places():
    text = run()
    assert "batch-norm" in text and "layer3.2.conv2" in text and "places in resnet20:" in text


def test_the_code_has_its_line_numbers():
    text = run("relu", "--batch-size", "2")
    assert "minires/functional/relu.py" in text
    assert re.search(r"^ +\d+  def relu_backward\(", text, re.MULTILINE)


def test_json_is_one_object():
    report = json.loads(run("fc", "--json"))
    assert report["model"] == "resnet20" and report["place"] == "fc"
    assert report["live"]["gradient of weight"]["shape"] == [10, 64]
    assert json.loads(run("--json"))["kinds"].keys() == EXPLANATIONS.keys()


def test_a_trained_run(tmp_path, capsys):
    folder = tmp_path / "run"
    train = ["train", "--dataset", "shapes", "--limit", "64", "--epochs", "1", "--width", "0.25"]
    assert exit_code(*train, "--run-dir", str(folder), "--batch-size", "32") == 0
    capsys.readouterr()
    text = run("layer1.0.bn1", "--run", str(folder), "--no-source")
    assert "BatchNorm2d (layer1.0.bn1 of resnet20)" in text
    assert exit_code("explain", "conv", "--run", str(folder), "--depth", "20") == 2
    assert "--run names the network already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["cnov"], 2, "error: LAYER cnov: unknown; did you mean 'conv'?"),
        (["max-pool", "--depth", "20"], 2, "error: LAYER max-pool: resnet20 has none; "),
        (["conv", "--run", "nowhere"], 4, "error: nowhere: no such run folder"),
        (["conv", "--depth", "20", "--model", "cnn"], 2, "name two models"),
        (["conv", "--depth", "21"], 2, "error: --depth 21: no such ResNet"),
    ],
)
def test_mistakes_are_one_line(args, code, message, capsys):
    assert exit_code("explain", *args) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
