"""The estimate before the first epoch: arithmetic on measured numbers, never the numbers."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minires.backend import CPU
from minires.devices import can_fork, select_device
from minires.kernels.cpu.buffers import pool
from minires.training import estimate as module
from minires.training.resolve import resolve
from minires.training.setup import load_training_data


@pytest.fixture(autouse=True)
def fresh_memory():
    """Nothing in the kernels' memory that other tests left there."""
    gc.collect()
    pool.clear()


@pytest.fixture(scope="module")
def config():
    return resolve({"dataset": "shapes", "limit": 100, "depth": 8, "width": 0.25, "batch_size": 30})


@pytest.fixture(scope="module")
def data(config):
    return load_training_data(config)


def test_a_line_through_two_batches():
    assert module._extrapolate({7: 10.0, 27: 30.0}, 128) == pytest.approx(131.0)
    assert module._extrapolate({7: 10.0, 27: 9.0}, 128) == 9.0  # noise never shrinks the cost
    assert module._extrapolate({5: 10.0}, 10) == 20.0  # one point: in proportion


def test_the_time_adds_validation_to_the_steps(config, data, monkeypatch):
    monkeypatch.setattr(module._Probe, "step", lambda self, batch: None)
    monkeypatch.setattr(module._Probe, "seconds", lambda self, batch: 1.0 + 0.1 * batch)
    monkeypatch.setattr(module._Probe, "peak_bytes", lambda self, batch: 1000 * batch)
    monkeypatch.setattr(module, "memory_in_use", lambda: 5_000_000)
    guess = module.estimate(config, data, CPU, steps=10)
    per_step = 1.0 + 0.1 * 30
    assert guess.seconds == pytest.approx(10 * per_step * (1 + 0.4 * 10 / 90))
    assert guess.peak_bytes == 5_030_000


def test_memory_grows_with_the_batch(config, data):
    probe = module._Probe(config, data.num_classes, CPU)
    probe.step(3)
    small, large = probe.peak_bytes(7), probe.peak_bytes(27)
    activation = 4 * 32 * 32 * 4  # float32, 4 channels of 32x32: the least that one image adds
    assert large - small > 20 * activation


def test_garbage_that_holds_memory_does_not_hide_what_a_step_needs(config, data, monkeypatch):
    probe = module._Probe(config, data.num_classes, select_device("cpu", threads=1))
    probe.step(7)
    clean = probe.peak_bytes(7)
    make = module._Probe._make

    def collect_and_make(self):
        gc.collect()
        return make(self)

    monkeypatch.setattr(module._Probe, "_make", collect_and_make)
    cycle = [pool.take((5_000_000,))]
    cycle.append(cycle)
    del cycle
    assert probe.peak_bytes(7) > 0.9 * clean


def test_memory_counts_the_average_of_the_weights(config, data):
    plain, averaged = (
        module._Probe(replace(config, width=4.0, ema=ema), data.num_classes, CPU)
        for ema in (0.0, 0.9)
    )
    for probe in (plain, averaged):
        probe.step(3)
    weights = 4 * sum(p.size for _, p in plain.work.model.named_parameters())
    more = averaged.peak_bytes(1) - plain.peak_bytes(1)
    assert 0.9 * weights < more < 2.5 * weights


def test_memory_that_the_kernels_hold_for_others_does_not_count(config, data):
    probe = module._Probe(config, data.num_classes, select_device("cpu", threads=1))
    probe.step(7)
    alone = probe.peak_bytes(7)
    held = pool.take((10**7,))
    beside = probe.peak_bytes(7)
    select_device("cpu")
    assert held.nbytes == 4 * 10**7
    assert beside == pytest.approx(alone, abs=10**6)


def test_memory_counts_weights_and_gradients_that_processes_would_share(config, data):
    probe = module._Probe(replace(config, width=4.0), data.num_classes, CPU)
    weights = 4 * sum(p.size for _, p in probe.work.model.named_parameters())
    assert 2 * weights <= probe._shared_bytes() < 2.1 * weights


def test_what_making_a_model_needs_for_a_moment_does_not_add_to_the_steps(
    config, data, monkeypatch
):
    make = module._Probe._make
    probe = module._Probe(config, data.num_classes, select_device("cpu", threads=1))
    probe.step(27)

    def make_with_more(self):
        np.empty(10**9, np.uint8)  # never touched, and given back at once
        return make(self)

    monkeypatch.setattr(module._Probe, "_make", make_with_more)
    small, large = probe.peak_bytes(1), probe.peak_bytes(27)
    select_device("cpu")
    assert small == pytest.approx(large, abs=10**5)
    assert 10**9 < large < 1.01 * 10**9


def test_too_little_memory_is_noticed(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 10**9)
    monkeypatch.setattr(module, "memory_in_use", lambda: 10**8)
    assert module.Estimate(1.0, 2 * 10**9).exceeds_memory()
    assert not module.Estimate(1.0, 10**9).exceeds_memory()
    assert not module.Estimate(1.0, None).exceeds_memory()
    monkeypatch.setattr(module, "free_memory", lambda: None)
    assert not module.Estimate(1.0, 10**15).exceeds_memory()


def test_the_probe_leaves_the_training_alone(config, data):
    """Weights made after a probe are those made without one."""
    from minires.training.setup import make_model

    before = make_model(config, data.num_classes, CPU).state_dict()
    module.estimate(config, data, CPU, steps=1)
    after = make_model(config, data.num_classes, CPU).state_dict()
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked here")
def test_processes_that_share_a_batch_are_timed_together(config, data, monkeypatch):
    select_device("cpu", threads=2)
    steps, timed = [], []
    monkeypatch.setattr(module._Probe, "step", lambda self, batch: steps.append(batch))
    monkeypatch.setattr(module._Probe, "seconds", lambda self, batch: timed.append(batch) or 3.0)
    probe = module._Probe(replace(config, batch_size=160), data.num_classes, CPU)
    select_device("cpu")
    assert probe.work.model.processes == 2
    assert probe.seconds_per_step([7, 27]) == 3.0 * 160 / 64
    assert (steps, timed) == ([64], [64])


@pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked here")
def test_an_estimate_leaves_no_process(config, data):
    select_device("cpu", threads=2)
    guess = module.estimate(replace(config, batch_size=64), data, CPU, steps=1)
    select_device("cpu")
    assert guess.seconds > 0
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert children.split() == []
