"""Wrong backward passes, one for each way to get them wrong: see `minires.analysis.planted_bugs`.

Each broken function gets the correct one as its first argument, `right`, and gives back what people
write by mistake. Most were met in real code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minires.functional.batch_norm import per_channel
from minires.functional.conv import Conv2dCache, pad_spatial, windows


@dataclass(frozen=True)
class Bug:
    """One bug: what is wrong, in which function, and which checks concern it.

    `target` is an operation, or `Class.method`; `cases` are patterns for the names of checks.
    """

    name: str
    target: str
    broken: Callable
    cases: tuple[str, ...]


BUGS: list[Bug] = []


def bug(target: str, name: str, *cases: str) -> Callable[[Callable], Callable]:
    """Enter the decorated function in the list of bugs, as a wrong version of `target`."""

    def register(function: Callable) -> Callable:
        BUGS.append(Bug(name, target, function, cases))
        return function

    return register


# --- convolution ----------------------------------------------------------------------------


@bug("conv2d_backward", "the kernel is flipped in grad_x", "conv2d: 3x3*")
def _flipped_kernel(right, grad_output, cache, need_grad_x=True):
    flipped = cache._replace(weight=cache.weight[:, :, ::-1, ::-1])
    return right(grad_output, flipped, need_grad_x)


@bug("conv2d_backward", "grad_weight reads the windows at stride 1", "conv2d: *stride*")
def _wrong_stride(right, grad_output, cache: Conv2dCache, need_grad_x=True):
    grad_x, _, grad_bias = right(grad_output, cache, need_grad_x)
    p, q = grad_output.shape[2:]
    padded = pad_spatial(cache.x, cache.padding)
    view = windows(padded, cache.weight.shape[2:], 1)[:, :, :p, :q]
    return grad_x, np.einsum("nkpq,ncpqij->kcij", grad_output, view), grad_bias


@bug("conv2d_backward", "the axes of the kernel are swapped in grad_weight", "conv2d: 3x3*")
def _swapped_kernel_axes(right, grad_output, cache, need_grad_x=True):
    grad_x, grad_weight, grad_bias = right(grad_output, cache, need_grad_x)
    return grad_x, grad_weight.swapaxes(2, 3), grad_bias


@bug("conv2d_backward", "the padding is cut off at the wrong end of grad_x", "conv2d: 3x3*")
def _wrong_crop(right, grad_output, cache, need_grad_x=True):
    grad_x, grad_weight, grad_bias = right(grad_output, cache, need_grad_x)
    return np.roll(grad_x, cache.padding, axis=(2, 3)), grad_weight, grad_bias


@bug("conv2d_backward", "overlapping windows overwrite each other in grad_x", "conv2d: 3x3*")
def _overwritten_windows(right, grad_output, cache: Conv2dCache, need_grad_x=True):
    _, grad_weight, grad_bias = right(grad_output, cache, need_grad_x)
    n, c, h, w = cache.x.shape
    edge, stride = cache.padding, cache.stride
    p, q = grad_output.shape[2:]
    padded = np.zeros((n, c, h + 2 * edge, w + 2 * edge))
    for i, j in np.ndindex(cache.weight.shape[2:]):
        share = np.einsum("nkpq,kc->ncpq", grad_output, cache.weight[:, :, i, j])
        padded[:, :, i : i + stride * p : stride, j : j + stride * q : stride] = share
    return padded[:, :, edge : edge + h, edge : edge + w], grad_weight, grad_bias


@bug("conv2d_backward", "grad_bias is a mean over the batch", "conv2d: *bias*")
def _mean_bias(right, grad_output, cache, need_grad_x=True):
    grad_x, grad_weight, grad_bias = right(grad_output, cache, need_grad_x)
    return grad_x, grad_weight, None if grad_bias is None else grad_bias / len(grad_output)


@bug("Conv2d.backward", "the gradient of the bias is forgotten", "Conv2d: bias")
def _forgotten_bias(right, layer, grad_output):
    before = layer.bias.grad.copy()
    grad_x = right(layer, grad_output)
    layer.bias.grad[...] = before
    return grad_x


# --- batch norm -----------------------------------------------------------------------------


def _term(cache, sums):
    """gamma / sqrt(var + eps) * sums / M, per channel: a term of grad_x."""
    n, _, h, w = cache.x.shape
    return per_channel(cache.weight * cache.inv_std * sums / (n * h * w), cache.x.dtype)


def _x_hat(cache):
    dtype = cache.x.dtype
    return (cache.x - per_channel(cache.mean, dtype)) * per_channel(cache.inv_std, dtype)


@bug("batch_norm_backward", "the term through the mean is missing", "batch_norm:*")
def _no_mean_term(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    if cache.batch_statistics:
        grad_x = grad_x + _term(cache, grad_bias)
    return grad_x, grad_weight, grad_bias


@bug("batch_norm_backward", "the term through the variance is missing", "batch_norm:*")
def _no_variance_term(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    if cache.batch_statistics:
        grad_x = grad_x + _x_hat(cache) * _term(cache, grad_weight)
    return grad_x, grad_weight, grad_bias


@bug("batch_norm_backward", "the term through the variance has the wrong sign", "batch_norm:*")
def _wrong_sign(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    if cache.batch_statistics:
        grad_x = grad_x + 2 * _x_hat(cache) * _term(cache, grad_weight)
    return grad_x, grad_weight, grad_bias


@bug("batch_norm_backward", "gamma is missing in grad_x", "batch_norm:*")
def _no_gamma(right, grad_output, cache):
    ones = cache._replace(weight=np.ones_like(cache.weight))
    return right(grad_output, ones)


@bug("batch_norm_backward", "means are taken over the batch alone", "batch_norm:*")
def _means_over_batch(right, grad_output, cache):
    _, grad_weight, grad_bias = right(grad_output, cache)
    x_hat = _x_hat(cache)
    grad_x = grad_output - grad_output.mean(axis=0) - x_hat * (grad_output * x_hat).mean(axis=0)
    return grad_x * per_channel(cache.weight * cache.inv_std, np.float64), grad_weight, grad_bias


@bug("batch_norm_backward", "means are divided by M - 1", "batch_norm:*")
def _unbiased_means(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    if cache.batch_statistics:
        n, _, h, w = cache.x.shape
        terms = _term(cache, grad_bias) + _x_hat(cache) * _term(cache, grad_weight)
        grad_x = grad_x - terms / (n * h * w - 1)
    return grad_x, grad_weight, grad_bias


@bug("batch_norm_backward", "epsilon is forgotten", "batch_norm: variance near epsilon")
def _no_epsilon(right, grad_output, cache):
    return right(grad_output, cache._replace(inv_std=cache.x.std(axis=(0, 2, 3)) ** -1.0))


@bug(
    "batch_norm_backward",
    "running statistics are treated as the batch's",
    "batch_norm: running*",
)
def _running_as_batch(right, grad_output, cache):
    return right(grad_output, cache._replace(batch_statistics=True))


@bug("batch_norm_backward", "grad_gamma uses x instead of its normalised form", "batch_norm:*")
def _raw_x(right, grad_output, cache):
    grad_x, _, grad_bias = right(grad_output, cache)
    return grad_x, (grad_output * cache.x).sum(axis=(0, 2, 3)), grad_bias


@bug("BatchNorm1d.backward", "the batch's statistics are treated as constants", "BatchNorm1d:*")
def _constant_statistics(right, layer, grad_output):
    layer._cache = layer._cache._replace(batch_statistics=False)
    return right(layer, grad_output)


@bug("batch_norm_backward", "the incoming gradient is overwritten", "block", "conv_bn_relu:*")
def _overwritten_gradient(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    grad_output[...] = grad_x
    return grad_output, grad_weight, grad_bias


# --- ReLU, pooling, dropout, resizing -------------------------------------------------------


@bug("relu_backward", "the mask is ignored", "relu:*")
def _no_mask(right, grad_output, cache):
    return grad_output


@bug("relu_backward", "the mask is that of the gradient, not of the input", "relu:*")
def _gradient_mask(right, grad_output, cache):
    return grad_output * (grad_output > 0)


@bug("max_pool2d_backward", "the gradient goes to the first pixel of each window", "max_pool2d:*")
def _first_pixel(right, grad_output, cache):
    return right(grad_output, cache._replace(winner=np.zeros_like(cache.winner)))


@bug("max_pool2d_backward", "row and column of the winner are swapped", "max_pool2d:*")
def _swapped_winner(right, grad_output, cache):
    row, column = np.divmod(cache.winner, cache.kernel_size)
    return right(grad_output, cache._replace(winner=column * cache.kernel_size + row))


@bug("max_pool2d_backward", "the whole window shares the gradient", "max_pool2d:*")
def _shared_window(right, grad_output, cache):
    area = cache.kernel_size**2
    shares = [
        right(grad_output / area, cache._replace(winner=np.full_like(cache.winner, index)))
        for index in range(area)
    ]
    return sum(shares)


@bug("global_avg_pool_backward", "the factor 1/(H W) is missing", "global_avg_pool:*")
def _sum_pool(right, grad_output, cache):
    return right(grad_output, cache) * (cache.x_shape[2] * cache.x_shape[3])


@bug("global_avg_pool_backward", "the factor is 1/H^2", "global_avg_pool:*")
def _square_images(right, grad_output, cache):
    return right(grad_output, cache) * (cache.x_shape[3] / cache.x_shape[2])


@bug("dropout_backward", "the scaling by 1/(1 - p) is missing", "dropout:*")
def _unscaled_dropout(right, grad_output, cache):
    return grad_output * (cache.factor > 0)


@bug("dropout_backward", "the mask is shifted by one", "dropout:*")
def _other_mask(right, grad_output, cache):
    return right(grad_output, cache._replace(factor=np.roll(cache.factor, 1)))


@bug("upsample_backward", "the copies are averaged instead of added", "upsample:*")
def _averaged_copies(right, grad_output, cache):
    return right(grad_output, cache) / cache.factor**2


@bug("upsample_backward", "only the first of the copies counts", "upsample:*")
def _first_copy(right, grad_output, cache):
    return grad_output[:, :, :: cache.factor, :: cache.factor]


@bug("flatten_backward", "the channels are taken for the last axis", "flatten:*")
def _channels_last(right, grad_output, cache):
    n, c, h, w = cache.x_shape
    return grad_output.reshape(n, h, w, c).transpose(0, 3, 1, 2)


# --- linear and loss ------------------------------------------------------------------------


@bug("linear_backward", "the weights are transposed in grad_x", "linear: square")
def _transposed_weight(right, grad_output, cache):
    _, grad_weight, grad_bias = right(grad_output, cache)
    return grad_output @ cache.weight.T, grad_weight, grad_bias


@bug("linear_backward", "grad_weight has the wrong sign", "linear:*")
def _negative_weight(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    return grad_x, -grad_weight, grad_bias


@bug("linear_backward", "grad_bias is that of the first image", "linear:*")
def _first_image_bias(right, grad_output, cache):
    grad_x, grad_weight, grad_bias = right(grad_output, cache)
    return grad_x, grad_weight, None if grad_bias is None else grad_output[0]


@bug("cross_entropy_backward", "the gradient is not divided by N", "cross_entropy:*")
def _not_divided(right, cache):
    return right(cache) * len(cache.targets)


@bug("cross_entropy_backward", "label smoothing is forgotten", "cross_entropy: label smoothing")
def _hard_targets(right, cache):
    hard = (cache.targets == cache.targets.max(axis=1, keepdims=True)).astype(np.float64)
    return right(cache._replace(targets=hard))


@bug("cross_entropy_backward", "the softmax is forgotten", "cross_entropy:*")
def _no_softmax(right, cache):
    return -cache.targets / len(cache.targets)


# --- residual blocks and bookkeeping --------------------------------------------------------


@bug("shortcut_a_backward", "the first channels are taken instead of the middle", "shortcut_a:*")
def _wrong_channels(right, grad_output, cache):
    return right(grad_output, cache._replace(first=0))


@bug("shortcut_a_backward", "the pixels are one off", "shortcut_a:*")
def _wrong_pixels(right, grad_output, cache):
    return np.roll(right(grad_output, cache), 1, axis=(2, 3))


def _body_and_shortcut(block, grad_output):
    """The two gradients that meet where x forked; the second is None in a plain block."""
    grad_body, grad_shortcut = block._units[-1].backward(grad_output)
    if block.dropout is not None:
        grad_body = block.dropout.backward(grad_body)
    for unit in reversed(block._units[:-1]):
        grad_body, _ = unit.backward(grad_body)
    if block.downsample is not None:
        grad_shortcut = block.downsample.backward(grad_shortcut)
    return grad_body, grad_shortcut


@bug("ResidualBlock.backward", "only the body's gradient leaves the block", "block")
def _only_body(right, block, grad_output):
    grad_body, _ = _body_and_shortcut(block, grad_output)
    return grad_body


@bug("ResidualBlock.backward", "only the shortcut's gradient leaves the block", "block")
def _only_shortcut(right, block, grad_output):
    grad_body, grad_shortcut = _body_and_shortcut(block, grad_output)
    return grad_body if grad_shortcut is None else grad_shortcut


@bug("ResidualBlock.backward", "the shortcut's gradient is added twice", "block")
def _twice(right, block, grad_output):
    grad_body, grad_shortcut = _body_and_shortcut(block, grad_output)
    return grad_body if grad_shortcut is None else grad_body + 2 * grad_shortcut


@bug(
    "conv_bn_relu_backward",
    "the shortcut's gradient skips the ReLU",
    "conv_bn_relu: shortcut",
    "block",
)
def _unmasked_shortcut(right, grad_output, cache, need_grad_x=True):
    *gradients, grad_shortcut = right(grad_output, cache, need_grad_x)
    return *gradients, None if grad_shortcut is None else grad_output


@bug("Parameter.accumulate", "a new gradient replaces the old one", "*two batches*")
def _replaced_gradient(right, parameter, grad):
    parameter.grad[...] = grad


@bug("Module.zero_grad", "the old gradients are kept", "*two batches*")
def _stale_gradient(right, module):
    return None
