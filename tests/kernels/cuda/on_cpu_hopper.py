"""The checks of convolutions with the kernels of Hopper, on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, TYPES, close, draw, wide
from kernels.cuda.twin_runtime import TwinRuntime

from minires import functional as F
from minires.kernels import cuda
from minires.kernels.cuda import hopper, runtime
from minires.kernels.cuda.instantiations import HOPPER_TILES, HOPPER_WEIGHT_TILES

HALF = [name for name in ("float16", "bfloat16") if name in TYPES]
CONVOLUTIONS = [  # N, C, H, W, K, kernel, stride, padding
    (1, 1, 5, 7, 1, 3, 1, 1),
    (2, 3, 9, 6, 20, 3, 1, 1),
    (2, 24, 7, 5, 72, 3, 2, 1),
    (2, 16, 7, 7, 24, 1, 2, 0),
    (5, 8, 6, 6, 130, 1, 1, 0),
    (2, 8, 11, 11, 16, 5, 3, 2),
    (3, 8, 11, 13, 64, 3, 1, 1),  # several tiles of rows
    (2, 8, 20, 16, 64, 1, 1, 0),  # two slabs of the weight gradient
    (1, 64, 4, 4, 256, 3, 1, 1),  # more steps than stages
]


@pytest.fixture(autouse=True)
def place():
    """The launchers work on the CPU and find a Hopper GPU there."""
    with runtime.use(TwinRuntime(capability=90)) as twin:
        yield twin


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, name, place):
    dtype = np.dtype(TYPES[name])
    n, c, h, w, k, size, stride, padding = case
    rng = np.random.default_rng(sum(case))
    x = draw(rng, (n, c, h, w), dtype, "nhwc")
    weight = draw(rng, (k, c, size, size)) / np.float32(size * c**0.5)
    y, cache = cuda.conv2d.conv2d_forward(x, weight, None, stride, padding)
    exact = weight.astype(dtype).astype(np.float64)
    wanted, wanted_cache = F.conv2d_forward.reference(*wide(x), exact, None, stride, padding)
    close(y, wanted, TOLERANCE[name])
    grad = draw(rng, y.shape, dtype)
    grad_x, grad_weight, _ = cuda.conv2d.conv2d_backward(grad, cache)
    wanted_x, wanted_weight, _ = F.conv2d_backward.reference(*wide(grad), wanted_cache)
    close(grad_x, wanted_x, TOLERANCE[name])
    close(grad_weight, wanted_weight, TOLERANCE[name])
    used = [kernel.split("<")[0] for _, kernel in place.launches if "pack" not in kernel]
    narrow = k < hopper.NARROW
    assert used[:3] == ["convolve_wgmma"] * 2 + ["weight_gradient" + "_wgmma" * (not narrow)]


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("tile", HOPPER_TILES, ids=str)
def test_every_tile_leaves_the_moments(tile, name, place, monkeypatch):
    monkeypatch.setattr(hopper, "convolve_tile", lambda channels, rows: tile)
    dtype = np.dtype(TYPES[name])
    rng = np.random.default_rng(tile.columns)
    x, weight = draw(rng, (3, 8, 7, 9), dtype), draw(rng, (tile.columns + 8, 8, 3, 3))
    vectors = [rng.uniform(0.5, 2, len(weight)).astype(np.float32) for _ in range(4)]
    exact = wide(x, weight.astype(dtype), *vectors)
    how = {"stride": 1, "padding": 1, "relu": True}
    y, cache = cuda.fused.conv_bn_relu_forward(x, weight, *vectors, **how)
    wanted, wanted_cache = F.conv_bn_relu_forward.reference(*exact, **how)
    close(y, wanted, TOLERANCE[name] * 4)
    close(vectors[2], exact[4], TOLERANCE[name])
    close(vectors[3], exact[5], TOLERANCE[name])
    assert not [kernel for _, kernel in place.launches if kernel.startswith("moments")]
    grad = draw(rng, y.shape, dtype)
    got = cuda.fused.conv_bn_relu_backward(grad, cache)
    wanted_cache = wanted_cache._replace(relu=F.relu_forward.reference(*wide(y))[1])
    expected = F.conv_bn_relu_backward.reference(*wide(grad), wanted_cache)
    close(got[0], expected[0], TOLERANCE[name] * 4)


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("tile", HOPPER_WEIGHT_TILES, ids=str)
def test_every_tile_of_the_weight_gradient(tile, name, monkeypatch):
    monkeypatch.setattr(hopper, "weight_tile", lambda k, depth: tile)
    dtype = np.dtype(TYPES[name])
    rng = np.random.default_rng(tile.columns)
    x, weight = draw(rng, (3, 40, 9, 8), dtype, "nhwc"), draw(rng, (136, 40, 3, 3))
    grad = draw(rng, (3, 136, 5, 4), dtype, "nhwc")
    cache = F.conv2d_forward.reference(x, weight, None, 2, 1)[1]
    _, got, _ = cuda.conv2d.conv2d_backward(grad, cache, need_grad_x=False)
    exact = F.conv2d_forward.reference(*wide(x, weight), None, 2, 1)[1]
    wanted = F.conv2d_backward.reference(*wide(grad), exact)[1]
    close(got, wanted, TOLERANCE[name])


def test_the_choice_of_tiles():
    """ResNet-18 with 512 images has the widest tiles, with 128 images narrower ones."""
    sizes = {64: 32, 128: 16, 256: 8, 512: 4}
    for batch, columns in ((512, (64, 128, 256, 256)), (128, (64, 128, 128, 64))):
        for (channels, side), expected in zip(sizes.items(), columns, strict=True):
            tile = hopper.convolve_tile(channels, batch * side * side)
            assert tile.columns == expected, (batch, channels)
    assert hopper.convolve_tile(16, 2**20).columns == 16
    assert hopper.convolve_tile(3, 100).columns == 16
