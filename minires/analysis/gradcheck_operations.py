"""The cases of the gradient check: every operation of `minires.functional`, on awkward shapes.

Names read `operation: what is special`. Unequal H and W, odd sizes, one image, one channel, strides
that leave pixels over, and arrays in unusual memory orders are where wrong code hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minires import functional as F
from minires.analysis.gradcheck import HWIO, HWNC, NHWC, STRIDED, Case, Draw, Problem
from minires.backend import Array
from minires.functional.conv import conv_output_size


def operation_cases() -> list[Case]:
    """All cases of this file."""
    groups = (
        _convolutions,
        _batch_norms,
        _relus,
        _poolings,
        _linears,
        _dropouts,
        _shortcuts,
        _fused,
    )
    return [
        Case(name, "operation", make) for group in groups for name, make in group()
    ]


Cases = Iterator[tuple[str, Callable[[Draw], Problem]]]


def problem_of(
    forward: Callable[..., tuple[Array, Any]],
    backward: Callable[[Array, Any], tuple],
    grad_order: Any = None,
    **inputs: Array,
) -> Problem:
    """The problem of a pair of functions.

    `forward(**inputs)` returns the output and the cache, `backward(grad_output, cache)` a tuple of
    gradients in the order of `inputs`.
    """

    def gradients(grad_output: Array) -> dict[str, Array]:
        _, cache = forward(**inputs)
        return dict(zip(inputs, backward(grad_output, cache), strict=True))

    return Problem(inputs, lambda: forward(**inputs)[0], gradients, grad_order)


# --- convolution ----------------------------------------------------------------------------


def convolution(
    x_shape: tuple[int, int, int, int],
    filters: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    *,
    bias: bool = False,
    order: Any = None,
    weight_order: Any = None,
) -> Callable[[Draw], Problem]:
    """The problem of one convolution; `order` is that of x and of the upstream gradient."""

    def make(draw: Draw) -> Problem:
        inputs = {
            "x": draw.normal(*x_shape, order=order),
            "weight": draw.normal(filters, x_shape[1], *kernel, order=weight_order),
        }
        if bias:
            inputs["bias"] = draw.normal(filters)

        def forward(x, weight, bias=None):
            return F.conv2d_forward(x, weight, bias, stride, padding)

        def backward(grad_output, cache):
            return F.conv2d_backward(grad_output, cache)[: len(inputs)]

        return problem_of(forward, backward, order, **inputs)

    return make


def _convolutions() -> Cases:
    c = convolution
    yield "conv2d: 3x3", c((2, 3, 5, 4), 4, (3, 3), 1, 1)
    yield "conv2d: 3x3, bias", c((2, 3, 5, 4), 4, (3, 3), 1, 1, bias=True)
    yield "conv2d: 3x3, no padding", c((2, 2, 4, 6), 3, (3, 3), 1, 0, bias=True)
    yield "conv2d: 3x3, stride 2, odd image", c((2, 2, 5, 7), 3, (3, 3), 2, 1)
    yield "conv2d: 3x3, stride 2, even image", c((2, 2, 6, 4), 3, (3, 3), 2, 1, bias=True)
    yield "conv2d: 3x3, stride 2, no padding, pixels left over", c((2, 2, 6, 8), 2, (3, 3), 2, 0)
    yield "conv2d: 3x3, stride 3", c((1, 2, 8, 7), 2, (3, 3), 3, 1)
    yield "conv2d: 1x1", c((2, 3, 4, 3), 2, (1, 1))
    yield "conv2d: 1x1, stride 2", c((2, 3, 5, 4), 2, (1, 1), 2, 0)
    yield "conv2d: 5x5", c((1, 2, 5, 6), 2, (5, 5), 1, 2, bias=True)
    yield "conv2d: 5x5, stride 2", c((1, 2, 7, 6), 2, (5, 5), 2, 0)
    yield "conv2d: 2x3 kernel", c((2, 2, 4, 5), 3, (2, 3), 1, 1)
    yield "conv2d: one image, one channel, one filter", c((1, 1, 4, 3), 1, (3, 3), 1, 1, bias=True)
    yield "conv2d: one pixel", c((2, 3, 1, 1), 2, (3, 3), 1, 1)
    yield "conv2d: arrays with gaps", c(
        (2, 2, 4, 5), 3, (3, 3), 1, 1, order=STRIDED, weight_order=STRIDED
    )
    yield "conv2d: H,W,N,C and H,W,I,O in memory", c(
        (2, 3, 5, 4), 2, (3, 3), 1, 1, order=HWNC, weight_order=HWIO
    )
    yield "conv2d: H,W,N,C and H,W,I,O in memory, stride 2", c(
        (2, 3, 5, 4), 2, (3, 3), 2, 1, order=HWNC, weight_order=HWIO
    )
    yield "conv2d: N,H,W,C and O,H,W,I in memory", c(
        (2, 3, 4, 5), 2, (3, 3), 1, 1, order=NHWC, weight_order=NHWC
    )


# --- batch norm -----------------------------------------------------------------------------


def batch_norm(
    shape: tuple[int, int, int, int],
    training: bool = True,
    *,
    order: Any = None,
    mean: float = 0.0,
    scale: float = 1.0,
) -> Callable[[Draw], Problem]:
    """The problem of one batch norm, with the batch's statistics or the running ones."""

    def make(draw: Draw) -> Problem:
        channels = shape[1]
        running_mean = draw.normal(channels)
        running_var = draw.uniform(channels, low=0.5, high=2.0)

        def forward(x, weight, bias):
            return F.batch_norm_forward(x, weight, bias, running_mean, running_var, training)

        x = draw.normal(*shape, scale=scale, order=order)
        x += mean
        return problem_of(
            forward,
            lambda grad_output, cache: F.batch_norm_backward(grad_output, cache),
            order,
            x=x,
            weight=draw.away_from_zero(channels),
            bias=draw.normal(channels),
        )

    return make


