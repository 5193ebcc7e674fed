"""What a recipe is, what it costs, and what it reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minires
from minires.data import number_of_classes
from minires.data.shapes import TRAIN_IMAGES
from minires.data.split import validation_count
from minires.models import build, summarize
from minires.training.comparison import Row, compare
from minires.training.config import TrainConfig
from minires.training.recipes import SettingsFile, read_recipe, recipe_names
from minires.training.resolve import resolve_runs

RESULTS = Path(minires.__file__).resolve().parent.parent / "docs" / "results"
"""Measured records; an installation without the documents has none."""

CIFAR_TRAIN_IMAGES = 50_000


@dataclass(frozen=True)
class Cost:
    """What one training costs: values to learn, multiply-adds for one image, steps of a batch."""

    run: str
    model: str
    parameters: int
    multiply_adds: int
    epochs: int
    steps_per_epoch: int
    batch_size: int


@dataclass(frozen=True)
class Report:
    """A recipe with the cost of each of its runs and the records of it, as rows of `compare`."""

    recipe: SettingsFile
    configs: dict[str, TrainConfig]
    costs: list[Cost]
    records: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "name": self.recipe.name,
            **asdict(self.recipe.about),
            "runs": [asdict(cost) for cost in self.costs],
            "measured": [row.to_dict() for row in self.records],
            "settings": {**self.recipe.values},
            "settings_of_runs": {name: {**own} for name, own in self.recipe.runs.items()},
        }


def report(name: str, results: Path = RESULTS) -> Report:
    """The report on the recipe `name`; `UsageError` if there is none."""
    recipe = read_recipe(name)
    needed = {key: f"<{key}>" for key in recipe.about.needs}  # stands for what a person will give
    configs = resolve_runs(needed, recipe=name)
    costs = [_cost(run, config) for run, config in configs.items()]
    return Report(recipe, configs, costs, compare(record_folders(recipe.name, results)))


def reports(results: Path = RESULTS) -> list[Report]:
    """The reports on all recipes; quickstart comes first, the others by name."""
    names = sorted(recipe_names(), key=lambda name: (name != "quickstart", name))
    return [report(name, results) for name in names]


def record_folders(name: str, results: Path = RESULTS) -> list[Path]:
    """The records of the recipe `name`: the folders NAME and NAME-... with a result."""
    return sorted(
        path.parent
        for path in results.glob(f"{name}*/result.json")
        if path.parent.name == name or path.parent.name.startswith(f"{name}-")
    )


def reached(records: Sequence[Row]) -> str:
    """The test accuracies of records in words; "not measured yet" where there is none."""
    measured = [(row, row.measure("test_accuracy")) for row in records]
    words = []
    for row, value in measured:
        if value is not None:
            spread = f" ± {value['deviation']:.2%}, {value['count']} seeds"
            label = f" ({row.label})" if len(records) > 1 else ""
            words.append(f"{value['mean']:.2%}{spread if value['count'] > 1 else ''}{label}")
    return "; ".join(words) or "not measured yet"


def _cost(run: str, config: TrainConfig) -> Cost:
    model = build(config.model, number_of_classes(config.dataset), **config.model_options)
    summary = summarize(model)
    images = TRAIN_IMAGES if config.dataset == "shapes" else CIFAR_TRAIN_IMAGES
    images = min(images, config.limit or images)
    return Cost(
        run=run,
        model=config.model,
        parameters=summary.parameters,
        multiply_adds=summary.multiply_adds,
        epochs=config.epochs,
        steps_per_epoch=(images - validation_count(images, config.val_split)) // config.batch_size,
        batch_size=config.batch_size,
    )
