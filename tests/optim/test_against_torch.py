"""Whole networks trained by minires and by PyTorch from the same weights on the same batches."""

from __future__ import annotations

import numpy as np
import pytest

from minires.backend import Device, weight_layout
from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import SGD, make_schedule

STEPS = 20
CASES = {
    "resnet20": (dict(), (16, 32, 64), 8),
    "resnet18": (dict(width=0.125), (8, 16, 32, 64), 16),
}


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_end_in_the_same_weights(name):
    torch_models = pytest.importorskip("torch_models")
    import torch

    options, widths, size = CASES[name]
    twin = torch_models.randomize(torch_models.build_torch(name, widths=widths), seed=2).double()
    model = build(name, dtype="float64", **options)
    model.load_state_dict(torch_models.to_arrays(twin))

    decayed = [p for p in twin.parameters() if p.ndim > 1]
    others = [p for p in twin.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    oracle = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        oracle, max_lr=0.02, total_steps=STEPS, cycle_momentum=False
    )
    optimizer = SGD(model.named_parameters(), 0.9, True, 5e-4)
    schedule = make_schedule("one-cycle", 0.02, STEPS)
    loss = CrossEntropyLoss()

    rng = np.random.default_rng(0)
    for step in range(STEPS):
        x, labels = rng.normal(size=(4, 3, size, size)), rng.integers(0, 10, 4)
        model.zero_grad()
        value = loss.forward(model(x), labels)
        model.backward(loss.backward())
        optimizer.step(schedule(step))

        oracle.zero_grad()
        expected = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
        expected.backward()
        oracle.step()
        scheduler.step()
        assert float(value) == pytest.approx(float(expected.detach()), rel=1e-7)

    for key, array in torch_models.to_arrays(twin).items():
        np.testing.assert_allclose(model.state_dict()[key], array, rtol=1e-6, atol=1e-9)


def test_the_optimizer_gives_a_whole_model_the_layout_of_its_device():
    model = build("resnet8")
    before = model.state_dict()
    SGD(model.named_parameters())
    order = weight_layout(Device("cpu"))
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])
        if parameter.data.ndim == 4:
            assert parameter.data.transpose(order).flags.c_contiguous
    model.load_state_dict({name: array + 1 for name, array in before.items()})
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name] + 1)
        if parameter.data.ndim == 4:
            assert parameter.data.transpose(order).flags.c_contiguous
