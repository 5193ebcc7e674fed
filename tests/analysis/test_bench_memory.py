"""What the benchmark says of memory."""

from __future__ import annotations

import numpy as np
import pytest

from minires import devices
from minires.analysis.bench_contenders import TRAINING
from minires.analysis.bench_memory import PeakMeter, peak_memory
from minires.models import build


def test_peak_meter_sees_memory_that_is_gone():
    meter = PeakMeter()
    block = np.ones(64 * 2**20 // 8)
    del block
    peak = meter.peak()
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 60 * 2**20 < peak < 120 * 2**20


def test_a_child_weighs_a_training_step():
    spec = build("resnet8").spec
    small, large = (peak_memory("minires-numpy", spec, TRAINING, n, 1, "auto") for n in (2, 64))
    if small is None:
        pytest.skip("this system does not tell a process's peak memory")
    # 7 units keep two activations each: 32 x 32 x 16 floats in the first stage, and half and a
    # quarter as much in the next.
    activations = 2 * 62 * 4 * 32 * 32 * 16 * (3 + 2 / 2 + 2 / 4)
    assert large - small > 0.8 * activations


@pytest.mark.skipif(not devices.can_fork(), reason="a process that computes cannot be forked")
def test_the_processes_that_share_a_batch_weigh_together():
    spec = build("resnet8").spec
    alone, shared = (
        peak_memory("minires-numpy", spec, TRAINING, 64, 2, "auto", processes=n) for n in (1, 2)
    )
    if alone is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 0.8 * alone < shared < 2 * alone  # each has half of the activations


def test_a_contender_that_cannot_run_weighs_nothing():
    spec = {**build("resnet8").spec, "name": "nothing"}
    assert peak_memory("minires-numpy", spec, TRAINING, 1, 1, "auto") is None
