"""Specs: what is read, what is refused in one line, and what makes two of them the same sweep."""

from __future__ import annotations

import pytest

from minires.errors import UsageError
from minires.sweep.check import check_sweep
from minires.sweep.space import Choices, Range, shown
from minires.sweep.spec import differences, load_spec, read_spec, shipped_names

BASE = '[base]\nrecipe = "quickstart"\nlimit = 80\nwidth = 0.25\n'
GRID = '[sweep]\nmethod = "grid"\n' + BASE
RANDOM = '[sweep]\nmethod = "random"\ntrials = 5\n' + BASE
LIST = '[sweep]\nmethod = "list"\n' + BASE


def read(text):
    return read_spec(text, "my.toml: ", "my")


def test_a_grid_is_every_combination_in_the_order_of_the_spec():
    spec = read(
        GRID + "[search]\nlr = [0.1, 1]\nblocks = [[1, 1], [2]]\n"
        "dropout = {low = 0.1, high = 0.3, step = 0.1}\n"
    )
    assert spec.trials == 12
    assert spec.varied() == ["lr", "blocks", "dropout"]
    assert [values for _, values in spec.points()] == [
        {"lr": lr, "blocks": blocks, "dropout": dropout}
        for lr in (0.1, 1.0)
        for blocks in ((1, 1), (2,))
        for dropout in (0.1, 0.2, 0.3)
    ]
    config = spec.config(spec.points()[-1][1], threads=3)
    assert (config.lr, config.blocks, config.dropout, config.threads) == (1.0, (2,), 0.3, 3)
    assert (config.dataset, config.model, config.width) == ("shapes", "resnet8", 0.25)


def test_ranges_are_whole_or_real_as_their_option_is():
    spec = read(
        RANDOM + "[search]\ncutout = {low = 2, high = 8}\nepochs = {low = 1, high = 64, log = true}"
        "\nlr = {low = 1, high = 10, log = true}\nwarmup = {low = 0.0, high = 0.5}\n"
    )
    assert spec.options == {
        "cutout": Range(2, 8, False, 1),
        "epochs": Range(1, 64, True, None),
        "lr": Range(1.0, 10.0, True, None),
        "warmup": Range(0.0, 0.5, False, None),
    }
    assert spec.points() == []
    assert type(spec.options["lr"].low) is float


