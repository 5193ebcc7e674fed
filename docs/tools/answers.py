"""What the network of a recorded training answers for each test image: `NAME/answers.json`.

Two networks can then be compared image by image, without their weights and without the images.

right           one bit for each test image, in their order, 1 where the answer is right; as
                hexadecimal digits, the first image in the highest bit
confusion       images of class i (row) taken for class j (column)
calibration     how sure and how often right, in 15 bins of confidence
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tools.pages import DocumentError

RECORD = "answers.json"


def record(run: Path, name: str, results: Path) -> None:
    """Ask the weights of `run` about each test image, for docs/results/NAME.

    Raises `DocumentError` if docs/results/NAME records a training with another accuracy.
    """
    from minires.analysis.metrics import calibration
    from minires.analysis.predictions import predict_split
    from minires.environment import environment
    from minires.training.trained import open_trained

    trained = json.loads((results / name / "result.json").read_text())
    answers = predict_split(open_trained(run, trained["test_checkpoint"], device="cpu"))
    if answers.accuracy != trained["test_accuracy"]:
        raise DocumentError(f"{run}: {answers.accuracy:.2%}, but {name} has another accuracy")
    bins = calibration(answers.confidence, answers.correct)
    text = {
        "command": f"python docs/make.py record-answers RUN {name}",
        "images": len(answers.correct),
        "classes": list(answers.class_names),
        "confusion": answers.confusion.tolist(),
        "calibration": {
            "images": bins.counts.tolist(),
            "confidence": [None if np.isnan(c) else float(c) for c in bins.confidence],
            "accuracy": [None if np.isnan(a) else float(a) for a in bins.accuracy],
            "expected_error": bins.ece,
        },
        "right": np.packbits(answers.correct).tobytes().hex(),
        "environment": environment(),
    }
    (results / name / RECORD).write_text(_lines(text))


def _lines(text: dict) -> str:
    """JSON with a line for each entry of the top."""
    rows = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in text.items())
    return "{\n" + ",\n".join(rows) + "\n}\n"


def right(name: str, results: Path) -> np.ndarray:
    """Which test images the recorded training NAME answers right, bool (N,)."""
    text = json.loads((results / name / RECORD).read_text())
    bits = np.frombuffer(bytes.fromhex(text["right"]), np.uint8)
    return np.unpackbits(bits)[: text["images"]].astype(bool)
