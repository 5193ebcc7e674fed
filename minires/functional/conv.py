r"""Two-dimensional convolution: the forward pass and both gradients.

Every output pixel looks at one window of the padded input and takes its dot product with each
filter. With stride $s$, $K$ filters, $C$ input channels and $\tilde x$ for the padded input,

$$ y_{n,k,p,q} = b_k + \sum_{c,i,j} w_{k,c,i,j}\; \tilde x_{n,c,\,sp+i,\,sq+j} $$

(As everywhere in deep learning, the filter is not flipped: mathematicians call this
cross-correlation.)
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, array_module, operation


class Conv2dCache(NamedTuple):
    """What `conv2d_backward` needs: x (N, C, H, W), weight (K, C, kh, kw) and the geometry."""

    x: Array
    weight: Array
    has_bias: bool
    stride: int
    padding: int


def conv_output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """The number of windows along one axis: floor((size + 2 padding - kernel) / stride) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def pad_spatial(x: Array, padding: int, value: float = 0.0) -> Array:
    """x (N, C, H, W) with `padding` rows and columns of `value` around each image."""
    if padding == 0:
        return x
    edge = (padding, padding)
    return array_module(x).pad(x, ((0, 0), (0, 0), edge, edge), constant_values=value)


def windows(x: Array, kernel: tuple[int, int], stride: int) -> Array:
    """Every window of x (N, C, H, W), as a view (N, C, P, Q, kh, kw) that copies nothing."""
    xp = array_module(x)
    view = xp.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    return view[:, :, ::stride, ::stride]


@operation
def conv2d_forward(
    x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
) -> tuple[Array, Conv2dCache]:
    """Convolve x (N, C, H, W) with weight (K, C, kh, kw): y (N, K, P, Q) and the cache.

    bias: (K,) or None. P and Q are `conv_output_size` of H and W. The dot products of all windows
    with all filters are one matrix product, (N P Q, kh kw C) times (kh kw C, K).
    Source: Chellapilla, Puri and Simard 2006, "High performance convolutional neural networks for
    document processing", section 3.
    """
    xp = array_module(x)
    view = windows(pad_spatial(x, padding), weight.shape[2:], stride)
    y = xp.tensordot(view, weight, axes=((4, 5, 1), (2, 3, 1)))  # (N, P, Q, K)
    if bias is not None:
        y += bias
    return y.transpose(0, 3, 1, 2), Conv2dCache(x, weight, bias is not None, stride, padding)


@operation
def conv2d_backward(
    grad_output: Array, cache: Conv2dCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array | None]:
    r"""The gradients of a convolution: grad_x (N, C, H, W), grad_weight (K, C, kh, kw), grad_bias.

    grad_output: (N, K, P, Q). Write $g$ for it, $L$ for the loss, $\tilde x$ for the padded input:

    $$ \partial L/\partial w_{k,c,i,j} = \sum_{n,p,q} g_{n,k,p,q}\; \tilde x_{n,c,\,sp+i,\,sq+j}
       \qquad \partial L/\partial\tilde x_{n,c,u,v} =
           \sum_{k,i,j,p,q:\; sp+i=u,\, sq+j=v} g_{n,k,p,q}\; w_{k,c,i,j} $$

    A weight was used at every position, so its gradient sums over all of them; a pixel was seen by
    every window that covers it, and each sends its share back; that of the border is cut off.
    grad_bias (K,) is the sum of grad_output over images and positions, or None without a bias;
    grad_x is None unless needed.
    """
    xp = array_module(grad_output)
    x, weight, has_bias, stride, padding = cache
    kernel = weight.shape[2:]
    view = windows(pad_spatial(x, padding), kernel, stride)  # (N, C, P, Q, kh, kw)
    positions = view.transpose(0, 2, 3, 4, 5, 1)  # (N, P, Q, kh, kw, C)
    grad_weight = xp.tensordot(grad_output, positions, axes=((0, 2, 3), (0, 1, 2)))
    grad_weight = grad_weight.transpose(0, 3, 1, 2)  # (K, C, kh, kw)
    grad_bias = None
    if has_bias:
        grad_bias = grad_output.sum(axis=(0, 2, 3), dtype=accumulation_dtype(grad_output.dtype))
    if not need_grad_x:
        return None, grad_weight, grad_bias

    n, c, h, w = x.shape
    p, q = grad_output.shape[2:]
    padded = xp.zeros((n, h + 2 * padding, w + 2 * padding, c), dtype=x.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            # What each output sends to the pixel at offset (i, j) of its window: (N, P, Q, C).
            share = xp.tensordot(grad_output, weight[:, :, i, j], axes=((1,), (0,)))
            padded[:, i : i + stride * p : stride, j : j + stride * q : stride] += share
    inner = padded[:, padding : padding + h, padding : padding + w]
    return inner.transpose(0, 3, 1, 2), grad_weight, grad_bias
