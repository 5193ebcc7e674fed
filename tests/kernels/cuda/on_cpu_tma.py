"""The checks of convolutions whose operands TMA brings, on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda import tensor_map_driver
from kernels.cuda.checking import TOLERANCE, TYPES, close, draw, wide
from kernels.cuda.graph_runtime import GraphTwin
from kernels.cuda.twin_runtime import TwinRuntime

from minires import functional as F
from minires.kernels import cuda
from minires.kernels.cuda import hopper, runtime, tma
from minires.kernels.cuda.instantiations import HOPPER_TILES, HOPPER_WEIGHT_TILES

HALF = [name for name in ("float16", "bfloat16") if name in TYPES]
ALL, NO_GRAD_X, NOT_AT_ALL = ["tma"] * 3, ["tma", "wgmma", "tma"], ["wgmma"] * 3
CONVOLUTIONS = [  # N, C, H, W, K, kernel, stride, padding; the rungs of y, grad_x and grad_weight
    ((1, 64, 4, 4, 64, 3, 1, 1), ALL),
    ((3, 64, 8, 8, 64, 3, 1, 1), ALL),  # a tile of rows and a half
    ((1, 64, 32, 32, 64, 1, 1, 0), ALL),  # as many steps of the weight gradient as stages, and more
    ((2, 64, 8, 8, 128, 3, 2, 1), ALL),
    ((2, 64, 9, 8, 64, 3, 2, 1), ALL),  # corners that differ down and across
    ((2, 64, 7, 5, 64, 3, 2, 1), ALL),
    ((1, 64, 1, 1, 64, 3, 2, 1), ALL),  # classes without pixels
    ((3, 64, 7, 7, 64, 1, 2, 0), ALL),  # classes without taps
    ((2, 128, 4, 4, 64, 3, 1, 1), ALL),  # two steps for each tap
    ((1, 64, 5, 6, 64, 5, 1, 2), ALL),
    ((2, 64, 6, 7, 64, 2, 1, 0), ALL),
    ((2, 64, 6, 6, 72, 3, 1, 1), NO_GRAD_X),  # 72 channels: no whole steps, and a tail of filters
    ((1, 64, 11, 11, 64, 5, 3, 2), NO_GRAD_X),  # nine classes
    ((2, 24, 8, 8, 72, 3, 1, 1), NOT_AT_ALL),
]  # fmt: skip


@pytest.fixture(autouse=True)
def place():
    """The launchers work on the CPU and find a Hopper GPU there, and take its bulk copies."""
    with runtime.use(TwinRuntime(capability=90)) as twin, tma.chosen(True):
        tensor_map_driver.refused.clear()
        yield twin
        assert not tensor_map_driver.refused


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("case, rungs", CONVOLUTIONS, ids=str)
def test_convolution(case, rungs, name, place):
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
    used = [kernel.split("<")[0] for source, kernel in place.launches if source.startswith("conv_")]
    kernels = ["convolve", "convolve", "weight_gradient"]
    assert used == [f"{kernel}_{rung}" for kernel, rung in zip(kernels, rungs, strict=True)]


@pytest.mark.parametrize("tile", HOPPER_TILES, ids=str)
def test_every_tile_leaves_the_moments(tile, place, monkeypatch):
    monkeypatch.setattr(hopper, "convolve_tile", lambda channels, rows: tile)
    name, dtype = "float16", np.dtype(np.float16)
    rng = np.random.default_rng(tile.columns)
    x, weight = draw(rng, (3, 64, 7, 9), dtype), draw(rng, (tile.columns + 8, 64, 3, 3))
    vectors = [rng.uniform(0.5, 2, len(weight)).astype(np.float32) for _ in range(4)]
    exact = wide(x, weight.astype(dtype), *vectors)
    how = {"stride": 1, "padding": 1, "relu": True}
    y, _ = cuda.fused.conv_bn_relu_forward(x, weight, *vectors, **how)
    wanted, _ = F.conv_bn_relu_forward.reference(*exact, **how)
    close(y, wanted, TOLERANCE[name] * 4)
    close(vectors[2], exact[4], TOLERANCE[name])
    assert [kernel for _, kernel in place.launches if kernel.startswith("convolve_tma")]
    assert not [kernel for _, kernel in place.launches if kernel.startswith("moments")]


@pytest.mark.parametrize("tile", HOPPER_WEIGHT_TILES, ids=str)
def test_every_tile_of_the_weight_gradient(tile, place, monkeypatch):
    monkeypatch.setattr(hopper, "weight_tile", lambda k, depth: tile)
    rng = np.random.default_rng(tile.columns)
    x, weight = draw(rng, (3, 64, 9, 8), np.float16, "nhwc"), draw(rng, (136, 64, 3, 3))
    grad = draw(rng, (3, 136, 5, 4), np.float16, "nhwc")
    cache = F.conv2d_forward.reference(x, weight, None, 2, 1)[1]
    _, got, _ = cuda.conv2d.conv2d_backward(grad, cache, need_grad_x=False)
    exact = F.conv2d_forward.reference(*wide(x, weight), None, 2, 1)[1]
    close(got, F.conv2d_backward.reference(*wide(grad), exact)[1], TOLERANCE["float16"])
    assert [kernel for _, kernel in place.launches if kernel.startswith("weight_gradient_tma")]


def test_the_bits_are_those_of_the_rung_below():
    """The same products in the same order: not only near."""
    rng = np.random.default_rng(0)
    x = draw(rng, (2, 64, 9, 8), np.float16, "nhwc")
    weight = draw(rng, (64, 64, 3, 3))
    results = []
    for on in (True, False):
        with tma.chosen(on):
            y, cache = cuda.conv2d.conv2d_forward(x, weight, None, 2, 1)
            results.append((y, *cuda.conv2d.conv2d_backward(y, cache)[:2]))
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_captured_graph_replays_with_the_maps_of_its_arrays():
    """The maps are in the launches; the arrays that they name are read anew each time."""
    rng = np.random.default_rng(1)
    x, other = (draw(rng, (2, 64, 6, 6), np.float16, "nhwc") for _ in range(2))
    weight = draw(rng, (64, 64, 3, 3))

    def work():
        y, cache = cuda.conv2d.conv2d_forward(x, weight, None, 2, 1)
        return y, *cuda.conv2d.conv2d_backward(y, cache)[:2]

    with runtime.use(GraphTwin()) as twin:
        twin.capability = lambda: 90
        twin.begin_capture()
        results = work()
        graph = twin.end_capture()
        for values in (x.copy(), other):
            x[...] = values
            graph.launch()
            replayed = [np.array(result) for result in results]
            for got, wanted in zip(replayed, work(), strict=True):
                assert np.array_equal(got, wanted)
        assert {kernel.split("<")[0] for kernel, _ in graph.captured} >= {"convolve_tma"}
