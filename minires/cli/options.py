"""Options of commands that stand for fields of the config: their help and types are read there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from minires.training.config import FIELDS, TrainConfig, option_name
from minires.training.values import listed

METAVARS = {
    int: "N",
    float: "X",
    "data_dir": "DIR",
    "model": "NAME",
    "device": "NAME",
    "milestones": "X,X",
    "blocks": "N,N",
    "pretrained": "FILE",
    "freeze": "PATTERN",
}


def config_options(names: Iterable[str]) -> Callable[[Callable], Callable]:
    """A decorator: one option for each field in `names`; None where the user gave none."""

    def decorate(command: Callable) -> Callable:
        for name in reversed(list(names)):
            command = click.option(_flag(name), name, **_settings(name))(command)
        return command

    return decorate


def given_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the user gave; lists such as 3,4,3 are taken apart."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        spec = FIELDS.get(name, {})
        if spec.get("kind") is tuple:
            given[name] = listed(value, spec["item"])
    return given


def _flag(name: str) -> str:
    flag = option_name(name)
    return f"{flag}/--no-{flag[2:]}" if FIELDS[name]["kind"] is bool else flag


def _settings(name: str) -> dict[str, Any]:
    spec = FIELDS[name]
    shown = spec.get("shown", _shown(getattr(TrainConfig(), name)))
    settings: dict[str, Any] = {"default": None, "help": f"{spec['help']}  [default: {shown}]"}
    if spec.get("choices"):
        settings["type"] = click.Choice(spec["choices"])
    elif spec["kind"] is not bool:
        settings["type"] = {int: int, float: float}.get(spec["kind"], str)
        settings["metavar"] = METAVARS.get(name, METAVARS.get(spec["kind"], "TEXT"))
    if name == "data_dir":
        settings["envvar"] = "MINIRES_DATA"
    return settings


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
