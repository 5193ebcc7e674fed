"""Grad-CAM against PyTorch's autograd, and what it must leave alone."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from minires.analysis.chain import chain_of, find_maps, gradients_in_evaluation, outputs_of
from minires.analysis.gradcam import gradcam
from minires.backend import CPU, reference_only
from minires.devices import select_device
from minires.errors import UsageError
from minires.models import build

SIDE = 32


@pytest.fixture
def images():
    return np.random.default_rng(3).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)


def small(name="resnet8", **options):
    return build(name, **({"width": 0.25} | options))


@pytest.mark.parametrize("kernels", [False, True], ids=["reference", "kernels"])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(
    ("layer", "attribute"), [(None, "layer3"), ("layer2", "layer2"), ("stem", "layer1")]
)
def test_agrees_with_autograd(images, layer, attribute, shortcut, kernels):
    torch = pytest.importorskip("torch")
    torch_models = pytest.importorskip("torch_models")
    if kernels:
        select_device("cpu", 1)
    twin = torch_models.build_torch("resnet8", shortcut=shortcut)
    twin = torch_models.randomize(twin, seed=1).eval()
    model = build("resnet8", shortcut=shortcut, device=CPU)
    model.load_state_dict(torch_models.to_arrays(twin))
    classes = np.array([4, 0, 9])

    kept = {}

    def keep(module, inputs, output):
        maps = inputs[0] if layer == "stem" else output  # what enters layer1 is what the stem gave
        maps.retain_grad()
        kept["maps"] = maps

    getattr(twin, attribute).register_forward_hook(keep)
    logits = twin(torch.tensor(images))
    logits[range(3), classes].sum().backward()
    maps = kept["maps"]
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)
    heat = torch.relu((weights * maps).sum(dim=1))
    highest = heat.amax(dim=(1, 2), keepdim=True)
    heat = (heat / torch.where(highest > 0, highest, 1.0)).detach().numpy()

    with nullcontext() if kernels else reference_only():
        found = gradcam(model, images, classes, layer)
    np.testing.assert_allclose(found.logits, logits.detach().numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.heat, heat, rtol=2e-3, atol=2e-3)
    assert heat.std() > 0.05 and found.classes.tolist() == [4, 0, 9]


@pytest.mark.parametrize(
    ("model", "default", "side"),
    [
        (("resnet8", {}), "layer3.0", 8),
        (("resnet8", {"plain": True}), "layer3.0", 8),
        (("resnet8", {"dropout": 0.3, "head_dropout": 0.2}), "layer3.0", 8),
        (("resnet18", {"width": 0.05}), "layer4.1", 4),
        (("resnet18", {"width": 0.05, "stem": "imagenet"}), "layer2.1", 4),
        (("resnet9", {"width": 0.05}), "residual2", 4),
        (("vgg16", {"width": 0.05}), "layer4.2", 4),
        (("cnn", {}), "layer3.2", 4),
    ],
    ids=str,
)
def test_every_family_in_its_last_large_maps(images, model, default, side):
    network = small(model[0], **model[1])
    found = gradcam(network, images)
    assert found.layer == default
    assert found.heat.shape == (3, side, side)
    assert found.heat.min() >= 0 and found.heat.max() <= 1
    network.eval()
    np.testing.assert_allclose(found.logits, network(images), rtol=1e-4, atol=1e-4)
    assert found.classes.tolist() == found.logits.argmax(axis=1).tolist()


def test_it_leaves_the_network_as_it_was(images):
    model = small(dropout=0.3)
    model.eval()
    before = model.state_dict()
    marked = dict(model.named_parameters())["fc.weight"]
    marked.accumulate(np.full_like(marked.data, 7.0))
    gradcam(model, images)
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not model.training and not any(p.frozen for _, p in model.named_parameters())
    assert all(module._cache is None for module in model.modules())
    assert (marked.grad == 7.0).all()
    assert [m.p for m in model.modules() if hasattr(m, "p")] == [0.3] * 3


def test_the_chain_gives_the_logits_of_the_network(images):
    model = small("resnet14")
    outputs = outputs_of(model, images)
    assert list(outputs) == [
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "pool", "fc"
    ]  # fmt: skip
    np.testing.assert_array_equal(outputs["fc"], model(images))
    assert list(chain_of(model)) == list(outputs)


def test_a_layer_by_its_stage_or_block(images):
    model = small("resnet14")
    assert find_maps(model, images, "layer2") == "layer2.1"
    assert find_maps(model, images, "layer2.0") == "layer2.0"
    with pytest.raises(UsageError, match="--layer layer22: .*did you mean 'layer2'"):
        find_maps(model, images, "layer22")
    with pytest.raises(UsageError, match="--layer fc"):
        find_maps(model, images, "fc")


def test_the_mode_comes_back_after_an_error(images):
    model = small()
    model.eval()
    with pytest.raises(ZeroDivisionError), gradients_in_evaluation(model):
        raise ZeroDivisionError
    assert not model.training and not any(p.frozen for _, p in model.named_parameters())
