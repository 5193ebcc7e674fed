"""One 3x3 convolution (stride 1, padding 1), written seven ways, from the slowest to the fastest.

Every way computes $y_{n,k,p,q} = \\sum_{c,i,j} w_{k,c,i,j}\\, x_{n,c,p+i,q+j}$ and nothing else
changes but the order of the work, where it lies in memory, and how often a number is touched. Each
docstring tells why the step is faster than the one before.

Shapes: the first three take x (N, C, H, W) and weight (K, C, 3, 3); the others take x (H, W, N, C)
and weight (3, 3, C, K), and return y (H, W, N, K). All float32; N, C, K, H, W as in the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMALL = 1_000_000
"""Bytes of scratch that stay in a core's second-level cache."""


def six_loops(x: list, weight: list) -> list:
    """The definition, in Python alone, for one image: x[c][row][column], padded; y[k][p][q].

    Each multiplication costs a walk through the interpreter: it looks up names, unpacks numbers and
    makes a new object for the sum, a hundred instructions for the one that computes.
    """
    height, width = len(x[0]) - 2, len(x[0][0]) - 2
    y = [[[0.0] * width for _ in range(height)] for _ in weight]
    for k, filter_k in enumerate(weight):
        for p in range(height):
            for q in range(width):
                total = 0.0
                for c, taps in enumerate(filter_k):
                    for i in range(3):
                        for j in range(3):
                            total += taps[i][j] * x[c][p + i][q + j]
                y[k][p][q] = total
    return y


def einsum_over_windows(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same six loops, run by compiled code: one call instead of millions of steps.

    The windows are a view: strides let one pixel appear in nine of them, and nothing is copied.
    """
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("ncpqij,kcij->nkpq", windows, weight)


def im2col(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The windows copied out as rows of a matrix, and one matrix product.

    A product of large matrices uses each loaded number many times, in registers and caches, and
    BLAS does that with vector instructions as well as anyone knows how. It is worth writing every
    pixel nine times over.
    """
    n, c, h, w = x.shape
    k = weight.shape[0]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
    y = columns @ weight.reshape(k, c * 9).T
    return y.reshape(n, h, w, k).transpose(0, 3, 1, 2)


def tiled_im2col(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same a little at a time, with the channels last in memory.

    A small piece of the matrix stays in the cache between writing and reading, and its memory is
    used again for the next piece; the whole matrix has to go out to memory and back, into pages
    that the system must clear first. With the channels last, a window is three long runs.
    """
    h, w, n, c = x.shape
    k = weight.shape[3]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
    matrix = weight.reshape(9 * c, k)
    y = np.empty((h, w, n, k), np.float32)
    step = max(1, SMALL // (4 * w * 9 * c))  # images at a time
    for row in range(h):
        for first in range(0, n, step):
            images = slice(first, min(first + step, n))
            columns = np.empty((w, images.stop - first, 9, c), np.float32)
            for tap in range(9):
                i, j = divmod(tap, 3)
                columns[:, :, tap] = padded[row + i, j : j + w, images]
            product = columns.reshape(-1, 9 * c) @ matrix
            y[row, :, images] = product.reshape(w, -1, k)
    return y


# --- Winograd -------------------------------------------------------------------------------

G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)


def winograd(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """F(4x4, 3x3): 36 multiplications for a tile of 16 pixels, where 144 were needed.

    All steps before this one did the same multiplications, ever nearer to what the processor can
    do. This one does a quarter of them, for some additions more: `to_six` turns a 6x6 window, and G
    a filter, into 36 numbers each, whose products `to_four` turns into 4x4 outputs. Over channels
    and tiles that is 36 matrix products. One row of tiles at a time stays near the cache.

    Source: Lavin and Gray 2015, "Fast algorithms for convolutional neural networks", section 4.1.
    """
    h, w, n, c = x.shape
    k = weight.shape[3]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
    filters = np.einsum("ia,jb,abck->ijck", G, G, weight, optimize=True).reshape(36, c, k)
    windows = np.empty((6, 6, w // 4, n, c), np.float32)
    y = np.empty((h, w, n, k), np.float32)
    for row in range(0, h, 4):
        for i, line in enumerate(to_six([padded[row + i] for i in range(6)])):
            for j, part in enumerate(to_six([line[j : j + w - 3 : 4] for j in range(6)])):
                windows[i, j] = part
        products = (windows.reshape(36, -1, c) @ filters).reshape(6, 6, w // 4, n, k)
        for i, line in enumerate(to_four(products)):
            for j, part in enumerate(to_four(line)):
                y[row + i, j::4] = part
    return y


def to_six(d: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """B^T d along one axis: six arrays to six."""
    even, odd = d[4] - d[2], 2 * (d[3] - d[1])
    even4, odd4 = d[4] - 4 * d[2], d[3] - 4 * d[1]
    return (
        4 * (d[0] - d[2]) + even,
        even4 + odd4,
        even4 - odd4,
        even + odd,
        even - odd,
        d[5] - d[3] - 2 * odd,
    )


def to_four(m: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """A^T m along one axis: six arrays to four."""
    near, near_difference = m[1] + m[2], m[1] - m[2]
    far, far_difference = m[3] + m[4], 2 * (m[3] - m[4])
    return (
        m[0] + near + far,
        near_difference + far_difference,
        near + 4 * far,
        near_difference + 4 * far_difference + m[5],
    )


def kernel_winograd(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same with compiled transforms: the kernel that minires trains with.

    NumPy runs one addition over a whole array, writes the result out, and starts the next. Compiled
    by numba, a small block of a tile stays in the first-level cache through all of its additions:
    each number is loaded once and stored once. Buffers are kept from call to call.

    Runs on as many threads as `backend.options` says, each with its own share of the images: the
    matrix products and the compiled loops let go of the interpreter's lock.
    """
    from minires.kernels.cpu.buffers import logical
    from minires.kernels.cpu.conv2d import conv2d_forward

    y, _ = conv2d_forward(logical(x), weight.transpose(3, 2, 0, 1), None, 1, 1)
    return y.transpose(2, 3, 0, 1)
