"""The figures of chapters 3 and 4: softmax, the loss, and differences."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, INK, ORANGE, RED, SKY, figure, number

from minires.functional import cross_entropy_backward, cross_entropy_forward, relu_forward


@figure
def softmax_bars() -> Figure:
    """Scores, their exponentials, their shares, and the gradient."""
    scores = np.array([2.0, 1.0, -1.0])
    powers = np.exp(scores)
    shares = powers / powers.sum()
    gradient = shares - [0, 1, 0]
    fig = Figure(figsize=(7.6, 2.7))
    axes = fig.subplots(1, 4, gridspec_kw={"wspace": 0.45})
    panels = [
        (scores, "scores $z$", BLUE),
        (powers, "$e^z$", SKY),
        (shares, "probabilities $p$", GREEN),
        (gradient, "gradient $p - t$", RED),
    ]
    for ax, (values, title, color) in zip(axes, panels, strict=True):
        bars = ax.bar(range(3), values, color=color, width=0.7)
        ax.bar_label(bars, [number(round(float(v), 2)) for v in values], fontsize=9, padding=2)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(title, pad=12)
        ax.set_xticks(range(3), ["T", "L", "X"])
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
        low, high = min(values.min(), 0), values.max()
        ax.set_ylim(low - 0.18 * (high - low) * (low < 0), high + 0.15 * (high - low))
    for ax in axes[2:]:
        ax.get_xticklabels()[1].set_fontweight("bold")
    return fig


@figure
def loss_curve() -> Figure:
    """The loss against the lead of the right score, and its slope."""
    fig = Figure(figsize=(5.6, 3.4))
    ax = fig.add_subplot()
    lead = np.linspace(-4, 4, 161)

    def loss_at(value: float) -> tuple[float, float]:
        loss, cache = cross_entropy_forward(np.array([[value, 0.0]]), np.array([0]))
        return float(loss), float(cross_entropy_backward(cache)[0, 0])

    ax.plot(lead, [loss_at(v)[0] for v in lead], color=BLUE, linewidth=2.4)
    for value, place in ((-2.5, (0.35, 0.15)), (0.0, (0.35, 0.25)), (2.5, (-0.4, 0.45))):
        loss, slope = loss_at(value)
        near = np.array([-0.9, 0.9])
        ax.plot(value + near, loss + slope * near, color=RED)
        ax.plot(value, loss, "o", color=RED, markersize=5)
        text = f"slope $p - 1$ = {number(round(slope, 2))}"
        ax.text(value + place[0], loss + place[1], text, fontsize=9.5)
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.set_xlabel("score of the label, minus the score of the only other class")
    ax.set_ylabel("loss")
    ax.set_ylim(-0.15, 4.3)
    return fig


@figure
def secants() -> Figure:
    """A slope from one side, from both sides, and across a kink."""
    fig = Figure(figsize=(7.6, 2.9))
    axes = fig.subplots(1, 3, gridspec_kw={"wspace": 0.18})
    x = np.linspace(-1.6, 2.0, 200)
    curve = lambda v: 0.35 * v**2 + 0.12 * v**3 + 0.3 * v + 0.6  # noqa: E731
    slope = lambda v: 0.7 * v + 0.36 * v**2 + 0.3  # noqa: E731
    at, h = 0.2, 1.0
    for ax, low, title in (
        (axes[0], at, "forward difference"),
        (axes[1], at - h, "central difference"),
    ):
        ax.plot(x, curve(x), color=BLUE)
        tangent = np.array([-1.4, 1.8])
        ax.plot(
            tangent,
            curve(at) + slope(at) * (tangent - at),
            color=GREY,
            linestyle="--",
            linewidth=1.4,
        )
        ends = np.array([low, at + h])
        rise = (curve(ends[1]) - curve(ends[0])) / (ends[1] - ends[0])
        wide = np.array([ends[0] - 0.3, ends[1] + 0.3])
        ax.plot(wide, curve(ends[0]) + rise * (wide - ends[0]), color=RED)
        ax.plot(ends, curve(ends), "o", color=RED, markersize=5)
        ax.plot(at, curve(at), "o", color=INK, markersize=5)
        ax.set_title(f"{title}\nslope {rise:.2f}, true {slope(at):.2f}")
        ax.set_ylim(-0.4, 3.0)
    kinked = np.linspace(-1.2, 1.2, 101)
    ax = axes[2]
    ax.plot(kinked, relu_forward(kinked)[0], color=BLUE)
    ends = np.array([-0.6, 0.8])
    heights = relu_forward(ends)[0]
    ax.plot(ends, heights, "o-", color=RED, markersize=5)
    ax.plot(0.1, 0.1, "o", color=INK, markersize=5)
    rise = (heights[1] - heights[0]) / (ends[1] - ends[0])
    ax.set_title(f"across a kink\nslope {rise:.2f}, true 1")
    ax.set_ylim(-0.2, 1.25)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return fig


def _loss_and_slope(dtype: str) -> tuple:
    """The loss as a function of one score, in one precision, and its exact slope."""
    base = np.array([[0.3, -0.8, 1.1, 0.2]])
    _, cache = cross_entropy_forward(base, np.array([0]))

    def loss(value: float) -> float:
        scores = base.copy()
        scores[0, 0] += value
        return float(cross_entropy_forward(scores.astype(dtype), np.array([0]))[0])

    return loss, float(cross_entropy_backward(cache)[0, 0])


@figure
def difference_step() -> Figure:
    """The error of a difference against the step: too long is bent, too short is rounded off."""
    steps = 10.0 ** np.arange(-12, 0.01, 0.125)
    fig = Figure(figsize=(5.9, 3.8))
    ax = fig.add_subplot()
    kinds = [
        ("float32", "central", ORANGE, ":"),
        ("float64", "forward", BLUE, "--"),
        ("float64", "central", GREEN, "-"),
    ]
    for dtype, kind, color, line in kinds:
        loss, exact = _loss_and_slope(dtype)
        errors = []
        for h in steps:
            rise = loss(h) - loss(-h if kind == "central" else 0.0)
            run = 2 * h if kind == "central" else h
            errors.append(abs(rise / run - exact) / abs(exact))
        if dtype == "float32":
            keep = steps > 1e-7
            ax.loglog(
                steps[keep], np.array(errors)[keep], line, color=color, label=f"{kind}, {dtype}"
            )
        else:
            ax.loglog(steps, errors, line, color=color, label=f"{kind}, {dtype}")
    ax.axvline(1e-5, color=GREY, linewidth=0.9)
    ax.text(1.4e-5, 2.0, "the step of\nminires", color=GREY, fontsize=9, va="top")
    ax.set_xlabel("step $h$")
    ax.set_ylabel("relative error of the slope")
    ax.set_ylim(1e-13, 3)
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.0))
    return fig
