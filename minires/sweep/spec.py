"""The spec of a sweep: a TOML file, read and checked whole before anything runs.

[sweep]        name, about, method = "grid" | "random" | "tpe" | "list", trials, seed, metric
[sweep.pruning]   method = "median" | "halving" | "none", and when it begins
[base]         a recipe and/or options of train, the same in every trial
[search]       for each option a list of choices, or {low, high, log, step}
[[experiments]]   for method "list": a name and the options of each
"""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from minires.errors import UsageError
from minires.spelling import nearest
from minires.sweep.space import Option, Range, field_of, read_option
from minires.training.config import FIELDS, TrainConfig, check_layer
from minires.training.resolve import chosen_values, resolve
from minires.training.values import check_value

METHODS = ("grid", "random", "tpe", "list")
METRICS = ("val_accuracy",)
MOST_POINTS = 1000
SPEC_FILE = "spec.toml"

_SWEEP = {
    "name": {"kind": str},
    "about": {"kind": str},
    "method": {"kind": str, "choices": METHODS},
    "trials": {"kind": int, "low": 1, "high": 100_000},
    "seed": {"kind": int, "low": 0, "high": 2**31 - 1},
    "metric": {"kind": str, "choices": METRICS},
    "startup": {"kind": int, "low": 1},
}
_PRUNING = {
    "method": {"kind": str, "choices": ("none", "median", "halving")},
    "startup_trials": {"kind": int, "low": 0},
    "warmup_epochs": {"kind": int, "low": 0},
    "min_epochs": {"kind": int, "low": 1},
    "factor": {"kind": int, "low": 2, "high": 100},
}
_PRUNING_KEYS = {
    "none": {"method"},
    "median": {"method", "startup_trials", "warmup_epochs"},
    "halving": {"method", "min_epochs", "factor"},
}


@dataclass(frozen=True)
class Pruning:
    """When a hopeless trial ends: below the median of the others, or by successive halving.

    median: not before `startup_trials` trials are finished and `warmup_epochs` epochs are over.
    halving: first after `min_epochs`, then each `factor` times later; one in `factor` goes on.
    """

    method: str = "none"
    startup_trials: int = 4
    warmup_epochs: int = 1
    min_epochs: int = 1
    factor: int = 3


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep. `base` holds values of the config, `experiments` (name, values) pairs."""

    name: str
    method: str
    trials: int
    seed: int = 0
    about: str = ""
    metric: str = "val_accuracy"
    startup: int = 10
    pruning: Pruning = field(default_factory=Pruning)
    base: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    experiments: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    text: str = ""

    def points(self) -> list[tuple[str, dict[str, Any]]]:
        """The trials of a grid or a list as (name, values), in order; [] for the other methods."""
        if self.method == "list":
            return [(name, dict(values)) for name, values in self.experiments]
        if self.method != "grid":
            return []
        product = itertools.product(*(option.grid() for option in self.options.values()))
        return [("", dict(zip(self.options, values, strict=True))) for values in product]

    def config(self, values: Mapping[str, Any], **machine: Any) -> TrainConfig:
        """The config of the trial that takes `values`; `machine` wins, as `threads` or `device`."""
        return TrainConfig(**{**self.base, **chosen_values(values), **machine})

    def varied(self) -> list[str]:
        """The options that differ between trials, in the order of the spec."""
        keys = list(self.options)
        for _, values in self.experiments:
            keys += [key for key in values if key not in keys]
        return keys

    def identity(self) -> dict[str, Any]:
        """All that makes it this sweep, flat, as JSON holds it: a study of another is not it."""
        keys = ("method", "trials", "seed", "metric")
        flat = {f"[sweep] {key}": getattr(self, key) for key in keys}
        if self.method == "tpe":
            flat["[sweep] startup"] = self.startup
        for key in sorted(_PRUNING_KEYS[self.pruning.method]):
            flat[f"[sweep.pruning] {key}"] = getattr(self.pruning, key)
        everything = TrainConfig(**self.base).to_dict()
        for key, value in everything.items():
            if not FIELDS[key].get("same_result"):
                flat[f"[base] {key}"] = value
        for key, option in self.options.items():
            flat[f"[search] {key}"] = option.describe()
        for number, (name, values) in enumerate(self.experiments, 1):
            flat[f"[[experiments]] {number}"] = {"name": name, **values}
        return json.loads(json.dumps(flat))


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What tells two identities apart: "[search] lr: [0.1] in the study, [0.2] here"."""
    return [
        f"{key}: {_or_none(stored, key)} in the study, {_or_none(now, key)} here"
        for key in [*stored, *(key for key in now if key not in stored)]
        if stored.get(key, stored) != now.get(key, now)
    ]


