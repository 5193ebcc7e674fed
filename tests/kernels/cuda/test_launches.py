"""What a training step launches, and that its second time allocates nothing: no GPU needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from kernels.cuda.twin_runtime import RecordingRuntime

from minires import backend
from minires.data.dataset import Dataset
from minires.data.loader import AugmentConfig, Loader
from minires.data.normalization import Normalization
from minires.errors import DeviceError
from minires.functional.augmentation import augment_batch, normalization_table
from minires.kernels.cuda import precision, runtime, tma
from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import OPTIMIZERS, SGD, WeightAverage, clip_by_norm, clip_by_value, flat


@pytest.fixture
def steps(monkeypatch):
    """Train `model` with every launch recorded: [(launches, fresh blocks)] of each step."""

    def run(model, name, batch=8, size=32, steps=3, capability=80):
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
        with runtime.use(RecordingRuntime(capability)) as recorder, np.errstate(all="ignore"):
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
    assert counts["copy_pieces"] == counts["sgd"] and counts["copy_values"] == 0


def test_what_resnet18_launches_on_hopper(steps):
    first, second, _ = steps(build("resnet18"), "fp16", capability=90)
    counts = Counter(name.split("<")[0] for name in first[0])
    assert counts["convolve_wgmma"] == 20 + 19 and counts["weight_gradient_wgmma"] == 20
    assert counts["convolve"] == counts["weight_gradient"] == counts["moments"] == 0
    assert second[0] == first[0] and second[1] == 0


def test_what_resnet18_launches_where_tma_is_asked_for(steps):
    """All but the stem, whose three channels are no box of 64."""
    with tma.chosen(True):
        first, second, _ = steps(build("resnet18"), "fp16", capability=90)
    counts = Counter(name.split("<")[0] for name in first[0])
    assert counts["convolve_tma"] == 19 + 19 and counts["weight_gradient_tma"] == 19
    assert counts["convolve_wgmma"] == counts["weight_gradient_wgmma"] == 1
    assert counts["convolve"] == counts["weight_gradient"] == counts["moments"] == 0
    assert second[0] == first[0] and second[1] == 0


def test_narrow_weight_gradients_stay_on_the_rung_below(steps):
    (launches, _), *_ = steps(build("resnet20", shortcut="A"), "fp16", capability=90)
    counts = Counter(name.split("<")[0] for name in launches)
    assert counts["convolve_wgmma"] == 19 + 18 and counts["convolve"] == 0
    assert counts["weight_gradient"] == 13 and counts["weight_gradient_wgmma"] == 6


def test_float32_goes_by_columns(steps):
    (launches, _), *_ = steps(build("resnet20", shortcut="A"), "fp32")
    counts = Counter(name.split("<")[0] for name in launches)
    assert counts["convolve"] == counts["weight_gradient"] == 0
    assert counts["im2col"] == 2 * 19 and counts["col2im"] == 18
    assert counts["moments"] == 19


def test_half_precision_goes_by_columns_before_ampere(steps):
    first, second, _ = steps(build("resnet20", shortcut="A"), "fp16", capability=75)
    counts = Counter(name.split("<")[0] for name in first[0])
    assert counts["convolve"] == counts["weight_gradient"] == 0
    assert counts["im2col"] == 2 * 19 and counts["col2im"] == 18
    assert second[0] == first[0] and second[1] == 0


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_a_precision_that_the_gpu_is_too_old_for(name, monkeypatch):
    monkeypatch.setattr(precision, "current", precision.PRECISIONS["fp32"])
    with runtime.use(RecordingRuntime(capability=75)):
        with pytest.raises(DeviceError) as caught:
            precision.set_precision(name)
        assert precision.current.name == "fp32"
        precision.set_precision("fp16")
    message = f"--precision {name}: needs compute capability 8.0, and this GPU has 7.5; use "
    assert str(caught.value) == message + "--precision fp16 or fp32"
    assert caught.value.exit_code == 5
    with runtime.use(RecordingRuntime(capability=80)):
        assert precision.set_precision("tf32").tf32


EVERYTHING = AugmentConfig(color_jitter=0.2, cutout=8, mixup=0.4, cutmix=1.0, mix_share=0.5)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "network, how, optimizer",
    [
        ("cnn", {"dropout": 0.1}, "adam"),
        ("vgg16", {"width": 0.125, "head_dropout": 0.3}, "rmsprop"),
        ("resnet9", {"width": 0.125}, "adamw"),
        ("resnet20", {"width": 0.5, "upsample": 2}, "sgd"),
    ],
)
def test_a_step_with_everything_switched_on_needs_no_reference(
    network, how, optimizer, name, monkeypatch
):
    if name == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16")
    import minires.kernels.cuda  # noqa: F401  (registers the launchers)

    launchers = {(op, "cpu"): f for (op, kind), f in backend._kernels.items() if kind == "gpu"}
    monkeypatch.setattr(backend, "_kernels", launchers)
    monkeypatch.setattr(flat, "weight_layout", lambda device: (0, 2, 3, 1))
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    backend.reset_fallback_counts()
    called = set()

    def note(operation, run, args, kwargs):
        called.add(operation)
        return run(*args, **kwargs)

    images = np.zeros((12, 3, 32, 32), np.uint8)
    data = Dataset("black", images, np.zeros(12, np.int64), tuple("0123456789"))
    normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    model, loss = build(network, **how), CrossEntropyLoss(0.1)
    updates = OPTIMIZERS[optimizer](model.named_parameters())
    with runtime.use(RecordingRuntime()), np.errstate(all="ignore"):
        average = WeightAverage(model, updates, 0.99)
        loader = Loader(data, np.arange(12), 4, device=backend.CPU, normalization=normalization,
                        augment=EVERYTHING)  # fmt: skip
        with backend.observe_operations(note):
            for x, labels in loader.epoch(0):
                model.zero_grad()
                loss.forward(model(x), labels)
                model.backward(loss.backward())
                clip_by_norm(updates, 1.0)
                clip_by_value(updates, 1.0)
                updates.step(0.1)
                average.update(1)
    assert called >= {"cutmix", "soft_cross_entropy_forward", "squared_norm", "average_step"}
    assert not called - {operation for operation, _ in launchers}
    assert not backend.fallback_counts()
