"""`recipes` and `train` with a recipe of several runs, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minires.cli import main
from minires.training.recipes import recipe_names


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIRES_DATA", raising=False)


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_recipes_are_listed_with_their_cost(capsys):
    code, out, err = call(capsys, "recipes")
    assert (code, err) == (0, "")
    assert all(f" {name} " in out for name in recipe_names())
    assert "4,697,162" in out and "182 x 351" in out and "/plain56" in out


def test_one_recipe_shows_its_settings_and_the_command(capsys):
    code, out, _ = call(capsys, "recipes", "resnet50-transfer")
    assert code == 0
    assert "minires train --recipe resnet50-transfer --pretrained FILE\n" in out
    assert 'optimizer = "rmsprop"' in out and "24,039,242 parameters" in out
    code, out, _ = call(capsys, "recipes", "cnn-vs-resnet/plain20")
    assert "minires train --recipe cnn-vs-resnet/plain20\n" in out and "551,018" not in out


def test_json(capsys):
    listed = json.loads(call(capsys, "recipes", "--json")[1])["recipes"]
    assert sorted(one["name"] for one in listed) == recipe_names()
    one = json.loads(call(capsys, "recipes", "paper", "--json")[1])
    assert one == next(other for other in listed if other["name"] == "paper")
    assert one["settings"]["lr"] == 0.1 and one["runs"][0]["parameters"] == 269_722


def test_an_unknown_recipe_is_one_line(capsys):
    code, out, err = call(capsys, "recipes", "papr")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "recipe papr: unknown; did you mean 'paper'" in err


def test_all_runs_of_a_file_are_trained_and_put_side_by_side(capsys):
    Path("mine.toml").write_text(
        'dataset = "shapes"\nlimit = 60\nbatch_size = 16\nepochs = 1\nwidth = 0.25\ndepth = 8\n'
        '[[runs]]\nname = "plain"\nplain = true\n[[runs]]\nname = "residual"\n'
    )
    code, out, err = call(capsys, "train", "--config", "mine.toml", "--device", "cpu")
    assert code == 0, err
    assert "not plain" in out and "minires compare runs/mine-001-*" in out
    assert {p.name for p in Path("runs").iterdir()} == {"mine-001-plain", "mine-001-residual"}
    code, out, err = call(capsys, "train", "--config", "mine.toml", "--json")
    assert err.count("is finished already") == 2
    assert [row["label"] for row in json.loads(out)["rows"]] == ["plain", "not plain"]
