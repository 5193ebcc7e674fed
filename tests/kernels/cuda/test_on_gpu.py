"""All checks of the kernels on a GPU, and short trainings against the CPU: `pytest -m gpu`."""

from __future__ import annotations

import functools
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, close, dtype  # noqa: F401  (a fixture)
from kernels.cuda.checks import *  # noqa: F403
from kernels.cuda.checks_batch import *  # noqa: F403
from kernels.cuda.checks_convolution import *  # noqa: F403
from kernels.cuda.checks_precision import *  # noqa: F403
from kernels.cuda.checks_step import *  # noqa: F403
from kernels.cuda.checks_updates import *  # noqa: F403

from minires.backend import to_device, to_host
from minires.data.dataset import Dataset
from minires.data.loader import AugmentConfig, Loader
from minires.data.normalization import Normalization
from minires.devices import select_device, why_no_gpu
from minires.kernels.cuda import runtime
from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import SGD, Adam, LossScaler
from minires.training.graph import GraphedStep
from minires.training.step import TrainingStep

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


STEPS = 200


def make_loader(steps, device, augment):
    """Noisy pictures of ten patterns, and which one it is: `steps` batches in two epochs."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((10, 3, 32, 32)).astype(np.float32)
    labels = rng.integers(0, 10, steps // 2 * 32)
    images = np.empty((len(labels), 3, 32, 32), np.uint8)
    for image, label in zip(images, labels, strict=True):
        noise = rng.standard_normal((3, 32, 32)).astype(np.float32)
        image[...] = (127.5 + 45 * (patterns[label] + noise)).clip(0, 255)
    dataset = Dataset("patterns", images, labels, tuple("0123456789"))
    return Loader(dataset, np.arange(len(labels)), 32, device=device,
                  normalization=Normalization((0.5,) * 3, (0.25,) * 3), augment=augment,
                  shuffle=True)  # fmt: skip


def train(name, steps, graph=False, kind=SGD, augment=None):
    """The loss of each step, and the weights at the end; `name` is "cpu" or a precision."""
    device = select_device("cpu") if name == "cpu" else select_device("gpu", precision=name)
    model = build("resnet8", seed=1, device=device)
    scaler = LossScaler(device) if name == "fp16" else None
    optimizer = kind(model.named_parameters())
    work = TrainingStep(model, CrossEntropyLoss(), optimizer, scaler, clip_norm=5.0)
    totals, said = to_device(np.zeros(2), device), []
    losses = []
    with nullcontext() if name == "cpu" else runtime.current().own_stream():
        loader, graphed = make_loader(steps, device, augment), None
        if graph:
            graphed = GraphedStep(work, device, totals, said.append, loader.batch)
        for step in range(steps):
            epoch, number = divmod(step, len(loader))
            indices = next(loader.index_batches(epoch, number))
            rate = 0.05 * (1 - step / steps)
            if graph:
                graphed.run(indices, epoch, step, rate, None, None)
            else:
                model.set_step(step)
                x, labels = loader.batch(indices, epoch)
                work.run(x, labels, float(np.float32(rate)), None, None, totals)
            losses.append(float(to_host(totals)[0]) / 32)
    assert not said, said
    return np.diff(losses, prepend=0.0), model.state_dict()


@functools.cache
def wanted_losses():
    """What the CPU makes of the same steps."""
    return train("cpu", STEPS)[0]


@pytest.mark.parametrize("name, limit", [("fp32", 2e-2), ("tf32", 5e-2), ("fp16", 0.1),
                                         ("bf16", 0.3)])  # fmt: skip
def test_200_steps_of_loss_against_the_cpu(name, limit):
    wanted, got = wanted_losses(), train(name, STEPS, graph=True)[0]
    assert abs(got[:5] - wanted[:5]).max() < limit
    for start in range(0, STEPS, 50):  # single losses part in time, their means do not
        part = slice(start, start + 50)
        assert abs(got[part].mean() - wanted[part].mean()) < max(limit, 0.1)
    assert got[-50:].mean() < wanted[0] / 2


@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16", "bf16"])
def test_a_graph_gives_the_bits_of_single_launches(name, kind):
    everything = AugmentConfig(color_jitter=0.2, cutout=8, mixup=0.4, cutmix=1.0, mix_share=0.5)
    graph, single = (
        train(name, 12, graph=way, kind=kind, augment=everything) for way in (True, False)
    )
    assert np.array_equal(graph[0], single[0])
    assert all(np.array_equal(graph[1][key], value) for key, value in single[1].items())


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_same_training_gives_the_same_bits(name):
    first, second = train(name, 5), train(name, 5)
    assert np.array_equal(first[0], second[0])
    assert all(np.array_equal(first[1][key], value) for key, value in second[1].items())


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


def test_the_rung_of_tma_gives_the_bits_of_the_rung_below():
    """In a process with a time limit: a barrier that waits for ever must not stop other tests."""
    from minires.kernels.cuda import tma

    if not tma.is_here():
        pytest.skip("no GPU of compute capability 9.0 with a driver that makes tensor maps")
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-qx", "-m", "gpu", str(here / "on_gpu_tma.py")]
    done = subprocess.run(command, cwd=here.parents[2], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
