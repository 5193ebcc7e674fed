r"""A 3x3 convolution with few channels, by Winograd along one axis only: down the rows.

Both ways, Winograd needs 36 products for 16 outputs, one way only 72, the direct way 144. But with
16 or 32 channels a product is so short that the transforms around it take nearly three times as
long. One way they are cheap: each is one product of a 6x6 matrix with six strips (see `strips`),
reads each value 1.5 times instead of 2.25, and there are two of them instead of four. With
$d_0 \dots d_5$ six rows of the input, $w_0, w_1, w_2$ the three rows of the filter, and $*$ the
sliding sum along a row,

$$ y = A^T \left[ (G w) * (B^T d) \right] $$

The sliding sum is a product of matrices without any copy: three neighbouring pixels are one run of
3 C values, every third such run begins where the one before it ended, so a strip is a matrix
(pixels / 3, 3 C). It gives every third output; two more, that begin one and two pixels later, give
the others.

With stride 2 four rows of outputs need nine of the input. The outer rows of the filter meet every
second one, a convolution with two taps that takes five products instead of eight; the middle row
meets those between, four products: nine in all for twelve.

Batch norm's shift is one more strip beside the six, which the output transform adds to all rows.

Source: Lavin and Gray 2015, section 4.1 (the matrices), for F(4, 3) and, with stride 2, F(4, 2).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minires.backend import Array, options
from minires.kernels.cpu import loops, strips
from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.convolution import weight_matrix
from minires.kernels.cpu.folding import Folded
from minires.kernels.cpu.products import multiply
from minires.kernels.cpu.strips import Strips
from minires.kernels.cpu.threads import groups, parallel, shards, workspace
from minires.kernels.cpu.winograd import FILTER, INPUT, OUTPUT, TILE

_MOST_CHANNELS = 64  # with more, Winograd both ways saves more than its transforms cost
_FEW_CHANNELS = 32  # up to so many, it is worth copying an activation into strips
# Values of a strip that are worked on at once, in a thread on its own and beside others: some 24
# pieces so large fit the cache, and threads that have short ones wait for the interpreter's lock.
_PIECE, _SHARED_PIECE = 9216, 18_432


class _Form:
    """The matrices for one stride: `filters` G, `rows` B^T and `outputs` A^T with a column of ones.

    `step`: windows that do not overlap begin so many pixels apart.
    """

    def __init__(self, stride: int, filters, rows, outputs) -> None:
        self.stride, self.step = stride, 3 if stride == 1 else 4
        self.filters, self.rows = np.asarray(filters, np.float32), np.asarray(rows, np.float32)
        outputs = np.asarray(outputs, np.float32)
        self.outputs = np.concatenate([outputs, np.ones((TILE, 1), np.float32)], axis=1)


def _strided() -> _Form:
    """Five products for the outer taps, on the rows 0, 2, ..., 8; four for the middle one."""
    filters, rows, outputs = np.zeros((9, 3)), np.zeros((9, 9)), np.zeros((4, 9))
    filters[:5, ::2] = [[1 / 2, 0], [-1 / 2, -1 / 2], [-1 / 6, 1 / 6], [1 / 6, 1 / 3], [0, 1]]
    rows[:5, ::2] = [
        [2, -1, -2, 1, 0],
        [0, -2, -1, 1, 0],
        [0, 2, -3, 1, 0],
        [0, -1, 0, 1, 0],
        [0, 2, -1, -2, 1],
    ]
    outputs[:, :5] = [[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 0], [0, 1, -1, 8, 1]]
    filters[5:, 1] = 1
    rows[5:, 1::2] = np.eye(4)
    outputs[:, 5:] = np.eye(4)
    return _Form(2, filters, rows, outputs)


_FORMS = {1: _Form(1, FILTER, INPUT, OUTPUT), 2: _strided()}


def fits(x: Array, weight: Array, stride: int, padding: int) -> bool:
    """Whether this is a convolution to be done here."""
    (h, w), (k, c, *side) = x.shape[2:], weight.shape
    return (
        side == [3, 3]
        and padding == 1
        and stride in _FORMS
        and h % (TILE * stride) == w % stride == 0
        and max(c, k) <= _MOST_CHANNELS
        and x.size > 0
        and x.dtype == weight.dtype == np.float32
        and options.conv != "direct"
        and not loops.compiled_in_use()
        and (max(c, k) <= _FEW_CHANNELS or strips.find(x) is not None)
    )


def evaluate(x: Array, unit: Folded, stride: int, shortcut: Array | None, relu: bool) -> Array:
    """relu(conv(x) + shift + shortcut), (N, K, P, Q) in strips, of x (N, C, H, W) that `fits`."""
    form = _FORMS[stride]
    n, c, h, w = x.shape
    k = unit.weight.shape[0]
    taps = weight_matrix(unit.weight).reshape(3, 3 * c, k)
    filters = unit.transformed(form.filters, taps)
    source, out = strips.of(x, gap=stride), strips.take(h // stride, w // stride, n, k)
    extra = None if shortcut is None else strips.of(shortcut)
    parts = shards(n)
    most = _PIECE if len(parts) == 1 else _SHARED_PIECE
    size = max(1, most // max(source.pixels[0, 0].size, out.pixels[0, 0].size))

    def work(thread: int) -> None:
        convolution = _Evaluation(form, source, filters, unit.shift, workspace(thread))
        for images in groups(parts[thread], size):
            convolution.run(images, out, extra, relu)

    parallel(work, len(parts))
    return out.logical()


class _Evaluation:
    """One thread's part of an evaluated unit: a few images and four rows of outputs at a time."""

    def __init__(self, form: _Form, x: Strips, filters: np.ndarray, shift, ws: Workspace) -> None:
        self.form, self.x, self.filters, self.shift, self.ws = form, x, filters, shift, ws
        self.positions, _, self.k = filters.shape
        self.c = x.pixels.shape[3]
        self.prepared = 0  # images

    def run(self, images: slice, out: Strips, shortcut: Strips | None, relu: bool) -> None:
        """out = relu(conv(x) + shift + shortcut) for `images`."""
        if self.prepared != images.stop - images.start:
            self.prepared = images.stop - images.start
            self._prepare(self.prepared, out.pixels.shape[2])
        self.lines = _of_images(self.x, images)
        target, extra = (None if s is None else _of_images(s, images) for s in (out, shortcut))
        between = out.pixels[:, images, -out.gap :]
        for row in range(0, len(target), TILE):
            rows = slice(row, row + TILE)
            self._multiply(row)
            self._finish(target[rows], None if extra is None else extra[rows], relu)
            between[rows] = 0

    def _prepare(self, images: int, columns: int) -> None:
        """Scratch memory for so many images, outputs of `columns` pixels a row, and its views."""
        form, ws = self.form, self.ws
        outputs, values = images * columns, images * self.x.pixels[0, 0].size
        windows = -(-outputs * form.stride // form.step)
        # A zero pixel before the first image, and room for the last window behind the last one.
        v = ws.get("strips V", (self.positions, (windows + 1) * form.step * self.c))
        v[:, : self.c] = 0
        v[:, self.c + values :] = 0
        self.read = v[:, self.c : self.c + values]
        each = form.step // form.stride  # outputs, from one window to the next that is free of it
        m = ws.get("strips M", (self.positions + 1, windows * each * self.k))
        m[-1] = np.tile(self.shift, windows * each)
        self.written = m[:, : outputs * self.k]
        self.factors = [
            (
                _matrix(v, i * form.stride * self.c, (windows, 3 * self.c), form.step * self.c),
                _matrix(m[:-1], i * self.k, (windows, self.k), each * self.k),
            )
            for i in range(each)
        ]

    def _multiply(self, row: int) -> None:
        """The products for the output's rows from `row` on."""
        matrix, height = self.form.rows, len(self.lines)
        first = row * self.form.stride - 1
        last = first + matrix.shape[1]
        above, below = max(0, -first), max(0, last - height)  # rows outside the image: zeros
        used = matrix[:, above : matrix.shape[1] - below]
        np.matmul(used, self.lines[first + above : last - below], out=self.read)
        for v, m in self.factors:
            multiply(v, self.filters, m)

    def _finish(self, out: np.ndarray, shortcut: np.ndarray | None, relu: bool) -> None:
        """The output transform of four strips, then shortcut and ReLU."""
        y = out if shortcut is None else self.ws.get("strips", out.shape)
        np.matmul(self.form.outputs, self.written, out=y)
        if shortcut is not None:
            y = np.add(y, shortcut, out=y if relu else out)
        if relu:
            np.maximum(y, self.ws.zeros(y.shape[1]), out=out)


def _of_images(activation: Strips, images: slice) -> np.ndarray:
    """The strips of a few images as vectors: a view (H, values)."""
    size = activation.pixels[0, 0].size
    return activation.lines[:, images.start * size : images.stop * size]


def _matrix(planes: np.ndarray, start: int, shape: tuple[int, int], step: int) -> np.ndarray:
    """Each plane of planes (P, values) as a matrix of `shape` whose rows are `step` values apart,
    from value `start` on: a view (P, *shape)."""
    plane, value = planes.strides
    return as_strided(planes[:, start:], (len(planes), *shape), (plane, step * value, value))