def _batch_norms() -> Cases:
    yield "batch_norm: training", batch_norm((3, 2, 4, 5))
    yield "batch_norm: one image", batch_norm((1, 3, 3, 4))
    yield "batch_norm: one channel", batch_norm((2, 1, 3, 5))
    yield "batch_norm: one pixel", batch_norm((5, 2, 1, 1))
    yield "batch_norm: far from zero", batch_norm((3, 2, 3, 4), mean=20.0)
    yield "batch_norm: variance near epsilon", batch_norm((3, 2, 3, 4), scale=0.03)
    yield "batch_norm: an array with gaps", batch_norm((2, 3, 3, 2), order=STRIDED)
    yield "batch_norm: H,W,N,C in memory", batch_norm((2, 3, 3, 2), order=HWNC)
    yield "batch_norm: running statistics", batch_norm((2, 3, 3, 4), False)
    yield "batch_norm: running statistics, H,W,N,C in memory", batch_norm(
        (2, 3, 3, 4), False, order=HWNC
    )


# --- operations without parameters ----------------------------------------------------------


def one_input(
    draw_x: Callable[[Draw], Array],
    forward: Callable[[Array], tuple[Array, Any]],
    backward: Callable[[Array, Any], Array],
    grad_order: Any = None,
) -> Callable[[Draw], Problem]:
    """The problem of an operation of x alone."""

    def make(draw: Draw) -> Problem:
        return problem_of(
            lambda x: forward(x), lambda g, cache: (backward(g, cache),), grad_order, x=draw_x(draw)
        )

    return make


def _relu(shape: tuple[int, ...], order: Any = None) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.away_from_zero(*shape, order=order),
        lambda x: F.relu_forward(x),
        lambda g, cache: F.relu_backward(g, cache),
        order,
    )


