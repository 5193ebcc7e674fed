"""The config: precedence, checks, round trips."""

from __future__ import annotations

import tomllib

import pytest

from minires.errors import CheckpointError, UsageError
from minires.training.config import FIELDS, MODEL_OPTIONS, SCHEDULES, TrainConfig
from minires.training.recipes import recipe_names
from minires.training.resolve import resolve


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "my.toml"
        path.write_text(text)
        return path

    return write


def test_option_wins_over_file_over_recipe_over_default(toml):
    file = toml("epochs = 7\nlr = 0.05\n")
    config = resolve({"lr": 0.01}, file, "quickstart")
    assert config.lr == 0.01  # option
    assert config.epochs == 7  # file
    assert (config.dataset, config.model) == ("shapes", "resnet8")  # recipe
    assert config.momentum == 0.9  # default


def test_defaults_are_the_recipe_of_the_readme():
    config = TrainConfig()
    assert (config.dataset, config.model, config.batch_size) == ("cifar10", "resnet20", 128)
    assert (config.schedule, config.lr, config.warmup) == ("one-cycle", 0.2, None)
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 5e-4)
    assert config.val_split == 0.1


def test_depth_names_a_model_and_the_stronger_layer_decides(toml):
    assert resolve({"depth": 56}).model == "resnet56"
    assert resolve({"model": "resnet18"}, toml("depth = 20")).model == "resnet18"
    assert resolve({"depth": 32}, toml('model = "resnet18"')).model == "resnet32"
    with pytest.raises(UsageError, match="not both"):
        resolve({"depth": 20, "model": "resnet18"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", ["epoch", "'epochs'"]),
        ("epochs = '3'", ["epochs", "whole number", "'3'"]),
        ("epochs = 3.5", ["epochs", "whole number"]),
        ("epochs = true", ["epochs", "whole number"]),
        ("epochs = 0", ["epochs", "at least 1"]),
        ("lr = 0", ["lr", "greater than 0"]),
        ("lr = nan", ["lr", "finite"]),
        ("lr = inf", ["lr", "finite"]),
        ("momentum = 1.5", ["momentum", "at most"]),
        ("nesterov = 1", ["nesterov", "true or false"]),
        ("dataset = 'cifar'", ["dataset", "cifar10"]),
        ("schedule = 'cos'", ["schedule", "cosine"]),
        ("milestones = [0.7, 0.5]", ["milestones", "rising"]),
        ("milestones = ['a']", ["milestones"]),
        ("blocks = [3, 0]", ["blocks", "whole numbers above 0"]),
        ("blocks = [3, 1.5]", ["blocks", "whole numbers above 0"]),
        ("blocks = []", ["blocks", "such as 3,4,3"]),
        ("blocks = 3", ["blocks", "such as 3,4,3"]),
        ("head_dropout = 1", ["head_dropout", "at most 0.95"]),
        ("stem = 'vgg'", ["stem", "imagenet"]),
        ("upsample = 0", ["upsample", "at least 1"]),
        ("max_parameters = -1", ["max_parameters", "at least 0"]),
        ("freeze = ['body']", ["freeze", "text"]),
        ("depth = 21", ["my.toml", "21"]),
        ("depth = 'x'", ["depth", "whole number"]),
        ("epochs = ", ["not TOML"]),
        ("[train]\nepochs = 3", ["train", "unknown key"]),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_key(toml, text, words):
    with pytest.raises(UsageError) as caught:
        resolve({}, toml(text))
    message = str(caught.value)
    assert "my.toml" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_is_missing_or_binary(tmp_path):
    with pytest.raises(UsageError, match="nowhere.toml"):
        resolve({}, tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        resolve({}, tmp_path / "binary.toml")


def test_an_option_out_of_range_is_named_as_typed():
    with pytest.raises(UsageError, match="--batch-size: must be at least 1, not 0"):
        resolve({"batch_size": 0})
    with pytest.raises(UsageError, match="--weight-decay"):
        resolve({"weight_decay": -1.0})


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UsageError, match="quickstart"):
        resolve({}, None, "quick")
    assert "quickstart" in recipe_names()


def test_whole_numbers_are_fine_where_a_float_is_meant(toml):
    config = resolve({}, toml("lr = 1\nmilestones = [0.25, 0.5]\nwidth = 2"))
    assert (config.lr, config.milestones, config.width) == (1.0, (0.25, 0.5), 2.0)
    assert type(config.lr) is float


def test_round_trips_through_json_and_toml(toml):
    config = resolve({"epochs": 3, "data_dir": 'a\\b "c"', "warmup": 0.1, "lr": 1e-5})
    assert TrainConfig.from_dict(config.to_dict(), "x") == config
    assert resolve({}, toml(config.to_toml())) == config
    assert tomllib.loads(config.to_toml())["lr"] == 1e-5


def test_blocks_make_the_round_trip_too(toml):
    config = resolve({"blocks": [4, 4, 3], "freeze": "body,*.bn1", "head_dropout": 0})
    assert config.blocks == (4, 4, 3) and config.head_dropout == 0.0
    assert TrainConfig.from_dict(config.to_dict(), "x") == config
    assert resolve({}, toml(config.to_toml())) == config


def test_the_options_of_the_network_are_those_of_build():
    from minires.models.registry import OPTIONS

    assert set(MODEL_OPTIONS) == set(OPTIONS)
    config = TrainConfig()
    assert config.model_options == {"seed": 0, **OPTIONS}


def test_a_config_of_another_version_is_a_checkpoint_error():
    with pytest.raises(CheckpointError, match="last.safetensors: colour"):
        TrainConfig.from_dict({"colour": 1}, "last.safetensors")


def test_differences_list_what_changes_the_result_only():
    base = resolve({})
    free = resolve({"save_every": 7, "threads": 1, "data_dir": "x", "device": "cpu"})
    assert base.differences(free) == []
    other = resolve({"epochs": 3, "lr": 0.3})
    assert base.differences(other) == [
        "epochs: 20 in the run, 3 asked for",
        "lr: 0.2 in the run, 0.3 asked for",
    ]


def test_the_schedules_are_those_of_the_library():
    from minires.optim import SCHEDULES as LIBRARY

    assert SCHEDULES == LIBRARY


def test_every_field_has_help():
    assert all(spec["help"].endswith(".") for spec in FIELDS.values())
