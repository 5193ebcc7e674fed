"""What a training step launches, and that its second time allocates nothing: no GPU needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from kernels.cuda.twin_runtime import RecordingRuntime

from minires import backend
from minires.functional.augmentation import augment_batch, normalization_table
from minires.kernels.cuda import precision, runtime
from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import SGD, flat


@pytest.fixture
def steps(monkeypatch):
    """Train `model` with every launch recorded: [(launches, fresh blocks)] of each step."""

    def run(model, name, batch=8, size=32, steps=3):
        if name == "bf16":
            pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16")
        import minires.kernels.cuda  # noqa: F401  (registers the launchers)

        launchers = {(op, "cpu"): f for (op, kind), f in backend._kernels.items() if kind == "gpu"}
        monkeypatch.setattr(backend, "_kernels", launchers)
        monkeypatch.setattr(flat, "weight_layout", lambda device: (0, 2, 3, 1))
        monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
        backend.reset_fallback_counts()
        images = np.zeros((batch, 3, size, size), np.uint8)
        table = normalization_table((0.5,) * 3, (0.25,) * 3)
        labels = np.zeros(batch, np.int64)
        optimizer, loss = SGD(model.named_parameters()), CrossEntropyLoss()
        seen = []
        with runtime.use(RecordingRuntime()) as recorder, np.errstate(all="ignore"):
            for _ in range(steps):
                recorder.launches, recorder.fresh = [], 0
                model.zero_grad()
                x = augment_batch(images, np.arange(batch), table)
                value = loss.forward(model(x), labels)
                model.backward(loss.backward())
                optimizer.step(0.1)
                del x, value
                seen.append((list(recorder.launches), recorder.fresh))
        assert not backend.fallback_counts()
        return seen

    return run


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("model", ["resnet18", "resnet20"])
def test_the_second_step_launches_the_same_and_allocates_nothing(model, name, steps):
    first, second, third = steps(build(model), name)
    assert first[0] == second[0] == third[0]
    assert first[1] > 0
    assert second[1] == third[1] == 0


def test_what_resnet20_launches_in_half_precision(steps):
    (launches, _), *_ = steps(build("resnet20", shortcut="A"), "fp16")
    counts = Counter(name.split("<")[0] for name in launches)
    convolutions = 19
    assert counts["convolve"] == convolutions + convolutions - 1  # the stem has no data gradient
    assert counts["weight_gradient"] == counts["normalize"] == convolutions
    assert counts["moments"] == 0, "the convolutions leave the moments"
    assert counts["finish_moments"] == counts["gradient_sums"] == convolutions
    assert counts["finish_gradient"] == counts["input_gradient"] == convolutions
    assert counts["add"] == 9
    assert counts["shortcut_forward"] == counts["shortcut_backward"] == 2
    assert counts["cross_entropy"] == counts["cross_entropy_gradient"] == counts["augment"] == 1
    assert counts["average_forward"] == counts["average_backward"] == 1
    assert counts["sgd"] == len(SGD(build("resnet20").named_parameters()).groups)
    assert counts["product"] == 3  # the linear layer
    assert counts["im2col"] == counts["col2im"] == 0


def test_float32_goes_by_columns(steps):
    (launches, _), *_ = steps(build("resnet20", shortcut="A"), "fp32")
    counts = Counter(name.split("<")[0] for name in launches)
    assert counts["convolve"] == counts["weight_gradient"] == 0
    assert counts["im2col"] == 2 * 19 and counts["col2im"] == 18
    assert counts["moments"] == 19
