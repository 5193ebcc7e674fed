"""Beside the two ResNet families: ResNet-9, the plain CNNs, the transfer network, blocks, stems."""

from __future__ import annotations

import numpy as np
import pytest

from minires.errors import ShapeError
from minires.models import build, summarize
from minires.nn import CrossEntropyLoss


def count(model):
    return sum(p.size for _, p in model.named_parameters())


def conv_bn(channels, *widths):
    """Parameters of 3x3 convolutions one after the other, each with a batch norm."""
    total = 0
    for width in widths:
        total += 9 * channels * width + 2 * width
        channels = width
    return total


def images(n=2, size=32):
    return np.random.default_rng(0).normal(size=(n, 3, size, size)).astype(np.float32)


def test_resnet9_by_hand():
    chain = conv_bn(3, 64, 128, 128, 128, 256, 512, 512, 512)
    assert count(build("resnet9")) == chain + 512 * 10 + 10 == 6_573_130
    assert count(build("resnet9", plain=True)) == 6_573_130


def test_vgg16_by_hand():
    widths = [64, 64, 128, 128] + 3 * [256] + 6 * [512]
    model = build("vgg16")
    assert count(model) == conv_bn(3, *widths) + 512 * 10 + 10 == 14_724_042
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("Conv2d") == 13 and kinds.count("MaxPool2d") == 5


def test_cnn_by_hand():
    dense = 128 * 4 * 4 * 128 + 128 + 128 * 10 + 10
    assert count(build("cnn")) == conv_bn(3, 32, 32, 64, 64, 128, 128) + dense == 551_018
    dense = 64 * 8 * 8 * 128 + 128 + 128 * 10 + 10
    assert count(build("cnn", blocks=(1, 3))) == conv_bn(3, 32, 64, 64, 64) + dense


def test_the_transfer_network_by_hand():
    body = 23_520_842 - (2048 * 10 + 10) - 27 * 64 + 147 * 64  # resnet50 with the 7x7 stem
    head = 2 * 2048 + 2048 * 256 + 256 + 256 * 10 + 10
    assert count(build("resnet50-transfer")) == body + head


def test_blocks_per_stage_by_hand():
    # 4 + 4 + 3 basic blocks of 64, 128 and 256 channels: the network under five million parameters
    total = conv_bn(3, *9 * [64])
    for channels, blocks in ((64, 4), (128, 3)):
        width = 2 * channels
        total += conv_bn(channels, *2 * blocks * [width]) + channels * width + 2 * width
    assert count(build("resnet18", blocks=(4, 4, 3))) == total + 256 * 10 + 10 == 4_697_162


def test_further_stages_double_the_channels():
    shapes = {n: p.shape for n, p in build("resnet20", blocks=(1, 1, 1, 1)).named_parameters()}
    assert shapes["layer4.0.conv1.weight"] == (128, 64, 3, 3) and shapes["fc.weight"] == (10, 128)


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet9", dict(width=0.125)),
        ("resnet9", dict(width=0.125, plain=True, dropout=0.1, head_dropout=0.5)),
        ("vgg16", dict(width=0.125, dropout=0.1, head_dropout=0.5)),
        ("cnn", dict(width=0.25)),
        ("cnn", dict(width=0.25, blocks=(1, 1, 1, 1, 1), dropout=0.1, head_dropout=0.0)),
        ("resnet50-transfer", dict(width=0.125, upsample=1)),
        ("resnet50-transfer", dict(width=0.125, blocks=(1, 1), upsample=2, head_dropout=0.1)),
        ("resnet8", dict(head_dropout=0.3, stem="imagenet")),
        ("resnet18", dict(width=0.125, blocks=(1, 1), upsample=2)),
    ],
)
def test_a_step_down_the_gradient_lowers_the_loss(name, options):
    model, loss = build(name, 5, **options), CrossEntropyLoss()
    labels = np.array([0, 3, 1, 4])
    values = []
    for _ in range(2):
        values.append(float(loss(model(images(4)), labels)))
        assert model.backward(loss.backward()) is None
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad.any(), parameter_name
            parameter.data -= 0.002 * parameter.grad / np.sqrt((parameter.grad**2).mean())
    assert values[1] < values[0]
    model.eval()
    np.testing.assert_allclose(model(images(4))[:1], model(images(4)[:1]), rtol=1e-3, atol=1e-4)


def test_the_head_has_the_dropout_of_its_family():
    def rates(name, **options):
        model = build(name, width=0.125, **options)
        return [m.p for m in model.modules() if type(m).__name__ == "Dropout"]

    assert rates("cnn") == rates("resnet50-transfer") == [0.5]
    assert rates("resnet8") == rates("resnet9") == rates("vgg16") == []
    assert rates("cnn", head_dropout=0.2) == rates("resnet8", head_dropout=0.2) == [0.2]
    assert rates("cnn", head_dropout=0.0) == [0.0]


def test_the_transfer_network_enlarges_the_images():
    layers = {layer.name: layer for layer in summarize(build("resnet50-transfer")).layers}
    assert layers["upsample"].output_shape == (3, 224, 224)
    assert layers["conv1"].output_shape == (64, 112, 112)
    assert layers["maxpool"].output_shape == (64, 56, 56)
    assert layers["layer4.2.conv3"].output_shape == (2048, 7, 7)
    assert layers["head.5"].output_shape == (10,)


def test_resnet50_for_imagenet_has_its_known_size():
    model = build("resnet50", 1000, stem="imagenet")
    assert count(model) == 25_557_032
    summary = summarize(model, (3, 224, 224))
    assert summary.multiply_adds // 10**6 == 4089  # 4.1 billion, as published


def test_a_dense_head_wants_the_size_that_it_was_made_for():
    with pytest.raises(ShapeError, match=r"Linear expects \(N, 512\), got \(1, 2048\)"):
        build("cnn", width=0.25)(images(1, 64))


def test_the_gradient_of_the_images_on_request():
    for name, options in (("resnet50-transfer", dict(upsample=2)), ("cnn", {}), ("resnet9", {})):
        model = build(name, width=0.125, **options)
        model.first_conv.need_grad_x = True
        y = model(images())
        assert model.backward(np.ones_like(y)).shape == (2, 3, 32, 32)
