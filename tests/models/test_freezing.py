from __future__ import annotations

import importlib

import numpy as np
import pytest

from minires import backend, nn
from minires.backend import CPU
from minires.errors import BackwardError, UsageError
from minires.models import build
from minires.models.freezing import freeze
from minires.nn import CrossEntropyLoss
from minires.optim import SGD

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 3, 32, 32)).astype(np.float32)
LABELS = np.array([0, 3, 1, 4])


@pytest.fixture(params=["reference", "kernels"], autouse=True)
def implementation(request, monkeypatch):
    if request.param == "reference":
        with backend.reference_only():
            yield
    else:
        monkeypatch.setattr(backend.options, "threads", 2)
        importlib.import_module("minires.kernels.cpu")
        yield


def state_bytes(model, chosen=lambda name: True):
    return {n: a.tobytes() for n, a in model.state_dict().items() if chosen(n)}


def train(model, steps=3, x=IMAGES):
    optimizer = SGD(model.trainable_parameters(), 0.9, True, 5e-4)
    loss = CrossEntropyLoss()
    model.train()
    for step in range(steps):
        model.set_step(step)
        model.zero_grad()
        assert np.isfinite(loss(model(x), LABELS))
        assert model.backward(loss.backward()) is None
        optimizer.step(0.05)


def unsettle(model):
    """Running statistics as after a training: those of the images, none at its first value."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model(IMAGES)
    for norm in norms:
        norm.momentum = 0.1
    return model


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet50-transfer", dict(width=0.125, upsample=1, dropout=0.2)),
        ("resnet8", dict(dropout=0.2, head_dropout=0.2)),
        ("resnet9", dict(width=0.125)),
        ("vgg16", dict(width=0.125, dropout=0.2)),
        ("cnn", dict(width=0.25)),
    ],
)
def test_a_frozen_body_is_untouched_bit_for_bit(name, options):
    model = unsettle(build(name, 5, **options))
    freeze(model, "body", CPU)
    before = state_bytes(model)
    train(model)
    after = state_bytes(model)
    assert {n for n in before if before[n] == after[n]} == {
        n for n in before if not model.in_head(n)
    }


def test_a_frozen_front_keeps_no_caches_and_computes_as_in_evaluation():
    model = unsettle(build("resnet8", 5, dropout=0.5))
    freeze(model, "body", CPU)
    y = model(IMAGES)
    assert all(m._cache is None for m in model.modules() if m is not model.fc)
    np.testing.assert_array_equal(y, model.eval()(IMAGES))
    with pytest.raises(BackwardError):
        model.train().backward(np.ones_like(y))


def test_only_the_frozen_part_is_left_alone():
    model = unsettle(build("resnet8", 5))
    count = freeze(model, "conv1, bn1,layer1.*,layer3.0.bn*", CPU)
    frozen = {n for n, p in model.named_parameters() if p.frozen}
    assert count == sum(p.size for _, p in model.named_parameters() if p.frozen)
    assert {n.rpartition(".")[0] for n in frozen} == {
        *("conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"),
        *("layer3.0.bn1", "layer3.0.bn2"),
    }
    before = state_bytes(model)
    train(model)
    changed = {n for n, values in state_bytes(model).items() if values != before[n]}
    modules = {n.rpartition(".")[0] for n in changed}
    assert modules == {"layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2", "layer2.0.bn2"} | {
        *("layer3.0.conv1", "layer3.0.conv2", "fc")
    }


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_pass_through_a_frozen_part_in_the_middle(fused):
    # expected: the same network, its frozen batch norms turned into constant scales and shifts
    model = unsettle(build("resnet8", 5, width=0.5))
    free = build(**model.spec)
    free.load_state_dict(model.state_dict())
    freeze(model, "layer2", CPU)
    for unit in model.layer2[0]._units:
        unit.fused = fused
    for name, module in free.named_modules():
        if name.startswith("layer2") and isinstance(module, nn.BatchNorm2d):
            module.weight.frozen = module.bias.frozen = True  # evaluation mode, weights still free
    gradients = []
    for network in (model, free):
        network.zero_grad()
        y = network(IMAGES)
        network.backward(np.ones_like(y) * LABELS[:, None].astype(np.float32))
        gradients.append({n: p.grad.copy() for n, p in network.named_parameters()})
    for name, grad in gradients[0].items():
        if name.startswith("layer2"):
            assert not grad.any()
        else:
            scale = np.abs(gradients[1][name]).max()
            np.testing.assert_allclose(grad, gradients[1][name], atol=1e-4 * scale)


def test_the_unfrozen_part_trains_as_on_fixed_features():
    # the head on the frozen body's features is a linear model: its gradient is known
    model = unsettle(build("resnet8", 5))
    freeze(model, "body", CPU)
    features = []
    with nn.observe(model.eval(), lambda name, module, x, y: features.append((name, y))):
        model(IMAGES)
    pooled = dict(features)["pool"]
    model.train()
    model.zero_grad()
    loss = CrossEntropyLoss()
    loss(model(IMAGES), LABELS)
    model.backward(loss.backward())
    logits = pooled @ model.fc.weight.data.T + model.fc.bias.data
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    wanted = (share - np.eye(5)[LABELS]).T @ pooled / len(LABELS)
    np.testing.assert_allclose(model.fc.weight.grad, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "patterns, message",
    [
        ("layer9", r"--freeze layer9: resnet8 has no such part; there are body, head, conv1, bn1,"),
        ("layer", "--freeze layer: resnet8"),
        ("body,heda", "--freeze heda"),
        ("body,head", "nothing is left to train"),
        ("*", "nothing is left to train"),
    ],
)
def test_a_pattern_that_cannot_be_meant(patterns, message):
    with pytest.raises(UsageError, match=message):
        freeze(build("resnet8"), patterns, CPU)


def test_a_name_is_no_mere_beginning():
    model = build("resnet18", width=1 / 64, blocks=(1,) * 8)
    freeze(model, "layer1", CPU)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.frozen} == {"layer1"}


def test_frozen_convolutions_lie_in_memory_as_the_kernels_like_them():
    model = build("resnet8")
    wanted = model.conv1.weight.data.copy()
    freeze(model, "conv1", CPU)
    np.testing.assert_array_equal(model.conv1.weight.data, wanted)
    assert model.conv1.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
