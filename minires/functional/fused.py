"""Operations that are worth running as one: convolution, batch norm, residual addition and ReLU.

On their own, these four read and write whole activations between them, and moving those costs more
time than the arithmetic of the last three. A kernel for the composition keeps the values at hand.
Its truth stays here: the reference is the four references called in turn.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, operation
from minires.functional.batch_norm import (
    BatchNormCache,
    batch_norm_backward,
    batch_norm_forward,
)
from minires.functional.conv import Conv2dCache, conv2d_backward, conv2d_forward
from minires.functional.relu import ReLUCache, relu_backward, relu_forward
from minires.functional.shortcut import add


class ConvBNReLUCache(NamedTuple):
    """The caches of the parts; `relu` is None where there was none.

    A cache serves one backward pass: a kernel may reuse the memory of the convolution's output,
    which only this cache holds.
    """

    conv: Conv2dCache
    batch_norm: BatchNormCache
    relu: ReLUCache | None
    has_shortcut: bool


@operation
def conv_bn_relu_forward(
    x: Array,
    weight: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    shortcut: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = True,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, ConvBNReLUCache]:
    """y = relu(batch_norm(conv(x)) + shortcut): y (N, K, P, Q) and the cache.

    x (N, C, H, W), weight (K, C, kh, kw), gamma, beta and the running buffers (K,), shortcut
    (N, K, P, Q) or None; `relu=False` leaves the last step out. The parts are `conv2d_forward`
    (without bias), `batch_norm_forward`, `add` and `relu_forward`.
    """
    y, conv = conv2d_forward(x, weight, None, stride, padding)
    y, batch_norm = batch_norm_forward(
        y, gamma, beta, running_mean, running_var, training, momentum, eps
    )
    if shortcut is not None:
        y = add(y, shortcut)
    relu_cache = None
    if relu:
        y, relu_cache = relu_forward(y)
    return y, ConvBNReLUCache(conv, batch_norm, relu_cache, shortcut is not None)


class EvaluationUnit(NamedTuple):
    """What one unit of `evaluate_units` is made of: `conv_bn_relu_forward`'s arguments."""

    weight: Array
    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    stride: int = 1
    padding: int = 0
    relu: bool = True
    eps: float = 1e-5


@operation
def evaluate_units(x: Array, units: list[EvaluationUnit], shortcut: Array | None = None) -> Array:
    """The body of a residual block in evaluation: its units in turn, the shortcut at the last.

    x (N, C, H, W); shortcut like the output, (N, K, P, Q), or None. Keeps no cache, so a kernel is
    free to let a few images through all units before the next few.
    """
    for number, unit in enumerate(units, 1):
        weight, gamma, beta, mean, var, stride, padding, relu, eps = unit
        x = conv_bn_relu_forward(
            x,
            weight,
            gamma,
            beta,
            mean,
            var,
            shortcut if number == len(units) else None,
            stride=stride,
            padding=padding,
            relu=relu,
            training=False,
            eps=eps,
        )[0]  # the cache, which holds the arrays between two units, dies here
    return x


@operation
def conv_bn_relu_backward(
    grad_output: Array, cache: ConvBNReLUCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array, Array, Array | None]:
    """grad_x, grad_weight, grad_gamma, grad_beta and grad_shortcut, shaped like their arrays.

    grad_output: (N, K, P, Q). The addition hands its gradient to both of its terms unchanged, so
    grad_shortcut is the gradient after the ReLU's backward pass, and None without a shortcut.
    """
    grad = grad_output
    if cache.relu is not None:
        grad = relu_backward(grad, cache.relu)
    grad_shortcut = grad if cache.has_shortcut else None
    grad, grad_gamma, grad_beta = batch_norm_backward(grad, cache.batch_norm)
    grad_x, grad_weight, _ = conv2d_backward(grad, cache.conv, need_grad_x)
    return grad_x, grad_weight, grad_gamma, grad_beta, grad_shortcut
