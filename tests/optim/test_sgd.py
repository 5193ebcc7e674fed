from __future__ import annotations

import numpy as np
import pytest

from minires.backend import Device, weight_layout
from minires.errors import CheckpointError
from minires.nn import Parameter
from minires.optim import SGD

SHAPES = {
    "conv.weight": (6, 5, 3, 3),
    "bn.weight": (5,),
    "bn.bias": (5,),
    "fc.weight": (7, 6),
    "fc.bias": (7,),
}
DECAYED = {"conv.weight", "fc.weight"}


def make_parameters(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        name: Parameter(rng.normal(size=shape).astype(dtype), decay=name in DECAYED)
        for name, shape in SHAPES.items()
    }


def random_grads(step, dtype=np.float64):
    rng = np.random.default_rng(1000 + step)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def step_with(optimizer, parameters, grads, lr):
    optimizer.zero_grad()
    for name, grad in grads.items():
        parameters[name].accumulate(grad)
    optimizer.step(lr)


def values(parameters):
    return {name: np.array(parameter.data) for name, parameter in parameters.items()}


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("momentum, nesterov", [(0.9, True), (0.9, False), (0.0, False)])
def test_thirty_steps_are_torch_s(momentum, nesterov, decay_all):
    torch = pytest.importorskip("torch")
    parameters = make_parameters()
    twins = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in values(parameters).items()}
    decayed = [t for n, t in twins.items() if decay_all or n in DECAYED]
    others = [t for n, t in twins.items() if not (decay_all or n in DECAYED)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    oracle = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=1.0, momentum=momentum, nesterov=nesterov,
    )  # fmt: skip
    optimizer = SGD(parameters.items(), momentum, nesterov, 0.05, decay_all)
    for step in range(30):
        grads, lr = random_grads(step), 0.1 / (1 + step)
        step_with(optimizer, parameters, grads, lr)
        for name, twin in twins.items():
            twin.grad = torch.tensor(grads[name])
        for group in oracle.param_groups:
            group["lr"] = lr
        oracle.step()
    for name, twin in twins.items():
        np.testing.assert_allclose(parameters[name].data, twin.detach().numpy(), rtol=1e-12)


def test_frozen_values_and_groups():
    # lr 0.1, momentum 0.5, decay 0.2 on the weight alone, Nesterov, gradient 1 twice:
    # weight 2:  g = 1.4, v = 1.4, w = 2 - 0.1 * (1.4 + 0.7) = 1.79
    #            g = 1.358, v = 2.058, w = 1.79 - 0.1 * (1.358 + 1.029) = 1.5513
    # bias 2:    g = 1, v = 1, w = 2 - 0.1 * 1.5 = 1.85;  v = 1.5, w = 1.85 - 0.1 * 1.75 = 1.675
    parameters = {
        "weight": Parameter(np.full((2, 2), 2.0)),
        "bias": Parameter(np.full(2, 2.0), decay=False),
    }
    optimizer = SGD(parameters.items(), momentum=0.5, nesterov=True, weight_decay=0.2)
    for _ in range(2):
        ones = {name: np.ones(p.data.shape) for name, p in parameters.items()}
        step_with(optimizer, parameters, ones, 0.1)
    np.testing.assert_allclose(parameters["weight"].data, 1.5513, rtol=1e-13)
    np.testing.assert_allclose(parameters["bias"].data, 1.675, rtol=1e-13)


def test_rehoming_keeps_values_gradients_and_logical_shapes():
    parameters = make_parameters()
    before, grads = values(parameters), random_grads(0)
    for name, parameter in parameters.items():
        parameter.zero_grad()
        parameter.accumulate(grads[name])
    SGD(parameters.items())
    for name, parameter in parameters.items():
        assert parameter.data.shape == SHAPES[name] == parameter.grad.shape
        np.testing.assert_array_equal(parameter.data, before[name])
        np.testing.assert_array_equal(parameter.grad, grads[name])


