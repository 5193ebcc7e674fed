"""The report: which options tell most, the CSV file, the picture."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from minires.sweep.picture import draw_sweep
from minires.sweep.report import COLUMNS, _table, best_of, csv_text, telling, with_base
from minires.sweep.spec import read_spec


def row(trial, accuracy, state="finished", name="", **options):
    return {
        **dict.fromkeys(COLUMNS),
        "trial": trial,
        "name": name,
        "state": state,
        "val_accuracy": accuracy,
        "options": options,
    }


GRID = [
    row(1, 0.50, lr=0.1, flip=True, seed=1),
    row(2, 0.60, lr=0.1, flip=False, seed=2),
    row(3, 0.80, lr=0.2, flip=True, seed=3),
    row(4, 0.90, lr=0.2, flip=False, seed=4),
]


def adjusted_r2(accuracies, groups):
    """The fit of one mean to each group, as a regression on indicator columns gives it."""
    y = np.array(accuracies)
    x = np.array([[g == other for other in sorted(set(groups))] for g in groups], float)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    n, k = x.shape
    return 1 - (n - 1) / (n - k) * (residual @ residual) / ((y - y.mean()) @ (y - y.mean()))


def test_the_options_are_ordered_by_the_variance_that_they_explain():
    shares = telling(GRID, ["flip", "lr", "constant"])
    assert [key for key, _ in shares] == ["lr", "flip", "constant"]
    expected = adjusted_r2([0.5, 0.6, 0.8, 0.9], ["a", "a", "b", "b"])
    assert shares[0][1] == pytest.approx(expected)
    assert shares[1][1] == 0.0  # less than groups by chance explain
    assert shares[2][1] == 0.0


def test_an_option_with_many_values_is_cut_into_three_groups_by_rank():
    accuracies = [0.1, 0.2, 0.7, 0.8, 0.3, 0.2, 0.1]
    rows = [row(i, a, lr=10.0 ** (i % 7)) for i, a in enumerate(accuracies)]
    (found,) = telling(rows, ["lr"])
    assert found[1] == pytest.approx(adjusted_r2(accuracies, [0, 0, 1, 1, 1, 2, 2]))


def test_an_experiment_has_the_base_value_of_what_it_leaves():
    text = '[sweep]\nmethod = "list"\n[base]\nwidth = 2.0\n[[experiments]]\nname = "first"\n'
    text += (
        '[[experiments]]\nname = "thin"\nwidth = 0.5\n[[experiments]]\nname = "flat"\nplain = true'
    )
    spec = read_spec(text, "", "")
    rows = [row(i, 0.5, **values) for i, (_, values) in enumerate(spec.points())]
    assert [r["options"] for r in with_base(spec, rows)] == [
        {"width": 2.0, "plain": False},
        {"width": 0.5, "plain": False},
        {"width": 2.0, "plain": True},
    ]


def test_failed_trials_do_not_count():
    rows = [*GRID, row(5, None, "failed", lr=9.0), row(6, None, "running", lr=8.0)]
    assert telling(rows, ["lr"]) == telling(GRID, ["lr"])
    assert best_of(rows)["trial"] == 4
    assert best_of([row(1, 0.9, "pruned")]) is None
    assert best_of([row(1, 0.9), row(2, 0.9)])["trial"] == 1
    assert telling([], ["lr"]) == [("lr", 0.0)]


def test_the_csv_has_a_line_for_each_trial_and_a_column_for_each_option():
    rows = [row(1, 0.5, name="a, b", blocks=[4, 4, 3], lr=0.1), row(2, None, "failed", lr=0.2)]
    read = list(csv.DictReader(io.StringIO(csv_text(rows, ["lr", "blocks"]))))
    assert list(read[0]) == [*COLUMNS, "lr", "blocks"]
    assert (read[0]["name"], read[0]["blocks"], read[0]["val_accuracy"]) == ("a, b", "4,4,3", "0.5")
    assert (read[1]["state"], read[1]["blocks"], read[1]["val_accuracy"]) == ("failed", "", "")


def colours(path):
    pixels = np.asarray(Image.open(path).convert("RGB"), np.int64) @ [1 << 16, 1 << 8, 1]
    return set(np.unique(pixels).tolist())


def test_the_picture_shows_every_state(tmp_path):
    rows = [
        *GRID,
        row(5, 0.3, "pruned", lr=0.3, flip=True, seed=5),
        row(6, None, "failed", lr=0.4, flip=True, seed=6),
        row(7, 0.4, "running", lr=0.5, flip=False, seed=7),
        row(8, None, "running", lr=0.5, flip=False, seed=8),
    ]
    path = tmp_path / "report.png"
    draw_sweep(rows, ["lr", "flip", "seed"], ["lr"], path, "all states")
    found = colours(path)
    assert {0xD55E00, 0x000000} <= found  # the cross of a failed trial, the axes
    assert Image.open(path).size[0] == 1200
    one = path.read_bytes()
    draw_sweep(GRID, ["lr", "flip", "seed"], [], path, "finished alone")
    assert path.read_bytes() != one
    assert 0xD55E00 not in colours(path)


@pytest.mark.parametrize("rows", [[], [row(1, None, "running")], [row(1, None, "failed", lr=1)]])
def test_a_picture_of_nothing_yet(tmp_path, rows):
    draw_sweep(rows, ["lr"], [], tmp_path / "report.png", "nothing")
    assert Image.open(tmp_path / "report.png").size[0] == 1200


def test_named_experiments_stand_under_the_axis(tmp_path):
    rows = [row(1, 0.5, name="first"), row(2, 0.6, name="wider", width=2.0)]
    draw_sweep(rows, ["width"], [], tmp_path / "named.png", "list")
    draw_sweep([{**r, "name": ""} for r in rows], ["width"], [], tmp_path / "bare.png", "list")
    assert (tmp_path / "named.png").read_bytes() != (tmp_path / "bare.png").read_bytes()


@pytest.mark.parametrize("together", [False, True])
def test_a_narrow_table_puts_the_options_into_one_column(together):
    from rich.console import Console

    console = Console(width=100 if together else 160, record=True, file=io.StringIO())
    rows = [row(1, 0.5, lr=0.1, flip=True), row(2, 0.6, "pruned", lr=0.2), row(3, None, "failed")]
    console.print(_table(rows, ["lr", "flip"], together))
    head, _, first, second, third = console.export_text().strip("\n").splitlines()[-6:-1]
    assert ("options" in head) == together and ("flip" in head) == (not together)
    assert first.split()[:2] == ["2", "lr=0.2" if together else "0.2"]
    assert "60.00%" in first and first.split()[-1] == "pruned"
    assert ("lr=0.1 flip=yes" in second) == together and second.split()[-1] == "best"
    assert third.split() == ["3", "failed"]
