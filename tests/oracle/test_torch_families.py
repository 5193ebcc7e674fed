"""ResNet-9, the plain CNNs, the ImageNet stem and the transfer network against PyTorch, float64."""

from __future__ import annotations

import numpy as np
import pytest

from minires.models import build
from minires.nn import CrossEntropyLoss

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle here")
torch_models = pytest.importorskip("torch_models")
families = pytest.importorskip("torch_families")

TOLERANCE = 1e-7
NARROW = (8, 16, 32, 64)

NETWORKS = {
    "resnet9": (dict(width=0.125), lambda: families.TorchResNet9(NARROW, 10), 32),
    "vgg16": (
        dict(width=0.125),
        lambda: families.TorchPlainCNN((2, 2, 3, 3, 3), (8, 16, 32, 64, 64), 0, 10),
        32,
    ),
    "cnn": (
        dict(width=0.25, head_dropout=0.0),
        lambda: families.TorchPlainCNN((2, 2, 2), (8, 16, 32), 128, 10),
        32,
    ),
    "resnet50": (
        dict(width=0.125, stem="imagenet"),
        lambda: families.TorchImageNetResNet(NARROW, 10),
        37,
    ),
    "resnet50-transfer": (
        dict(width=0.125, upsample=3, head_dropout=0.0),
        lambda: families.TorchImageNetResNet(NARROW, 10, upsample=3, head=True),
        11,
    ),
}


def assert_near(found, wanted, what):
    """The largest error, relative to the largest value of the array."""
    error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12)
    assert error < TOLERANCE, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_running_statistics(name):
    options, make_twin, size = NETWORKS[name]
    twin = torch_models.randomize(make_twin(), seed=1).double()
    model = build(name, dtype="float64", **options)
    model.load_state_dict(torch_models.to_arrays(twin))
    model.first_conv.need_grad_x = True
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 3, size, size)), rng.integers(0, 10, 4)
    loss = CrossEntropyLoss(0.1)
    logits = model(x)
    loss(logits, labels)
    grad_x = model.backward(loss.backward())

    pixels = torch.tensor(x, requires_grad=True)
    expected = twin(pixels)
    torch.nn.functional.cross_entropy(
        expected, torch.tensor(labels), label_smoothing=0.1
    ).backward()
    assert_near(logits, expected.detach().numpy(), "logits")
    assert_near(grad_x, pixels.grad.numpy(), "the gradient of the images")
    wanted = {n: p.grad.numpy() for n, p in twin.named_parameters()}
    found = {n: p.grad for n, p in model.named_parameters()}
    assert found.keys() == wanted.keys()
    largest = max(np.abs(grad).max() for grad in wanted.values())
    for parameter in wanted:
        if np.abs(wanted[parameter]).max() > 1e-9 * largest:  # else zero but for rounding
            assert_near(found[parameter], wanted[parameter], parameter)
    state = model.state_dict()
    for array_name, array in torch_models.to_arrays(twin).items():
        assert_near(state[array_name], array, array_name)
    with torch.no_grad():
        wanted_logits = twin.eval()(torch.tensor(x)).numpy()
    assert_near(model.eval()(x), wanted_logits, "logits in evaluation")


def test_batch_norm_of_vectors():
    from minires import nn

    rng = np.random.default_rng(0)
    x, grad = rng.normal(1, 2, size=(6, 4)), rng.normal(size=(6, 4))
    twin = torch_models.randomize(torch.nn.Sequential(torch.nn.BatchNorm1d(4)).double())[0]
    torch.nn.init.uniform_(twin.weight, 0.5, 1.5)
    norm = nn.BatchNorm1d(4, init=nn.Initializer(0, "float64"))
    norm.load_state_dict(torch_models.to_arrays(twin))
    pixels = torch.tensor(x, requires_grad=True)
    expected = twin(pixels)
    expected.backward(torch.tensor(grad))
    assert_near(norm(x), expected.detach().numpy(), "y")
    assert_near(norm.backward(grad), pixels.grad.numpy(), "grad_x")
    assert_near(norm.weight.grad, twin.weight.grad.numpy(), "grad_weight")
    assert_near(norm.bias.grad, twin.bias.grad.numpy(), "grad_bias")
    for name, array in torch_models.to_arrays(twin).items():
        assert_near(norm.state_dict()[name], array, name)
