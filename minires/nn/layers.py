"""One thin class per operation: it owns the parameters and the cache, `functional` the mathematics.

Arrays are (N, C, H, W) unless a docstring says otherwise. Each class names its operation; shapes
are checked here, where a layer is entered, and nowhere deeper.
"""

from __future__ import annotations

import numpy as np

from minires import functional as F
from minires.backend import Array
from minires.errors import ShapeError, UsageError
from minires.functional.conv import conv_output_size
from minires.nn.initialization import Initializer
from minires.nn.module import Buffer, Module, Parameter


def check_images(layer: Module, x: Array, channels: int | None = None) -> None:
    """Raise `ShapeError` unless x is (N, C, H, W), with C = `channels` where that is given."""
    if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
        wanted = f"(N, {'C' if channels is None else channels}, H, W)"
        raise ShapeError(f"{type(layer).__name__} expects {wanted}, got {tuple(x.shape)}")


def check_window(layer: Module, x: Array, kernel_size: int, padding: int) -> None:
    """Raise `ShapeError` unless one window of `kernel_size` fits into the padded images x."""
    smallest = kernel_size - 2 * padding
    if min(x.shape[2:]) < smallest:
        raise ShapeError(
            f"{type(layer).__name__} with a {kernel_size}x{kernel_size} window needs images of at "
            f"least {smallest}x{smallest} pixels, got {tuple(x.shape)}"
        )


class Conv2d(Module):
    """Convolution, `functional.conv`: weight (K, C, k, k), bias (K,) on request."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        *,
        init: Initializer,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = Parameter(init.he_normal(shape))
        self.bias = Parameter(init.constant((out_channels,), 0.0), decay=False) if bias else None
        self.need_grad_x = True

    def check(self, x: Array) -> None:
        """Raise `ShapeError` unless this layer can take x."""
        check_images(self, x, self.in_channels)
        check_window(self, x, self.kernel_size, self.padding)

    def output_shape(self, x_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(N, K, P, Q) for an input of `x_shape`."""
        p, q = (
            conv_output_size(size, self.kernel_size, self.stride, self.padding)
            for size in x_shape[2:]
        )
        return (x_shape[0], self.out_channels, p, q)

    def forward(self, x: Array) -> Array:
        self.check(x)
        bias = None if self.bias is None else self.bias.data
        y, cache = F.conv2d_forward(x, self.weight.data, bias, self.stride, self.padding)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array | None:
        grad_x, grad_weight, grad_bias = F.conv2d_backward(
            grad_output, self._take(), self.need_grad_x
        )
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x


class BatchNorm2d(Module):
    """Batch normalisation, `functional.batch_norm`: weight (gamma), bias (beta), running buffers.

    `momentum` is the share of the new batch in the running statistics; `eps` is added to the
    variance. With frozen parameters the running statistics are used in training too, and kept.
    """

    def __init__(
        self, channels: int, momentum: float = 0.1, eps: float = 1e-5, *, init: Initializer
    ) -> None:
        super().__init__()
        self.channels, self.momentum, self.eps = channels, momentum, eps
        self.weight = Parameter(init.constant((channels,), 1.0), decay=False)
        self.bias = Parameter(init.constant((channels,), 0.0), decay=False)
        self.running_mean = Buffer(init.constant((channels,), 0.0))
        self.running_var = Buffer(init.constant((channels,), 1.0))
        self.num_batches_tracked = Buffer(np.zeros((), dtype=np.int64))

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether the next forward pass takes the batch's statistics, not the running ones."""
        return self.training and not (self.weight.frozen and self.bias.frozen)

    def forward(self, x: Array) -> Array:
        check_images(self, x, self.channels)
        if self.uses_batch_statistics:
            self.num_batches_tracked.data += 1
        y, cache = F.batch_norm_forward(
            x,
            self.weight.data,
            self.bias.data,
            self.running_mean.data,
            self.running_var.data,
            self.uses_batch_statistics,
            self.momentum,
            self.eps,
        )
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        grad_x, grad_weight, grad_bias = F.batch_norm_backward(grad_output, self._take())
        self.weight.accumulate(grad_weight)
        self.bias.accumulate(grad_bias)
        return grad_x


