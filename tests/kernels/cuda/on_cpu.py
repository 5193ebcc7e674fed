"""All checks but those of convolutions, and a training step, on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import close, dtype  # noqa: F401  (a fixture)
from kernels.cuda.checks import *  # noqa: F403
from kernels.cuda.checks_batch import *  # noqa: F403
from kernels.cuda.checks_precision import *  # noqa: F403
from kernels.cuda.checks_step import *  # noqa: F403
from kernels.cuda.checks_updates import *  # noqa: F403
from kernels.cuda.twin_runtime import TwinRuntime

from minires import backend
from minires.functional.augmentation import augment_batch, normalization_table
from minires.kernels.cuda import precision, runtime


@pytest.fixture(autouse=True)
def place():
    """The launchers work on the CPU, so arrays stay where they are."""
    with runtime.use(TwinRuntime()):
        yield lambda array: array


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_training_step_of_a_residual_network(name, monkeypatch):
    """One step through the launchers gives the loss and the weights that the reference gives."""
    from minires.models import build
    from minires.nn import CrossEntropyLoss
    from minires.optim import SGD, flat

    if name == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16")
    kernels = {(op, "cpu"): f for (op, kind), f in backend._kernels.items() if kind == "gpu"}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    table = normalization_table((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    labels = np.array([3, 1, 9, 3])

    def step(kernels):
        monkeypatch.setattr(backend, "_kernels", kernels)
        backend.reset_fallback_counts()
        model = build("resnet8", seed=1)
        optimizer = SGD(model.named_parameters())
        model.train()
        loss = CrossEntropyLoss(0.1)
        x = augment_batch(images, np.arange(4), table)
        value = loss.forward(model(x), labels)
        model.backward(loss.backward())
        grads = np.concatenate([group.gradients() for group in optimizer.groups])
        optimizer.step(0.1)
        assert not backend.fallback_counts()
        return float(value), grads.copy(), model.state_dict()

    monkeypatch.setattr(flat, "weight_layout", lambda device: (0, 2, 3, 1))
    wanted, wanted_grads, wanted_state = step({})
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    got, grads, state = step(kernels)
    limit = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.5e-1}[name]
    assert abs(got - wanted) < limit
    assert np.linalg.norm(grads - wanted_grads) < limit * 2 * np.linalg.norm(wanted_grads)
    if name == "fp32":
        for key, value in wanted_state.items():
            close(state[key], value, limit)