def _or_none(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"


# --- where specs come from ------------------------------------------------------------------


def shipped_names() -> list[str]:
    """The sweeps that come with minires, by name."""
    folder = resources.files("minires.recipes") / "sweeps"
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_spec(asked: str) -> SweepSpec:
    """The spec in a TOML file, in the folder of a sweep, or by the name of a shipped one."""
    path = Path(asked)
    name = path.stem
    if path.is_dir() and (path / SPEC_FILE).is_file():
        name, path = path.resolve().name, path / SPEC_FILE
    if not path.is_file() and asked in shipped_names():
        file = resources.files("minires.recipes") / "sweeps" / f"{asked}.toml"
        return read_spec(file.read_text(encoding="utf-8"), f"sweep {asked}: ", asked)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{asked}: not a text file in UTF-8") from error
    except OSError as error:
        hint = nearest(asked, shipped_names())
        raise UsageError(f"{asked}: cannot be read ({error.strerror}){hint}") from error
    return read_spec(text, f"{path}: ", name)


def read_spec(text: str, source: str, default_name: str) -> SweepSpec:
    """The spec in `text`, checked; `UsageError` names the key, after `source` ("my.toml: ")."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}not TOML: {error}") from error
    for key, value in tables.items():
        if key not in ("sweep", "base", "search", "experiments"):
            known = ("sweep", "base", "search", "experiments")
            raise UsageError(f"{source}{key}: unknown key{nearest(key, known)}")
        if key != "experiments" and not isinstance(value, dict):
            raise UsageError(f"{source}{key}: must be a table, [{key}]")
    about = _read_about(tables, source)
    spec = SweepSpec(
        **{"name": default_name, "trials": 0, **about},
        base=_read_base(tables.get("base", {}), source),
        options={
            key: read_option(key, value, f"{source}[search] ")
            for key, value in tables.get("search", {}).items()
        },
        experiments=_read_experiments(tables.get("experiments", []), source),
        text=text,
    )
    return _with_trials(spec, source)


def _read_about(tables: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The checked values of [sweep]."""
    table = dict(tables.get("sweep", {}))
    pruning = table.pop("pruning", {})
    if isinstance(pruning, str):
        pruning = {"method": pruning}
    if not isinstance(pruning, dict):
        raise UsageError(f"{source}[sweep] pruning: must be a table, [sweep.pruning]")
    about = _checked(table, _SWEEP, f"{source}[sweep] ")
    if "method" not in about:
        raise UsageError(f"{source}[sweep] method: is missing; use one of: {', '.join(METHODS)}")
    if "name" in about and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", about["name"]):
        raise UsageError(f"{source}[sweep] name: {about['name']!r} cannot name a folder")
    if "startup" in about and about["method"] != "tpe":
        raise UsageError(f"{source}[sweep] startup: only goes with method = 'tpe'")
    label = f"{source}[sweep.pruning] "
    values = _checked(pruning, _PRUNING, label)
    if values and "method" not in values:
        raise UsageError(f"{label}method: is missing; use median or halving")
    chosen = Pruning(**values)
    for key in values:
        if key not in _PRUNING_KEYS[chosen.method]:
            raise UsageError(f"{label}{key}: does not go with method = {chosen.method!r}")
    return {**about, "pruning": chosen}


def _checked(table: Mapping[str, Any], specs: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key in table:
        if key not in specs:
            raise UsageError(f"{source}{key}: unknown key{nearest(key, specs)}")
    return {key: check_value(value, specs[key], f"{source}{key}") for key, value in table.items()}


def _read_base(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The config values that a recipe and [base] give together."""
    values = dict(table)
    recipe = values.pop("recipe", None)
    label = f"{source}[base] "
    if recipe is not None and not isinstance(recipe, str):
        raise UsageError(f"{label}recipe: must be text, not {recipe!r}")
    try:
        base = chosen_values({}, recipe=recipe)
    except UsageError as error:
        said = str(error).removeprefix("--").removeprefix("recipe ")
        raise UsageError(f"{label}recipe: {said}") from None
    base |= check_layer(values, label)
    try:
        resolve(values, recipe=recipe)
    except UsageError as error:
        raise UsageError(f"{label}{error}") from None
    if base.get("val_split", 1) == 0:
        raise UsageError(f"{label}val_split: 0 leaves nothing to compare the trials by")
    return base


def _read_experiments(tables: Any, source: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise UsageError(f"{source}experiments: must be tables, [[experiments]]")
    found: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(tables, 1):
        values = dict(table)
        label = f"{source}[[experiments]] {number}: "
        name = values.pop("name", None)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise UsageError(f"{label}name: must be a word of letters, digits, dots and dashes")
        if name in found:
            raise UsageError(f"{label}name: {name} stands there twice")
        label = f"{source}[[experiments]] {name}: "
        for key in values:
            field_of(key, label)
        check_layer(values, label)
        if values.get("val_split", 1) == 0:
            raise UsageError(f"{label}val_split: 0 leaves nothing to compare the trials by")
        found[name] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return tuple(found.items())


def _with_trials(spec: SweepSpec, source: str) -> SweepSpec:
    """`spec` with its number of trials, after checks of what goes with its method."""
    if (spec.method == "list") != bool(spec.experiments):
        needs = "needs [[experiments]]" if spec.method == "list" else "takes no [[experiments]]"
        raise UsageError(f"{source}experiments: method {spec.method!r} {needs}")
    if (spec.method == "list") == bool(spec.options):
        takes = "takes no [search]" if spec.options else "needs a [search] over some option"
        raise UsageError(f"{source}search: method {spec.method!r} {takes}")
    if "depth" in spec.options and "model" in spec.options:
        raise UsageError(f"{source}[search] depth: search the depth or the model, not both")
    val_split = spec.options.get("val_split")
    if val_split is not None and min(val_split.grid() or (val_split.low,)) == 0:
        raise UsageError(f"{source}[search] val_split: 0 leaves nothing to compare the trials by")
    if spec.method in ("random", "tpe"):
        if not spec.trials:
            raise UsageError(f"{source}[sweep] trials: is missing; how many trainings?")
        return spec
    for key, option in spec.options.items():
        if isinstance(option, Range) and option.step is None:
            raise UsageError(f"{source}[search] {key}: a grid needs a list, or a range with a step")
    count = len(spec.experiments) or math.prod(len(o.grid()) for o in spec.options.values())
    if count > MOST_POINTS:
        raise UsageError(f"{source}[search]: a grid of {count:,} trials; at most {MOST_POINTS:,}")
    if spec.trials not in (0, count):
        raise UsageError(
            f"{source}[sweep] trials: method {spec.method!r} makes {count} trials; leave this out"
        )
    return replace(spec, trials=count)
