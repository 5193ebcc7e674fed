"""The figures of chapter 12: bowls, valleys, noise, schedules, and the test of the rising rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, RED, SKY, figure, number

from minires.functional.optimizer import adam_step, rmsprop_step, sgd_step
from minires.optim import make_schedule
from minires.optim.schedules import Plateau, PlateauState
from minires.training.config import TrainConfig
from minires.training.lr_find import find_lr

STEEP = np.array([1.0, 25.0])
"""The valley: half of w1^2 + 25 w2^2."""
START = (-9.0, 1.5)
STEPS = 60


def walk(step: Callable[[np.ndarray, np.ndarray, int], None], steps: int = STEPS) -> np.ndarray:
    """The places (steps + 1, 2) of a walk through the valley; `step(w, g, t)` moves w."""
    w = np.array(START)
    places = [w.copy()]
    for t in range(1, steps + 1):
        step(w, STEEP * w, t)
        places.append(w.copy())
    return np.array(places)


def sgd(lr: float, momentum: float = 0.0, nesterov: bool = False) -> np.ndarray:
    """The walk of SGD."""
    velocity = np.zeros(2)
    return walk(lambda w, g, t: sgd_step(w, g, velocity, lr, momentum, 0.0, nesterov))


def adam(lr: float) -> np.ndarray:
    """The walk of Adam."""
    mean, square = np.zeros((2, 2))
    return walk(lambda w, g, t: adam_step(w, g, mean, square, lr, t))


def rmsprop(lr: float) -> np.ndarray:
    """The walk of RMSprop."""
    square = np.zeros(2)
    return walk(lambda w, g, t: rmsprop_step(w, g, square, None, None, lr))


def height(w: np.ndarray) -> np.ndarray:
    """The loss at places (..., 2)."""
    return (STEEP * w**2).sum(axis=-1) / 2


@figure
def bowl() -> Figure:
    """Steps down a bowl with four rates."""
    fig = Figure(figsize=(7.8, 2.7))
    axes = fig.subplots(1, 4, sharey=True, gridspec_kw={"wspace": 0.12})
    x = np.linspace(-3.15, 3.15, 121)
    for ax, rate in zip(axes, (0.3, 1.0, 1.8, 2.1), strict=True):
        w, places = np.array([-1.7]), [-1.7]
        for _ in range(6):
            sgd_step(w, 1.0 * w, np.zeros(1), rate)
            places.append(float(w[0]))
        places = np.array(places)
        ax.plot(x, x**2 / 2, color=GREY, linewidth=1.4)
        ax.plot(places, places**2 / 2, "o-", color=BLUE, markersize=4.5, linewidth=1.1)
        ax.plot(places[0], places[0] ** 2 / 2, "o", color=INK, markersize=6, zorder=5)
        ax.set_title(
            rf"$\eta a$ = {rate:g}" + f"\nw times {number(round(1 - rate, 1))}", fontsize=10
        )
        ax.set(xticks=[], yticks=[], xlabel="$w$")
    axes[0].set_ylabel("loss")
    return fig


@figure
def valley() -> Figure:
    """Sixty steps of six optimizers through one valley."""
    walks = [
        ("gradient descent, rate 0.02", sgd(0.02)),
        ("gradient descent, rate 0.078", sgd(0.078)),
        ("momentum 0.8, rate 0.04", sgd(0.04, 0.8)),
        ("Nesterov 0.8, rate 0.04", sgd(0.04, 0.8, nesterov=True)),
        ("RMSprop, rate 0.1", rmsprop(0.1)),
        ("Adam, rate 0.5", adam(0.5)),
    ]
    fig = Figure(figsize=(7.8, 6.4))
    axes = fig.subplots(3, 2, gridspec_kw={"wspace": 0.08, "hspace": 0.42})
    x, y = np.meshgrid(np.linspace(-10, 5, 240), np.linspace(-2.2, 2.2, 160))
    levels = 70 * 0.25 ** np.arange(5, -1, -1)
    for ax, (name, places) in zip(axes.flat, walks, strict=True):
        ax.contour(x, y, height(np.stack([x, y], -1)), levels, colors=PALE, linewidths=1.0)
        ax.plot(*places.T, "o-", color=BLUE, markersize=2.8, linewidth=1.0)
        ax.plot(*places[0], "o", color=INK, markersize=6)
        ax.plot(0, 0, "*", color=ORANGE, markersize=11, zorder=5)
        ax.set_title(f"{name}\nloss at the end {height(places[-1]):.2g}", fontsize=9.5)
        ax.set(xlim=(-10, 5), ylim=(-2.2, 2.2), xticks=[], yticks=[])
    for ax in axes[:, 0]:
        ax.set_ylabel("$w_2$")
    for ax in axes[2]:
        ax.set_xlabel("$w_1$")
    return fig


@figure
def noise_floor() -> Figure:
    """A noisy bowl: a constant rate ends at a height that goes with the rate."""
    fig = Figure(figsize=(6.4, 3.6))
    ax = fig.add_subplot()
    steps, copies = 400, 2000
    falling = make_schedule("cosine", 0.5, steps)
    kinds = [
        ("rate 0.5", lambda t: 0.5, RED, "-"),
        ("rate 0.05", lambda t: 0.05, BLUE, "--"),
        ("from 0.5 to 0 along a cosine", falling, GREEN, "-"),
    ]
    for name, rate, color, line in kinds:
        random = np.random.default_rng(0)
        w, losses = np.full(copies, 10.0), []
        for t in range(steps):
            losses.append((w**2).mean() / 2)
            sgd_step(w, w + random.normal(size=copies), np.zeros(copies), rate(t))
        ax.plot(losses, color=color, linestyle=line, label=name)
    for rate in (0.5, 0.05):
        ax.axhline(rate / (2 - rate) / 2, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="mean loss")
    ax.legend(frameon=False)
    return fig


@figure
def rates() -> Figure:
    """The course of the rate under each schedule, over 100 steps."""
    fig = Figure(figsize=(7.8, 4.4))
    axes = fig.subplots(2, 3, sharex=True, sharey=True, gridspec_kw={"hspace": 0.35})
    steps = np.arange(100)
    drawn = [
        ("step", "step", {}),
        ("cosine, warm-up of 10", "cosine", {"warmup_steps": 10}),
        ("one-cycle", "one-cycle", {}),
        ("one-cycle, linear", "one-cycle", {"cycle_shape": "linear", "warmup_steps": 40}),
        ("cosine-restarts", "cosine-restarts", {}),
    ]
    colors = (BLUE, GREEN, RED, ORANGE, PURPLE)
    for ax, (title, name, more), color in zip(axes.flat[:5], drawn, colors, strict=True):
        schedule = make_schedule(name, 1.0, 100, **more)
        drawstyle = "steps-post" if name == "step" else "default"
        ax.plot(steps, [schedule(t) for t in steps], color=color, drawstyle=drawstyle)
        ax.set_title(title)
    loss = np.concatenate([np.linspace(2, 1, 40), np.full(60, 1.0)])
    rule, state, rate = Plateau(patience=20), PlateauState(), []
    for value in loss:
        rate.append(state.rate)
        state = rule.after(state, float(value))
    ax = axes.flat[5]
    ax.plot(steps, rate, color=SKY, drawstyle="steps-post")
    ax.plot(steps, loss / 2, color=GREY, linewidth=1, linestyle=":")
    ax.text(42, 0.545, "loss", color=GREY, fontsize=9)
    ax.set_title("plateau")
    for ax in axes[1]:
        ax.set_xlabel("percent of all steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("rate, of the highest")
    return fig


@figure
def range_test() -> Figure:
    """The rising rate on drawn shapes: the loss falls, stands, and explodes."""
    config = TrainConfig(
        model="resnet8",
        width=0.5,
        dataset="shapes",
        batch_size=64,
        augment=False,
        threads=1,
    )
    result = find_lr(config, lowest=1e-3, highest=30.0, steps=300)
    fig = Figure(figsize=(6.4, 3.6))
    ax = fig.add_subplot()
    ax.plot(result.rates, result.losses, color=SKY, linewidth=0.8, label="loss of each batch")
    ax.plot(result.rates, result.smoothed, color=BLUE, linewidth=2.2, label="smoothed")
    at = result.rates.index(result.suggestion)
    ax.plot(
        result.suggestion,
        result.smoothed[at],
        "o",
        color=RED,
        markersize=7,
        label=f"falls fastest, at {result.suggestion:.2g}",
    )
    at = result.rates.index(result.lowest)
    ax.plot(
        result.lowest,
        result.smoothed[at],
        "s",
        color=GREEN,
        markersize=6,
        label=f"lowest, at {result.lowest:.2g}",
    )
    ax.set_xscale("log")
    ax.set_ylim(1.5, 3.5)
    ax.set(xlabel="learning rate, 3.5% higher with each step", ylabel="loss")
    ax.legend(frameon=False, loc="upper left")
    return fig