def _relus() -> Cases:
    yield "relu: images", _relu((2, 3, 4, 5))
    yield "relu: vectors", _relu((3, 4))
    yield "relu: an array with gaps", _relu((2, 2, 3, 4), STRIDED)
    yield "relu: H,W,N,C in memory", _relu((2, 2, 3, 4), HWNC)


def max_pool(
    shape: tuple[int, ...], kernel: int, stride: int, padding: int = 0, order: Any = None
) -> Callable[[Draw], Problem]:
    """The problem of one max pool over values that are no ties."""
    return one_input(
        lambda draw: draw.distinct(*shape, order=order),
        lambda x: F.max_pool2d_forward(x, kernel, stride, padding),
        lambda g, cache: F.max_pool2d_backward(g, cache),
        order,
    )


def _global_avg_pool(shape: tuple[int, ...], order: Any = None) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.normal(*shape, order=order),
        lambda x: F.global_avg_pool_forward(x),
        lambda g, cache: F.global_avg_pool_backward(g, cache),
    )


def _poolings() -> Cases:
    yield "max_pool2d: 2x2", max_pool((2, 3, 4, 6), 2, 2)
    yield "max_pool2d: 2x2, odd image", max_pool((2, 2, 5, 7), 2, 2)
    yield "max_pool2d: 3x3, overlapping", max_pool((2, 2, 5, 6), 3, 1)
    yield "max_pool2d: 3x3, stride 2, padding 1", max_pool((2, 2, 5, 6), 3, 2, 1)
    yield "max_pool2d: stride larger than the window", max_pool((1, 2, 7, 8), 2, 3)
    yield "max_pool2d: one image, one channel", max_pool((1, 1, 4, 3), 3, 1)
    yield "max_pool2d: an array with gaps", max_pool((2, 2, 4, 5), 2, 2, 0, STRIDED)
    yield "max_pool2d: H,W,N,C in memory", max_pool((2, 3, 4, 5), 3, 2, 1, HWNC)
    yield "global_avg_pool: 4x5 image", _global_avg_pool((2, 3, 4, 5))
    yield "global_avg_pool: one pixel", _global_avg_pool((3, 2, 1, 1))
    yield "global_avg_pool: an array with gaps", _global_avg_pool((1, 2, 3, 4), STRIDED)
    yield "global_avg_pool: H,W,N,C in memory", _global_avg_pool((2, 3, 2, 3), HWNC)


def _dropout(shape: tuple[int, ...], p: float, order: Any = None) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.normal(*shape, order=order),
        lambda x: F.dropout_forward(x, p, seed=7, layer=1, step=3),
        lambda g, cache: F.dropout_backward(g, cache),
        order,
    )


def _dropouts() -> Cases:
    yield "dropout: p 0.3, fixed mask", _dropout((2, 3, 4, 5), 0.3)
    yield "dropout: p 0.8, vectors", _dropout((4, 9), 0.8)
    yield "dropout: p 0", _dropout((2, 5), 0.0)
    yield "dropout: H,W,N,C in memory", _dropout((2, 3, 4, 2), 0.5, HWNC)


def _shortcut_a(
    shape: tuple[int, ...], channels: int, stride: int, order: Any = None
) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.normal(*shape, order=order),
        lambda x: F.shortcut_a_forward(x, channels, stride),
        lambda g, cache: F.shortcut_a_backward(g, cache),
        order,
    )


def _add(draw: Draw) -> Problem:
    return problem_of(
        lambda a, b: (F.add(a, b), None),
        lambda grad_output, _: (grad_output, grad_output),
        a=draw.normal(2, 3, 4, 5),
        b=draw.normal(2, 3, 4, 5, order=HWNC),
    )


