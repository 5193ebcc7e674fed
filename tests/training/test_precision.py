"""The choice of a precision, and the loss scale of a run, with no GPU at hand."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires.errors import CheckpointError, DeviceError, UsageError
from minires.kernels.cuda.precision import PRECISIONS
from minires.optim import LossScaler
from minires.training import config as config_module
from minires.training import training
from minires.training.checkpoint import load_checkpoint
from minires.training.config import TrainConfig
from minires.training.runner import resume, start

TINY = {
    "dataset": "shapes", "limit": 96, "model": "resnet8", "width": 0.25, "batch_size": 16,
    "epochs": 2, "device": "cpu", "threads": 1, "lr": 0.05, "val_split": 16,
}  # fmt: skip


def test_all_lists_of_precisions_agree():
    assert config_module.PRECISIONS == devices.PRECISIONS == tuple(PRECISIONS)


@pytest.mark.parametrize("name", ["tf32", "bf16", "fp16"])
def test_a_cpu_computes_in_float32_alone(name, tmp_path):
    wanted = f"--precision {name}: a CPU .*use --device gpu"
    with pytest.raises(DeviceError, match=wanted) as caught:
        start(TrainConfig(**TINY, precision=name), tmp_path / "run")
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_a_gpu_auto_says_why_the_precision_is_not_to_be_had(monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda index=0: "no NVIDIA GPU is visible")
    with pytest.raises(DeviceError, match="--precision bf16: .*; no NVIDIA GPU is visible"):
        devices.select_device("auto", precision="bf16")
    assert devices.select_device("auto") == backend.CPU


def test_an_unknown_precision():
    with pytest.raises(UsageError, match="--precision fp8: unknown; use fp32, tf32, bf16, fp16"):
        devices.select_device("cpu", precision="fp8")


def test_a_run_keeps_its_precision(tmp_path):
    start(TrainConfig(**TINY), tmp_path / "run", say=lambda line: None)
    with pytest.raises(CheckpointError, match="precision: fp32 in the run, bf16 asked for"):
        resume(tmp_path / "run", {"precision": "bf16"}, say=lambda line: None)


class StopAt:
    """Stands in for the progress bar and ends the process, so to say, after some steps."""

    def __init__(self, step):
        self.step = step

    def __getattr__(self, name):
        return lambda *arguments: None

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            raise KeyboardInterrupt


def train_scaled(monkeypatch, run, stop=None):
    """A training with a loss scale that begins too high, on the CPU; the last checkpoint."""
    monkeypatch.setattr(
        training, "make_scaler", lambda config, device: LossScaler(device, 2.0**127)
    )
    config = TrainConfig(**TINY, save_every=1)
    if stop is None:
        start(config, run, say=lambda line: None)
    else:
        with pytest.raises(KeyboardInterrupt):
            start(config, run, say=lambda line: None, progress=StopAt(stop))
        resume(run, say=lambda line: None)
    return load_checkpoint(run / "last.safetensors")


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_goes_on_with_its_loss_scale(tmp_path, monkeypatch, stop):
    whole = train_scaled(monkeypatch, tmp_path / "whole")
    parts = train_scaled(monkeypatch, tmp_path / "parts", stop)
    scale = whole.optimizer["loss_scale.scale"]
    assert 1 < scale < 2.0**127, "some steps were skipped, then it trained"
    assert 0 < whole.optimizer["loss_scale.good_steps"] < 10
    for group in ("model", "optimizer"):
        for name, values in getattr(whole, group).items():
            assert np.array_equal(values, getattr(parts, group)[name]), name
    assert all(v.dtype != np.float16 for v in whole.model.values())
