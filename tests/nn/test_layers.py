from __future__ import annotations

import numpy as np
import pytest

from minires import nn
from minires.errors import ShapeError, UsageError
from minires.nn import Initializer

INIT = Initializer(0)


def zeros(*shape):
    return np.zeros(shape, np.float32)


WRONG_SHAPES = [
    (lambda: nn.Conv2d(3, 4, init=INIT), zeros(2, 4, 8, 8), r"Conv2d expects \(N, 3, H, W\), got"),
    (lambda: nn.Conv2d(3, 4, init=INIT), zeros(3, 8, 8), r"got \(3, 8, 8\)"),
    (lambda: nn.Conv2d(3, 4, 3, init=INIT), zeros(1, 3, 2, 8), r"at least 3x3 pixels, got"),
    (lambda: nn.Conv2d(3, 4, 5, 1, 1, init=INIT), zeros(1, 3, 2, 8), r"at least 3x3 pixels"),
    (lambda: nn.BatchNorm2d(3, init=INIT), zeros(2, 4, 8, 8), r"BatchNorm2d expects \(N, 3, H"),
    (lambda: nn.BatchNorm1d(3, init=INIT), zeros(2, 4), r"BatchNorm1d expects \(N, 3\), got"),
    (lambda: nn.BatchNorm1d(3, init=INIT), zeros(2, 3, 1, 1), r"got \(2, 3, 1, 1\)"),
    (lambda: nn.Upsample(2), zeros(2, 4), r"Upsample expects \(N, C, H, W\), got \(2, 4\)"),
    (lambda: nn.MaxPool2d(2), zeros(2, 4), r"MaxPool2d expects \(N, C, H, W\), got \(2, 4\)"),
    (lambda: nn.MaxPool2d(3), zeros(2, 4, 2, 5), r"at least 3x3 pixels, got \(2, 4, 2, 5\)"),
    (lambda: nn.GlobalAvgPool(), zeros(2, 4), r"GlobalAvgPool expects \(N, C, H, W\)"),
    (lambda: nn.Linear(3, 2, init=INIT), zeros(2, 4), r"Linear expects \(N, 3\), got \(2, 4\)"),
    (lambda: nn.Linear(3, 2, init=INIT), zeros(2, 3, 1, 1), r"got \(2, 3, 1, 1\)"),
    (lambda: nn.ShortcutA(4, 2), zeros(2, 4), r"ShortcutA expects \(N, C, H, W\)"),
    (lambda: nn.BasicBlock(3, 4, 2, init=INIT), zeros(2, 5, 8, 8), r"\(N, 3, H, W\), got"),
    (lambda: nn.Bottleneck(4, 1, init=INIT), zeros(2, 5, 8, 8), r"\(N, 4, H, W\), got"),
]


@pytest.mark.parametrize("make, x, message", WRONG_SHAPES)
def test_a_wrong_shape_is_named(make, x, message):
    with pytest.raises(ShapeError, match=message):
        make().forward(x)


def test_labels_must_fit_the_logits():
    with pytest.raises(ShapeError, match=r"\(N,\) or \(N, K\), got \(2, 3\) and \(3,\)"):
        nn.CrossEntropyLoss().forward(zeros(2, 3), np.zeros(3, int))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_an_impossible_dropout_is_refused(p):
    with pytest.raises(UsageError, match="at least 0 and less than 1"):
        nn.Dropout(p)


def test_a_factor_of_zero_is_refused():
    with pytest.raises(UsageError, match="upsampling factor 0"):
        nn.Upsample(0)


def test_padding_that_fills_a_window_is_refused():
    with pytest.raises(UsageError, match="padding 2"):
        nn.MaxPool2d(3, 2, 2)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_an_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(UsageError, match="label smoothing"):
        nn.CrossEntropyLoss(smoothing)


def test_conv_output_shape_is_the_real_one():
    conv = nn.Conv2d(3, 4, 3, 2, 1, init=INIT)
    for size in [(7, 5), (8, 6), (1, 1)]:
        assert conv.output_shape((2, 3, *size)) == conv.forward(zeros(2, 3, *size)).shape


