"""`plot` as typed: every kind draws a real picture of a tiny run, in both themes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minires.cli import main

TINY = [
    *("--dataset", "shapes", "--limit", "120", "--depth", "8", "--width", "0.25"),
    *("--batch-size", "16", "--epochs", "1", "--device", "cpu", "--threads", "1"),
]
HERE = ["--device", "cpu", "--threads", "1"]

KINDS = {
    "curves": [],
    "confusion": HERE,
    "classes": HERE,
    "calibration": HERE,
    "mistakes": [*HERE, "--count", "9"],
    "filters": HERE,
    "features": HERE,
    "gradcam": HERE,
    "schedule": [],
    "augment": [],
    "statistics": [*HERE, "--images", "16"],
    "landscape": [*HERE, "--dims", "2", "--points", "3", "--images", "10"],
}
"""Each kind with the options that make it quick."""


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny trained run."""
    path = tmp_path_factory.mktemp("plot") / "runs" / "tiny"
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--run-dir", str(path), "--json"])
    assert not stop.value.code
    return path


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_kind_in_one_line(capsys):
    code, out, _ = call(capsys, "plot", "--help")
    assert code == 0
    listed = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == list(KINDS)
    assert "..." not in out  # no line was too long


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_kind_draws_in_both_themes(capsys, run, kind, theme):
    code, out, err = call(capsys, "plot", kind, run, *KINDS[kind], "--theme", theme)
    assert (code, err) == (0, "")
    assert f"{kind}.png" in out
    with Image.open(f"{kind}.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert min(pixels.shape) > 300
    background = np.median(pixels[:3])
    assert background > 250 if theme == "light" else background < 40
    drawn = np.abs(pixels - background) > 60
    assert drawn.mean() > 0.01  # lines and text, at least
    halves = [*np.array_split(drawn, 2), *np.array_split(drawn, 2, axis=1)]
    assert all(half.any() for half in halves)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_one_json_object_and_an_svg(capsys, run, kind):
    code, out, err = call(capsys, "plot", kind, run, *KINDS[kind], "-o", "a.svg", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["output"] == "a.svg"
    picture = Path("a.svg").read_bytes()
    assert b"<svg" in picture and b"<path" in picture
    assert b"dc:date" not in picture  # so that a picture changes with its data alone


def test_confusion_agrees_with_evaluate(capsys, run):
    _, out, _ = call(capsys, "plot", "confusion", run, *HERE, "--json")
    matrix = np.array(json.loads(out)["matrix"])
    _, out, _ = call(capsys, "evaluate", run, *HERE, "--json")
    per_class = json.loads(out)["per_class"]
    assert np.diag(matrix).tolist() == [row["correct"] for row in per_class]
    assert matrix.sum(axis=1).tolist() == [row["images"] for row in per_class]


def test_without_a_run_the_newest_is_taken(capsys, run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    code, out, _ = call(capsys, "plot", "curves", "-o", "newest.png")
    assert code == 0
    assert "runs/tiny" in out


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["curve"], 2, "did you mean 'curves'"),
        (["curves"], 4, "no RUN was named"),
        (["curves", "nowhere"], 4, "nowhere: no such folder"),
        (["confusion", "nowhere"], 4, "nowhere: no such run folder"),
        (["confusion", "."], 4, "is it a run folder?"),
        (["curves", "RUN", "-o", "a.gif"], 2, "must end in .png, .svg or .pdf"),
        (["curves", "RUN", "-o", "no/a.png"], 2, "its folder does not exist"),
        (["curves", "RUN", "-o", "."], 2, "must end in"),
        (["confusion", "RUN", "--theme", "sepia"], 2, "sepia"),
        (["confusion", "RUN", "--dataset", "cifar100", "--data-dir", "."], 3, "cifar100"),
    ],
)
def test_a_mistake_is_one_line(capsys, run, args, code, words):
    got, out, err = call(capsys, "plot", *[run if a == "RUN" else a for a in args])
    assert (got, out) == (code, "")
    assert err.count("\n") == 1 and words in err
    assert not list(Path().iterdir())


def test_options_come_from_the_environment(capsys, run, monkeypatch):
    monkeypatch.setenv("MINIRES_PLOT_THEME", "dark")
    assert call(capsys, "plot", "curves", run)[0] == 0
    with Image.open("curves.png") as image:
        assert image.convert("L").getpixel((1, 1)) < 40


def test_a_log_without_steps_is_one_line(capsys, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_text("")
    code, _, err = call(capsys, "plot", "curves", "new")
    assert code == 4 and "no step has been logged yet" in err


def test_gradcam_asks_about_a_class_at_a_layer_of_files_too(capsys, run):
    Image.new("RGB", (40, 30), "red").save("red.png")
    args = ["--image", "5", "--image", "red.png", "--class", "star", "--layer", "layer2"]
    code, out, _ = call(capsys, "plot", "gradcam", run, *HERE, *args, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["layer"] == "layer2.0" and result["classes"] == ["star", "star"]
    assert result["images"][1] == "red.png"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["gradcam", "RUN", "--layer", "layer7"], 2, "--layer layer7"),
        (["gradcam", "RUN", "--class", "stra"], 2, "did you mean 'star'"),
        (["features", "RUN", "--image", "120"], 2, "images 0 to 119"),
        (["features", "RUN", "--image", "no.png"], 3, "--image no.png: no such file"),
        (["augment", "RUN", "--image", "-1"], 2, "--image -1"),
        (["schedule", "--schedule", "cosin"], 2, "--schedule"),
        (["landscape", "RUN", "--grid", "no/grid.npz"], 2, "--grid no/grid.npz"),
    ],
)
def test_a_mistake_of_one_kind_is_one_line(capsys, run, args, code, words):
    got, out, err = call(capsys, "plot", *[run if a == "RUN" else a for a in args])
    assert (got, out) == (code, "")
    assert err.count("\n") == 1 and words in err


def test_schedules_without_a_run(capsys):
    code, out, _ = call(capsys, "plot", "schedule", "--json")
    assert code == 0 and list(json.loads(out)["schedules"])[:2] == ["constant", "step"]
    code, out, _ = call(capsys, "plot", "schedule", "--schedule", "cosine", "--lr", "3", "--json")
    ((name, (_, rates)),) = json.loads(out)["schedules"].items()
    assert name == "cosine" and max(rates) == 3


def test_augment_without_a_run_shows_every_kind(capsys):
    code, out, _ = call(capsys, "plot", "augment", "--dataset", "shapes", "--json")
    assert code == 0 and len(json.loads(out)["kinds"]) == 5
    code, out, _ = call(capsys, "plot", "augment", "--dataset", "shapes", "--cutout", "9", "--json")
    assert code == 0 and json.loads(out)["kinds"] == ["in training"]


def test_landscape_goes_on_from_its_grid(capsys, run):
    args = ["landscape", run, run, *HERE, "--points", "5", "--images", "10"]
    code, out, _ = call(capsys, "plot", *args)
    assert code == 0 and "landscape.npz, 0 of 10 points were there" in out
    code, out, _ = call(capsys, "plot", *args, "--theme", "dark")
    assert code == 0 and "10 of 10 points were there" in out
    code, out, err = call(capsys, "plot", *args, "--seed", "1")
    assert (code, out) == (2, "") and "another landscape (other seed)" in err
