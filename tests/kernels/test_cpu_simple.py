"""The small CPU kernels against the reference, the buffer pool and the threads."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F
from minires.functional.optimizer import sgd_step
from minires.kernels.cpu import buffers
from minires.kernels.cpu.buffers import BufferPool, Workspace, as_hwnc, logical
from minires.kernels.cpu.regions import region
from minires.kernels.cpu.threads import parallel, shards


@pytest.fixture(autouse=True)
def kernels():
    devices.select_device("cpu")


def in_hwnc(shape, seed=0):
    """Random (N, C, H, W) float32 in memory order (H, W, N, C)."""
    n, c, h, w = shape
    values = np.random.default_rng(seed).standard_normal((h, w, n, c)).astype(np.float32)
    return values.transpose(2, 3, 0, 1)


SHAPES = [(2, 3, 4, 6), (1, 1, 5, 3), (3, 16, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_add(shape, loop_kind):
    a, b = in_hwnc(shape, 1), in_hwnc(shape, 2)
    np.testing.assert_array_equal(F.add(a, b), np.asarray(a) + np.asarray(b))


def test_add_of_pieces_of_larger_arrays(loop_kind):
    whole = in_hwnc((2, 3, 6, 8))
    a, b = whole[:, :, 1:5, 1:7], in_hwnc((2, 3, 4, 6), 5)
    np.testing.assert_array_equal(F.add(a, b), np.ascontiguousarray(a) + np.ascontiguousarray(b))


@pytest.mark.parametrize("rows", ["upside down", "one for all", "every second"])
def test_add_of_rows_in_another_order_than_in_memory(rows):
    a = in_hwnc((2, 3, 8, 6))
    a = {
        "upside down": a[:, :, ::-1],
        "one for all": np.broadcast_to(a[:, :, :1], a.shape),
        "every second": a[:, :, ::2],
    }[rows]
    b = in_hwnc(a.shape, 5)
    np.testing.assert_array_equal(F.add(a, b), np.array(a) + np.array(b))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_shortcut_a(shape, stride):
    x = in_hwnc(shape)
    backend.reset_fallback_counts()
    y, cache = F.shortcut_a_forward(x, shape[1] * 2, stride)
    truth, truth_cache = F.shortcut_a_forward.reference(x, shape[1] * 2, stride)
    np.testing.assert_array_equal(y, truth, err_msg="y")
    grad = in_hwnc(y.shape, 3)
    found = F.shortcut_a_backward(grad, cache)
    truth = F.shortcut_a_backward.reference(grad, truth_cache)
    np.testing.assert_array_equal(found, truth, err_msg="grad_x")
    assert not backend.fallback_counts()


@pytest.mark.parametrize("shape", SHAPES)
def test_global_average_pool(shape):
    x = in_hwnc(shape)
    y, cache = F.global_avg_pool_forward(x)
    np.testing.assert_allclose(y, x.astype(np.float64).mean(axis=(2, 3)), atol=1e-6, err_msg="y")
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    truth = F.global_avg_pool_backward.reference(grad, cache)
    result = F.global_avg_pool_backward(grad, cache)
    np.testing.assert_allclose(result, truth, rtol=1e-6, err_msg="grad_x")
    assert as_hwnc(result) is not None, "the next kernel would have to copy"


def test_sgd_step_in_threads_gives_the_same_bits():
    rng = np.random.default_rng(0)
    w, g, v = (rng.standard_normal(300_001).astype(np.float32) for _ in range(3))
    expected_w, expected_v = w.copy(), v.copy()
    sgd_step.reference(expected_w, g, expected_v, 0.1, 0.9, 5e-4, True)
    devices.select_device("cpu", threads=3)
    sgd_step(w, g, v, 0.1, 0.9, 5e-4, True)
    np.testing.assert_array_equal(w, expected_w, err_msg="weights")
    np.testing.assert_array_equal(v, expected_v, err_msg="velocity")


def test_pool_hands_out_memory_again_only_when_nobody_looks_at_it():
    pool = BufferPool()
    first = pool.take((4, 4, 2, 3))
    view = logical(first)[:, :, 1:]
    address = first.ctypes.data
    del first
    assert pool.take((4, 4, 2, 3)).ctypes.data != address, "a view was still looking"
    del view
    assert pool.take((3, 4, 4, 2)).ctypes.data == address


def test_a_forgotten_peak_counts_from_what_is_in_use():
    pool = BufferPool()
    small, large = pool.take((1000,)), pool.take((100_000,))
    assert pool.nbytes() >= 4 * 101_000
    del large
    pool.forget_peak()
    assert small.nbytes <= pool.nbytes() < 2 * small.nbytes
    del small
    pool.forget_peak()
    assert pool.nbytes() == 0


def test_pieces_that_touch_become_one_again():
    pool = BufferPool()
    pieces = [pool.take((1000,)) for _ in range(8)]
    size = pool.nbytes()
    first = pieces[0].ctypes.data
    del pieces
    large = pool.take((7000,))
    assert large.ctypes.data == first
    assert pool.nbytes() == size


def test_live_pieces_never_overlap():
    pool = BufferPool()
    random = np.random.default_rng(0)
    live = []
    for number in range(400):
        if live and random.random() < 0.5:
            live.pop(int(random.integers(len(live))))
        piece = pool.take((int(random.integers(1, 5000)),))
        piece[...] = number
        live.append((number, piece))
        assert all((values == owner).all() for owner, values in live)


def test_border_stays_zero_and_is_recognised():
    pool = BufferPool()
    padded = pool.take_bordered(4, 5, 2, 3)
    padded[1:-1, 1:-1] = 7
    owner = pool.bordered_around(padded[1:-1, 1:-1])
    assert owner is not None and owner.shape == (6, 7, 2, 3)
    assert owner[0].max() == owner[-1].max() == owner[:, 0].max() == owner[:, -1].max() == 0
    assert pool.bordered_around(padded[:-2, 1:-1]) is None
    assert pool.bordered_around(np.zeros((4, 5, 2, 3), np.float32)) is None


def test_region_finds_the_owner_and_copies_what_it_must():
    whole = np.arange(6 * 7 * 2 * 3, dtype=np.float32).reshape(6, 7, 2, 3)
    part = region(whole[1:5, 2:6])
    assert (part.row, part.column, part.lo) == (1, 2, 0)
    assert np.shares_memory(part.array, whole)
    strided = region(whole[::2, ::2])
    assert not np.shares_memory(strided.array, whole)
    np.testing.assert_array_equal(strided.array.reshape(3, 4, 2, 3), whole[::2, ::2])


def test_shards_cover_all_images_once():
    for threads, n in ((1, 5), (2, 5), (3, 2), (4, 128)):
        devices.select_device("cpu", threads=threads)
        parts = shards(n)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
        assert len(parts) == min(threads, n)


def test_an_error_in_any_thread_reaches_the_caller():
    def work(thread):
        if thread == 2:
            raise ValueError("from thread 2")

    with pytest.raises(ValueError, match="from thread 2"):
        parallel(work, 3)
    seen = []
    parallel(seen.append, 3)
    assert sorted(seen) == [0, 1, 2]


def test_a_border_of_zeros_is_there_again_whoever_had_the_memory_in_between():
    pool = BufferPool()
    random = np.random.default_rng(0)
    shapes = [(4, 5, 2, 3), (5, 4, 2, 3), (2, 2, 2, 8), (6, 6, 2, 3)]
    held = []
    for _ in range(300):
        if len(held) > 2 or (held and random.random() < 0.4):
            held.pop(int(random.integers(len(held))))
        shape = shapes[int(random.integers(len(shapes)))]
        if random.random() < 0.3:
            held.append(pool.take(shape))
            held[-1][...] = 7
            continue
        padded = pool.take_bordered(*shape)
        padded[1:-1, 1:-1] = 7
        held.append(padded)
        assert np.all(padded[1:-1, 1:-1] == 7)
        inside = 7 * padded[1:-1, 1:-1].size
        assert padded.sum() == inside, "the border is not zero"


@pytest.mark.parametrize("size", [1, 15, 1000, 10_000, 1_000_000])
def test_scratch_begins_with_a_cache_line(size):
    workspace = Workspace()
    for _ in range(3):
        array = workspace.get("V", (size,))
        assert array.ctypes.data % 64 == 0
        assert (array.size, array.dtype, array.flags.c_contiguous) == (size, np.float32, True)
        size *= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_a_pool_of_its_own():
    pool = buffers.pool
    array = pool.take((1000,))
    array[...] = 1
    assert pool.nbytes() > 0
    pid = os.fork()
    if pid == 0:
        array[...] = 2  # a page of its own by now
        os._exit(pool.nbytes())  # it serves nobody yet
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(array, 1)
