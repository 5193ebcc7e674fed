"""Loss scaling against torch.amp.GradScaler, and what a skipped step leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from minires.backend import CPU
from minires.errors import CheckpointError
from minires.functional.loss_scaling import update_scale
from minires.nn import Parameter
from minires.optim import SGD, Adam, LossScaler, RMSprop

ACCIDENTS = {2: np.inf, 3: np.nan, 9: -np.inf, 14: np.inf}
"""Step: the value that stands in one gradient then."""


def gradients(step, scale):
    """Gradients of a scaled loss, (5,), with an accident now and then."""
    values = np.random.default_rng(step).standard_normal(5).astype(np.float32) * np.float32(scale)
    if step in ACCIDENTS:
        values[step % 5] = ACCIDENTS[step]
    return values


def state(scale=8.0, good_steps=0, found=0.0):
    return np.array(scale, np.float32), np.array(good_steps, np.int32), np.array(found, np.float32)


def test_scale_and_weights_are_those_of_pytorch(monkeypatch):
    torch = pytest.importorskip("torch")
    weights = np.arange(5, dtype=np.float32)
    theirs = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True)
    grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    ours = Parameter(weights.copy())
    sgd = SGD([("w", ours)], weight_decay=0.0)
    scaler = LossScaler(CPU, 1024.0)
    seen = []
    for step in range(20):
        grad_scaler.scale(theirs.sum()).backward()  # so that it knows of a scaled loss
        theirs.grad = torch.from_numpy(gradients(step, grad_scaler.get_scale()))
        grad_scaler.step(optimizer)
        grad_scaler.update()

        sgd.zero_grad()
        ours.accumulate(gradients(step, scaler.scale))
        scaler.unscale(sgd)
        assert bool(scaler.found) == (step in ACCIDENTS)
        sgd.step(0.1, skip=scaler.found)
        update_scale(scaler.scale, scaler.good_steps, scaler.found, interval=3)

        assert float(scaler.scale) == grad_scaler.get_scale()
        assert int(scaler.good_steps) == grad_scaler._get_growth_tracker()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)
        seen.append(float(scaler.scale))
    assert len(set(seen)) == 3, "the scale went down and up"


def test_the_defaults_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.amp.GradScaler("cpu")
    scale, good_steps, found = state(good_steps=theirs.get_growth_interval() - 1)
    update_scale(scale, good_steps, found)
    assert scale == 8 * theirs.get_growth_factor() and good_steps == 0
    found[...] = 1
    update_scale(scale, good_steps, found)
    assert scale == 8 * theirs.get_growth_factor() * theirs.get_backoff_factor() and found == 0
    assert LossScaler(CPU).scale == theirs._init_scale


def test_a_scale_does_not_grow_to_infinity():
    largest = 2.0**127
    scale, good_steps, found = state(largest, 1)
    update_scale(scale, good_steps, found, interval=2)
    assert scale == np.float32(largest) and good_steps == 0


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop])
def test_a_skipped_step_changes_no_bit(kind):
    rng = np.random.default_rng(0)
    parameter = Parameter(rng.standard_normal(300).astype(np.float32))
    optimizer = kind([("w", parameter)])
    skip = np.zeros((), np.float32)
    for step in range(4):
        optimizer.zero_grad()
        parameter.accumulate(rng.standard_normal(300).astype(np.float32))
        skip[...] = step == 2
        weights, before = parameter.data.copy(), optimizer.state_dict()
        if step == 2:
            parameter.grad[7] = np.nan
        optimizer.step(0.1, skip=skip)
        after = optimizer.state_dict()
        same = [np.array_equal(before[name], after[name]) for name in before]
        assert all(same) if step == 2 else not any(same)
        assert np.array_equal(weights, parameter.data) == (step == 2)
    if kind is Adam:
        assert optimizer.state_dict()["steps"] == 3


def test_the_scale_comes_back_from_its_state():
    scaler, other = LossScaler(CPU, 4096.0), LossScaler(CPU)
    scaler.good_steps[...] = 77
    other.load_state_dict(scaler.state_dict())
    assert other.scale == 4096 and other.good_steps == 77
    assert {a.dtype for a in other.state_dict().values()} == {np.dtype("f4"), np.dtype("i4")}
    with pytest.raises(CheckpointError, match="missing loss_scale.good_steps"):
        other.load_state_dict({"loss_scale.scale": scaler.scale})


def test_gradients_that_float16_would_lose():
    """A gradient of 1e-8 is nothing in float16; scaled, it comes back to three digits."""
    scaler = LossScaler(CPU)
    grad = np.full((2, 3), 1e-8, np.float32)
    assert not grad.astype(np.float16).any()
    scaler.scale_gradient(grad)
    parameter = Parameter(np.zeros(6, np.float32))
    sgd = SGD([("w", parameter)])
    parameter.accumulate(grad.reshape(-1).astype(np.float16).astype(np.float32))
    scaler.unscale(sgd)
    np.testing.assert_allclose(parameter.grad, 1e-8, rtol=1e-3)
    assert not scaler.found