def test_batch_norm_counts_training_batches_alone():
    norm = nn.BatchNorm2d(3, init=INIT)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    norm.forward(x)
    norm.forward(x)
    norm.eval().forward(x)
    assert norm.state_dict()["num_batches_tracked"] == 2
    np.testing.assert_allclose(norm.running_mean.data, 0.19 * x.mean(axis=(0, 2, 3)), rtol=1e-5)


def test_a_frozen_batch_norm_uses_and_keeps_its_running_statistics():
    norm = nn.BatchNorm2d(3, init=INIT)
    x = np.random.default_rng(0).normal(2, 3, size=(2, 3, 4, 4)).astype(np.float32)
    norm.forward(x)
    before = {name: array.tobytes() for name, array in norm.state_dict().items()}
    wanted = norm.eval().forward(x)
    norm.train()
    norm.weight.frozen = norm.bias.frozen = True
    np.testing.assert_array_equal(norm.forward(x), wanted)
    grad_x = norm.backward(np.ones_like(x))
    inv_std = (norm.running_var.data + norm.eps) ** -0.5
    np.testing.assert_allclose(grad_x, np.broadcast_to(inv_std[:, None, None], x.shape), rtol=1e-6)
    assert {name: array.tobytes() for name, array in norm.state_dict().items()} == before
    assert not norm.weight.grad.any() and not norm.bias.grad.any()


def test_dropout_is_the_identity_in_evaluation_and_moves_with_the_step():
    drop, x = nn.Dropout(0.5, seed=1), np.ones((4, 50), np.float32)
    assert drop.eval().forward(x) is x
    drop.train()
    masks = []
    for step in (0, 1, 0):
        drop.set_step(step)
        masks.append(drop.forward(x))
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[0] != masks[1]).any()


def test_no_gradient_of_x_where_nobody_needs_it():
    conv = nn.Conv2d(3, 4, init=INIT)
    conv.need_grad_x = False
    y = conv.forward(np.ones((1, 3, 4, 4), np.float32))
    assert conv.backward(np.ones_like(y)) is None
    assert conv.weight.grad.any()


def test_loss_starts_the_chain_once():
    loss = nn.CrossEntropyLoss()
    value = loss(np.zeros((2, 4), np.float32), np.array([0, 1]))
    assert value.shape == () and value.dtype == np.float32
    np.testing.assert_allclose(loss.backward()[0], [-0.375, 0.125, 0.125, 0.125])
    with pytest.raises(RuntimeError, match="CrossEntropyLoss.backward"):
        loss.backward()


def test_sequential_is_a_sequence():
    relu, pool = nn.ReLU(), nn.GlobalAvgPool()
    chain = nn.Sequential(relu, pool)
    assert len(chain) == 2 and list(chain) == [relu, pool] and chain[1] is pool
    assert [name for name, _ in chain.named_children()] == ["0", "1"]


def test_biases_start_at_zero_and_batch_norm_as_the_identity_with_torch_s_eps_and_momentum():
    init = nn.Initializer(0)
    for layer in (nn.Conv2d(2, 3, bias=True, init=init), nn.Linear(2, 3, init=init)):
        np.testing.assert_array_equal(layer.bias.data, np.zeros(3))
    norm = nn.BatchNorm2d(3, init=init)
    np.testing.assert_array_equal(norm.weight.data, np.ones(3))
    np.testing.assert_array_equal(norm.bias.data, np.zeros(3))
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_batch_norm_is_frozen_only_with_both_of_its_parameters():
    norm = nn.BatchNorm2d(3, init=nn.Initializer(0)).train()
    for weight, bias in ((False, False), (True, False), (False, True), (True, True)):
        norm.weight.frozen, norm.bias.frozen = weight, bias
        assert norm.uses_batch_statistics == (not (weight and bias))


def test_a_small_share_may_be_dropped_and_images_enlarged_by_one():
    x = np.ones((50, 2, 4, 4))
    assert 0.02 < (nn.Dropout(0.05)(x) == 0).mean() < 0.08
    np.testing.assert_array_equal(nn.Upsample(1)(x), x)
