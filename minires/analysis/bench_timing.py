"""Timing contenders fairly: in turns, in one run, and compared within each round.

A machine's speed drifts: other programs, heat, memory. Two programs timed one after the other are
then compared across that drift. Here every round times each contender once, the next round in the
opposite order, and a ratio is taken within each round; the median over the rounds is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minires.analysis.bench_contenders import Contender, Unavailable

WARM_UP_RUNS, GPU_WARM_UP_RUNS = 2, 4
"""Untimed runs first: they compile, load code, touch memory for the first time, capture a graph."""

AUTO_SECONDS = 60.0
AUTO_ROUNDS = (5, 40)
"""How long to go on where the number of rounds is not given, and its bounds."""


@dataclass
class Timings:
    """The seconds of a run in each round: `seconds[contender, mode][round]`."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    """Contenders that do not run here, with the reason."""

    def median(self, name: str, mode: str) -> float:
        """The median seconds of one run."""
        return statistics.median(self.seconds[name, mode])

    def paired_ratio(self, name: str, other: str, mode: str) -> float:
        """How many times faster `name` is than `other`: the median of the ratios in each round."""
        pairs = zip(self.seconds[other, mode], self.seconds[name, mode], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    def fastest(self, names: Sequence[str], mode: str) -> str | None:
        """The one of `names` with the smallest median; None if none was timed."""
        timed = [name for name in names if (name, mode) in self.seconds]
        return min(timed, key=lambda name: self.median(name, mode), default=None)


def time_contenders(
    contenders: Sequence[Contender],
    modes: Sequence[str],
    rounds: int | None,
    say: Callable[[str], None],
) -> Timings:
    """Time each contender in each mode, `rounds` times in turns (default: about a minute)."""
    timings = Timings()
    contenders = _warm_up(contenders, modes, timings, say)
    runs = [(contender, mode) for mode in modes for contender in contenders]
    timings.seconds = {(contender.name, mode): [] for contender, mode in runs}
    start = time.perf_counter()
    done = 0
    while rounds is None or done < rounds:
        for contender, mode in runs if done % 2 == 0 else reversed(runs):
            timings.seconds[contender.name, mode].append(_time_once(contender, mode))
        done += 1
        if rounds is None:
            rounds = _rounds_in((time.perf_counter() - start) / done)
        say(f"round {done}/{rounds}")
    return timings


def _warm_up(
    contenders: Sequence[Contender],
    modes: Sequence[str],
    timings: Timings,
    say: Callable[[str], None],
) -> list[Contender]:
    """The contenders that run; the others go to `timings.dropped`."""
    able = []
    for contender in contenders:
        say(f"warming up {contender.name}")
        try:
            for mode in modes:
                contender.prepare(mode)
                for _ in range(WARM_UP_RUNS if contender.repeats == 1 else GPU_WARM_UP_RUNS):
                    contender.run()
        except Unavailable as error:
            timings.dropped[contender.name] = str(error)
        except Exception as error:
            if not contender.is_compiled:
                raise
            timings.dropped[contender.name] = f"torch.compile: {_first_line(error)}"
        else:
            able.append(contender)
    return able


def _time_once(contender: Contender, mode: str) -> float:
    contender.prepare(mode)
    start = time.perf_counter()
    for _ in range(contender.repeats):
        contender.begin()
    contender.finish()
    return (time.perf_counter() - start) / contender.repeats


def _rounds_in(seconds_per_round: float) -> int:
    low, high = AUTO_ROUNDS
    return min(max(low, round(AUTO_SECONDS / seconds_per_round)), high)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
