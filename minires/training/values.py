"""Single values of a config: checked, read from the command line, written as TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minires.errors import UsageError
from minires.spelling import nearest

KIND_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def check_value(value: Any, spec: Mapping[str, Any], label: str) -> Any:
    """`value` in the type of its field; `UsageError` naming `label` where it does not fit.

    spec: the field's metadata, as `config._option` describes it.
    """
    kind = spec["kind"]
    if kind is tuple:
        return spec["check"](value, label)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{label}: must be {KIND_WORDS[kind]}, not {value!r}")
    choices = spec.get("choices")
    if choices and value not in choices:
        raise UsageError(f"{label}: {value!r} is unknown{nearest(value, choices)}")
    low, high, above = spec.get("low"), spec.get("high"), spec.get("above")
    if kind is float and not abs(value) < float("inf"):
        raise UsageError(f"{label}: must be a finite number, not {value}")
    if above is not None and value <= above:
        raise UsageError(f"{label}: must be greater than {above:g}, not {value}")
    if low is not None and value < low:
        raise UsageError(f"{label}: must be at least {low:g}, not {value}")
    if high is not None and value > high:
        raise UsageError(f"{label}: must be at most {high:g}, not {value}")
    return value


def check_milestones(value: Any, label: str) -> tuple[float, ...]:
    """Rising shares between 0 and 1."""
    good = isinstance(value, list | tuple) and all(
        type(v) in (int, float) and 0 < v < 1 for v in value
    )
    if not good or list(value) != sorted(value):
        raise UsageError(f"{label}: must be rising shares between 0 and 1, such as 0.5,0.75")
    return tuple(float(v) for v in value)


def check_blocks(value: Any, label: str) -> tuple[int, ...]:
    """Whole numbers above 0, one for each stage of a network."""
    good = isinstance(value, list | tuple) and all(type(v) is int and v > 0 for v in value)
    if not good or not value:
        raise UsageError(f"{label}: must be whole numbers above 0, such as 3,4,3")
    return tuple(value)


def listed(text: str, item: type) -> list[Any] | str:
    """The numbers of a list such as 0.5,0.75; `text` itself, for a check to refuse, if it is none.

    item: int or float.
    """
    try:
        return [item(part) for part in text.split(",") if part.strip()]
    except ValueError:
        return text


def toml_value(value: Any) -> str:
    """`value` (text, number, truth, or a list of these) as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value)
