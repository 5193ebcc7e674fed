"""Recorded answers: one bit for each test image, and what is counted from them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tools import answers
from tools.pages import DocumentError

from minires.analysis.predictions import Predictions
from minires.data import Dataset

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECORDED = sorted(path.parent.name for path in RESULTS.glob(f"*/{answers.RECORD}"))


@pytest.fixture
def asked(monkeypatch):
    """Five images of two classes; the network answers 0 1 1 0 1, and two of these are wrong."""
    labels = np.array([0, 1, 0, 0, 0])
    images = Dataset("tiny", np.zeros((5, 3, 32, 32), np.uint8), labels, ("a", "b"))
    logits = np.array([[2, 0], [0, 1], [0, 3], [1, 0], [0, 9]], np.float32)
    opened = []

    def open_trained(run, checkpoint, device):
        opened.append((run, checkpoint))
        return SimpleNamespace()

    monkeypatch.setattr("minires.training.trained.open_trained", open_trained)
    monkeypatch.setattr(
        "minires.analysis.predictions.predict_split",
        lambda trained: Predictions(images, "test", np.arange(5), logits),
    )
    return opened


def write_result(results, accuracy):
    (results / "some").mkdir()
    text = {"test_accuracy": accuracy, "test_checkpoint": "last"}
    (results / "some" / "result.json").write_text(json.dumps(text))


def test_answers_are_kept_image_by_image(asked, tmp_path):
    write_result(tmp_path, 0.6)
    answers.record(Path("run"), "some", tmp_path)
    assert asked == [(Path("run"), "last")]
    assert answers.right("some", tmp_path).tolist() == [True, True, False, True, False]
    text = json.loads((tmp_path / "some" / answers.RECORD).read_text())
    assert text["right"] == "d0"  # 1101 0, and three bits that mean nothing
    assert text["confusion"] == [[2, 2], [0, 1]]
    assert text["classes"] == ["a", "b"]
    assert sum(text["calibration"]["images"]) == 5


def test_the_weights_must_be_those_of_the_record(asked, tmp_path):
    write_result(tmp_path, 0.8)
    with pytest.raises(DocumentError, match="run: 60.00%, but some has another accuracy"):
        answers.record(Path("run"), "some", tmp_path)
    assert not (tmp_path / "some" / answers.RECORD).exists()


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_recorded_agrees_with_the_training(name):
    text = json.loads((RESULTS / name / answers.RECORD).read_text())
    trained = json.loads((RESULTS / name / "result.json").read_text())
    right, confusion = answers.right(name, RESULTS), np.array(text["confusion"])
    assert len(right) == 10_000 and confusion.sum(axis=1).tolist() == [1_000] * 10
    assert right.sum() == confusion.trace() == round(10_000 * trained["test_accuracy"])
    assert text["environment"]["commit"]
