"""What every layer and every block promises, in one suite."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from minires import backend, nn
from minires.errors import BackwardError, CheckpointError
from minires.nn import Initializer

IMAGES = (2, 4, 6, 5)

LAYERS = {
    "Conv2d": (lambda i: nn.Conv2d(4, 3, 3, 2, 1, bias=True, init=i), IMAGES),
    "BatchNorm2d": (lambda i: nn.BatchNorm2d(4, init=i), IMAGES),
    "BatchNorm1d": (lambda i: nn.BatchNorm1d(4, init=i), (3, 4)),
    "ReLU": (lambda i: nn.ReLU(), IMAGES),
    "MaxPool2d": (lambda i: nn.MaxPool2d(2), IMAGES),
    "GlobalAvgPool": (lambda i: nn.GlobalAvgPool(), IMAGES),
    "Upsample": (lambda i: nn.Upsample(2), IMAGES),
    "Flatten": (lambda i: nn.Flatten(), IMAGES),
    "Linear": (lambda i: nn.Linear(4, 3, init=i), (2, 4)),
    "Dropout": (lambda i: nn.Dropout(0.5), IMAGES),
    "ShortcutA": (lambda i: nn.ShortcutA(8, 2), IMAGES),
    "Projection": (lambda i: nn.Projection(4, 6, 2, init=i), IMAGES),
    "Sequential": (
        lambda i: nn.Sequential(nn.Conv2d(4, 3, init=i), nn.BatchNorm2d(3, init=i), nn.ReLU()),
        IMAGES,
    ),
    "BasicBlock, identity": (lambda i: nn.BasicBlock(4, 4, init=i), IMAGES),
    "BasicBlock, A": (lambda i: nn.BasicBlock(4, 8, 2, shortcut="A", init=i), IMAGES),
    "BasicBlock, B": (lambda i: nn.BasicBlock(4, 8, 2, shortcut="B", init=i), IMAGES),
    "BasicBlock, plain": (lambda i: nn.BasicBlock(4, 8, 2, plain=True, init=i), IMAGES),
    "BasicBlock, dropout": (
        lambda i: nn.BasicBlock(4, 4, dropout=nn.Dropout(0.3), init=i),
        IMAGES,
    ),
    "Bottleneck, identity": (lambda i: nn.Bottleneck(4, 1, init=i), IMAGES),
    "Bottleneck, A": (lambda i: nn.Bottleneck(4, 2, 2, shortcut="A", init=i), IMAGES),
    "Bottleneck, B": (lambda i: nn.Bottleneck(4, 2, 2, shortcut="B", init=i), IMAGES),
    "Bottleneck, plain": (lambda i: nn.Bottleneck(4, 2, 2, plain=True, init=i), IMAGES),
}


@pytest.fixture(params=["reference", "kernels"], autouse=True)
def implementation(request, monkeypatch):
    """Everything here holds for the reference and for the kernels of the CPU alike."""
    if request.param == "reference":
        with backend.reference_only():
            yield
    else:
        monkeypatch.setattr(backend.options, "threads", 2)
        importlib.import_module("minires.kernels.cpu")
        yield


@pytest.fixture(params=LAYERS)
def layer(request):
    make, _ = LAYERS[request.param]
    return make(Initializer(0))


@pytest.fixture
def x(request, layer):
    shape = LAYERS[request.node.callspec.params["layer"]][1]
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array.flags.writeable = False
    return array


def upstream(y):
    array = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    array.flags.writeable = False
    return array


def state_bytes(layer):
    return {name: array.tobytes() for name, array in layer.state_dict().items()}


def test_neither_pass_writes_into_what_it_was_given(layer, x):
    y = layer.forward(x)
    grad_x = layer.backward(upstream(y))  # both are protected: a write raises
    assert grad_x.shape == x.shape


def test_float32_stays_float32(layer, x):
    y = layer.forward(x)
    grad_x = layer.backward(upstream(y))
    assert y.dtype == grad_x.dtype == np.float32
    assert all(p.grad.dtype == np.float32 for _, p in layer.named_parameters())


def test_backward_fills_every_gradient(layer, x):
    layer.backward(upstream(layer.forward(x)))
    for name, parameter in layer.named_parameters():
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.any(), name


def test_backward_clears_every_cache(layer, x):
    layer.backward(upstream(layer.forward(x)))
    assert all(module._cache is None for module in every_module(layer))


def test_a_second_backward_is_refused(layer, x):
    y = layer.forward(x)
    layer.backward(upstream(y))
    with pytest.raises(BackwardError, match="needs a forward pass in training mode"):
        layer.backward(upstream(y))


def test_backward_before_forward_is_refused(layer, x):
    y_shape = layer.eval().forward(x).shape
    with pytest.raises(BackwardError):
        layer.train().backward(np.ones(y_shape, np.float32))


def test_backward_after_an_evaluation_pass_is_refused(layer, x):
    layer.forward(x)
    y = layer.eval().forward(x)
    with pytest.raises(BackwardError, match="training mode"):
        layer.backward(upstream(y))


def test_leaving_training_mode_forgets_the_forward_pass(layer, x):
    y = layer.forward(x)
    layer.eval()
    with pytest.raises(BackwardError):
        layer.backward(upstream(y))
    assert all(module._cache is None for module in every_module(layer))


def test_evaluation_changes_nothing_and_repeats(layer, x):
    layer.forward(x)
    layer.eval()
    before = state_bytes(layer)
    first, second = layer.forward(x), layer.forward(x)
    np.testing.assert_array_equal(first, second)
    assert state_bytes(layer) == before
    assert all(module._cache is None for module in every_module(layer))


def test_evaluation_of_one_image_equals_that_of_the_batch(layer, x):
    layer.forward(x)
    layer.eval()
    np.testing.assert_allclose(layer.forward(x)[:1], layer.forward(x[:1]), atol=1e-5)


def test_state_round_trip(request, layer, x):
    layer.forward(x)  # moves the running statistics
    make, _ = LAYERS[request.node.callspec.params["layer"]]
    twin = make(Initializer(1))
    twin.load_state_dict(layer.state_dict())
    assert state_bytes(twin) == state_bytes(layer)
    np.testing.assert_array_equal(twin.eval().forward(x), layer.eval().forward(x))


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(layer):
    before = state_bytes(layer)
    with pytest.raises(CheckpointError, match="unexpected: surprise"):
        layer.load_state_dict({**layer.state_dict(), "surprise": np.zeros(3)})
    assert state_bytes(layer) == before


def test_the_state_is_a_copy(layer):
    before = state_bytes(layer)
    for array in layer.state_dict().values():
        array += 1
    assert state_bytes(layer) == before


def test_gradients_add_up_until_they_are_cleared(layer, x):
    def backward():
        layer.backward(upstream(layer.forward(x)))
        return {name: p.grad.copy() for name, p in layer.named_parameters()}

    once, twice = backward(), backward()
    layer.zero_grad()
    again = backward()
    for name, grad in once.items():
        np.testing.assert_allclose(twice[name], 2 * grad, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(again[name], grad, rtol=1e-4, atol=1e-5)


def test_the_same_step_gives_the_same_bits(layer, x):
    layer.set_step(5)
    first = layer.forward(x)
    grad_first = layer.backward(upstream(first))
    layer.set_step(5)
    second = layer.forward(x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(grad_first, layer.backward(upstream(second)))


def every_module(layer):
    """All modules, and the fused units that are not among the named ones."""
    for module in layer.modules():
        yield module
        yield from getattr(module, "_units", [])
        if hasattr(module, "_unit"):
            yield module._unit
