"""Residual blocks: y = relu(body(x) + shortcut(x)).

Source: He et al. 2015, "Deep residual learning for image recognition", figures 2 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator

from minires import functional as F
from minires.backend import Array
from minires.functional.conv import Conv2dCache
from minires.nn.initialization import Initializer
from minires.nn.layers import BatchNorm2d, Conv2d, Dropout, ReLU, Sequential, check_images
from minires.nn.module import Module


class ConvBNReLU(Module):
    """A convolution, its batch norm, an optional residual addition and a ReLU, run as one.

    The unit borrows the two layers and owns no parameter: `functional.fused` is its mathematics.
    It borrows the convolution's cache slot too, which `train` and `eval` clear. While the layers
    are observed, or with `fused` set to False, they run one by one.
    """

    def __init__(self, conv: Conv2d, batch_norm: BatchNorm2d, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.batch_norm = conv, batch_norm
        self.relu = ReLU() if relu else None
        self.fused = True

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Nothing: the layers already have names where they were made."""
        return iter(())

    def forward(self, x: Array, shortcut: Array | None = None) -> Array:
        if not self.fused or self.conv._observer is not None:
            return self._forward_one_by_one(x, shortcut)
        self.conv.check(x)
        bn = self.batch_norm
        if bn.uses_batch_statistics:
            bn.num_batches_tracked.data += 1
        y, cache = F.conv_bn_relu_forward(
            x,
            self.conv.weight.data,
            bn.weight.data,
            bn.bias.data,
            bn.running_mean.data,
            bn.running_var.data,
            shortcut,
            stride=self.conv.stride,
            padding=self.conv.padding,
            relu=self.relu is not None,
            training=bn.uses_batch_statistics,
            momentum=bn.momentum,
            eps=bn.eps,
        )
        self.conv._store(cache)
        return y

    @property
    def evaluates(self) -> bool:
        """Whether a forward pass now is one of evaluation, and nobody watches the layers."""
        return (
            self.fused
            and self.conv._observer is None
            and not self.conv.training
            and not self.batch_norm.uses_batch_statistics
        )

    def for_evaluation(self) -> F.EvaluationUnit:
        """What `functional.evaluate_units` needs of this unit."""
        conv, bn = self.conv, self.batch_norm
        buffers = bn.running_mean.data, bn.running_var.data
        return F.EvaluationUnit(
            conv.weight.data,
            bn.weight.data,
            bn.bias.data,
            *buffers,
            conv.stride,
            conv.padding,
            self.relu is not None,
            bn.eps,
        )

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        """The gradients of x and of the shortcut (None without one)."""
        if isinstance(self.conv._cache, Conv2dCache):
            return self._backward_one_by_one(grad_output)
        grad_x, grad_weight, grad_gamma, grad_beta, grad_shortcut = F.conv_bn_relu_backward(
            grad_output, self.conv._take(), self.conv.need_grad_x
        )
        self.conv.weight.accumulate(grad_weight)
        self.batch_norm.weight.accumulate(grad_gamma)
        self.batch_norm.bias.accumulate(grad_beta)
        return grad_x, grad_shortcut

    def _forward_one_by_one(self, x: Array, shortcut: Array | None) -> Array:
        y = self.batch_norm(self.conv(x))
        self._had_shortcut = shortcut is not None
        if shortcut is not None:
            y = F.add(y, shortcut)
        if self.relu is not None:
            self.relu.training = self.conv.training
            y = self.relu(y)
        return y

    def _backward_one_by_one(self, grad: Array) -> tuple[Array | None, Array | None]:
        if self.relu is not None:
            grad = self.relu.backward(grad)
        grad_shortcut = grad if self._had_shortcut else None
        return self.conv.backward(self.batch_norm.backward(grad)), grad_shortcut


class ShortcutA(Module):
    """Subsample and pad with zero channels: no parameters, `functional.shortcut`."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, x: Array) -> Array:
        check_images(self, x)
        y, cache = F.shortcut_a_forward(x, self.out_channels, self.stride)
        self._store(cache)
        return y

    def backward(self, grad_output: Array) -> Array:
        return F.shortcut_a_backward(grad_output, self._take())


class Projection(Sequential):
    """Shortcut B: a 1x1 convolution (`0`) and a batch norm (`1`) that change the shape."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, init: Initializer
    ) -> None:
        conv = Conv2d(in_channels, out_channels, 1, stride, init=init)
        super().__init__(conv, BatchNorm2d(out_channels, init=init))
        self._unit = ConvBNReLU(self[0], self[1], relu=False)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((n, m) for n, m in super().named_children() if n != "_unit")

    def forward(self, x: Array) -> Array:
        return self._unit(x)

    def backward(self, grad_output: Array) -> Array:
        return self._unit.backward(grad_output)[0]


