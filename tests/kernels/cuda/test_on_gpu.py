"""All checks of the kernels on a GPU, and short trainings against the CPU: `pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, close, dtype  # noqa: F401  (a fixture)
from kernels.cuda.checks import *  # noqa: F403
from kernels.cuda.checks_batch import *  # noqa: F403
from kernels.cuda.checks_convolution import *  # noqa: F403
from kernels.cuda.checks_precision import *  # noqa: F403
from kernels.cuda.checks_updates import *  # noqa: F403

from minires.backend import select_device, synchronize, to_device, to_host, why_no_gpu
from minires.functional.augmentation import augment_batch, normalization_table
from minires.kernels.cuda import precision

if why_no_gpu() is not None:
    pytest.skip(f"no GPU: {why_no_gpu()}", allow_module_level=True)

pytestmark = pytest.mark.gpu


@pytest.fixture
def device():
    """The first GPU, with its kernels loaded."""
    return select_device("gpu")


@pytest.fixture
def place(device):
    """Put an array on the GPU; its memory order goes with it."""

    def put(array):
        if array.ndim == 4 and not array.flags.c_contiguous:
            nhwc = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
            return to_device(nhwc, device).transpose(0, 3, 1, 2)
        return to_device(array, device)

    return put


def train(device, steps):
    """The losses of a small network on fixed images."""
    from minires.models import build
    from minires.nn import CrossEntropyLoss
    from minires.optim import SGD

    rng = np.random.default_rng(0)
    images = to_device(rng.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8), device)
    labels = to_device(rng.integers(0, 10, 64), device)
    table = to_device(normalization_table((0.5,) * 3, (0.25,) * 3), device)
    indices = to_device(np.arange(64), device)
    model = build("resnet20", seed=1, device=device)
    optimizer, loss = SGD(model.named_parameters()), CrossEntropyLoss()
    losses = []
    for _ in range(steps):
        model.zero_grad()
        x = augment_batch(images, indices, table)
        losses.append(loss.forward(model(x), labels))
        model.backward(loss.backward())
        optimizer.step(0.02)
    synchronize(device)
    return np.array([float(to_host(value)) for value in losses])


@pytest.mark.parametrize("name, limit", [("fp32", 2e-2), ("tf32", 5e-2), ("bf16", 0.3),
                                         ("fp16", 0.1)])  # fmt: skip
def test_the_loss_falls_as_on_the_cpu(device, name, limit, monkeypatch):
    wanted = train(select_device("cpu"), 20)
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    got = train(device, 20)
    assert abs(got[:5] - wanted[:5]).max() < limit
    assert got[-1] < wanted[0] / 2


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_same_training_gives_the_same_bits(device, name, monkeypatch):
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    assert np.array_equal(train(device, 5), train(device, 5))


@pytest.mark.parametrize(
    "channels, side, k, stride",
    [(64, 32, 64, 1), (64, 32, 128, 2), (256, 8, 256, 1), (512, 4, 512, 1)],
)
def test_the_rung_of_hopper_gives_what_the_rung_below_gives(channels, side, k, stride, place):
    from minires.kernels.cuda.hopper import Hopper, is_here
    from minires.kernels.cuda.implicit import Implicit

    if not is_here():
        pytest.skip("no GPU of compute capability 9.0")
    rng = np.random.default_rng(k)
    x = place(rng.standard_normal((32, side, side, channels)).astype(np.float16))
    weight = rng.standard_normal((k, channels, 3, 3)) / (3 * channels**0.5)
    weight = place(weight.astype(np.float32))
    grad = place(rng.standard_normal((32, side // stride, side // stride, k)).astype(np.float16))
    upper, lower = (rung(x.shape, weight, stride, 1) for rung in (Hopper, Implicit))
    pairs = [
        (upper.forward(x, weight, True)[0], lower.forward(x, weight, True)[0]),
        (upper.input_gradient(grad, weight), lower.input_gradient(grad, weight)),
        (upper.weight_gradient(x, grad), lower.weight_gradient(x, grad)),
    ]
    for got, expected in pairs:
        close(got, to_host(expected), TOLERANCE["float16"])
