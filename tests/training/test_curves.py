"""The picture: drawn from any stage of a log, whole or not at all."""

from __future__ import annotations

import pytest
from PIL import Image

from minires.training.curves import draw_curves

STEP = {"kind": "step", "step": 5, "progress": 0.5, "lr": 0.1, "loss": 2.0, "accuracy": 0.2}
EPOCH = {
    **{"kind": "epoch", "step": 10, "progress": 1.0, "lr": 0.05, "train_loss": 1.5},
    **{"train_accuracy": 0.4, "val_loss": 1.6, "val_accuracy": 0.35, "best": True},
}
NO_VALIDATION = EPOCH | {"val_loss": None, "val_accuracy": None}
TEST = {"kind": "test", "accuracy": 0.5}


@pytest.mark.parametrize(
    "records",
    [[STEP], [EPOCH], [STEP, EPOCH], [NO_VALIDATION, TEST], [STEP, EPOCH, TEST]],
)
def test_every_stage_of_a_log_gives_a_picture(tmp_path, records):
    draw_curves(records, tmp_path / "curves.png", "title")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_an_empty_log_draws_nothing(tmp_path):
    draw_curves([], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone/curves.png"):
        draw_curves([STEP], tmp_path / "gone" / "curves.png")