def make_shortcut(
    in_channels: int, out_channels: int, stride: int, kind: str, init: Initializer
) -> Module | None:
    """The shortcut of a block: None (the identity) where the shape stays, else kind "A" or "B"."""
    if stride == 1 and in_channels == out_channels:
        return None
    if kind == "A":
        return ShortcutA(out_channels, stride)
    return Projection(in_channels, out_channels, stride, init=init)


class ResidualBlock(Module):
    """What both blocks share: `units` in a row, with the shortcut joining the last one.

    Going back, the gradient splits at the addition and is *summed* where x forked:
    grad_x = gradient of the body + gradient of the shortcut. A plain block has no shortcut at all.
    """

    expansion = 1

    def _finish(
        self,
        units: list[ConvBNReLU],
        channels: tuple[int, int],
        stride: int,
        *,
        plain: bool,
        shortcut: str,
        dropout: Dropout | None,
        init: Initializer,
    ) -> None:
        self.plain = plain
        self.downsample = None if plain else make_shortcut(*channels, stride, shortcut, init)
        self.dropout = dropout
        self._units = units

    def forward(self, x: Array) -> Array:
        shortcut = None
        if not self.plain:
            shortcut = x if self.downsample is None else self.downsample(x)
        if self.dropout is None and all(unit.evaluates for unit in self._units):
            self._units[0].conv.check(x)
            return F.evaluate_units(x, [u.for_evaluation() for u in self._units], shortcut)
        h = x
        for unit in self._units[:-1]:
            h = unit(h)
        if self.dropout is not None:
            h = self.dropout(h)
        return self._units[-1](h, shortcut)

    def backward(self, grad_output: Array) -> Array:
        grad_body, grad_shortcut = self._units[-1].backward(grad_output)
        if self.dropout is not None:
            grad_body = self.dropout.backward(grad_body)
        for unit in reversed(self._units[:-1]):
            grad_body, _ = unit.backward(grad_body)
        if self.plain:
            return grad_body
        if self.downsample is not None:
            grad_shortcut = self.downsample.backward(grad_shortcut)
        return F.add(grad_body, grad_shortcut)

    def zero_init_last_gamma(self) -> None:
        """Start the last batch norm's scale at 0: the block begins as its shortcut alone.

        Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1.
        """
        self._units[-1].batch_norm.weight.data[...] = 0


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut; the first convolution carries the stride."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        plain: bool = False,
        shortcut: str = "B",
        dropout: Dropout | None = None,
        init: Initializer,
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, 1, init=init)
        self.bn1 = BatchNorm2d(channels, init=init)
        self.conv2 = Conv2d(channels, channels, 3, 1, 1, init=init)
        self.bn2 = BatchNorm2d(channels, init=init)
        units = [ConvBNReLU(self.conv1, self.bn1), ConvBNReLU(self.conv2, self.bn2)]
        self._finish(
            units,
            (in_channels, channels),
            stride,
            plain=plain,
            shortcut=shortcut,
            dropout=dropout,
            init=init,
        )


class Bottleneck(ResidualBlock):
    """1x1 down, 3x3 (with the stride), 1x1 up to four times the channels, and a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        plain: bool = False,
        shortcut: str = "B",
        dropout: Dropout | None = None,
        init: Initializer,
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = Conv2d(in_channels, channels, 1, init=init)
        self.bn1 = BatchNorm2d(channels, init=init)
        self.conv2 = Conv2d(channels, channels, 3, stride, 1, init=init)
        self.bn2 = BatchNorm2d(channels, init=init)
        self.conv3 = Conv2d(channels, out_channels, 1, init=init)
        self.bn3 = BatchNorm2d(out_channels, init=init)
        units = [
            ConvBNReLU(self.conv1, self.bn1),
            ConvBNReLU(self.conv2, self.bn2),
            ConvBNReLU(self.conv3, self.bn3),
        ]
        self._finish(
            units,
            (in_channels, out_channels),
            stride,
            plain=plain,
            shortcut=shortcut,
            dropout=dropout,
            init=init,
        )
