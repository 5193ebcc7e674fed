"""What one option of a search may be: one of a list of choices, or a number in a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minires.errors import UsageError
from minires.spelling import nearest
from minires.training.config import FIELDS, check_layer
from minires.training.values import toml_value

CHECKED_ONE_BY_ONE = 1000
"""Up to so many values of a range with steps are all checked; of a longer one, both ends."""


@dataclass(frozen=True)
class Choices:
    """One of `values`, in the order of the spec."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that Optuna's `trial` takes."""
        known = [self.known_as(value) for value in self.values]
        return self.values[known.index(trial.suggest_categorical(name, known))]

    def known_as(self, value: Any) -> Any:
        """What Optuna calls `value`: it takes numbers and text, no lists."""
        return toml_value(list(value)) if isinstance(value, tuple) else value

    def grid(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def describe(self) -> Any:
        """The choices as JSON holds them."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; `step` None: any number between them."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that Optuna's `trial` takes."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def known_as(self, value: Any) -> Any:
        """What Optuna calls `value`."""
        return value

    def grid(self) -> tuple[Any, ...]:
        """The numbers at all steps, as many digits each as the step needs; () without a step."""
        if self.step is None:
            return ()
        count = round((self.high - self.low) / self.step) + 1
        return tuple(_rounded(self.low + i * self.step, self.low) for i in range(count))

    def describe(self) -> Any:
        """The range as JSON holds it."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


Option = Choices | Range


def read_option(key: str, value: Any, source: str) -> Option:
    """The option `key` of a search from its TOML value, with every value that it can take checked.

    source: what an error begins with, such as "my.toml: [search] ". Raises `UsageError`.
    """
    label = f"{source}{key}"
    spec = field_of(key, source)
    if isinstance(value, list):
        option: Option = _read_choices(key, value, source)
        values = option.values
    elif isinstance(value, Mapping):
        option = _read_range(value, spec["kind"], label)
        values = option.grid() if _length(option) <= CHECKED_ONE_BY_ONE else ()
        values = values or (option.low, option.high)
    else:
        raise UsageError(
            f"{label}: must be a list of choices or a range such as {{low = 1, high = 5}}, "
            f"not {value!r}"
        )
    for one in values:
        check_layer({key: one}, source)
    return option


def field_of(key: str, source: str) -> Mapping[str, Any]:
    """The checks of the config's field `key`; `UsageError` where a search may not have it."""
    if key == "depth":
        return {"kind": int}
    if key not in FIELDS:
        known = [name for name in FIELDS if not FIELDS[name].get("same_result")]
        raise UsageError(f"{source}{key}: no option of train{nearest(key, ['depth', *known])}")
    if FIELDS[key].get("same_result"):
        raise UsageError(f"{source}{key}: changes nothing in the result of a training")
    return FIELDS[key]


def shown(value: Any) -> str:
    """A value as the tables and pictures show it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ",".join(shown(v) for v in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _read_choices(key: str, values: list, source: str) -> Choices:
    if not values:
        raise UsageError(f"{source}{key}: an empty list leaves nothing to choose")
    if FIELDS.get(key, {}).get("kind") is float:
        values = [float(v) if type(v) is int else v for v in values]
    texts = [toml_value(v) for v in values]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise UsageError(f"{source}{key}: {twice} stands there twice")
    return Choices(tuple(tuple(v) if isinstance(v, list) else v for v in values))


def _read_range(table: Mapping[str, Any], kind: type, label: str) -> Range:
    if kind not in (int, float):
        raise UsageError(f"{label}: is no number; give a list of choices")
    for key in table:
        if key not in ("low", "high", "log", "step"):
            raise UsageError(
                f"{label}.{key}: unknown key{nearest(key, ['low', 'high', 'log', 'step'])}"
            )
    numbers = {}
    for key in ("low", "high", "step"):
        if key not in table:
            if key == "step":
                continue
            raise UsageError(f"{label}: a range needs low and high; {key} is missing")
        numbers[key] = _number(table[key], kind, f"{label}.{key}")
    log = table.get("log", False)
    if type(log) is not bool:
        raise UsageError(f"{label}.log: must be true or false, not {log!r}")
    option = Range(numbers["low"], numbers["high"], log, numbers.get("step"))
    _check_range(option, label)
    if kind is int and not log and option.step is None:
        return Range(option.low, option.high, False, 1)
    return option


def _check_range(option: Range, label: str) -> None:
    if option.low >= option.high:
        raise UsageError(f"{label}.high: must be greater than low, which is {option.low}")
    if option.log and option.low <= 0:
        raise UsageError(f"{label}.low: must be greater than 0 where log is true")
    if option.step is None:
        return
    if option.log:
        raise UsageError(f"{label}.step: does not go with log = true")
    if option.step <= 0:
        raise UsageError(f"{label}.step: must be greater than 0")
    steps = (option.high - option.low) / option.step
    if abs(steps - round(steps)) > 1e-6:
        raise UsageError(f"{label}.step: {option.step} does not lead from low to high")


def _number(value: Any, kind: type, label: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or not math.isfinite(value):
        word = "a whole number" if kind is int else "a finite number"
        raise UsageError(f"{label}: must be {word}, not {value!r}")
    return value


def _length(option: Range) -> int:
    return 0 if option.step is None else round((option.high - option.low) / option.step) + 1


def _rounded(value: float, like: Any) -> Any:
    """`value` without the dust of binary fractions: 0.1 + 2 * 0.1 is 0.3."""
    return int(value) if isinstance(like, int) else float(f"{value:.12g}")
