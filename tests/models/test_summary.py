from __future__ import annotations

import pytest

from minires.models import build, summarize


def resnet20_multiply_adds(size=32):
    """Each output pixel of a 3x3 convolution costs 9 C multiply-adds for each filter."""
    total = size * size * 16 * 3 * 9
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        pixels = (size >> stage) ** 2
        total += pixels * width * channels * 9 + 5 * pixels * width * width * 9
        channels = width
    return total + 64 * 10


def test_resnet20_by_hand():
    summary = summarize(build("resnet20"))
    assert summary.multiply_adds == resnet20_multiply_adds() == 40_551_040
    assert summary.parameters == 269_722
    assert sum(layer.parameters for layer in summary.layers) == summary.parameters


@pytest.mark.parametrize("name, millions", [("resnet18", 555), ("resnet56", 125)])
def test_multiply_adds_as_papers_count_them(name, millions):
    assert summarize(build(name)).multiply_adds // 10**6 == millions


def test_the_layers_stand_in_the_order_in_which_they_run():
    summary = summarize(build("resnet8"))
    names = [layer.name for layer in summary.layers]
    assert names[:2] == ["conv1", "bn1"] and names[-2:] == ["pool", "fc"]
    assert names.count("layer2.0.downsample") == 1
    first, last = summary.layers[0], summary.layers[-1]
    assert (first.kind, first.input_shape, first.output_shape) == (
        *("Conv2d", (3, 32, 32), (16, 32, 32)),
    )
    assert (last.kind, last.input_shape, last.output_shape) == ("Linear", (64,), (10,))


def test_other_image_sizes():
    assert summarize(build("resnet20"), (3, 64, 64)).multiply_adds == resnet20_multiply_adds(64)


@pytest.mark.parametrize("training", [True, False])
def test_summarizing_leaves_the_model_alone(training):
    model = build("resnet8").train(training)
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    summarize(model)
    assert model.training is training
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