def test_parameters_are_views_of_one_buffer_per_group():
    parameters = make_parameters()
    optimizer = SGD(parameters.items())
    assert len(optimizer.groups) == 2
    for group in optimizer.groups:
        for parameter in group.parameters:
            assert np.shares_memory(parameter.data, group.weights)
            assert np.shares_memory(parameter.grad, group.grads)
        assert group.weights.ndim == 1 and group.weights.flags.c_contiguous
        assert all(start * 8 % 128 == 0 for start in group.starts)


def test_convolution_weights_lie_in_the_order_of_the_device():
    parameters = make_parameters()
    SGD(parameters.items())
    order = weight_layout(Device("cpu"))
    for array in (parameters["conv.weight"].data, parameters["conv.weight"].grad):
        assert array.transpose(order).flags.c_contiguous


def test_state_round_trip_continues_bit_for_bit():
    straight, resumed = make_parameters(dtype=np.float32), make_parameters(dtype=np.float32)
    first, second = SGD(straight.items()), SGD(resumed.items())
    for step in range(3):
        step_with(first, straight, random_grads(step, np.float32), 0.1)
        step_with(second, resumed, random_grads(step, np.float32), 0.1)
    state = {name: array.copy() for name, array in second.state_dict().items()}
    third_parameters = {
        name: Parameter(value, decay=name in DECAYED) for name, value in values(resumed).items()
    }
    third = SGD(third_parameters.items())
    third.load_state_dict(state)
    for step in range(3, 6):
        step_with(first, straight, random_grads(step, np.float32), 0.1)
        step_with(third, third_parameters, random_grads(step, np.float32), 0.1)
    for name in SHAPES:
        np.testing.assert_array_equal(straight[name].data, third_parameters[name].data)
        assert third_parameters[name].data.dtype == np.float32


def test_state_has_a_host_copy_per_parameter():
    parameters = make_parameters()
    optimizer = SGD(parameters.items())
    step_with(optimizer, parameters, random_grads(0), 0.1)
    state = optimizer.state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "momentum." + name: shape for name, shape in SHAPES.items()
    }
    assert all(array.flags.c_contiguous and array.flags.owndata for array in state.values())
    np.testing.assert_array_equal(state["momentum.bn.bias"], random_grads(0)["bn.bias"])


def test_a_state_that_does_not_fit_changes_nothing():
    parameters = make_parameters()
    optimizer = SGD(parameters.items())
    step_with(optimizer, parameters, random_grads(0), 0.1)
    before = optimizer.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    state["momentum.fc.bias"] = np.zeros(3)
    state["momentum.extra"] = state.pop("momentum.bn.bias")
    with pytest.raises(CheckpointError) as caught:
        optimizer.load_state_dict(state)
    for word in ("missing momentum.bn.bias", "unexpected momentum.extra", "(3,), expected (7,)"):
        assert word in str(caught.value)
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_gradient_that_no_backward_fills_counts_as_zero():
    parameters = make_parameters()
    optimizer = SGD(parameters.items(), momentum=0.0, nesterov=False, weight_decay=0.0)
    step_with(optimizer, parameters, random_grads(0), 0.1)
    before = values(parameters)
    step_with(optimizer, parameters, {"fc.bias": np.ones(7)}, 0.1)
    for name in SHAPES:
        change = 0.1 if name == "fc.bias" else 0.0
        np.testing.assert_array_equal(parameters[name].data, before[name] - change)


def test_a_numpy_learning_rate_leaves_float32_alone():
    parameters = make_parameters(dtype=np.float32)
    optimizer = SGD(parameters.items())
    step_with(optimizer, parameters, random_grads(0, np.float32), np.float64(0.1))
    expected = make_parameters(dtype=np.float32)
    step_with(SGD(expected.items()), expected, random_grads(0, np.float32), 0.1)
    for name in SHAPES:
        np.testing.assert_array_equal(parameters[name].data, expected[name].data)


def test_one_group_has_one_dtype():
    mixed = {"a": Parameter(np.zeros(2, np.float32)), "b": Parameter(np.zeros(2))}
    with pytest.raises(ValueError, match="one dtype"):
        SGD(mixed.items())
