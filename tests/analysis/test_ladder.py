"""The ladder on a tiny convolution: every rung computes it; the report and picture are whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from minires import backend, devices
from minires.analysis import bench_machine, ladder, ladder_rungs
from minires.analysis.ladder import Shape, arrange, as_nchw, climb, make_rungs
from minires.analysis.ladder_report import draw_ladder, duration, rate
from minires.cli.bench import command
from minires.errors import MiniresError

TINY = Shape(channels=8, size=8, images=5)


@pytest.fixture(autouse=True)
def small_and_restored(monkeypatch):
    """Small arrays for the peaks, and the number of threads as it was before."""
    monkeypatch.setattr(bench_machine, "GEMM_SIZES", (32,))
    monkeypatch.setattr(bench_machine, "STREAM_VALUES", 1000)
    monkeypatch.setattr(backend.options, "threads", backend.options.threads)
    devices.select_device("cpu", 2)


def shifted_sums(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The convolution as nine shifted products in float64: no rung does it like this."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    return sum(
        np.tensordot(weight[:, :, i, j], padded[:, :, i : i + h, j : j + w], axes=(1, 1))
        for i in range(3)
        for j in range(3)
    ).transpose(1, 0, 2, 3)


@pytest.mark.parametrize("rung", make_rungs(TINY, 2, True), ids=lambda rung: rung.name)
def test_every_rung_computes_the_convolution(rung):
    random = np.random.default_rng(3)
    x = random.standard_normal((rung.images, 8, 12, 8)).astype(np.float32)
    weight = random.standard_normal((6, 8, 3, 3)).astype(np.float32)
    y = as_nchw(rung.run(*arrange(x, weight, rung.layout)), rung.layout)
    np.testing.assert_allclose(y, shifted_sums(x, weight), rtol=1e-4, atol=2e-4)


def test_small_pieces_of_tiled_im2col_join(monkeypatch):
    monkeypatch.setattr(ladder_rungs, "SMALL", 4 * 8 * 9 * 8 * 2)  # two images at a time
    random = np.random.default_rng(3)
    x = random.standard_normal((5, 8, 4, 8)).astype(np.float32)
    weight = random.standard_normal((6, 8, 3, 3)).astype(np.float32)
    y = as_nchw(ladder_rungs.tiled_im2col(*arrange(x, weight, "hwnc")), "hwnc")
    np.testing.assert_allclose(y, shifted_sums(x, weight), rtol=1e-4, atol=2e-4)


def test_report():
    report = climb(TINY, threads=2, rounds=1)
    rows = report["rungs"]
    assert [row["images"] for row in rows[:3]] == [1, 4, 5]
    assert rows[0]["gain"] is None and all(row["gain"] > 0 for row in rows[1:])
    for before, row in zip(rows, rows[1:], strict=False):
        ratio = before["seconds_per_image"] / row["seconds_per_image"]
        assert row["gain"] == pytest.approx(ratio)
        assert row["relative_error"] < 1e-5 and row["reason"]
    assert report["shape"]["flops_per_image"] == 2 * 9 * 8 * 8 * 8 * 8
    assert report["machine"]["memory_bytes_per_second_one_thread"] > 0
    for row in rows:
        work = row["flops_per_second"] * row["seconds_per_image"]
        assert work == pytest.approx(report["shape"]["flops_per_image"])


def test_without_numba_its_rung_is_left_out():
    names = [rung.name for rung in make_rungs(TINY, 2, compiled=False)]
    assert not any("numba" in name for name in names) and names[-1] == "kernel on 2 threads"
    assert len(make_rungs(TINY, 1, compiled=False)) == len(names) - 1


@pytest.mark.parametrize("wrong", ["einsum_over_windows", "im2col", "tiled_im2col", "winograd"])
def test_a_rung_that_computes_something_else_stops_the_climb(monkeypatch, wrong):
    right = getattr(ladder_rungs, wrong)

    def broken(x, weight):
        y = right(x, weight).copy()
        y[-1] += 0.01
        return y

    monkeypatch.setattr(ladder_rungs, wrong, broken)
    monkeypatch.setattr(ladder, "_time", None)
    shape = Shape(channels=8, size=8, images=1 if wrong == "einsum_over_windows" else 5)
    with pytest.raises(MiniresError, match="does not compute the convolution"):
        climb(shape, threads=1, rounds=1)


def test_command_prints_json_and_draws(monkeypatch, tmp_path):
    monkeypatch.setattr(ladder.climb, "__defaults__", (TINY, *ladder.climb.__defaults__[1:]))
    picture = tmp_path / "new" / "ladder.png"
    options = ["--ladder", "--rounds", "1", "--threads", "1"]
    result = CliRunner().invoke(
        command, [*options, "--json", "--picture", str(picture)], standalone_mode=False
    )
    assert result.exception is None
    report = json.loads(result.stdout)
    assert {"name", "seconds_per_image", "flops_per_second", "gain"} <= set(report["rungs"][0])
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = CliRunner().invoke(command, options, standalone_mode=False).stdout
    assert "six loops in Python" in table and "Winograd in NumPy" in table


def test_vector_picture(tmp_path):
    draw_ladder(climb(TINY, threads=1, rounds=1), tmp_path / "ladder.svg")
    assert "<svg" in (tmp_path / "ladder.svg").read_text()


def test_units():
    assert [duration(s) for s in (3.14159, 0.0042, 8.7e-7)] == ["3.14 s", "4.2 ms", "870 ns"]
    assert [rate(f) for f in (1.23e7, 9.8e9, 1.234e11)] == ["0.012", "9.8", "123"]
