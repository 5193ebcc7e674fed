"""Convolution, batch norm, residual addition and ReLU as few passes as they need.

Forward: the convolution, whose epilogue leaves the moments where the implicit product runs; the
merging of the moments; one pass that normalises, adds and rectifies. Backward: one pass for the
sums, one for the gradient of the convolution's output, and the convolution's two gradients. The
ReLU's mask is recomputed from the convolution's output; where a shortcut was added it comes from
the unit's output, and the masked gradient is kept, because it is the shortcut's gradient too.
"""

from __future__ import annotations

from minires.backend import Array, kernel
from minires.functional.conv import Conv2dCache
from minires.functional.fused import ConvBNReLUCache
from minires.functional.relu import ReLUCache
from minires.kernels.cuda.arrays import is_activation, logical, to_nhwc
from minires.kernels.cuda.batch_norm import (
    EVERYWHERE,
    RECOMPUTED,
    STORED,
    AffineCache,
    are_parameters,
    backward,
    batch_affine,
    finish_moments,
    normalize,
    running_affine,
)
from minires.kernels.cuda.conv2d import strategy


@kernel("conv_bn_relu_forward", "gpu")
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
    """`functional.fused.conv_bn_relu_forward`."""
    conv = strategy(x, weight, stride, padding)
    vectors = (gamma, beta, running_mean, running_var)
    if conv is None or not are_parameters(*vectors) or not is_activation(x, shortcut):
        return NotImplemented
    x_nhwc = to_nhwc(x)
    y, partial = conv.forward(x_nhwc, weight, moments=training)
    if not training:
        affine = running_affine(*vectors, eps)
    elif partial is None:
        affine = batch_affine(y, *vectors, momentum, eps)
    else:
        rows = y.size // y.shape[-1]
        affine = finish_moments(partial, conv.slab, rows, *vectors, momentum, eps)
    extra = None if shortcut is None else to_nhwc(shortcut)
    out = logical(normalize(y, affine, extra, relu))
    norm = AffineCache(logical(y), gamma, affine.mean, affine.inv_std, training)
    norm.affine = affine
    cache = ConvBNReLUCache(
        Conv2dCache(logical(x_nhwc), weight, False, stride, padding),
        norm,
        ReLUCache(out) if relu else None,
        shortcut is not None,
    )
    return out, cache


@kernel("conv_bn_relu_backward", "gpu")
def conv_bn_relu_backward(
    grad_output: Array, cache: ConvBNReLUCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array, Array, Array | None]:
    """`functional.fused.conv_bn_relu_backward`."""
    x, weight, _, stride, padding = cache.conv
    norm = cache.batch_norm
    affine = getattr(norm, "affine", None)
    conv = strategy(x, weight, stride, padding)
    if affine is None or conv is None or not is_activation(grad_output, norm.x, x):
        return NotImplemented
    mask, out = EVERYWHERE, None
    if cache.relu is not None:
        mask = STORED if cache.has_shortcut else RECOMPUTED
        out = to_nhwc(cache.relu.y) if mask == STORED else None
    grad = to_nhwc(grad_output)
    result = backward(
        grad, to_nhwc(norm.x), affine, norm.weight, norm.batch_statistics, out, mask
    )
    grad_x = logical(conv.input_gradient(result.y, weight)) if need_grad_x else None
    grad_shortcut = None
    if cache.has_shortcut:
        grad_shortcut = logical(grad if result.masked is None else result.masked)
    grad_weight = conv.weight_gradient(to_nhwc(x), result.y)
    return grad_x, grad_weight, result.gamma, result.beta, grad_shortcut
