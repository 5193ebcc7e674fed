from __future__ import annotations

import inspect

import pytest

from minires.errors import UsageError
from minires.optim.schedules import (
    SCHEDULES,
    Plateau,
    PlateauState,
    cycle_momentum,
    make_schedule,
)

FROZEN = {
    # worked out by hand: cos(pi/4) = 0.7071067811865476, cos(pi/3) = 0.5
    "constant": (dict(name="constant", lr=0.3, total_steps=4), [0.3, 0.3, 0.3, 0.3]),
    "constant, warm-up": (
        dict(name="constant", lr=0.3, total_steps=5, warmup_steps=3),
        [0.1, 0.2, 0.3, 0.3, 0.3],
    ),
    "step": (
        dict(name="step", lr=1.0, total_steps=8),
        [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01],
    ),
    "step, warm-up, own milestones": (
        dict(name="step", lr=1.0, total_steps=6, warmup_steps=2, milestones=(0.5,), gamma=0.5),
        [0.5, 1.0, 1.0, 0.5, 0.5, 0.5],
    ),
    "cosine": (
        dict(name="cosine", lr=2.0, total_steps=4),
        [2.0, 1.7071067811865475, 1.0, 0.2928932188134524],
    ),
    "cosine to a tenth": (
        dict(name="cosine", lr=1.0, total_steps=3, final_lr_ratio=0.1),
        [1.0, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25],
    ),
    "cosine, warm-up": (
        dict(name="cosine", lr=1.0, total_steps=5, warmup_steps=2),
        [0.5, 1.0, 1.0, 0.75, 0.25],
    ),
    "one-cycle": (
        # peak at step 0.5 * 6 - 1 = 2; up from 0.4 by half cosines, down to 0.4e-4 at step 5
        dict(name="one-cycle", lr=10.0, total_steps=6, warmup_steps=3),
        [0.4, 5.2, 10.0, 7.50001, 2.50003, 0.00004],
    ),
    "cosine-restarts": (
        # 1 + 2 + 4 steps
        dict(name="cosine-restarts", lr=1.0, total_steps=7),
        [1.0, 1.0, 0.5, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627],
    ),
    "cosine-restarts, even, warm-up, to a tenth": (
        dict(name="cosine-restarts", lr=1.0, total_steps=6, cycles=2, cycle_growth=1.0,
             warmup_steps=2, final_lr_ratio=0.1),
        [0.5, 1.0, 1.0, 0.55, 1.0, 0.55],
    ),
    "plateau": (dict(name="plateau", lr=0.3, total_steps=3, warmup_steps=2), [0.15, 0.3, 0.3]),
    "one-cycle, linear": (
        # up to step 2, down to step 4, then to 0.4e-4 at step 7
        dict(name="one-cycle", lr=10.0, total_steps=8, warmup_steps=3, cycle_shape="linear"),
        [0.4, 5.2, 10.0, 5.2, 0.4, 0.26668, 0.13336, 0.00004],
    ),
    "one-cycle without a rise": (
        dict(name="one-cycle", lr=1.0, total_steps=3, warmup_steps=0, start_div=2, final_div=5),
        [1.0, 0.55, 0.1],
    ),
}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_values(case):
    arguments, expected = FROZEN[case]
    schedule = make_schedule(**arguments)
    assert [schedule(step) for step in range(len(expected))] == pytest.approx(expected, rel=1e-9)


