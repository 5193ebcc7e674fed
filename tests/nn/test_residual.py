from __future__ import annotations

import numpy as np
import pytest

from minires import nn
from minires.errors import BackwardError
from minires.nn import Initializer

BLOCKS = {
    "basic, identity": lambda i: nn.BasicBlock(4, 4, init=i),
    "basic, A": lambda i: nn.BasicBlock(4, 8, 2, shortcut="A", init=i),
    "basic, B": lambda i: nn.BasicBlock(4, 8, 2, shortcut="B", init=i),
    "basic, plain": lambda i: nn.BasicBlock(4, 8, 2, plain=True, init=i),
    "basic, dropout": lambda i: nn.BasicBlock(4, 4, dropout=nn.Dropout(0.5), init=i),
    "bottleneck, identity": lambda i: nn.Bottleneck(8, 2, init=i),
    "bottleneck, B": lambda i: nn.Bottleneck(4, 2, 2, shortcut="B", init=i),
}


def block_and_input(name):
    block = BLOCKS[name](Initializer(3, "float64"))
    return block, np.random.default_rng(0).normal(size=(2, block.conv1.in_channels, 6, 5))


def units_of(block):
    yield from block._units
    if isinstance(block.downsample, nn.Projection):
        yield block.downsample._unit


@pytest.mark.parametrize("name", BLOCKS)
def test_fused_and_one_by_one_agree(name):
    results = []
    for fused in (True, False):
        block, x = block_and_input(name)
        for unit in units_of(block):
            unit.fused = fused
        y = block(x)
        grad_x = block.backward(np.random.default_rng(1).normal(size=y.shape))
        grads = {f"the gradient of {name}": p.grad for name, p in block.named_parameters()}
        buffers = {name: b.data for name, b in block.named_buffers()}
        results.append({"y": y, "grad_x": grad_x} | grads | buffers)
    for name, wanted in results[1].items():
        found = results[0][name]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_observed_forward_pass_has_a_backward_pass(name):
    block, x = block_and_input(name)
    wanted = block.backward(np.ones_like(block(x)))
    block.zero_grad()
    with nn.observe(block, lambda *_: None):
        y = block(x)
    np.testing.assert_allclose(block.backward(np.ones_like(y)), wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(BackwardError):
        block.backward(np.ones_like(y))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_forward_pass_replaces_an_observed_one(name):
    block, x = block_and_input(name)
    with nn.observe(block, lambda *_: None):
        block(x)
    y = block(x)
    block.backward(np.ones_like(y))
    with pytest.raises(BackwardError):
        block.backward(np.ones_like(y))


def test_the_join_sums_both_gradients():
    # with gamma 0 the body is dead: y = relu(beta + x), and x gets the shortcut's share alone
    block = nn.BasicBlock(2, 2, init=Initializer(0, "float64"))
    block.zero_init_last_gamma()
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4))
    y = block(x)
    np.testing.assert_allclose(y, np.maximum(x, 0))
    grad = np.random.default_rng(1).normal(size=y.shape)
    np.testing.assert_allclose(block.backward(grad), np.where(x > 0, grad, 0))


def test_grad_x_is_that_of_the_body_plus_that_of_the_shortcut():
    # without its shortcut the block is its body; with beta 100 the last ReLU lets all through
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))
    grad_x = []
    for plain in (False, True):
        block = nn.BasicBlock(3, 3, plain=plain, init=Initializer(0, "float64"))
        block.bn2.bias.data[...] = 100
        block(x)
        grad_x.append(block.backward(grad))
    with_shortcut, body = grad_x
    assert abs(body).max() > 0.1
    np.testing.assert_allclose(with_shortcut, body + grad, atol=1e-12)


def test_a_plain_block_has_no_shortcut():
    block = nn.BasicBlock(2, 2, plain=True, init=Initializer(0, "float64"))
    block.zero_init_last_gamma()
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 4))
    np.testing.assert_array_equal(block(x), 0)
    assert block.downsample is None


@pytest.mark.parametrize(
    "args, kind",
    [((4, 4, 1), type(None)), ((4, 8, 1), nn.Projection), ((4, 4, 2), nn.Projection)],
)
def test_a_shortcut_stands_where_the_shape_changes(args, kind):
    block = nn.BasicBlock(*args, shortcut="B", init=Initializer(0))
    assert isinstance(block.downsample, kind)
    names = [name for name, _ in block.named_parameters() if name.startswith("downsample")]
    assert bool(names) == (kind is nn.Projection)


def test_shortcut_a_has_no_parameters():
    block = nn.BasicBlock(4, 8, 2, shortcut="A", init=Initializer(0))
    assert isinstance(block.downsample, nn.ShortcutA)
    assert not list(block.downsample.named_parameters())


def test_the_bottleneck_carries_its_stride_in_the_3x3():
    block = nn.Bottleneck(4, 2, 2, init=Initializer(0))
    assert [c.stride for c in (block.conv1, block.conv2, block.conv3)] == [1, 2, 1]
    assert [c.kernel_size for c in (block.conv1, block.conv2, block.conv3)] == [1, 3, 1]


@pytest.mark.parametrize("name", BLOCKS)
def test_in_evaluation_one_call_gives_what_the_units_give_one_by_one(name):
    block, x = block_and_input(name)
    block(x)  # so that the running statistics are not those of the start
    block.eval()
    together = block(x)
    for unit in units_of(block):
        unit.fused = False
    np.testing.assert_allclose(together, block(x), rtol=1e-12, atol=1e-12)


def test_a_frozen_batch_norm_in_training_keeps_what_backward_needs():
    block, x = block_and_input(next(iter(BLOCKS)))
    for unit in units_of(block):
        unit.batch_norm.eval()
    y = block(x)
    assert block.backward(np.ones_like(y)).shape == x.shape


def test_a_dropout_that_stays_in_training_drops_between_units_in_evaluation():
    block, x = block_and_input("basic, dropout")
    whole = block.eval()(x)
    block.dropout.train()
    assert not np.allclose(block(x), whole)
    block.dropout.eval()
    np.testing.assert_array_equal(block(x), whole)
