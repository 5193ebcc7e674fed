from __future__ import annotations

import numpy as np
import pytest

from minires import nn
from minires.errors import CheckpointError
from minires.nn import Initializer, Parameter


def block():
    return nn.BasicBlock(2, 4, 2, shortcut="B", init=Initializer(0))


def test_parameters_and_buffers_have_pytorch_names():
    assert [name for name, _ in block().named_parameters()] == [
        *("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"),
        *("downsample.0.weight", "downsample.1.weight", "downsample.1.bias"),
    ]
    assert [name for name, _ in block().named_buffers()] == [
        f"{layer}.{buffer}"
        for layer in ("bn1", "bn2", "downsample.1")
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    ]


def test_weights_decay_and_the_rest_does_not():
    decays = {name: p.decay for name, p in block().named_parameters()}
    assert {name for name, decay in decays.items() if decay} == {
        *("conv1.weight", "conv2.weight", "downsample.0.weight"),
    }
    linear = nn.Linear(2, 3, init=Initializer(0))
    assert linear.weight.decay and not linear.bias.decay


def test_everything_that_does_not_fit_is_listed():
    module = block()
    state = module.state_dict()
    del state["bn1.weight"]
    state["conv9.weight"] = np.zeros(1)
    state["conv2.weight"] = np.zeros((1, 2, 3, 4))
    before = module.state_dict()
    with pytest.raises(CheckpointError) as caught:
        module.load_state_dict(state)
    message = str(caught.value)
    assert "missing: bn1.weight" in message
    assert "unexpected: conv9.weight" in message
    assert "wrong shape: conv2.weight is (1, 2, 3, 4) instead of (4, 4, 3, 3)" in message
    assert "\n" not in message
    for name, array in module.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_num_batches_tracked_may_be_missing():
    module = block()
    state = {k: v + 1 for k, v in module.state_dict().items() if "tracked" not in k}
    module.load_state_dict(state)
    np.testing.assert_array_equal(module.bn1.running_mean.data, 1)


def test_loading_keeps_the_array_and_its_memory_order():
    conv = nn.Conv2d(3, 4, init=Initializer(0))
    home = np.zeros((3, 3, 3, 4), np.float32).transpose(3, 2, 0, 1)
    conv.weight.rehome(home, home.copy())
    conv.load_state_dict({"weight": np.arange(108.0).reshape(4, 3, 3, 3)})
    assert conv.weight.data is home
    np.testing.assert_array_equal(home.ravel(), np.arange(108))
    assert conv.state_dict()["weight"].flags.c_contiguous


def test_accumulate_and_zero_grad():
    parameter = Parameter(np.zeros(3, np.float32))
    np.testing.assert_array_equal(parameter.grad, 0)
    parameter.accumulate(np.array([1.0, 2, 3]))
    parameter.accumulate(np.array([1.0, 1, 1]))
    np.testing.assert_array_equal(parameter.grad, [2, 3, 4])
    parameter.zero_grad()
    np.testing.assert_array_equal(parameter.grad, 0)
    parameter.zero_grad()
    parameter.accumulate(np.array([5.0, 5, 5]))
    np.testing.assert_array_equal(parameter.grad, 5)
    assert parameter.grad.dtype == np.float32


def test_accumulate_copies_what_it_is_given():
    parameter, grad = Parameter(np.zeros(2)), np.ones(2)
    parameter.zero_grad()
    parameter.accumulate(grad)
    grad += 1
    np.testing.assert_array_equal(parameter.grad, 1)


def test_rehome_moves_values_and_gradient():
    parameter = Parameter(np.arange(3.0))
    parameter.accumulate(np.ones(3))
    flat = np.zeros((2, 3))
    parameter.rehome(flat[0], flat[1])
    np.testing.assert_array_equal(flat, [[0, 1, 2], [1, 1, 1]])
    parameter.accumulate(np.ones(3))
    np.testing.assert_array_equal(flat[1], 2)
    parameter.zero_grad()
    parameter.accumulate(np.ones(3))
    assert parameter.grad is not None and np.shares_memory(parameter.grad, flat)


def test_modes_reach_every_module():
    module = block()
    module.eval()
    assert not any(m.training for m in module.modules())
    assert module.train() is module and all(m.training for m in module.modules())


def test_observers_see_every_layer_and_go_away():
    module = nn.Sequential(block(), nn.GlobalAvgPool())
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    wanted = module.eval()(x)
    seen = {}
    with nn.observe(module, lambda name, layer, x, y: seen.update({name: y.shape})):
        found = module(x)
    assert list(seen) == [
        *("0.downsample.0", "0.downsample.1", "0.downsample"),
        *("0.conv1", "0.bn1", "0.conv2", "0.bn2", "0", "1", ""),
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    seen.clear()
    module(x)
    assert seen == {}
