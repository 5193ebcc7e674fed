"""Files of settings: the named recipes of minires.recipes, and what --config names.

epochs = 10                      keys of `train`
[recipe]                         what a person should know; nothing here changes the training
what = "..."                     in one line
follows = "..."                  whose habits these are
aim = "..."                      what they reached
needs = { pretrained = "..." }   options that it cannot do without, and what they are
commands = ["train ..."]         other ways to call it
[[runs]]                         where there are several trainings: one table for each,
name = "cnn"                     with its name, and the keys in which it differs
model = "cnn"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from minires.errors import UsageError
from minires.spelling import nearest

RUN_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class About:
    """The table [recipe]; empty where a file has none."""

    what: str = ""
    follows: str = ""
    aim: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SettingsFile:
    """The keys of `train` in a file, not yet checked, those of each of its runs, and the rest.

    `label` names the file in errors; `runs` is empty where the file describes one training.
    """

    name: str
    label: str
    values: Mapping[str, Any]
    about: About
    runs: Mapping[str, Mapping[str, Any]]


def recipe_names() -> list[str]:
    """The names that `--recipe` knows."""
    names = (entry.name for entry in resources.files("minires.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_recipe(name: str) -> SettingsFile:
    """The recipe NAME, or one of its runs as NAME/RUN; `UsageError` if there is none."""
    name, slash, run = name.partition("/")
    recipe = _parse(tomllib.loads(recipe_text(name)), name, f"recipe {name}")
    return _choose(recipe, run) if slash else recipe


def recipe_text(name: str) -> str:
    """The file of the recipe NAME as it stands; `UsageError` if there is none."""
    names = recipe_names()
    if name not in names:
        raise UsageError(f"recipe {name}: unknown{nearest(name, names)}")
    file = resources.files("minires.recipes") / f"{name}.toml"
    return file.read_text(encoding="utf-8")


def read_settings(path: Path) -> SettingsFile:
    """The file of --config; `UsageError` if it cannot be read."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path}: not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error
    return _parse(table, path.stem, str(path))


def _choose(recipe: SettingsFile, run: str) -> SettingsFile:
    """The recipe as the one of its runs called `run`."""
    if run not in recipe.runs:
        known = nearest(run, recipe.runs) if recipe.runs else "; it is a single training"
        raise UsageError(f"recipe {recipe.name}/{run}: no such run{known}")
    values = {**recipe.values, **recipe.runs[run]}
    return SettingsFile(f"{recipe.name}-{run}", recipe.label, values, recipe.about, {})


def _parse(table: dict[str, Any], name: str, label: str) -> SettingsFile:
    about = _about(table.pop("recipe", {}), label)
    runs = _runs(table.pop("runs", []), label)
    return SettingsFile(name, label, table, about, runs)


def _about(table: Any, label: str) -> About:
    """The table [recipe], checked."""
    known = {"what": str, "follows": str, "aim": str, "needs": dict, "commands": list}
    words = {str: "text", dict: "a table of texts", list: "a list of texts"}
    if not isinstance(table, dict):
        raise UsageError(f"{label}: recipe: must be a table, [recipe]")
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{label}: recipe.{key}: unknown key{nearest(key, known)}")
        inner = value.values() if isinstance(value, dict) else value
        if not isinstance(value, known[key]) or not all(isinstance(v, str) for v in inner):
            raise UsageError(f"{label}: recipe.{key}: must be {words[known[key]]}")
    return About(**table)


def _runs(tables: Any, label: str) -> dict[str, dict[str, Any]]:
    """The tables [[runs]] by their names."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{label}: runs: must be tables, [[runs]]")
    runs: dict[str, dict[str, Any]] = {}
    for table in tables:
        name = table.pop("name", None)
        if not isinstance(name, str) or not RUN_NAME.fullmatch(name):
            raise UsageError(
                f"{label}: runs.name: each run needs one, of small letters, digits and hyphens, "
                f"not {name!r}"
            )
        if name in runs:
            raise UsageError(f"{label}: runs.name: {name!r} stands there twice")
        runs[name] = table
    return runs
