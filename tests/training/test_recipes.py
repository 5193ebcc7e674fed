"""Recipes: their files, the runs in them, what they cost and reached, and a few steps of each."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path

import pytest
import tools.tables

from minires.cli import cli
from minires.cli.options import given_values
from minires.data.shapes import draw_shapes
from minires.errors import UsageError
from minires.models import build
from minires.training.config import FIELDS
from minires.training.history import read_history
from minires.training.recipe_report import RESULTS, record_folders, report, reports
from minires.training.recipes import read_recipe, recipe_names
from minires.training.resolve import chosen_values, resolve, resolve_runs
from minires.training.runner import start

ROOT = Path(__file__).parents[2]
NEEDED = {"resnet50-transfer": {"pretrained": "weights.safetensors"}}
RUNS = [
    f"{name}/{run}" if run else name
    for name in recipe_names()
    for run in read_recipe(name).runs or [""]
]
"""All recipes that are one training: paper, cnn-vs-resnet/cnn, ..."""

SMALL = dict(dataset="shapes", limit=72, batch_size=32, val_split=8, epochs=8, patience=0)
SMALL |= dict(augment=False, width=0.25, device="cpu", threads=1)
"""Options that make a recipe small: two steps an epoch, on images that it can learn by heart."""

RATES = {"cnn-vs-resnet/plain20": 0.05, "cnn-vs-resnet/plain56": 0.05, "paper": 0.05, "fast": 0.01}
"""Rates for those whose own is too high for batches of 32 or a few steps."""

draw_once = functools.cache(draw_shapes)


def config_of(command):
    """The configs of a command line such as train --recipe paper."""
    _, *arguments = shlex.split(command)
    context = cli.get_command(None, "train").make_context("train", arguments)
    options = context.params
    given = given_values({name: options.get(name) for name in ("depth", *FIELDS)})
    return resolve_runs(given, options["config_file"], options["recipe"])


# --- the files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_and_its_commands_work(name):
    about = read_recipe(name).about
    assert about.what and "\n" not in about.what
    assert name == "quickstart" or about.follows
    needed = NEEDED.get(name, {})
    assert set(about.needs) == set(needed)
    assert resolve_runs(needed, recipe=name)
    for command in about.commands:
        assert command.startswith(f"train --recipe {name}")
        assert config_of(command)


def test_the_recipes_are_those_that_people_run():
    paper = resolve({}, recipe="paper")
    assert (paper.model, paper.optimizer, paper.nesterov) == ("resnet20", "sgd", False)
    assert (paper.lr, paper.weight_decay, paper.val_split) == (0.1, 1e-4, 5000)
    steps = paper.epochs * (45_000 // paper.batch_size)
    assert abs(steps - 64_000) < 351
    assert [share * steps for share in paper.milestones] == pytest.approx([32e3, 48e3], rel=0.003)
    deepest = config_of(read_recipe("paper").about.commands[-1])[""]
    assert deepest.model == "resnet110"
    assert deepest.warmup * steps == pytest.approx(400, abs=1)
    for name in ("resnet9-onecycle", "resnet18-onecycle"):
        cycle = resolve({}, recipe=name)
        assert (cycle.optimizer, cycle.schedule, cycle.warmup) == ("adam", "one-cycle", 0.3)
        assert cycle.cycle_momentum and cycle.weight_decay
        assert cycle.clip_norm or cycle.clip_value
    transfer = resolve({"pretrained": "x"}, recipe="resnet50-transfer")
    assert (transfer.optimizer, transfer.lr, transfer.val_split) == ("rmsprop", 2e-5, 0.1)
    assert transfer.patience and transfer.head_dropout == 0.5 and transfer.upsample > 1
    fast = resolve({}, recipe="fast")
    assert fast.label_smoothing and fast.ema and fast.tta and fast.schedule == "one-cycle"


def test_a_custom_network_is_held_to_its_budget(tmp_path):
    from minires.training.setup import check_model

    config = resolve({}, recipe="custom-5m")
    assert config.max_parameters == 5_000_000
    check_model(config)
    with pytest.raises(UsageError, match="--max-parameters 5000000"):
        check_model(resolve({"width": 1.1}, recipe="custom-5m"))


def test_the_runs_of_a_recipe_differ_in_what_they_name_alone():
    configs = resolve_runs({"epochs": 3}, recipe="cnn-vs-resnet")
    assert list(configs) == ["cnn", "plain20", "resnet20", "plain56", "resnet56"]
    assert {config.epochs for config in configs.values()} == {3}
    assert (configs["plain56"].model, configs["plain56"].plain) == ("resnet56", True)
    assert configs["resnet20"].differences(configs["plain20"]) == [
        "plain: False in the run, True asked for"
    ]
    assert resolve({"epochs": 3}, recipe="cnn-vs-resnet/plain56") == configs["plain56"]
    assert resolve({"depth": 32}, recipe="cnn-vs-resnet/plain56").model == "resnet32"


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("cnn-vs-resnet", {"depth": 20}, "--depth: the runs of recipe cnn-vs-resnet differ in it"),
        ("cnn-vs-resnet", {"plain": True}, "--plain: the runs of"),
        ("cnn-vs-resnet/cmn", {}, "recipe cnn-vs-resnet/cmn: no such run; did you mean 'cnn'"),
        ("paper/resnet20", {}, "no such run; it is a single training"),
        ("papers", {}, "recipe papers: unknown; did you mean 'paper'"),
        ("resnet50-transfer", {}, "recipe resnet50-transfer: needs --pretrained, torchvision"),
    ],
)
def test_a_recipe_that_cannot_be_used_so(recipe, given, message):
    with pytest.raises(UsageError) as caught:
        resolve_runs(given, recipe=recipe)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_several_runs_where_one_is_taken():
    for take in (resolve, chosen_values):
        with pytest.raises(UsageError, match="such as --recipe cnn-vs-resnet/cnn"):
            take({}, recipe="cnn-vs-resnet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 3", "my.toml: recipe: must be a table"),
        ("[recipe]\nwaht = 'x'", "my.toml: recipe.waht: unknown key; did you mean 'what'"),
        ("[recipe]\nwhat = 3", "my.toml: recipe.what: must be text"),
        ("[recipe]\nneeds = ['x']", "my.toml: recipe.needs: must be a table of texts"),
        ("[recipe]\ncommands = [3]", "my.toml: recipe.commands: must be a list of texts"),
        ("runs = 3", "my.toml: runs: must be tables"),
        ("[[runs]]\nlr = 1", "my.toml: runs.name: each run needs one"),
        ("[[runs]]\nname = 'A b'", "my.toml: runs.name: each run needs one"),
        ("[[runs]]\nname='a'\n[[runs]]\nname='a'", "my.toml: runs.name: 'a' stands there twice"),
        ("[[runs]]\nname='a'\nepocs=3", "my.toml: runs.a: epocs: unknown key"),
        ("[[runs]]\nname='a'\nepochs=0", "my.toml: runs.a: epochs: must be at least 1"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path, text, message):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        resolve_runs({}, path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_two_files_with_runs_are_refused_and_one_may_change_all_runs(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("epochs = 2\n[recipe]\nwhat = 'mine'\n")
    assert {c.epochs for c in resolve_runs({}, path, "cnn-vs-resnet").values()} == {2}
    path.write_text("model = 'cnn'\n")
    with pytest.raises(UsageError, match="my.toml: model: the runs of recipe cnn-vs-resnet differ"):
        resolve_runs({}, path, "cnn-vs-resnet")
    path.write_text("[[runs]]\nname = 'a'\nlr = 0.1\n[[runs]]\nname = 'b'\nlr = 0.2\n")
    assert [c.lr for c in resolve_runs({"epochs": 1}, path).values()] == [0.1, 0.2]
    with pytest.raises(UsageError, match="both hold runs"):
        resolve_runs({}, path, "cnn-vs-resnet")


# --- the report -----------------------------------------------------------------------------


def test_the_cost_is_that_of_the_network_and_the_data():
    (cost,) = report("paper").costs
    assert (cost.model, cost.parameters, cost.multiply_adds) == ("resnet20", 269_722, 40_551_040)
    assert (cost.epochs, cost.steps_per_epoch) == (182, 351)
    assert report("quickstart").costs[0].steps_per_epoch == 140  # 4,500 of 5,000 images, by 32
    assert [c.run for c in report("cnn-vs-resnet").costs][:2] == ["cnn", "plain20"]


def test_records_belong_to_the_recipe_of_their_name(tmp_path):
    for folder in ("fast", "fast-seed1", "faster", "fast-no-result"):
        (tmp_path / folder).mkdir()
        if folder != "fast-no-result":
            (tmp_path / folder / "result.json").touch()
    assert [p.name for p in record_folders("fast", tmp_path)] == ["fast", "fast-seed1"]


def test_what_was_reached_comes_from_the_records(tmp_path):
    from minires.training.recipe_report import reached

    assert reached(report("fast", tmp_path).records) == "not measured yet"
    for seed, accuracy in ((0, 0.9), (1, 0.92)):
        folder = tmp_path / f"fast-seed{seed}"
        folder.mkdir()
        config = resolve({"seed": seed}, recipe="fast").to_dict()
        record = dict(config=config, test_accuracy=accuracy)
        (folder / "result.json").write_text(json.dumps(record))
    assert reached(report("fast", tmp_path).records) == "91.00% ± 1.41%, 2 seeds"
    table = tools.tables.recipe_table(tmp_path)
    (row,) = [line for line in table.splitlines() if line.startswith("| `fast`")]
    assert "91.00%" in row and "[fast-seed1](docs/results/fast-seed1)" in row


@pytest.mark.parametrize("name", recipe_names())
def test_every_record_of_a_recipe_was_trained_with_its_settings(name):
    configs = list(resolve_runs(NEEDED.get(name, {}), recipe=name).values())
    for command in read_recipe(name).about.commands:
        configs += config_of(command).values()
    for folder in record_folders(name):
        values = json.loads((folder / "result.json").read_text())["config"]
        record = resolve({key: v for key, v in values.items() if v is not None and key != "seed"})
        assert any(not config.differences(record) for config in configs), folder.name


def test_the_front_page_has_a_row_for_each_recipe():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    for name in RUNS:
        assert any(row.startswith(f"| `{name}` |") for row in rows), name
    assert RESULTS == ROOT / "docs" / "results"
    assert "not measured yet" in readme or all(one.records for one in reports())


# --- a few steps of each --------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The config of a recipe with the options that make it small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.setattr("minires.data.dataset.draw_shapes", draw_once)

    def config(name):
        if name in RATES:
            return resolve(SMALL | dict(lr=RATES[name]), recipe=name)
        if name == "resnet50-transfer":
            from safetensors.numpy import save_file

            weights = build("resnet50", 1000, stem="imagenet", width=0.125, seed=4).state_dict()
            save_file({n: a.copy() for n, a in weights.items()}, "weights.safetensors")
            own = NEEDED[name] | dict(width=0.125, upsample=1, lr=1e-3)
            return resolve(SMALL | own, recipe=name)
        narrower = dict(width=0.125) if name == "custom-5m" else {}
        return resolve(SMALL | narrower, recipe=name)

    return config


@pytest.mark.parametrize("name", RUNS)
def test_a_few_steps_of_a_recipe_lower_the_loss(name, small):
    start(small(name), Path("run"), str)
    losses = [r["train_loss"] for r in read_history(Path("run/history.jsonl"), "epoch")]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.05
