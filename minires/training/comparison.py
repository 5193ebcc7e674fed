"""Runs side by side: what differs between them, and what each reached.

Runs that differ in their seed alone make one row, with the mean and the standard deviation of each
measure over them.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError
from minires.spelling import printable
from minires.training.config import FIELDS, MODEL_OPTIONS, SETTINGS, TrainConfig
from minires.training.history import read_history
from minires.training.run import open_run

COMPARED = tuple(
    name for name in FIELDS if name == "conv" or (name != "seed" and name not in SETTINGS)
)
"""The fields of a config that tell one row from another: other kernels give another time."""

MEASURES = ("best_val_accuracy", "test_accuracy", "parameters", "seconds", "images_per_second")


@dataclass(frozen=True)
class Record:
    """What a run folder says: its config, a line of the log for each epoch, and its result.

    `result` is None for a run that has not finished.
    """

    path: Path
    config: TrainConfig
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None = None

    @cached_property
    def measures(self) -> dict[str, float | None]:
        """The values of `MEASURES`; None for what is not known, or not yet."""
        if self.result is not None:
            return {name: self.result.get(name) for name in MEASURES}
        validated = [e["val_accuracy"] for e in self.epochs if e["val_accuracy"] is not None]
        last = self.epochs[-1] if self.epochs else {}
        return {
            "best_val_accuracy": max(validated, default=None),
            "test_accuracy": None,
            "parameters": _parameters(self.config),
            "seconds": last.get("seconds"),
            "images_per_second": last.get("images_per_second"),
        }

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON can hold it."""
        return {
            "run": str(self.path),
            "seed": self.config.seed,
            "finished": self.result is not None,
            "epochs": len(self.epochs),
            **self.measures,
        }


@dataclass(frozen=True)
class Row:
    """A run, or runs that differ in their seed alone, with what tells it from the other rows.

    `label` is `differs` in words, or the folder's name where that does not tell the rows apart.
    """

    label: str
    differs: dict[str, Any]
    runs: tuple[Record, ...]

    def measure(self, name: str) -> dict[str, float] | None:
        """The mean of a measure over the runs that have it, and its deviation if they are many."""
        return mean_and_deviation(
            run.measures[name] for run in self.runs if run.measures[name] is not None
        )

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON can hold it."""
        return {
            "label": self.label,
            "differs": self.differs,
            "epochs_asked_for": self.runs[0].config.epochs,
            **{name: self.measure(name) for name in MEASURES},
            "runs": [run.to_dict() for run in self.runs],
        }


def mean_and_deviation(values: Iterable[float]) -> dict[str, float] | None:
    """{"mean", "deviation", "count"}; the deviation is the sample's (n - 1), 0 for one value.

    None where there are no values.
    """
    values = list(values)
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "deviation": deviation, "count": len(values)}


def read_run(path: Path) -> Record:
    """The record of the run folder `path`, also of one under docs/results.

    Raises `CheckpointError` if there is none, or nothing that says how it was trained.
    """
    run = open_run(path)
    result = run.read_result()
    if result is not None and isinstance(result.get("config"), dict):
        config = TrainConfig.from_dict(result["config"], str(run.result))
    else:
        config = read_config(run.config)
    return Record(path, config, read_history(run.history, "epoch"), result)


def read_config(path: Path) -> TrainConfig:
    """The config in a run's config.toml; `CheckpointError` if there is none to read."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = f"neither {path.name} nor result.json"
        raise CheckpointError(f"{path.parent}: {where}, so nothing to compare") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return TrainConfig.from_dict(values, str(path))


def compare(paths: Sequence[Path]) -> list[Row]:
    """The rows for the run folders `paths`, in their order; a folder given twice counts once."""
    records = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    differing = _differing([record.config for record in records])
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        key = tuple(getattr(record.config, name) for name in differing)
        groups.setdefault(key, []).append(record)
    rows = []
    for key, group in groups.items():
        differs = dict(zip(differing, key, strict=True))
        label = label_of(differs) or group[0].config.model
        if len({record.config.seed for record in group}) == len(group):
            rows.append(Row(label, differs, tuple(group)))
        else:  # the same training twice is no sample of seeds
            rows += [Row(printable(r.path.resolve().name), differs, (r,)) for r in group]
    return rows


def _differing(configs: Sequence[TrainConfig]) -> list[str]:
    """The fields of `COMPARED` that are not the same in all configs, the network first."""
    names = dict.fromkeys(("dataset", "model", *MODEL_OPTIONS, *COMPARED))
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def label_of(differs: dict[str, Any]) -> str:
    """What tells a row from the others, in words: resnet20, plain, lr 0.1."""
    said = [words for name, value in differs.items() if (words := _words(name, value))]
    return ", ".join(said or [_unset(name, value) for name, value in differs.items()])


def _words(name: str, value: Any) -> str:
    """A setting in words; nothing for what is off or the family's own."""
    if value is None or value is False:
        return ""
    words = name.replace("_", " ")
    if value is True:
        return words
    if name in ("model", "dataset", "optimizer", "schedule", "device"):
        return str(value)
    if isinstance(value, tuple):
        return f"{words} {','.join(f'{v:g}' for v in value)}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def _unset(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    return f"not {words}" if value is False else f"{words} {FIELDS[name].get('shown', value)}"


def epochs_done(row: Row) -> str:
    """How far the runs of a row came: 10, or 3 of 10 for the one that came least far."""
    least = min(row.runs, key=lambda run: len(run.epochs) if run.result is None else float("inf"))
    done = len(least.epochs)
    return str(done) if least.result is not None else f"{done} of {least.config.epochs}"


def common_title(rows: Sequence[Row]) -> str:
    """What all rows share, as the title of a picture: resnet20 on cifar10."""
    configs = [run.config for row in rows for run in row.runs]
    models, datasets = {c.model for c in configs}, {c.dataset for c in configs}
    shared = [*models] if len(models) == 1 else []
    return " ".join([*shared, *(f"on {name}" for name in datasets if len(datasets) == 1)])


def _parameters(config: TrainConfig) -> int:
    from minires.data import number_of_classes
    from minires.models import build

    model = build(config.model, number_of_classes(config.dataset), **config.model_options)
    return sum(p.size for _, p in model.named_parameters())
