from __future__ import annotations

import inspect

import numpy as np
import pytest

from minires.functional import optimizer
from minires.functional.optimizer import adam_step, rmsprop_step, sgd_step


def steps_by_hand(weight, grads, lr, momentum, weight_decay, nesterov):
    """The formula on one Python float, step by step."""
    velocity = 0.0
    for grad in grads:
        g = grad + weight_decay * weight
        velocity = momentum * velocity + g
        weight -= lr * (g + momentum * velocity if nesterov else velocity)
    return weight, velocity


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum, weight_decay", [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
@pytest.mark.parametrize("size", [1, 7, 20, 21])
def test_sgd_matches_scalar_arithmetic(monkeypatch, size, momentum, weight_decay, nesterov):
    monkeypatch.setattr(optimizer, "CHUNK", 7)
    rng = np.random.default_rng(size)
    weights, grads = rng.normal(size=size), rng.normal(size=(5, size))
    expected = [
        steps_by_hand(float(w), grads[:, i].tolist(), 0.1, momentum, weight_decay, nesterov)
        for i, w in enumerate(weights)
    ]
    velocity = np.zeros(size)
    for grad in grads:
        sgd_step(weights, grad, velocity, 0.1, momentum, weight_decay, nesterov)
    for name, found, values in zip(
        ("weights", "velocity"), (weights, velocity), zip(*expected, strict=True), strict=True
    ):
        np.testing.assert_allclose(found, values, rtol=1e-13, err_msg=name)


def test_frozen_values_of_two_steps_of_sgd():
    # weight 1, gradient 0.5 twice, lr 0.1, momentum 0.9, weight decay 0.1, Nesterov:
    # g = 0.6, v = 0.6, w = 1 - 0.1 * (0.6 + 0.54) = 0.886
    # g = 0.5886, v = 1.1286, w = 0.886 - 0.1 * (0.5886 + 1.01574) = 0.725566
    weights, velocity = np.ones(1), np.zeros(1)
    sgd_step(weights, np.array([0.5]), velocity, 0.1, 0.9, 0.1, True)
    np.testing.assert_allclose([weights[0], velocity[0]], [0.886, 0.6], rtol=1e-14)
    sgd_step(weights, np.array([0.5]), velocity, 0.1, 0.9, 0.1, True)
    np.testing.assert_allclose([weights[0], velocity[0]], [0.725566, 1.1286], rtol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_keeps_float32_and_only_reads_the_gradient(nesterov):
    weights, grads, velocity = (np.full(5, value, np.float32) for value in (1, 2, 0))
    grads.flags.writeable = False
    sgd_step(weights, grads, velocity, 0.5, 0.9, 5e-4, nesterov)
    assert weights.dtype == velocity.dtype == np.float32
    assert np.isfinite(weights).all()


def test_a_learning_rate_of_zero_moves_the_velocity_alone():
    weights, velocity = np.array([3.0]), np.array([1.0])
    sgd_step(weights, np.array([2.0]), velocity, 0.0, 0.5, 0.0, True)
    assert weights[0] == 3.0 and velocity[0] == 2.5


def test_no_elements_is_no_work():
    empty = np.zeros(0, np.float32)
    sgd_step(empty, empty, empty, 0.1, 0.9, 5e-4, True)


def test_numbers_that_are_not_given_are_torch_s():
    torch = pytest.importorskip("torch")
    default = {
        kind: {name: p.default for name, p in inspect.signature(kind).parameters.items()}
        for kind in (adam_step, rmsprop_step, torch.optim.Adam, torch.optim.RMSprop)
    }
    ours, theirs = default[adam_step], default[torch.optim.Adam]
    assert (ours["beta1"], ours["beta2"]) == theirs["betas"]
    assert (ours["eps"], ours["weight_decay"]) == (theirs["eps"], theirs["weight_decay"])
    for name in ("alpha", "eps", "weight_decay", "momentum"):
        assert default[rmsprop_step][name] == default[torch.optim.RMSprop][name], name


UPDATES = {
    "sgd": lambda w, g, slots, skip: sgd_step(w, g, slots[0], 0.1, 0.9, 0.1, True, skip=skip),
    "adam": lambda w, g, slots, skip: adam_step(w, g, *slots[:2], 0.1, 1, skip=skip),
    "rmsprop": lambda w, g, slots, skip: rmsprop_step(
        w, g, *slots, 0.1, weight_decay=0.1, momentum=0.9, skip=skip
    ),
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_skipped_step_changes_neither_weights_nor_slots(name):
    weights, slots = np.array([1.0, -2.0]), [np.full(2, value) for value in (1.0, 0.5, 0.25)]
    grads = np.array([np.inf, np.nan])
    UPDATES[name](weights, grads, slots, np.ones((), np.float32))
    np.testing.assert_array_equal(weights, [1, -2])
    np.testing.assert_array_equal(slots, [[1, 1], [0.5, 0.5], [0.25, 0.25]])
    UPDATES[name](weights, np.ones(2), slots, np.zeros((), np.float32))
    assert (weights != [1, -2]).all(), "0 means that the step is taken"
