"""The range test on a few built-in images, and its curve reading on made-up losses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from shared_batch import children

from minires.devices import can_fork
from minires.errors import UsageError
from minires.training.config import TrainConfig
from minires.training.data_parallel import LEAST_IMAGES
from minires.training.lr_find import RangeTest, draw_range_test, find_lr, smooth, steepest
from minires.training.setup import make_model, make_optimizer

CONFIG = TrainConfig(
    dataset="shapes", limit=80, model="resnet8", width=0.25, batch_size=16, device="cpu", threads=1
)


def test_rates_rise_by_a_constant_factor_and_the_losses_are_those_of_the_steps():
    seen = []
    result = find_lr(CONFIG, 1e-4, 1e-2, 12, lambda *step: seen.append(step))
    assert result.rates == pytest.approx(np.geomspace(1e-4, 1e-2, 12).tolist())
    assert [step for step, _, _ in seen] == list(range(1, 13))
    assert [rate for _, rate, _ in seen] == result.rates
    assert not result.exploded
    assert len(result.losses) == len(result.smoothed) == 12
    again = find_lr(CONFIG, 1e-4, 1e-2, 12)
    assert again == result, "the test draws nothing that is not seeded"


def test_the_loss_of_a_rate_far_too_high_ends_the_test():
    result = find_lr(CONFIG, 1e-2, 1e6, 60)
    assert result.exploded and len(result.rates) < 60
    assert all(map(math.isfinite, result.losses))


def test_the_smoothed_loss_is_the_weighted_mean_of_all_so_far():
    losses = [3.0, 1.0, 2.0]
    weights = [0.5**k for k in range(3)]
    expected = [
        sum(w * v for w, v in zip(weights, reversed(losses[:n]), strict=False)) / sum(weights[:n])
        for n in (1, 2, 3)
    ]
    assert smooth(losses, 0.5) == pytest.approx(expected)


def test_the_suggestion_is_the_steepest_point_before_the_lowest():
    rates = np.geomspace(1e-5, 10, 101).tolist()
    x = np.log(rates)
    falls, explodes = x[60], x[85]
    smoothed = 2.3 - 1.5 / (1 + np.exp(-3 * (x - falls))) + np.exp(4 * (x - explodes))
    assert steepest(rates, smoothed.tolist()) == pytest.approx(rates[60], rel=0.2)
    assert steepest(rates, np.linspace(2, 3, 101).tolist()) is None


def test_the_picture_is_a_png(tmp_path):
    rates = np.geomspace(1e-5, 1, 20).tolist()
    for suggestion in (rates[5], None):
        result = RangeTest(rates, [2.0] * 20, [2.0] * 20, suggestion, rates[10], False)
        draw_range_test(result, tmp_path / "picture.png", "a title")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.0, 0.1, 50), "--from 1 --to 0.1"),
        ((0.0, 0.1, 50), "--from 0"),
        ((0.1, float("inf"), 50), "--to inf"),
        ((0.1, 1.0, 9), "--steps 9"),
    ],
)
def test_a_range_that_is_none(arguments, words):
    with pytest.raises(UsageError, match=words):
        find_lr(CONFIG, *arguments)


def test_the_throwaway_starts_from_the_weights_of_a_training():
    """The first loss is that of the config's own model on its first batch."""
    from minires.training.throwaway import Throwaway

    training = Throwaway(CONFIG)
    model = make_model(CONFIG, 10, training.device)
    make_optimizer(CONFIG, model)
    x, labels = next(training.batches())
    from minires.nn import CrossEntropyLoss

    expected = float(CrossEntropyLoss().forward(model(x), labels))
    assert find_lr(CONFIG, 1e-4, 1e-2, 10).losses[0] == expected


@pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked")
def test_processes_share_the_batches():
    found, counts = [], []
    for threads in (1, 2):
        config = replace(CONFIG, limit=300, batch_size=2 * LEAST_IMAGES, threads=threads)
        result = find_lr(config, 1e-4, 1e-2, 10, lambda *_: counts.append(len(children())))
        found.append(result.losses)
    assert counts == 10 * [0] + 10 * [1]
    assert children() == [], "the worker has to end with the test"
    np.testing.assert_allclose(*found, rtol=1e-3)
