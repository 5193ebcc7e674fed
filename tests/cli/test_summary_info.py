from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from minires import __version__, backend, devices
from minires.cli import cli, main


def run(*args, **options):
    return CliRunner().invoke(cli, list(args), **options)


@pytest.mark.parametrize(
    "args, parameters",
    [
        (["--depth", "18"], 11_173_962),
        (["--depth", "20"], 269_722),
        ([], 269_722),
        (["--model", "resnet56"], 853_018),
        (["--model", "resnet20", "--num-classes", "100"], 269_722 + 64 * 90 + 90),
    ],
)
def test_summary_counts(args, parameters):
    result = run("summary", *args, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["parameters"] == parameters
    assert sum(layer["parameters"] for layer in report["layers"]) == parameters
    assert sum(layer["multiply_adds"] for layer in report["layers"]) == report["multiply_adds"]


def test_summary_as_a_table():
    result = run("summary", "--depth", "20")
    assert result.exit_code == 0
    for text in ("layer3.2.conv2", "16 x 32 x 32", "269,722", "40,551,040", "Linear"):
        assert text in result.stdout


def test_summary_of_variants():
    def report(*args):
        return json.loads(run("summary", "--json", "--depth", "18", *args).stdout)

    full, plain, half = report(), report("--plain"), report("--width", "0.5")
    assert plain["parameters"] < full["parameters"]
    assert not any("downsample" in layer["name"] for layer in plain["layers"])
    assert half["layers"][0]["output_shape"] == [32, 32, 32]
    small = report("--image-size", "16")
    assert small["parameters"] == full["parameters"]
    assert small["multiply_adds"] < full["multiply_adds"] / 3.9


def test_summary_of_other_families():
    args = ("--model", "resnet18", "--blocks", "4,4,3", "--head-dropout", "0.2")
    assert json.loads(run("summary", *args, "--json").stdout)["parameters"] == 4_697_162
    table = run("summary", "--model", "resnet50-transfer", "--width", "0.25", "--upsample", "2")
    assert table.stdout.startswith("resnet50-transfer, width 0.25, upsample 2\n")
    for text in ("Upsample", "3 x 64 x 64", "MaxPool2d", "BatchNorm1d", "Flatten", "head.5"):
        assert text in table.stdout


@pytest.mark.parametrize(
    "args, text",
    [
        (["--model", "cnn", "--shortcut", "B"], "--shortcut: cnn has no such option"),
        (["--blocks", "3,x"], "--blocks: must be whole numbers above 0, such as 3,4,3"),
        (["--depth", "21"], "--depth 21: no such ResNet"),
        (["--depth", "20", "--model", "resnet20"], "--depth and --model"),
        (["--width", "0"], "--width: must be greater than 0"),
        (["--num-classes", "1"], "--num-classes 1"),
        (["--image-size", "0"], "--image-size"),
        (["--model", "cnn", "--image-size", "3"], "--image-size 3: MaxPool2d"),
    ],
)
def test_summary_refuses_in_one_line(capsys, args, text):
    with pytest.raises(SystemExit) as end:
        main(["summary", *args])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and text in err and err.count("\n") == 1 and out == ""


def test_info_as_json(tmp_path):
    result = run("info", "--json", "--threads", "1", env={"MINIRES_DATA": str(tmp_path)})
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["minires"] == __version__ and report["threads"] == 1
    assert report["packages"]["numpy"] == np.__version__
    assert report["cores"]["usable"] == devices.available_cores()
    assert report["blas"] and report["blas"][0]["threads"] >= 1
    assert report["data"]["cifar10"]["found"] is None
    assert str(tmp_path) in report["data"]["cifar10"]["why_not"]
    assert "download" in report["data"]["cifar10"]["why_not"]
    operations = {row["operation"]: row["kernel"] for row in report["kernels"]}
    assert {"conv2d_forward", "sgd_step", "cross_entropy_backward"} <= operations.keys()
    assert report["fallbacks"] == backend.fallback_counts()


def test_info_finds_data(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"")
    report = json.loads(run("info", "--json", "--data-dir", str(tmp_path)).stdout)
    assert report["data"]["cifar10"]["found"] == str(folder)


def test_info_as_text_says_why_there_is_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    devices.why_no_gpu.cache_clear()
    result = run("info")
    devices.why_no_gpu.cache_clear()
    assert result.exit_code == 0
    for text in ("CuPy is not installed", "cuda13", "BLAS", "cores usable", "conv2d_forward"):
        assert text in result.stdout


def test_info_of_a_gpu_that_is_not_there_is_an_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    devices.why_no_gpu.cache_clear()
    with pytest.raises(SystemExit) as end:
        main(["info", "--device", "gpu"])
    devices.why_no_gpu.cache_clear()
    assert end.value.code == 5 and "pip install" in capsys.readouterr().err
