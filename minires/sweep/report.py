"""What came out of a sweep: rows, a table for the terminal, a CSV file and the picture."""

from __future__ import annotations

import csv
import io
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minires.atomic import write_atomically
from minires.sweep.picture import draw_sweep
from minires.sweep.space import Range, shown
from minires.training.progress import duration

if TYPE_CHECKING:
    from minires.sweep.spec import SweepSpec
    from minires.sweep.study import Study

STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}
COLUMNS = (
    *("trial", "name", "state", "val_accuracy", "best_epoch", "epochs", "test_accuracy"),
    *("parameters", "seconds", "images_per_second", "threads", "note", "run"),
)
"""Of the CSV file, before the options."""

WIDE = 160
"""Columns of the table where it does not go to a terminal."""

GROUPS = 3
"""Into so many groups of equal size the trials are sorted by an option with many values."""


def rows_of(study: Study) -> list[dict[str, Any]]:
    """One row for each trial that has begun, in order: `COLUMNS` and `options`, a dict."""
    rows = []
    for trial in study.trials():
        attrs = trial.user_attrs
        state = STATES.get(trial.state.name)
        if state is None:
            state = "running" if study.folder.is_held(trial.number) else "cut off"
        result = attrs.get("result", {})
        accuracy = result.get("best_val_accuracy")
        if accuracy is None and trial.state.name != "FAIL":
            accuracy = max(trial.intermediate_values.values(), default=None)
        name = attrs.get("name", "")
        rows.append(
            {
                **dict.fromkeys(COLUMNS),
                **{key: result[key] for key in COLUMNS if key in result},
                "trial": trial.number + 1,
                "name": name,
                "state": state,
                "val_accuracy": accuracy,
                "note": attrs.get("note", ""),
                "run": str(study.folder.run(trial.number, name).path),
                "options": _plain(attrs.get("values", {})),
            }
        )
    return [row for row in rows if row["state"] != "waiting"]


def with_base(spec: SweepSpec, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a list with the value of [base] for each option that an experiment leaves."""
    base = spec.config({}).to_dict()
    common = {key: base[key] for key in spec.varied() if base.get(key) is not None}
    return [{**row, "options": common | row["options"]} for row in rows]


def best_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The finished trial with the highest validation accuracy, the first of equals."""
    finished = [row for row in rows if row["state"] == "finished"]
    return max(finished, key=lambda row: row["val_accuracy"], default=None)


def telling(rows: Sequence[Mapping[str, Any]], options: Sequence[str]) -> list[tuple[str, float]]:
    """The options by how much of the variance between trials they explain, the most first.

    For each option, the finished and pruned trials are grouped by its value (by rank into `GROUPS`
    groups if it has many values). The share is 1 - (n - 1)/(n - k) * within/total: the variance
    between k groups of n trials, less what chance groups would explain (Ezekiel's adjusted R^2).
    An option that cannot be judged (one group, or as many groups as trials) comes last, with 0.
    """
    judged = [row for row in rows if row["state"] in ("finished", "pruned")]
    shares = [(key, _share_explained(judged, key)) for key in options]
    return sorted(shares, key=lambda pair: -pair[1])


def _share_explained(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    pairs = [(row["options"].get(key), row["val_accuracy"]) for row in rows]
    groups = _groups(pairs)
    n, k = len(pairs), len(groups)
    if not 1 < k < n:
        return 0.0
    total = _squares([accuracy for _, accuracy in pairs])
    within = sum(_squares(group) for group in groups)
    return 0.0 if total == 0 else max(0.0, 1 - (n - 1) / (n - k) * within / total)


def _groups(pairs: list[tuple[Any, float]]) -> list[list[float]]:
    """The accuracies, grouped by value."""
    values = {repr(value): value for value, _ in pairs}
    numbers = all(isinstance(v, int | float) for v in values.values())
    if numbers and len(values) > max(GROUPS, len(pairs) // 2):
        ranked = [accuracy for _, accuracy in sorted(pairs)]
        cuts = [round(i * len(ranked) / GROUPS) for i in range(GROUPS + 1)]
        return [ranked[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return [[a for value, a in pairs if repr(value) == text] for text in values]


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return sum((v - mean) ** 2 for v in values)


def write_report(study: Study) -> list[dict[str, Any]]:
    """Rewrite the CSV file and the picture, each whole or not at all; returns the rows.

    One process at a time, so that an older report never replaces a newer one.
    """
    with study.folder.alone("report"):
        rows = rows_of(study)
        spec = study.spec
        options = spec.varied()
        write_atomically(study.folder.csv, csv_text(rows, options).encode())
        log = [
            key for key, option in spec.options.items() if isinstance(option, Range) and option.log
        ]
        whole = with_base(spec, rows)
        order = [key for key, _ in telling(whole, options)]
        title = f"{spec.name}: {spec.method}, {len(rows)} of {spec.trials} trials"
        draw_sweep(whole, order, log, study.folder.picture, title)
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]], options: Sequence[str]) -> str:
    """The rows as CSV, an option to a column; a list such as blocks is written 4,4,3."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *options])
    for row in rows:
        chosen = [row["options"].get(key) for key in options]
        chosen = [",".join(map(str, v)) if isinstance(v, list) else v for v in chosen]
        writer.writerow([*(row[column] for column in COLUMNS), *chosen])
    return text.getvalue()


def summary_of(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All of it as one object for --json."""
    spec = study.spec
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES.values()}
    return {
        "sweep": spec.name,
        "folder": str(study.folder.path),
        "method": spec.method,
        "metric": spec.metric,
        "asked": spec.trials,
        **{state: counts[state] for state in ("finished", "pruned", "failed")},
        "best": best_of(rows),
        "telling": dict(telling(with_base(spec, rows), spec.varied())),
        "trials": list(rows),
        "csv": str(study.folder.csv),
        "picture": str(study.folder.picture),
    }


def print_table(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    """The trials on the terminal, the best first, those without an accuracy last.

    Each option has a column, or, where the terminal is too narrow for that, all share one.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    options = study.spec.varied()
    table = _table(rows, options)
    if Console(width=10_000).measure(table).maximum > console.width:
        table = _table(rows, options, together=True)
    console.print(table)


def _table(
    rows: Sequence[Mapping[str, Any]], options: Sequence[str], together: bool = False
) -> Any:
    """A table of rich; `together` puts the options of a trial into one cell."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    best = best_of(rows)
    named = ["name"] if any(row["name"] for row in rows) else []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", justify="right")
    for column in (*named, *(["options"] if together else options)):
        numbers = all(_is_number(row["options"].get(column)) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for column in ("validation", "epochs", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in sorted(rows, key=lambda row: -(row["val_accuracy"] or -1)):
        accuracy, seconds, chosen = row["val_accuracy"], row["seconds"], row["options"]
        cells = [_cell(chosen.get(key)) for key in options]
        if together:
            cells = [" ".join(f"{key}={_cell(chosen[key])}" for key in options if key in chosen)]
        table.add_row(
            str(row["trial"]),
            *([row["name"]] if named else []),
            *cells,
            "" if accuracy is None else f"{accuracy:.2%}",
            str(row["epochs"] or ""),
            "" if seconds is None else duration(seconds),
            "best" if row is best else "" if row["state"] == "finished" else row["state"],
        )
    return table


def _cell(value: Any) -> str:
    return "" if value is None else shown(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
