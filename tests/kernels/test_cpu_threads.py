"""Helper threads and pooled memory when things go wrong, or when several ask at once."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from minires import devices
from minires import functional as F
from minires.kernels.cpu import threads
from minires.kernels.cpu.buffers import BufferPool, pool
from minires.kernels.cpu.threads import parallel

WAIT = 5  # seconds until a test that hangs fails


@pytest.fixture(autouse=True)
def two_threads():
    devices.select_device("cpu", threads=2)
    yield
    devices.select_device("cpu")


def take_long():
    """Work that a thread does without the interpreter's lock."""
    np.sort(np.random.default_rng(0).random(1_000_000))


def test_an_error_in_one_thread_still_waits_for_the_others():
    ended = []

    def work(thread):
        if thread == 1:
            raise ValueError("from thread 1")
        take_long()
        ended.append(thread)

    for _ in range(3):  # a helper that nobody waited for would spoil the calls after it
        ended.clear()
        with pytest.raises(ValueError, match="from thread 1"):
            parallel(work, 4)
        assert sorted(ended) == [0, 2, 3]


def test_after_an_error_every_call_waits_for_its_own_work():
    def fail(thread):
        if thread == 1:
            raise ValueError("from thread 1")

    with pytest.raises(ValueError):
        parallel(fail, 3)
    main_is_done, ended = threading.Event(), []

    def work(thread):
        if thread == 0:
            main_is_done.set()
            return
        assert main_is_done.wait(WAIT)
        take_long()
        ended.append(thread)

    for _ in range(3):
        main_is_done.clear()
        ended.clear()
        parallel(work, 3)
        assert sorted(ended) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_an_interrupt_while_waiting_lets_the_other_thread_finish_first():
    main_is_done, ended = threading.Event(), []

    def work(thread):
        if thread == 0:
            main_is_done.set()
            return
        assert main_is_done.wait(WAIT)
        take_long()  # the caller waits by now
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        take_long()
        ended.append(thread)

    with pytest.raises(KeyboardInterrupt):
        parallel(work, 2)
    assert ended == [1]


def test_an_interrupt_while_threads_are_begun_waits_for_those_at_work(monkeypatch):
    begin, ended = threads._Worker.begin, []

    def interrupted(helper, function):
        if helper.index == 2:
            raise KeyboardInterrupt
        begin(helper, function)

    def work(thread):
        take_long()
        ended.append(thread)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threads._Worker, "begin", interrupted)
        parallel(work, 3)
    assert ended == [1]
    parallel(work, 3)
    assert sorted(ended) == [0, 1, 1, 2]


@pytest.mark.parametrize("caller", [0, 1])
def test_work_that_calls_for_more_work_is_an_error_and_not_a_deadlock(caller):
    def work(thread):
        if thread == caller:
            parallel(lambda thread: None, 2)

    failed = []

    def run():
        try:
            parallel(work, 2)
        except RuntimeError as error:
            failed.append(str(error))
        parallel(lambda thread: None, 2)
        failed.append("and works again")

    outer = threading.Thread(target=run, daemon=True)
    outer.start()
    outer.join(WAIT)
    assert failed[1:] == ["and works again"] and "at work on another" in failed[0]


def test_two_callers_take_turns():
    inside, most = [], []

    def work(thread):
        inside.append(thread)
        most.append(inside.count(thread))
        take_long()
        inside.remove(thread)

    callers = [threading.Thread(target=parallel, args=(work, 2)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT)
    assert most == [1] * 6, "one helper thread was given the work of two callers at once"


def test_a_convolution_in_two_threads_at_once_gives_what_it_gives_alone():
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((4, 8, 16, 16)).astype(np.float32) for _ in range(2)]
    weight = random.standard_normal((8, 8, 3, 3)).astype(np.float32)
    alone = [np.array(F.conv2d_forward(x, weight, None, 1, 1)[0]) for x in inputs]
    right = []

    def convolve(n):
        for _ in range(50):
            y, _ = F.conv2d_forward(inputs[n], weight, None, 1, 1)
            right.append(np.array_equal(y, alone[n]))

    callers = [threading.Thread(target=convolve, args=(n,)) for n in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT)
    assert right == [True] * 100


def test_memory_that_is_given_back_while_the_pool_tidies_up_is_not_lost():
    own, held = BufferPool(), []

    class GivenBack(list):
        """The pieces that came back; while they are looked through, one more does."""

        def __iter__(self):
            before = self[:]
            held.clear()
            return iter(before)

    own.take((1000,))
    own._chunks[0]._freed = GivenBack(own._chunks[0]._freed)
    held.append(own.take((2000,)))
    own.forget_peak()
    held.clear()
    own.forget_peak()
    assert own.nbytes() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_memory_and_threads_of_its_own():
    mine = pool.take((1000,))
    mine[...] = 1
    parallel(lambda thread: None, 2)
    with pool._turn, threads._turn:  # as if another thread was being served
        child = os.fork()
        if child == 0:
            ended = []
            try:
                signal.alarm(WAIT)  # a helper thread that is not there would be waited for in vain
                mine[...] = 7
                pool.take((10,))
                parallel(ended.append, 2)
            finally:
                os._exit(0 if sorted(ended) == [0, 1] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the forked process could not run two threads"
    np.testing.assert_array_equal(mine, 1)