def test_step_divides_at_half_and_three_quarters_of_the_paper():
    schedule = make_schedule("step", 0.1, 64_000)
    rates = [schedule(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("total_steps, rise", [(10, 0.3), (100, 0.3), (2112, 0.3), (37, 0.5)])
def test_one_cycle_is_torch_s(total_steps, rise):
    torch = pytest.importorskip("torch")
    expected = torch_rates(
        torch,
        0.2,
        total_steps,
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.2, total_steps=total_steps, pct_start=rise, cycle_momentum=False
        ),
    )
    schedule = make_schedule("one-cycle", 0.2, total_steps, warmup_steps=rise * total_steps)
    assert [schedule(step) for step in range(total_steps)] == pytest.approx(expected, rel=1e-6)
    if rise == 0.3:
        default = make_schedule("one-cycle", 0.2, total_steps)
        assert [default(s) for s in range(total_steps)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("total_steps, rise", [(10, 0.3), (100, 0.45), (37, 0.25)])
def test_one_cycle_with_its_momentum_is_torch_s(total_steps, rise, shape, kind):
    torch = pytest.importorskip("torch")
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    if kind == "SGD":
        optimizer = torch.optim.SGD(parameter, lr=0.2, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(parameter, lr=0.2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=total_steps, pct_start=rise,
        anneal_strategy="linear" if shape == "linear" else "cos", three_phase=shape == "linear",
    )  # fmt: skip
    rate = make_schedule(
        "one-cycle", 0.2, total_steps, warmup_steps=rise * total_steps, cycle_shape=shape
    )
    momentum = cycle_momentum(total_steps, rise * total_steps, shape)
    for step in range(total_steps):
        group = optimizer.param_groups[0]
        expected = group["momentum"] if kind == "SGD" else group["betas"][0]
        assert rate(step) == pytest.approx(group["lr"], rel=1e-6)
        assert momentum(step) == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        scheduler.step()


def test_restarts_are_torch_s():
    torch = pytest.importorskip("torch")
    expected = torch_rates(
        torch,
        0.1,
        70,
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=10, T_mult=2, eta_min=0.001
        ),
    )
    schedule = make_schedule("cosine-restarts", 0.1, 70, final_lr_ratio=0.01)
    assert [schedule(step) for step in range(70)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_drops_the_rate_where_torch_does(patience):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, eps=0.0
    )
    rule, state = Plateau(0.5, patience), PlateauState()
    losses = [2.0, 1.5, 1.6, 1.49999, 1.4, 1.4, 1.5, 1.6, 1.39999, 1.7, 1.2, 1.3, 1.3, 1.3, 1.3]
    for loss in (*losses, *[float("nan")] * 5, 1.0):
        scheduler.step(loss)
        state = rule.after(state, loss)
        assert 0.1 * state.rate == pytest.approx(optimizer.param_groups[0]["lr"])
    assert state.rate < 1 and state.best == 1.0


@pytest.mark.parametrize("total_steps, ratio", [(1, 0.0), (10, 0.0), (93, 0.01)])
def test_cosine_is_torch_s(total_steps, ratio):
    torch = pytest.importorskip("torch")
    expected = torch_rates(
        torch,
        0.1,
        total_steps,
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=total_steps, eta_min=0.1 * ratio
        ),
    )
    schedule = make_schedule("cosine", 0.1, total_steps, final_lr_ratio=ratio)
    assert [schedule(step) for step in range(total_steps)] == pytest.approx(expected, rel=1e-6)


def torch_rates(torch, lr, total_steps, make_scheduler):
    """The rate of each step that torch's scheduler gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [None, 0, 0.5, 1])
def test_rates_stay_between_zero_and_the_highest(name, total_steps, warmup):
    warmup_steps = None if warmup is None else warmup * total_steps
    schedule = make_schedule(name, 0.4, total_steps, warmup_steps=warmup_steps)
    rates = [schedule(step) for step in range(total_steps)]
    assert all(0 < rate <= 0.4 * (1 + 1e-12) for rate in rates)
    assert schedule(total_steps + 5) == rates[-1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_a_pure_function_of_the_step(name):
    schedule = make_schedule(name, 0.1, 20, warmup_steps=5)
    forward = [schedule(step) for step in range(20)]
    backward = [schedule(step) for step in reversed(range(20))]
    assert forward == backward[::-1]
    assert forward == [make_schedule(name, 0.1, 20, warmup_steps=5)(step) for step in range(20)]


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(name="linear"), "cosine"),
        (dict(lr=float("nan")), "--lr"),
        (dict(lr=-0.1), "--lr"),
        (dict(total_steps=0), "at least one step"),
        (dict(warmup_steps=11), "does not fit"),
        (dict(warmup_steps=-1), "does not fit"),
        (dict(name="step", milestones=(0.75, 0.5)), "must rise"),
        (dict(name="step", milestones=(0.5, 40)), "between 0 and 1"),
        (dict(name="cosine-restarts", cycles=0), "at least 1"),
    ],
)
def test_impossible_requests_are_usage_errors(change, word):
    arguments = dict(name="constant", lr=0.1, total_steps=10) | change
    with pytest.raises(UsageError, match=word):
        make_schedule(**arguments)


def test_one_cycle_of_restarts_is_the_cosine_without():
    once, plain = (
        make_schedule(name, 0.3, 20, warmup_steps=4, final_lr_ratio=0.1, cycles=1)
        for name in ("cosine-restarts", "cosine")
    )
    assert [once(step) for step in range(20)] == pytest.approx([plain(step) for step in range(20)])


def test_a_plateau_drops_by_torch_s_factor_unless_told():
    torch = pytest.importorskip("torch")
    defaults = inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters
    assert Plateau().factor == defaults["factor"].default
    assert Plateau().threshold == defaults["threshold"].default
