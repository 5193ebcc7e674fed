"""Whole networks against PyTorch, in float64: outputs, all gradients, running statistics, steps."""

from __future__ import annotations

import numpy as np
import pytest

from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import SGD

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle here")
torch_models = pytest.importorskip("torch_models")

TOLERANCE = 1e-7
LR = 0.01

NETWORKS = {
    "resnet18": (dict(name="resnet18"), {}, (12, 10)),
    "resnet20": (dict(name="resnet20"), {}, (16, 16)),
    "resnet20, 13x9 images": (dict(name="resnet20"), {}, (13, 9)),
    "resnet20, B": (dict(name="resnet20", shortcut="B"), dict(shortcut="B"), (12, 12)),
    "resnet20, plain": (dict(name="resnet20", plain=True), dict(plain=True), (12, 12)),
    "resnet18, narrow": (
        dict(name="resnet18", width=0.125),
        dict(widths=(8, 16, 32, 64)),
        (16, 16),
    ),
    "resnet18, A, narrow": (
        dict(name="resnet18", shortcut="A", width=0.125),
        dict(shortcut="A", widths=(8, 16, 32, 64)),
        (16, 16),
    ),
    "resnet34, plain, narrow": (
        dict(name="resnet34", plain=True, width=0.125),
        dict(plain=True, widths=(8, 16, 32, 64)),
        (16, 16),
    ),
    "resnet50, narrow": (
        dict(name="resnet50", width=0.125),
        dict(widths=(8, 16, 32, 64)),
        (16, 16),
    ),
}


def twins(key):
    """The minires model and the torch model with the same random weights, and a batch."""
    options, torch_options, size = NETWORKS[key]
    twin = torch_models.build_torch(options["name"], **torch_options)
    twin = torch_models.randomize(twin, seed=1).double()
    model = build(**options, dtype="float64")
    model.load_state_dict(torch_models.to_arrays(twin))
    rng = np.random.default_rng(0)
    return model, twin, rng.normal(size=(4, 3, *size)), rng.integers(0, 10, 4)


def assert_near(found, wanted, what):
    """The largest error, relative to the largest value of the array."""
    error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12)
    assert error < TOLERANCE, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("key", NETWORKS)
def test_outputs_gradients_and_running_statistics(key):
    model, twin, x, labels = twins(key)
    model.conv1.need_grad_x = True
    loss = CrossEntropyLoss(0.1)
    logits = model(x)
    value = loss(logits, labels)
    grad_x = model.backward(loss.backward())

    pixels = torch.tensor(x, requires_grad=True)
    expected = twin(pixels)
    expected_loss = torch.nn.functional.cross_entropy(
        expected, torch.tensor(labels), label_smoothing=0.1
    )
    expected_loss.backward()

    assert_near(logits, expected.detach().numpy(), "logits")
    assert_near(value, expected_loss.detach().numpy(), "loss")
    assert_near(grad_x, pixels.grad.numpy(), "the gradient of the images")
    wanted = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    found = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert_near(found[name], wanted[name], name)
    state = model.state_dict()
    for name, array in torch_models.to_arrays(twin).items():
        assert_near(state[name], array, name)


@pytest.mark.parametrize("key", ["resnet18", "resnet20", "resnet50, narrow"])
def test_evaluation(key):
    model, twin, x, _ = twins(key)
    with torch.no_grad():
        wanted = twin.eval()(torch.tensor(x)).numpy()
    assert_near(model.eval()(x), wanted, "logits")


@pytest.mark.parametrize("key", ["resnet18", "resnet20"])
def test_twenty_steps_of_sgd(key):
    model, twin, images, _ = twins(key)
    oracle = torch.optim.SGD(
        twin.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    optimizer = SGD(model.named_parameters(), 0.9, True, 5e-4, decay_all=True)
    loss = CrossEntropyLoss()
    rng = np.random.default_rng(1)
    for step in range(20):
        x, labels = rng.normal(size=images.shape), rng.integers(0, 10, 4)
        model.zero_grad()
        value = loss(model(x), labels)
        model.backward(loss.backward())
        optimizer.step(LR)

        oracle.zero_grad()
        expected = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
        expected.backward()
        oracle.step()
        assert_near(value, expected.detach().numpy(), f"loss of step {step}")
    found = model.state_dict()
    for name, array in torch_models.to_arrays(twin).items():
        assert_near(found[name], array, name)
