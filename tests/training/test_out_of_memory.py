"""Too little memory, with NumPy in the place of a GPU."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from minires.backend import CPU, Device
from minires.errors import DeviceError
from minires.kernels.cuda import runtime
from minires.training import estimate as estimates
from minires.training import loop, runner, training
from minires.training.config import TrainConfig
from minires.training.estimate import Estimate, largest_batch

TINY = {
    "dataset": "shapes", "limit": 96, "model": "resnet8", "width": 0.25, "batch_size": 16,
    "epochs": 1, "device": "cpu", "threads": 1, "val_split": 16,
}  # fmt: skip


def test_the_largest_batch_lies_on_the_line_through_two_measurements():
    assert largest_batch({7: 700.0 + 50, 27: 2700.0 + 50}, 10_050) == 100
    assert largest_batch({7: 750.0, 27: 2750.0}, 10_149) == 100
    assert largest_batch({7: 750.0, 27: 2750.0}, 60) is None
    assert largest_batch({7: 750.0}, 10_000) is None


def test_the_estimate_of_a_gpu_compares_with_the_gpus_own_memory():
    guess = Estimate(1.0, 2 * 10**9, gpu_free_bytes=10**9, largest_batch=60)
    assert guess.exceeds_memory() and guess.free_bytes == 10**9
    assert not Estimate(1.0, 10**9, gpu_free_bytes=2 * 10**9).exceeds_memory()


class Pool:
    """Asks for 1000 bytes and 10 for each image."""

    batch = 0

    def total_bytes(self):
        return 1000 + 10 * self.batch


class Gpu:
    """A device with 2000 free bytes."""

    def free_bytes(self):
        return 2000

    def new_memory(self):
        return Pool()

    def memory(self, pool):
        return pytest.MonkeyPatch.context()


def test_a_gpu_is_measured_by_its_pool(monkeypatch):
    config = TrainConfig(**TINY)
    data = runner.load_training_data(config)
    alone = SimpleNamespace(model=SimpleNamespace(processes=1))
    monkeypatch.setattr(estimates._Probe, "_make", lambda self: alone)
    monkeypatch.setattr(estimates._Probe, "step", lambda self, n: setattr(Pool, "batch", n))
    with runtime.use(Gpu()):
        guess = estimates.estimate(config, data, Device("gpu"), 10)
    assert guess.peak_bytes == 1000 + 10 * 16 and guess.largest_batch == 100


@pytest.mark.parametrize("largest, hint", [(9, "about --batch-size 9 would fit"),
                                           (None, "use a smaller --batch-size"),
                                           (99, "use a smaller --batch-size")])  # fmt: skip
@pytest.mark.parametrize("where", ["training", "estimate"])
def test_a_training_that_does_not_fit_ends_in_one_line(
    tmp_path, monkeypatch, where, largest, hint
):
    def no_memory(*arguments, **more):
        raise MemoryError("Out of memory allocating 1,024 bytes")

    guess = Estimate(1.0, 10, gpu_free_bytes=5, largest_batch=largest)
    monkeypatch.setattr(training, "estimate", lambda *arguments: guess)
    if where == "training":
        monkeypatch.setattr(loop.Trainer, "_step", no_memory)
    else:
        monkeypatch.setattr(training, "estimate", no_memory)
        hint = "use a smaller --batch-size"
    said = []
    with pytest.raises(DeviceError, match=re.escape(f"--batch-size 16: the memory of {CPU}")) as e:
        runner.start(TrainConfig(**TINY), tmp_path / "run", say=said.append)
    assert hint in str(e.value) and "\n" not in str(e.value) and e.value.exit_code == 5
    warned = [line for line in said if line.startswith("warning")]
    assert (where == "training") == any(hint in line for line in warned)
