from __future__ import annotations

import json

import numpy as np
import pytest

from minires.errors import UsageError
from minires.models import build, model_names, name_for_depth


def count(model):
    return sum(p.size for _, p in model.named_parameters())


def expected_cifar(depth):
    """Parameters of the CIFAR family, added up by hand: convolutions, batch norms, fc."""
    blocks = (depth - 2) // 6
    total, channels = 3 * 16 * 9 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += channels * width * 9 + width * width * 9 + 4 * width
            channels = width
    return total + 64 * 10 + 10


PUBLISHED = {
    "resnet18": 11_173_962,
    "resnet20": 269_722,
    "resnet34": 21_282_122,
    "resnet56": 853_018,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name):
    assert count(build(name)) == PUBLISHED[name]


@pytest.mark.parametrize("depth", [8, 14, 20, 26, 32, 44])
def test_counts_of_the_cifar_family_by_hand(depth):
    assert count(build(f"resnet{depth}")) == expected_cifar(depth)


def test_the_count_of_resnet50_by_hand():
    total, channels = 3 * 64 * 9 + 128, 64
    for blocks, width in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for position in range(blocks):
            out = 4 * width
            total += channels * width + 9 * width * width + width * out + 2 * (2 * width + out)
            if position == 0:
                total += channels * out + 2 * out
            channels = out
    assert count(build("resnet50")) == total + 2048 * 10 + 10 == 23_520_842


def test_plain_networks_lack_the_projections():
    assert count(build("resnet20", plain=True)) == count(build("resnet20"))
    projections = sum(c * 2 * c + 2 * 2 * c for c in (64, 128, 256))
    assert count(build("resnet18")) - count(build("resnet18", plain=True)) == projections


def test_shortcut_b_adds_projections_to_the_cifar_family():
    extra = sum(c * 2 * c + 2 * 2 * c for c in (16, 32))
    assert count(build("resnet20", shortcut="B")) == 269_722 + extra


def test_width_and_classes():
    model = build("resnet20", num_classes=7, width=0.5)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes["conv1.weight"] == (8, 3, 3, 3)
    assert shapes["layer3.2.conv2.weight"] == (32, 32, 3, 3)
    assert shapes["fc.weight"] == (7, 32) and shapes["fc.bias"] == (7,)
    assert model(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 7)


def test_names_are_torchvisions():
    names = [name for name, _ in build("resnet18").named_parameters()]
    assert names[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert {"layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias"} <= set(
        names
    )


@pytest.mark.parametrize("depth", [18, 20, 34, 50, 56, 101, 110, 1202])
def test_names_for_depths(depth):
    assert name_for_depth(depth) == f"resnet{depth}"


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 19, 21, 51])
def test_impossible_depths(depth):
    with pytest.raises(UsageError, match=f"--depth {depth}: no such ResNet; use 18, 34"):
        name_for_depth(depth)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="resent20"), "unknown model; did you mean 'resnet20'"),
        (dict(name="vgg"), "unknown model; did you mean 'vgg16'"),
        (dict(name="transformer"), "unknown model; use one of: resnet8, "),
        (dict(name="resnet21"), "no such ResNet"),
        (dict(name="resnet20", num_classes=1), "--num-classes 1"),
        (dict(name="resnet20", shortcut="C"), "--shortcut C"),
        (dict(name="resnet20", width=0), "--width 0"),
        (dict(name="resnet20", width=float("nan")), "--width nan"),
        (dict(name="resnet20", dropout=1.0), "dropout 1.0"),
        (dict(name="resnet20", head_dropout=1.0), "dropout 1.0"),
        (dict(name="resnet20", blocks=(3, 0, 3)), "--blocks 3,0,3: must be 1 to 8 whole numbers"),
        (dict(name="resnet20", blocks=()), "--blocks : must be"),
        (dict(name="resnet20", blocks=(1,) * 9), "must be 1 to 8 whole numbers"),
        (dict(name="cnn", blocks=(1,) * 6), "6 stages; 32x32 images can be halved 5 times"),
        (dict(name="resnet20", stem="vgg"), "--stem vgg: unknown; use cifar or imagenet"),
        (dict(name="resnet20", upsample=0), "--upsample 0: must be a whole number from 1 to 16"),
        (dict(name="vgg16", shortcut="A"), "--shortcut: vgg16 has no such option; it has --width"),
        (dict(name="resnet9", blocks=(1, 2)), "--blocks: resnet9 has no such option"),
        (dict(name="cnn", plain=True), "--plain: cnn has no such option"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(UsageError, match=message):
        build(**arguments)


@pytest.mark.parametrize("name", model_names())
def test_every_listed_name_builds(name):
    assert build(name, width=1 / 64).spec["name"] == name


def test_an_argument_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="colour"):
        build("resnet8", colour="red")


RESNET_OPTIONS = dict(zero_init_residual=True, shortcut="B", stem="imagenet", upsample=2)
REBUILT = {
    "resnet8": RESNET_OPTIONS | dict(blocks=(1, 2)),
    "resnet50-transfer": RESNET_OPTIONS | dict(width=0.125, blocks=[1, 1]),
    "resnet9": dict(width=0.125, plain=True),
    "vgg16": dict(width=0.125, blocks=(1, 2)),
    "cnn": dict(blocks=(2, 1)),
}


@pytest.mark.parametrize("name", REBUILT)
def test_the_spec_rebuilds_the_model(name):
    options = dict(width=0.5, dropout=0.1, head_dropout=0.2) | REBUILT[name]
    model = build(name, 5, 3, **options)
    spec = json.loads(json.dumps(model.spec))
    twin = build(**spec)
    assert twin.spec == spec
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[name], array)


def test_same_seed_same_bits():
    first, second, other = build("resnet8"), build("resnet8"), build("resnet8", seed=1)
    for name, array in first.state_dict().items():
        assert array.tobytes() == second.state_dict()[name].tobytes()
    assert (first.fc.weight.data != other.fc.weight.data).all()
    assert (first.conv1.weight.data != other.conv1.weight.data).all()


def test_a_fresh_signal_keeps_its_size():
    # He initialisation: neither the logits nor the gradient of the first layer blow up or vanish
    rng = np.random.default_rng(0)
    model = build("resnet20")
    logits = model(rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    assert 0.05 < logits.std() < 2
    model.backward(rng.normal(size=logits.shape).astype(np.float32))
    assert 1e-3 < model.conv1.weight.grad.std() < 1e3


def test_zero_init_residual_starts_as_its_shortcuts():
    model = build("resnet8", zero_init_residual=True, dtype="float64")
    gammas = {name: p.data for name, p in model.named_parameters() if name.endswith("bn2.weight")}
    assert len(gammas) == 3 and not any(gamma.any() for gamma in gammas.values())
    block = model.layer1[0]
    x = np.abs(np.random.default_rng(0).normal(size=(2, 16, 4, 4)))
    np.testing.assert_allclose(block(x), x)


def test_dropout_masks_differ_from_block_to_block():
    model = build("resnet14", dropout=0.5)
    layers = [m.layer for m in model.modules() if type(m).__name__ == "Dropout"]
    assert len(layers) == 6 and len(set(layers)) == 6


def test_the_gradient_of_the_images_on_request():
    model = build("resnet8", width=0.25)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    grad = np.ones((2, 10), np.float32)
    model(x)
    assert model.backward(grad) is None
    model.conv1.need_grad_x = True
    model(x)
    assert model.backward(grad).shape == x.shape
