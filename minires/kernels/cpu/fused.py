"""Convolution, batch norm, residual addition and ReLU as one pass forward and one backward.

Forward, the statistics of a chunk are taken while it is in the cache, and the normalised output is
written straight into a buffer with a border of zeros, ready for the next convolution. Backward,
the gradient of the convolution's output is never stored: each chunk of it is made from grad_output
and y in the cache, and used there by both of the convolution's gradients.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from minires import functional
from minires.backend import Array, kernel
from minires.functional.batch_norm import BatchNormCache
from minires.functional.conv import Conv2dCache, conv2d_forward
from minires.functional.fused import ConvBNReLUCache
from minires.functional.relu import ReLUCache
from minires.kernels.cpu import half_winograd, loops, whole
from minires.kernels.cpu.batch_norm import affine, batch_moments, gradients, update_running
from minires.kernels.cpu.buffers import as_hwnc, logical, pool, to_hwnc
from minires.kernels.cpu.convolution import chunks, use_again
from minires.kernels.cpu.folding import Folded, folded
from minires.kernels.cpu.gradient_rows import GradientRows
from minires.kernels.cpu.regions import Region, region
from minires.kernels.cpu.strategies import strategy
from minires.kernels.cpu.threads import Piece, parallel, pieces, workspace

_BORDER_BYTES = 2_000_000


@kernel("conv_bn_relu_forward", "cpu")
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
    if gamma.dtype != np.float32:
        return NotImplemented
    convolution = Conv2dCache(x, weight, False, stride, padding)
    added = shortcut is not None
    if not training:
        unit = folded(weight, gamma, beta, running_mean, running_var, eps)
        result = _evaluate(unit, convolution, shortcut, relu)
        if result is None:
            return NotImplemented
        # Hardly any evaluation has a backward pass, so y is not stored: that computes it again.
        batch_norm = BatchNormCache(None, gamma, unit.mean, unit.inv_std, False)
        passed = ReLUCache(result) if relu else None
        return result, ConvBNReLUCache(convolution, batch_norm, passed, added)
    conv = strategy(x, weight, stride, padding, unit=True)
    if conv is None:
        return NotImplemented
    run = _Forward(conv, shortcut, relu)
    y = pool.take(run.shape)
    count, mean, variance = run.convolve(y)
    update_running(running_mean, running_var, mean, variance, count, momentum)
    inv_std, scale, shift = affine(gamma, beta, mean, variance, eps)
    run.normalize(y, scale, shift)
    statistics = mean.astype(np.float32), inv_std.astype(np.float32)
    batch_norm = BatchNormCache(logical(y), gamma, *statistics, True)
    passed = ReLUCache(run.result) if relu else None
    cache = ConvBNReLUCache(convolution, batch_norm, passed, added)
    return run.result, _with_affine(cache, scale, shift)


def _evaluate(unit: Folded, conv: Conv2dCache, shortcut: Array | None, relu: bool) -> Array | None:
    """relu(conv(x) + shift + shortcut) with batch norm inside the filters, or None."""
    x, weight, _, stride, padding = conv
    if half_winograd.fits(x, weight, stride, padding):
        return half_winograd.evaluate(x, unit, stride, shortcut, relu)
    way = strategy(x, unit.weight, stride, padding, unit.shift, unit=True)
    if way is None:
        return None
    use_again(way, unit)
    run = _Forward(way, shortcut, relu)
    run.convolve_and_finish()
    return run.result


def _output(h: int, w: int, n: int, k: int) -> np.ndarray:
    """Memory (H, W, N, K) for a unit's output, in a border of zeros for the next convolution.

    Around small images the border takes as much memory as they do. NumPy alone, which needs more
    scratch than the compiled loops, goes without where that saves megabytes: the next convolution
    makes a padded copy for its own time.
    """
    border = 4 * n * k * (2 * h + 2 * w + 4)
    if h * w <= 256 and border > _BORDER_BYTES and not loops.compiled_in_use():
        return pool.take((h, w, n, k))
    return pool.take_bordered(h, w, n, k)[1:-1, 1:-1]


class _AffineCache(ConvBNReLUCache):
    """A `ConvBNReLUCache` that also knows batch norm's scale and shift, for the ReLU's mask."""

    affine: tuple[np.ndarray, np.ndarray]


def _with_affine(cache: ConvBNReLUCache, scale: np.ndarray, shift: np.ndarray) -> _AffineCache:
    extended = _AffineCache(*cache)
    extended.affine = (scale, shift)
    return extended


class _Forward:
    """The forward pass over the threads' shares of the images."""

    def __init__(self, conv, shortcut: Array | None, relu: bool) -> None:
        self.conv, self.relu = conv, relu
        self.n, self.k = conv.n, conv.k
        self.h, self.w = conv.output_size
        self.shape = self.h, self.w, self.n, self.k
        out = _output(*self.shape)
        self.result, self.out = logical(out), region(out)
        self.shortcut = None if shortcut is None else region(to_hwnc(shortcut))
        self.shares = conv.shares

    def convolve(self, y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """y (H, W, N, K) = conv(x); the batch's count, mean and biased variance per channel."""
        flat = y.reshape(self.h, self.w, -1)
        moments = [np.zeros((3, self.k)) for _ in self.shares]
        self.conv.begin_forward()

        def work(thread: int) -> None:
            ws = workspace(thread)
            if whole.convolve(self.conv, self.shares[thread].images, flat, moments[thread], ws):
                return
            for images, row, rows in chunks(self.conv, thread):
                lo, length = images.start * self.k, (images.stop - images.start) * self.k
                self.conv.forward(row, images, flat, row, lo, ws)
                chunk = Region(flat, row, 0, lo)
                loops.add_moments(chunk, rows, self.w, length, moments[thread], ws)

        parallel(work, len(self.shares))
        return batch_moments(moments)

    def normalize(self, y: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
        """out = relu(y * scale + shift + shortcut)."""
        source = Region(y.reshape(self.h, self.w, -1), 0, 0, 0)
        parts = pieces(self.h, self.n, self.k)

        def work(thread: int) -> None:
            piece = parts[thread]
            place = self._place(piece)
            loops.normalize(
                source.at(piece.row, piece.lo), *place, scale, shift, self.relu, workspace(thread)
            )

        parallel(work, len(parts))

    def convolve_and_finish(self) -> None:
        """out = relu(conv(x) + shortcut), chunk by chunk, where conv has batch norm inside."""
        self.conv.begin_forward()

        def work(thread: int) -> None:
            ws, share = workspace(thread), self.shares[thread].images
            if whole.evaluate(self.conv, share, self.out, self.shortcut, self.relu, ws):
                return
            for images, row, rows in chunks(self.conv, thread):
                length = (images.stop - images.start) * self.k
                place = self._place(Piece(row, rows, images.start * self.k, length))
                y = place[0]
                if loops.compiled_in_use():  # faster with arrays in one piece
                    y = Region(ws.get("chunk", (rows, self.w, length)), 0, 0, 0)
                target = y.array[:, y.column : y.column + self.w]
                self.conv.forward(row, images, target, y.row, y.lo, ws)
                loops.finish(y, *place, self.relu, ws)

        parallel(work, len(self.shares))

    def _place(self, piece: Piece):
        """A piece of the output, that of the shortcut if there is one, and their extent."""
        out = self.out.at(piece.row, piece.lo)
        extra = None if self.shortcut is None else self.shortcut.at(piece.row, piece.lo)
        return out, extra, piece.rows, self.w, piece.length


@kernel("conv_bn_relu_backward", "cpu")
def conv_bn_relu_backward(
    grad_output: Array, cache: ConvBNReLUCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array, Array, Array | None]:
    """`functional.fused.conv_bn_relu_backward`."""
    x, weight, _, stride, padding = cache.conv
    norm = cache.batch_norm
    if norm.x is None:
        y, _ = conv2d_forward(x, weight, None, stride, padding)
        complete = cache._replace(batch_norm=norm._replace(x=y))
        return functional.conv_bn_relu_backward.reference(grad_output, complete, need_grad_x)
    y = as_hwnc(norm.x)
    if y is None or not norm.batch_statistics or grad_output.dtype != np.float32:
        return NotImplemented
    conv = strategy(x, weight, stride, padding, unit=True)
    if conv is None:
        return NotImplemented
    run = _Backward(conv, grad_output, cache)
    grad_gamma, grad_beta, coefficients = gradients(run.sums(), y.shape, norm)
    run.convolve(coefficients, need_grad_x)
    grad_shortcut = None
    if cache.has_shortcut:
        grad_shortcut = grad_output if run.masked is None else logical(run.masked)
    return (
        conv.grad_input(),
        conv.grad_weight(),
        grad_gamma,
        grad_beta,
        grad_shortcut,
    )


class _Backward:
    """The backward pass over the threads' shares of the images.

    Where nothing was added to batch norm's output, compiled loops compute that again for the ReLU's
    mask, so the masked gradient is never stored. With a shortcut the mask comes from the unit's
    output, and the masked gradient is stored, because it is the shortcut's gradient too; NumPy,
    to which each operation is a pass over memory, does so in any case.
    """

    def __init__(self, conv, grad_output: Array, cache: ConvBNReLUCache) -> None:
        self.conv = conv
        self.h, self.w = conv.output_size
        norm = cache.batch_norm
        y = as_hwnc(norm.x)
        self.n, self.k = y.shape[2:]
        self.shares = conv.shares
        self.y = region(y)
        self.grad = region(to_hwnc(grad_output))
        self.mean = norm.mean
        self.scale = self.shift = loops.NONE
        self.out = self.masked = None
        if cache.relu is None:
            return
        affine = getattr(cache, "affine", None)
        if affine is not None and not cache.has_shortcut and loops.compiled_in_use():
            self.scale, self.shift = affine
        else:
            self.out = region(to_hwnc(cache.relu.y))
            self.masked = pool.take(y.shape)

    def sums(self) -> np.ndarray:
        """sum(g) and sum(g (y - mean)) per channel, (2, K) float64."""
        parts = pieces(self.h, self.n, self.k)
        sums = [np.zeros((2, self.k)) for _ in parts]
        target = None if self.masked is None else region(self.masked)

        def work(thread: int) -> None:
            row, rows, lo, length = parts[thread]
            loops.gradient_sums(
                self.grad.at(row, lo),
                self.y.at(row, lo),
                None if self.out is None else self.out.at(row, lo),
                None if target is None else target.at(row, lo),
                rows,
                self.w,
                length,
                self.mean,
                self.scale,
                self.shift,
                sums[thread],
                workspace(thread),
            )

        parallel(work, len(parts))
        return sum(sums[1:], sums[0])

    def convolve(self, coefficients: np.ndarray, need_grad_x: bool) -> None:
        """The convolution's gradients from grad_y = a g + b y + c."""
        conv = self.conv
        conv.begin_backward(need_grad_x, len(self.shares))
        grad = self.grad if self.masked is None else region(self.masked)

        def work(thread: int) -> None:
            ws, share = workspace(thread), self.shares[thread].images
            formula = coefficients, self.scale, self.shift
            if not whole.differentiate(conv, share, grad, self.y, *formula, ws, thread):
                make = partial(self._grad_y, grad, coefficients, ws)
                grads = GradientRows(conv, make, ws)
                for images, row, rows in chunks(conv, thread, backward=True):
                    conv.backward(row, images, grads.take(images, row, rows), ws, thread)
            conv.finish_thread(ws, thread)

        parallel(work, len(self.shares))

    def _grad_y(self, grad: Region, coefficients, ws, images: slice, row, rows, target: Region):
        """A few rows of the gradient of the convolution's output."""
        lo, length = images.start * self.k, (images.stop - images.start) * self.k
        loops.input_gradient(
            grad.at(row, lo),
            self.y.at(row, lo),
            target,
            rows,
            self.w,
            length,
            coefficients,
            self.scale,
            self.shift,
            ws,
        )
