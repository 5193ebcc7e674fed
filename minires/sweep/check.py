"""The last checks before a sweep begins: its networks and its data, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minires.errors import UsageError
from minires.models.registry import OPTIONS, check_arguments, family_of
from minires.sweep.space import Choices
from minires.sweep.spec import SweepSpec
from minires.training.config import MODEL_OPTIONS, TrainConfig
from minires.training.setup import check_model, load_training_data

DATA_FIELDS = ("dataset", "data_dir", "limit", "val_split", "seed")
"""The fields that decide which images a training has."""


def check_sweep(spec: SweepSpec, machine: Mapping[str, Any]) -> str:
    """Check all that can be known of the trials; returns the fingerprint of the data.

    Of a grid or a list that is every trial; of a random search, what each option may be by itself.
    Raises `UsageError` that names the trial or the key, and `DataError`.
    """
    configs = _point_configs(spec, machine) or [_largest(spec, machine)]
    if not spec.points():
        _check_options(spec)
    return _check_data(configs)


def _point_configs(spec: SweepSpec, machine: Mapping[str, Any]) -> list[TrainConfig]:
    """The configs of the trials of a grid or a list, each with a network that can be built."""
    configs, seen = [], set()
    for number, (name, values) in enumerate(spec.points(), 1):
        try:
            config = spec.config(values, **machine)
            key = (config.model, config.dataset, *config.model_options.items())
            if key not in seen:
                seen.add(key)
                check_arguments(config.model, _model_values(config))
                check_model(config)
        except UsageError as error:
            raise UsageError(f"sweep {spec.name}, trial {name or number}: {error}") from None
        configs.append(config)
    return configs


def _model_values(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in MODEL_OPTIONS}


def _check_options(spec: SweepSpec) -> None:
    """The models of a search exist, and have the options that are searched."""
    names = _models(spec)
    for name in names:
        try:
            family = family_of(name)
        except UsageError as error:
            raise UsageError(f"sweep {spec.name}: {error}") from None
        for key in spec.options:
            if key in OPTIONS and key not in family.options:
                raise UsageError(f"sweep {spec.name}: [search] {key}: {name} has no such option")


def _models(spec: SweepSpec) -> list[str]:
    option = spec.options.get("model")
    return list(option.grid()) if option else [spec.config({}).model]


def _largest(spec: SweepSpec, machine: Mapping[str, Any]) -> TrainConfig:
    """The config of a search with its largest batch, and the first value of what its data are."""
    values = {}
    for key in ("batch_size", *DATA_FIELDS):
        option = spec.options.get(key)
        if option is not None:
            every = option.grid() if isinstance(option, Choices) else (option.low, option.high)
            values[key] = max(every) if key == "batch_size" else every[0]
    return spec.config(values, **machine)


def _check_data(configs: list[TrainConfig]) -> str:
    """Read the data of the trials, each kind once with the largest batch that it must fill."""
    largest: dict[tuple, TrainConfig] = {}
    for config in configs:
        key = tuple(getattr(config, name) for name in DATA_FIELDS)
        if key not in largest or config.batch_size > largest[key].batch_size:
            largest[key] = config
    fingerprints = [load_training_data(config).fingerprint for config in largest.values()]
    return fingerprints[0]
