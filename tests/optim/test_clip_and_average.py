"""Clipping against torch.nn.utils, and the moving average against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from minires.errors import CheckpointError
from minires.functional import optimizer as functional
from minires.models import build
from minires.nn import Parameter
from minires.optim import SGD, WeightAverage, clip_by_norm, clip_by_value, gradient_norm
from minires.optim.averaging import averaged_state

SHAPES = {"conv.weight": (6, 5, 3, 3), "bn.weight": (5,), "fc.weight": (7, 6), "fc.bias": (7,)}


@pytest.fixture(params=[np.float64, np.float32])
def filled(request, monkeypatch):
    """An optimizer with random gradients, and a copy of these."""
    monkeypatch.setattr(functional, "CHUNK", 50)
    rng = np.random.default_rng(0)
    grads = {n: (3 * rng.normal(size=s)).astype(request.param) for n, s in SHAPES.items()}
    parameters = {n: Parameter(np.zeros_like(g), decay=g.ndim > 1) for n, g in grads.items()}
    optimizer = SGD(parameters.items())
    for name, grad in grads.items():
        parameters[name].accumulate(grad)
    return optimizer, parameters, grads


@pytest.mark.parametrize("limit", [0.5, 30.0, 1e9])
def test_clipping_by_norm_is_torch_s(filled, limit):
    torch = pytest.importorskip("torch")
    optimizer, parameters, grads = filled
    twins = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads.values()]
    for twin, grad in zip(twins, grads.values(), strict=True):
        twin.grad = torch.tensor(grad.astype(np.float64))
    expected = float(torch.nn.utils.clip_grad_norm_(twins, limit))
    rtol = 1e-12 if grads["fc.bias"].dtype == np.float64 else 1e-6
    assert float(gradient_norm(optimizer)) == pytest.approx(expected, rel=rtol)
    assert float(clip_by_norm(optimizer, limit)) == pytest.approx(expected, rel=rtol)
    for twin, parameter in zip(twins, parameters.values(), strict=True):
        assert parameter.grad.dtype == grads["fc.bias"].dtype
        np.testing.assert_allclose(parameter.grad, twin.grad.numpy(), rtol=rtol)


def test_clipping_by_value_clips_each_component(filled):
    optimizer, parameters, grads = filled
    clip_by_value(optimizer, 0.75)
    for name, grad in grads.items():
        expected = [max(-0.75, min(0.75, v)) for v in grad.ravel().tolist()]
        np.testing.assert_array_equal(parameters[name].grad.ravel(), expected)


def test_a_norm_that_is_not_finite_is_handed_out():
    parameters = {"w": Parameter(np.zeros(2, np.float32))}
    optimizer = SGD(parameters.items())
    parameters["w"].accumulate(np.array([np.inf, 1], np.float32))
    with np.errstate(invalid="ignore"):
        assert float(clip_by_norm(optimizer, 1.0)) == np.inf


# --- the moving average ---------------------------------------------------------------------


def shaken(model, rng):
    """Change every parameter and every running statistic of `model`."""
    for _, holder in (*model.named_parameters(), *model.named_buffers()):
        if holder.data.ndim:
            holder.data[...] += rng.normal(size=holder.data.shape).astype(np.float32)


def test_the_average_is_that_of_the_definition():
    model = build("resnet8", width=0.25)
    optimizer = SGD(model.named_parameters())
    average = WeightAverage(model, optimizer, 0.3)
    expected = model.state_dict()
    rng = np.random.default_rng(0)
    for steps, decay in ((1, 2 / 11), (2, 3 / 12), (3, 0.3), (4, 0.3)):  # (1+t)/(10+t), then 0.3
        shaken(model, rng)
        average.update(steps)
        now = model.state_dict()
        for name, values in expected.items():
            if values.ndim:
                expected[name] = decay * values + (1 - decay) * now[name]
    state = average.state_dict()
    for name, values in expected.items():
        if values.ndim:
            np.testing.assert_allclose(state["average." + name], values, rtol=1e-5, atol=1e-6)
    assert "average.bn1.num_batches_tracked" not in state


def test_applied_and_taken_back_bit_for_bit():
    model = build("resnet8", width=0.25)
    average = WeightAverage(model, SGD(model.named_parameters()), 0.9)
    shaken(model, np.random.default_rng(1))
    average.update(1)
    before, wanted = model.state_dict(), average.state_dict()
    with pytest.raises(KeyboardInterrupt), average.applied():
        inside = model.state_dict()
        raise KeyboardInterrupt
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name])
        if values.ndim:
            np.testing.assert_array_equal(inside[name], wanted["average." + name])
            assert (inside[name] != before[name]).any()
    saved = averaged_state(before, {**wanted, "momentum.fc.bias": np.zeros(10)})
    assert saved.keys() == before.keys()
    np.testing.assert_array_equal(saved["fc.weight"], wanted["average.fc.weight"])


def test_state_round_trip_and_misfit():
    model = build("resnet8", width=0.25)
    optimizer = SGD(model.named_parameters())
    one, two = (WeightAverage(model, optimizer, 0.9) for _ in range(2))
    shaken(model, np.random.default_rng(2))
    one.update(1)
    two.load_state_dict(one.state_dict())
    for name, values in one.state_dict().items():
        np.testing.assert_array_equal(two.state_dict()[name], values)
    with pytest.raises(CheckpointError, match="missing average"):
        two.load_state_dict({})


def test_what_does_not_move_stays_the_same_bits():
    model = build("resnet8", width=0.25)
    average = WeightAverage(model, SGD(model.named_parameters()), 0.999)
    for steps in range(1, 20):
        average.update(steps)
    for name, values in average.state_dict().items():
        np.testing.assert_array_equal(values, model.state_dict()[name.removeprefix("average.")])
