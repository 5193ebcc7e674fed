"""What processes that share a batch tell each other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minires.backend import shared_zeros
from minires.devices import can_fork
from minires.processes import (
    ProcessGroup,
    first_image,
    gathered,
    images_in_batch,
    in_turn,
    sharing,
)

pytestmark = pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked")


def in_processes(size, work):
    """Run `work(group)` in `size` processes; this one is the last to end."""
    group = ProcessGroup(size)
    children = []
    for rank in range(1, size):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                group.rank = rank
                work(group)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    work(group)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_gets_what_all_gave_in_the_order_of_ranks(size):
    seen = shared_zeros(size * 50 * size * 6, np.float64).reshape(size, 50, size, 2, 3)

    def work(group):
        for turn in range(50):
            own = np.arange(6.0).reshape(2, 3) + 100 * group.rank + turn
            seen[group.rank, turn] = group.gather(own)

    in_processes(size, work)
    for rank in range(size):
        for turn in range(50):
            for giver in range(size):
                wanted = np.arange(6.0).reshape(2, 3) + 100 * giver + turn
                np.testing.assert_array_equal(seen[rank, turn, giver], wanted)


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_done_in_turn_is_done_in_the_order_of_ranks(size):
    order = shared_zeros(50 * size + 1, np.int64)  # the last value counts

    def work(group):
        def note(turn):
            for _ in range(500 * (turn % 3 == group.rank)):  # each is late now and then
                os.sched_yield()
            order[turn * size + group.rank] = order[-1]
            order[-1] += 1

        def add(turn):
            in_turn(lambda: note(turn))

        with sharing(group, 9 * size):
            for turn in range(50):
                add(turn)
                group.meet()

    in_processes(size, work)
    np.testing.assert_array_equal(order, np.arange(50 * size + 1)[[*range(50 * size), -1]])


def test_only_those_behind_wait_for_their_turn():
    ahead = shared_zeros(1, np.int64)

    def work(group):
        if group.rank == 1:
            while not ahead[0]:  # the first is through all its turns before this one begins
                os.sched_yield()
        for _ in range(100):
            group.in_turn(lambda: None)
        ahead[0] = 1
        group.meet()

    in_processes(2, work)


def test_alone_it_is_always_ones_turn():
    done = []
    in_turn(lambda: done.append(1))
    assert done == [1]


def test_a_gathered_table_lasts_until_the_next_but_one():
    held = shared_zeros(2 * 2, np.float64).reshape(2, 2)

    def work(group):
        first = group.gather(np.array([1.0 + group.rank]))
        group.gather(np.array([9.0]))
        held[group.rank] = first[:, 0]
        group.meet()

    in_processes(2, work)
    np.testing.assert_array_equal(held, [[1, 2], [1, 2]])


@pytest.mark.parametrize("size, images", [(2, 5), (3, 10), (2, 2)])
def test_the_shares_are_the_whole_batch(size, images):
    group = ProcessGroup(size)
    numbers = [n for rank in range(size) for n in range(images)[group.share_of(rank, images)]]
    assert numbers == list(range(images))


def test_within_a_share_the_batch_is_known():
    facts = shared_zeros(2 * 4, np.int64).reshape(2, 4)

    def work(group):
        with sharing(group, 5) as share:
            total = gathered(np.array([float(share.stop - share.start)])).sum()
            facts[group.rank] = first_image(), images_in_batch(99), total, share.start

    in_processes(2, work)
    np.testing.assert_array_equal(facts, [[0, 5, 5, 0], [2, 5, 5, 2]])
    assert (first_image(), images_in_batch(99)) == (0, 99)
    np.testing.assert_array_equal(gathered(np.array([3.0])), [[3.0]])


def test_another_thread_shares_nothing():
    group = ProcessGroup(2)
    group.rank = 1
    with sharing(group, 5), ThreadPoolExecutor(1) as executor:
        assert executor.submit(first_image).result() == 0
        assert executor.submit(images_in_batch, 7).result() == 7
        np.testing.assert_array_equal(executor.submit(gathered, np.ones(1)).result(), [[1.0]])
        assert (first_image(), images_in_batch(7)) == (2, 5)


def test_more_values_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match="at once"):
        ProcessGroup(2).gather(np.zeros(1 << 17))