class BatchNorm1d(BatchNorm2d):
    """Batch normalisation of vectors (N, C): `BatchNorm2d` on images of one pixel."""

    def forward(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != self.channels:
            raise ShapeError(f"BatchNorm1d expects (N, {self.channels}), got {tuple(x.shape)}")
        return super().forward(x[:, :, None, None])[:, :, 0, 0]

    def backward(self, grad_output: Array) -> Array:
        return super().backward(grad_output[:, :, None, None])[:, :, 0, 0]


class ReLU(Module):
    """max(x, 0), `functional.relu`; any shape."""

    def forward(self, x: Array) -> Array:
        y, cache = F.relu_forward(x)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.relu_backward(grad_output, self._take())


class MaxPool2d(Module):
    """The largest value of each window, `functional.pooling`."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        if padding > kernel_size // 2:
            raise UsageError(f"padding {padding}: must be at most half of the window {kernel_size}")
        self.kernel_size, self.stride = kernel_size, stride or kernel_size
        self.padding = padding

    def forward(self, x: Array) -> Array:
        check_images(self, x)
        check_window(self, x, self.kernel_size, self.padding)
        y, cache = F.max_pool2d_forward(x, self.kernel_size, self.stride, self.padding)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.max_pool2d_backward(grad_output, self._take())


class GlobalAvgPool(Module):
    """The mean of each channel, (N, C, H, W) to (N, C), `functional.pooling`."""

    def forward(self, x: Array) -> Array:
        check_images(self, x)
        y, cache = F.global_avg_pool_forward(x)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.global_avg_pool_backward(grad_output, self._take())


class Upsample(Module):
    """Each pixel as a square of `factor` x `factor`, `functional.resizing`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 1:
            raise UsageError(f"upsampling factor {factor}: must be at least 1")
        self.factor = factor

    def forward(self, x: Array) -> Array:
        check_images(self, x)
        y, cache = F.upsample_forward(x, self.factor)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.upsample_backward(grad_output, self._take())


class Flatten(Module):
    """Each image as one vector, (N, ...) to (N, C H W), `functional.resizing`."""

    def forward(self, x: Array) -> Array:
        y, cache = F.flatten_forward(x)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.flatten_backward(grad_output, self._take())


class Linear(Module):
    """y = x W^T + b, (N, C) to (N, K), `functional.linear`: weight (K, C), bias (K,)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, init: Initializer
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.uniform_linear((out_features, in_features)))
        self.bias = Parameter(init.constant((out_features,), 0.0), decay=False) if bias else None

    def forward(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ShapeError(f"Linear expects (N, {self.in_features}), got {tuple(x.shape)}")
        bias = None if self.bias is None else self.bias.data
        y, cache = F.linear_forward(x, self.weight.data, bias)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        grad_x, grad_weight, grad_bias = F.linear_backward(grad_output, self._take())
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x


class Dropout(Module):
    """Zero a share `p` of the values in training, `functional.dropout`; any shape.

    The mask is drawn from (seed, layer, step): `layer` tells the dropout layers of a network apart
    and `step` is set by `Module.set_step`.
    """

    def __init__(self, p: float, seed: int = 0, layer: int = 0) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise UsageError(f"dropout {p}: must be at least 0 and less than 1")
        self.p, self.seed, self.layer, self.step = p, seed, layer, 0

    def forward(self, x: Array) -> Array:
        if not self.training:
            return x
        y, cache = F.dropout_forward(x, self.p, self.seed, self.layer, self.step)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.dropout_backward(grad_output, self._take())


class Sequential(Module):
    """Modules one after the other; they are named 0, 1, 2 and so on."""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def __iter__(self):
        return iter([child for _, child in self.named_children()])

    def __len__(self) -> int:
        return len(list(self.named_children()))

    def __getitem__(self, index: int) -> Module:
        return [child for _, child in self.named_children()][index]

    def forward(self, x: Array) -> Array:
        for module in self:
            x = module(x)
        return x

    def backward(self, grad_output: Array) -> Array:
        for module in reversed(list(self)):
            grad_output = module.backward(grad_output)
        return grad_output


class CrossEntropyLoss(Module):
    """Softmax cross-entropy, `functional.loss`; its backward pass starts the chain."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UsageError(f"label smoothing {label_smoothing}: must be at least 0 and below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Array, labels: Array) -> Array:
        """The mean loss, a 0-d array: logits (N, K), labels (N,) int or shares (N, K) float."""
        if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape):
            raise ShapeError(
                "CrossEntropyLoss expects logits (N, K) and labels (N,) or (N, K), got "
                f"{tuple(logits.shape)} and {tuple(labels.shape)}"
            )
        hard = labels.ndim == 1
        forward = F.cross_entropy_forward if hard else F.soft_cross_entropy_forward
        loss, cache = forward(logits, labels, self.label_smoothing)
        self._store(cache)
        return loss

    def backward(self) -> Array:
        """The gradient of the logits, (N, K)."""
        return F.cross_entropy_backward(self._take())