def _shortcuts() -> Cases:
    yield "shortcut_a: stride 2", _shortcut_a((2, 2, 4, 6), 4, 2)
    yield "shortcut_a: stride 2, odd image, odd channels", _shortcut_a((2, 3, 5, 7), 6, 2)
    yield "shortcut_a: stride 1", _shortcut_a((1, 1, 3, 4), 4, 1)
    yield "shortcut_a: H,W,N,C in memory", _shortcut_a((2, 2, 5, 4), 4, 2, HWNC)
    yield "add: two memory orders", _add


# --- linear and loss ------------------------------------------------------------------------


def _linear(
    n: int, c: int, k: int, bias: bool = True, order: Any = None
) -> Callable[[Draw], Problem]:
    def make(draw: Draw) -> Problem:
        inputs = {"x": draw.normal(n, c, order=order), "weight": draw.normal(k, c, order=order)}
        if bias:
            inputs["bias"] = draw.normal(k)
        return problem_of(
            lambda x, weight, bias=None: F.linear_forward(x, weight, bias),
            lambda g, cache: F.linear_backward(g, cache)[: len(inputs)],
            order,
            **inputs,
        )

    return make


def _linears() -> Cases:
    yield "linear: bias", _linear(3, 4, 5)
    yield "linear: square", _linear(3, 3, 3)
    yield "linear: no bias", _linear(2, 5, 3, bias=False)
    yield "linear: one image, one output", _linear(1, 4, 1)
    yield "linear: arrays with gaps", _linear(3, 4, 2, order=STRIDED)
    yield "linear: transposed in memory", _linear(3, 4, 2, order=(1, 0))


# --- compositions ---------------------------------------------------------------------------


def conv_bn_relu(
    x_shape: tuple[int, int, int, int],
    filters: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    shortcut: bool = False,
    relu: bool = True,
    training: bool = True,
    order: Any = None,
) -> Callable[[Draw], Problem]:
    """The problem of a convolution with batch norm and, on request, addition and ReLU."""

    def make(draw: Draw) -> Problem:
        n, c, h, w = x_shape
        padding = kernel // 2
        out = [conv_output_size(size, kernel, stride, padding) for size in (h, w)]
        weight_order = HWIO if order == HWNC else None
        inputs = {
            "x": draw.normal(*x_shape, order=order),
            "weight": draw.normal(filters, c, kernel, kernel, order=weight_order),
            "gamma": draw.away_from_zero(filters),
            "beta": draw.normal(filters),
        }
        if shortcut:
            inputs["shortcut"] = draw.normal(n, filters, *out, order=order)
        running = draw.normal(filters), draw.uniform(filters, low=0.5, high=2.0)

        def forward(x, weight, gamma, beta, shortcut=None):
            return F.conv_bn_relu_forward(
                *(x, weight, gamma, beta, *running, shortcut),
                stride=stride,
                padding=padding,
                relu=relu,
                training=training,
            )

        def backward(grad_output, cache):
            return F.conv_bn_relu_backward(grad_output, cache)[: len(inputs)]

        return problem_of(forward, backward, order, **inputs)

    return make


def _fused() -> Cases:
    yield "conv_bn_relu: 3x3", conv_bn_relu((2, 2, 4, 3), 3)
    yield "conv_bn_relu: stride 2", conv_bn_relu((2, 2, 5, 4), 3, stride=2)
    yield "conv_bn_relu: shortcut", conv_bn_relu((2, 2, 3, 4), 2, shortcut=True)
    yield "conv_bn_relu: no ReLU", conv_bn_relu((2, 2, 4, 3), 3, 1, 2, relu=False)
    yield "conv_bn_relu: shortcut, no ReLU", conv_bn_relu(
        (2, 2, 3, 4), 2, shortcut=True, relu=False
    )
    yield "conv_bn_relu: running statistics", conv_bn_relu(
        (2, 2, 4, 3), 2, shortcut=True, training=False
    )
    yield "conv_bn_relu: H,W,N,C in memory", conv_bn_relu(
        (2, 2, 4, 3), 2, shortcut=True, order=HWNC
    )