def test_experiments_have_names_and_values_of_their_own():
    spec = read(
        LIST + '[[experiments]]\nname = "plain"\nplain = true\n'
        '[[experiments]]\nname = "deep"\ndepth = 14\nblocks = [1, 1, 1]\n'
    )
    assert spec.points() == [
        ("plain", {"plain": True}),
        ("deep", {"depth": 14, "blocks": (1, 1, 1)}),
    ]
    assert spec.trials == 2
    assert spec.varied() == ["plain", "depth", "blocks"]
    assert spec.config(spec.points()[1][1]).model == "resnet14"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sweep", ["not TOML"]),
        ("swep = 1", ["swep", "'sweep'"]),
        ("sweep = 1", ["sweep", "table"]),
        ("[sweep]\nmethd = 'grid'", ["[sweep] methd", "'method'"]),
        ("[search]\nlr = [0.1]", ["[sweep] method", "missing"]),
        ("[sweep]\nmethod = 'gird'", ["[sweep] method", "'grid'"]),
        ("[sweep]\nmethod = 'grid'\nname = 'a/b'", ["[sweep] name", "folder"]),
        ("[sweep]\nmethod = 'grid'\nseed = -1", ["[sweep] seed", "at least 0"]),
        ("[sweep]\nmethod = 'grid'\nmetric = 'test_accuracy'", ["[sweep] metric"]),
        ("[sweep]\nmethod = 'grid'\nstartup = 3", ["[sweep] startup", "tpe"]),
        ("[sweep]\nmethod = 'grid'\npruning = 'medain'", ["[sweep.pruning] method", "'median'"]),
        (
            "[sweep]\nmethod = 'grid'\n[sweep.pruning]\nmethod = 'median'\nfactor = 3",
            ["[sweep.pruning] factor", "median"],
        ),
        (RANDOM.replace("5", "0") + "[search]\nlr = [1]", ["[sweep] trials", "at least 1"]),
        (RANDOM.replace("trials = 5", "") + "[search]\nlr = [1]", ["[sweep] trials", "missing"]),
        (
            GRID.replace("grid'", "grid'\ntrials = 9") + "[search]\nlr = []",
            ["[search] lr", "empty"],
        ),
        (GRID.replace('"\n[b', '"\ntrials = 9\n[b') + "[search]\nlr = [1]", ["trials", "1 trials"]),
        (GRID + "epoch = 1\n[search]\nlr = [1]", ["[base] epoch", "'epochs'"]),
        (GRID.replace("quickstart", "quickstrt"), ["[base] recipe", "'quickstart'"]),
        (GRID + "val_split = 0\n[search]\nlr = [1]", ["[base] val_split", "0"]),
        (GRID + "cycle_momentum = true\nschedule = 'step'", ["[base]", "--cycle-momentum"]),
        (GRID, ["search", "needs a [search]"]),
        (GRID + "[search]\nrate = [1]", ["[search] rate", "no option of train"]),
        (GRID + "[search]\nthreads = [1, 2]", ["[search] threads", "changes nothing"]),
        (GRID + "[search]\nlr = 0.1", ["[search] lr", "list of choices"]),
        (GRID + "[search]\nlr = [0.1, 0]", ["[search] lr", "greater than 0"]),
        (GRID + "[search]\nlr = [0.1, '1']", ["[search] lr", "a number"]),
        (GRID + "[search]\nlr = [1, 1.0]", ["[search] lr", "twice"]),
        (GRID + "[search]\ndepth = [8, 9]", ["[search]", "9", "no such ResNet"]),
        (GRID + "[search]\ndepth = [8]\nmodel = ['cnn']", ["[search] depth", "not both"]),
        (GRID + "[search]\nschedule = ['cosin']", ["[search] schedule", "'cosine'"]),
        (GRID + "[search]\nblocks = [[1], [0]]", ["[search] blocks", "above 0"]),
        (GRID + "[search]\nval_split = [0.1, 0.0]", ["[search] val_split", "0 leaves"]),
        (GRID + "[search]\nlr = {low = 0.1, high = 0.2}", ["[search] lr", "step"]),
        (GRID + "[search]\nflip = {low = 0, high = 1}", ["[search] flip", "no number"]),
        (RANDOM + "[search]\nlr = {low = 0.1}", ["[search] lr", "high is missing"]),
        (RANDOM + "[search]\nlr = {low = 0.1, high = 0.05}", ["[search] lr.high", "greater"]),
        (RANDOM + "[search]\nlr = {low = 0, high = 1}", ["[search] lr", "greater than 0"]),
        (RANDOM + "[search]\ndropout = {low = 0, high = 1}", ["[search] dropout", "at most"]),
        (RANDOM + "[search]\ncutout = {low = 1.5, high = 4}", ["[search] cutout.low", "whole"]),
        (RANDOM + "[search]\nlr = {low = 1, high = 2, lag = 1}", ["[search] lr.lag", "'log'"]),
        (RANDOM + "[search]\nlr = {low = 1, high = 2, log = 1}", ["[search] lr.log", "true"]),
        (
            RANDOM + "[search]\nlr = {low = 1, high = 2, log = true, step = 1}",
            ["[search] lr.step", "log"],
        ),
        (RANDOM + "[search]\nlr = {low = 1, high = 2, step = 0.3}", ["[search] lr.step", "lead"]),
        (
            RANDOM + "[search]\ndropout = {low = 0, high = 0.5, log = true}",
            ["[search] dropout.low", "log"],
        ),
        (RANDOM + "[search]\ndepth = {low = 8, high = 20}", ["[search]", "9", "no such ResNet"]),
        (LIST, ["experiments", "needs"]),
        (GRID + "[[experiments]]\nname = 'a'", ["experiments", "takes no"]),
        (LIST + "[[experiments]]\nlr = 1", ["[[experiments]] 1", "name"]),
        (LIST + "[[experiments]]\nname = '../a'", ["[[experiments]] 1", "name"]),
        (LIST + 2 * "[[experiments]]\nname = 'a'\n", ["[[experiments]] 2", "twice"]),
        (LIST + "[[experiments]]\nname = 'a'\nlr = -1", ["[[experiments]] a: lr", "greater"]),
        (LIST + "[[experiments]]\nname = 'a'\nlrr = 1", ["[[experiments]] a: lrr", "'lr'"]),
        (LIST + "[[experiments]]\nname = 'a'\nseed = 1\n[search]\nlr = [1]", ["takes no [search]"]),
    ],
)
def test_a_bad_spec_is_one_line_that_names_the_key(text, words):
    with pytest.raises(UsageError) as error:
        read(text)
    line = str(error.value)
    assert line.startswith("my.toml: ") and "\n" not in line
    for word in words:
        assert word in line, line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LIST + "[[experiments]]\nname = 'a'\nmodel = 'resnt'", ["trial a", "--model resnt"]),
        (
            LIST + "[[experiments]]\nname = 'a'\nmodel = 'vgg16'\nplain = true",
            ["trial a", "--plain", "vgg16 has no such option"],
        ),
        (
            LIST + "max_parameters = 1000\n[[experiments]]\nname = 'a'\nlr = 1",
            ["trial a", "--max-parameters 1000"],
        ),
        (
            LIST + "schedule = 'step'\n[[experiments]]\nname = 'a'\ncycle_momentum = true",
            ["trial a", "--cycle-momentum"],
        ),
        (
            GRID + "[search]\nschedule = ['step', 'one-cycle']\ncycle_momentum = [false, true]",
            ["trial 2", "--cycle-momentum"],
        ),
        (GRID + "[search]\nbatch_size = [16, 99, 32]", ["--batch-size 99", "at most 72"]),
        (
            RANDOM + "[search]\nbatch_size = {low = 16, high = 80, step = 16}",
            ["--batch-size 80", "at most 72"],
        ),
        (RANDOM + "[search]\nmodel = ['resnet8', 'resnt']", ["--model resnt"]),
        (
            RANDOM + "[search]\nmodel = ['resnet8', 'vgg16']\nplain = [false, true]",
            ["[search] plain", "vgg16 has no such option"],
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_runs(text, words):
    spec = read(text)
    with pytest.raises(UsageError) as error:
        check_sweep(spec, {})
    for word in words:
        assert word in str(error.value)


def test_two_specs_differ_in_what_changes_a_result():
    one = read(RANDOM + "[search]\nlr = [0.1, 0.2]\n").identity()
    two = read(
        RANDOM.replace("= 5", "= 6").replace("80", "90") + "threads = 1\n"
        "[search]\nlr = [0.1]\ndropout = {low = 0, high = 0.5}\n"
    ).identity()
    assert differences(one, dict(one)) == []
    assert differences(one, two) == [
        "[sweep] trials: 5 in the study, 6 here",
        "[base] limit: 80 in the study, 90 here",
        "[search] lr: [0.1, 0.2] in the study, [0.1] here",
        '[search] dropout: nothing in the study, {"low": 0.0, "high": 0.5, "log": false, '
        '"step": null} here',
    ]


def test_the_shipped_sweeps_can_be_trained(monkeypatch):
    assert {"cpu-eight", "custom-5m"} <= set(shipped_names())
    for name in shipped_names():
        spec = load_spec(name)
        assert spec.name == name and spec.about
    fifteen = load_spec("custom-5m")
    assert fifteen.trials == 15
    assert {fifteen.config(v).max_parameters for _, v in fifteen.points()} == {5_000_000}
    monkeypatch.setattr("minires.sweep.check._check_data", lambda configs: str(len(configs)))
    assert check_sweep(fifteen, {}) == "15"
    assert check_sweep(load_spec("cpu-eight"), {}) == "8"


def test_a_spec_comes_from_a_file_or_a_name_or_a_folder(tmp_path):
    text = GRID + "[search]\nlr = [0.1]\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spec.toml").write_text(text)
    (tmp_path / "other.toml").write_text(text)
    assert load_spec(str(tmp_path / "mine")).name == "mine"
    assert load_spec(str(tmp_path / "other.toml")).name == "other"
    with pytest.raises(UsageError, match="cpu-eigth.*did you mean 'cpu-eight'"):
        load_spec("cpu-eigth")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_spec(str(tmp_path / "binary.toml"))


def test_values_are_shown_short():
    assert [shown(v) for v in (0.1, 1e-05, True, False, (4, 4, 3), [0.5], "sgd", 64)] == [
        *("0.1", "1e-05", "yes", "no", "4,4,3", "0.5", "sgd", "64")
    ]
    assert Choices(((1, 2),)).known_as((1, 2)) == "[1, 2]"
