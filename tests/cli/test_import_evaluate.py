"""Imported weights, evaluated, give what PyTorch gives: to the image."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from minires.cli import main
from minires.data import load_dataset

MEAN, STD = (0.45, 0.5, 0.55), (0.2, 0.25, 0.3)


def evaluate_both(capsys, tmp_path, dataset, name, data_dir):
    """(minires' answer as parsed JSON, torch's correct answers per class, torch's mean loss)."""
    torch_models = pytest.importorskip("torch_models")
    import torch
    from safetensors.torch import save_file

    widths = (8, 16, 32, 64) if name == "resnet18" else None
    twin = torch_models.randomize(torch_models.build_torch(name, widths=widths), seed=3).eval()
    test = load_dataset(dataset, "test", data_dir)
    images = (test.images / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        parts = torch.tensor(images.astype(np.float32)).split(250)
        logits = torch.cat([twin(part) for part in parts])
        shift = logits.mean(dim=0)  # so that every class is answered sometimes
        twin.fc.bias -= shift
        logits -= shift
    labels = torch.tensor(test.labels)
    loss = torch.nn.functional.cross_entropy(logits.double(), labels)
    correct = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=10)

    save_file(twin.state_dict(), tmp_path / "weights.safetensors")
    width = ["--width", "0.125"] if widths else []
    mean, std = (",".join(map(str, numbers)) for numbers in (MEAN, STD))
    run_cli(
        capsys, "import", tmp_path / "weights.safetensors", "--model", name, *width,
        "--dataset", dataset, "--mean", mean, "--std", std, "--output", tmp_path / "run",
    )  # fmt: skip
    where = ["--data-dir", data_dir] if data_dir else []
    answer = run_cli(capsys, "evaluate", tmp_path / "run", *where, "--device", "cpu")
    return answer, correct.tolist(), float(loss)


def run_cli(capsys, *arguments):
    """What a command answers with --json."""
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert not caught.value.code, captured.err
    return json.loads(captured.out)


def assert_agrees(answer, correct, loss):
    assert [row["correct"] for row in answer["per_class"]] == correct
    assert answer["accuracy"] == sum(correct) / answer["images"]
    assert answer["loss"] == pytest.approx(loss, rel=1e-5)
    assert 0.02 < answer["accuracy"] < 0.9  # the answers differ, or the test shows nothing


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_on_the_built_in_data(capsys, tmp_path, monkeypatch, name):
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    answer = evaluate_both(capsys, tmp_path, "shapes", name, None)
    assert_agrees(*answer)


@pytest.mark.skipif("MINIRES_DATA" not in os.environ, reason="needs CIFAR-10 (MINIRES_DATA)")
def test_on_the_real_test_set(capsys, tmp_path):
    answer = evaluate_both(capsys, tmp_path, "cifar10", "resnet8", os.environ["MINIRES_DATA"])
    assert_agrees(*answer)
