"""Where the values of a config come from.

An explicit option wins over a TOML file (`--config`), which wins over a named recipe
(`--recipe`), which wins over the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minires.errors import UsageError
from minires.training.config import TrainConfig, check_layer, option_name
from minires.training.recipes import SettingsFile, read_recipe, read_settings


def resolve(
    explicit: Mapping[str, Any], config_file: Path | None = None, recipe: str | None = None
) -> TrainConfig:
    """The config from options over a TOML file over a recipe over the defaults.

    explicit: field values given as options (also `depth`, another way to name a model).
    Raises `UsageError` that names the option, or the file and key.
    """
    configs = resolve_runs(explicit, config_file, recipe)
    _refuse_many(configs, config_file, recipe)
    return configs[""]


def resolve_runs(
    explicit: Mapping[str, Any], config_file: Path | None = None, recipe: str | None = None
) -> dict[str, TrainConfig]:
    """As `resolve`, by the names of the runs that the recipe or file holds; "" for a lone one."""
    files = _files(config_file, recipe)
    configs = {name: TrainConfig(**values) for name, values in _layers(explicit, files).items()}
    for file in files:
        for key, what in file.about.needs.items():
            if any(getattr(config, key) is None for config in configs.values()):
                raise UsageError(f"{file.label}: needs {option_name(key)}, {what}")
    return configs


def chosen_values(
    explicit: Mapping[str, Any], config_file: Path | None = None, recipe: str | None = None
) -> dict[str, Any]:
    """The checked values that options, file and recipe give, without the defaults."""
    layers = _layers(explicit, _files(config_file, recipe))
    _refuse_many(layers, config_file, recipe)
    return layers[""]


def _files(config_file: Path | None, recipe: str | None) -> list[SettingsFile]:
    """The files that have a say, the strongest last."""
    files = [] if recipe is None else [read_recipe(recipe)]
    return files if config_file is None else [*files, read_settings(config_file)]


def _layers(
    explicit: Mapping[str, Any], files: Sequence[SettingsFile]
) -> dict[str, dict[str, Any]]:
    """The checked values of each run of `files`; "" where they hold one training."""
    values: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {"": {}}
    several: SettingsFile | None = None
    for file in files:
        own = check_layer(file.values, f"{file.label}: ")
        _refuse_overlap(file.values, runs, f"{file.label}: ", several)
        values |= own
        if file.runs and several is not None:
            raise UsageError(f"{several.label} and {file.label}: both hold runs; give one of them")
        if file.runs:
            several = file
            label = f"{file.label}: runs."
            runs = {name: check_layer(t, f"{label}{name}: ") for name, t in file.runs.items()}
    own = check_layer(explicit, "")
    _refuse_overlap(explicit, runs, "", several)
    return {name: values | run | own for name, run in runs.items()}


def _refuse_overlap(
    given: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    source: str,
    several: SettingsFile | None,
) -> None:
    """Refuse a value for all runs of the file `several` where they are there to differ."""
    for key in given:
        name = "model" if key == "depth" else key
        if several is not None and any(name in own for own in runs.values()):
            where = f"{source}{key}" if source else option_name(key)
            raise UsageError(f"{where}: the runs of {several.label} differ in it; leave it out")


def _refuse_many(runs: Mapping[str, Any], config_file: Path | None, recipe: str | None) -> None:
    if "" not in runs:
        source = f"--recipe {recipe}" if recipe else f"--config {config_file}"
        hint = f"; name it, such as --recipe {recipe}/{next(iter(runs))}" if recipe else ""
        raise UsageError(f"{source}: holds the runs {', '.join(runs)}, and this takes one{hint}")
