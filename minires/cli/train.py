"""`train`: a new run from options, or an old one continued."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.errors import UsageError
from minires.training.config import FIELDS, MODEL_OPTIONS, SETTINGS, TrainConfig
from minires.training.resolve import chosen_values, resolve_runs

GROUPS = {
    "Run": (
        *("recipe", "config_file", "run_dir", "resume_path", "seeds"),
        *("steps", "lowest", "highest", "output"),
    ),
    "Data": (
        *("dataset", "data_dir", "limit", "val_split", "augment", "crop_padding", "flip"),
        *("color_jitter", "cutout", "mixup", "cutmix", "mix_share", "tta"),
    ),
    "Model": ("depth", "model", *MODEL_OPTIONS, "max_parameters", "pretrained", "freeze", "whiten"),
    "Optimisation": (
        *("epochs", "patience", "batch_size", "lr", "body_lr_factor"),
        *("schedule", "warmup", "milestones", "gamma", "cycle_momentum", "cycle_shape"),
        *("cycles", "cycle_growth", "plateau_patience"),
        *("optimizer", "momentum", "nesterov", "beta1", "beta2", "eps"),
        *("rms_alpha", "rms_momentum", "rms_centered", "weight_decay", "decay_all"),
        *("clip_norm", "clip_value", "ema", "label_smoothing"),
    ),
    "Machine and output": (
        *("seed", "device", "precision", "graph", "threads", "processes", "conv"),
        *("save_every", "log_every", "eval_batch_size", "as_json"),
    ),
}
"""The sections of the help, and the order of the options in each, also for lr-find and sanity."""


class GroupedCommand(click.Command):
    """A command whose help shows its options in the sections of `GROUPS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names if name in records])
        with formatter.section("Help"):
            formatter.write_dl([record for record in records.values() if record])


@click.command(cls=GroupedCommand)
@click.option("--recipe", metavar="NAME", help="Begin with a named recipe; see recipes.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take values from a TOML file; options win over it.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the new run; of several runs, the start of their folders' names.  "
    "[default: runs/MODEL-DATASET-NNN]",
)
@click.option(
    "--resume",
    "resume_path",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue the run in this folder, bit for bit.",
)
@click.option(
    "--seeds",
    metavar="N..N",
    help="Train once with each seed, such as 0..4 or 0,1,2, into DIR-seed0, DIR-seed1, ...",
)
@click.option(
    "--depth", type=int, metavar="N", help="18, 34, 50, 101, or 6n+2 such as 20, 32, 44, 56, 110."
)
@config_options(FIELDS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str | None,
    config_file: Path | None,
    run_dir: Path | None,
    resume_path: Path | None,
    seeds: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, or continue a run with --resume.

    To begin: train --recipe quickstart (no data to download, under two minutes).

    The defaults train a ResNet-20 on CIFAR-10. Ctrl-C finishes the step and saves; a second
    Ctrl-C ends at once. With --seeds, and with a recipe of several runs, the same command again
    goes on where it stopped, without repeating what is finished.
    """
    given = given_values(options)
    program = ctx.find_root().info_name or "minires"
    if resume_path is None:
        if seeds is not None and "seed" in given:
            raise UsageError("--seed and --seeds: give one of them")
        configs = resolve_runs(given, config_file, recipe)
        if seeds is not None or "" not in configs:
            prefix = "" if "" in configs else recipe or (config_file.stem if config_file else "")
            settings = {name: value for name, value in given.items() if name in SETTINGS}
            _train_many(configs, seeds, prefix, run_dir, settings, program, as_json)
            return
        config = configs[""]
    elif seeds is not None:
        raise UsageError("--resume and --seeds: leave --resume out; the command itself goes on")
    elif run_dir is not None:
        raise UsageError("--run-dir and --resume: a resumed run stays in its folder")
    else:
        changes = chosen_values(given, config_file, recipe)

    from minires.training.progress import progress_callback
    from minires.training.run import RunFolder
    from minires.training.runner import resume, start

    was_finished = resume_path is not None and RunFolder(resume_path).result.exists()
    if resume_path is None:
        result = start(config, run_dir, _say, progress_callback(), program)
    else:
        result = resume(resume_path, changes, _say, progress_callback(), program)
    if as_json:
        print_json(result)
    elif not was_finished:
        _conclude(result, program)


def _train_many(
    configs: Mapping[str, TrainConfig],
    seeds: str | None,
    prefix: str,
    run_dir: Path | None,
    settings: dict[str, Any],
    program: str,
    as_json: bool,
) -> None:
    """Train each config, once with each seed, and print what they reached together.

    prefix: what the folders in runs/ are called; empty: the model and the data set.
    """
    from minires.training.group import members_of, parse_seeds, train_group
    from minires.training.progress import progress_callback

    members = members_of(configs, None if seeds is None else parse_seeds(seeds))
    prefix = prefix or "{0.model}-{0.dataset}".format(members[0].config)
    group = train_group(members, prefix, run_dir, settings, _say, progress_callback, program)
    if as_json:
        print_json(group)
        return
    from minires.cli.compare import show_rows
    from minires.training.comparison import compare

    print()
    width = max(len(member.name) for member in members)
    for member, result in zip(members, group["runs"], strict=True):
        test = f"test {result['test_accuracy']:.2%} ({_which_weights(result)})"
        print(f"{member.name:{width}}  {test}")
    show_rows(compare([Path(result["run"]) for result in group["runs"]]))
    print(f"next     {program} compare {group['base']}-*")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _conclude(result: dict[str, Any], program: str) -> None:
    """The last lines: what came out, where it lies, what to type next."""
    from minires.training.progress import duration

    print()
    print(f"test accuracy  {result['test_accuracy']:.2%} ({_which_weights(result)})")
    print(f"time           {duration(result['seconds'])}, ", end="")
    print(f"{result['images_per_second']:,.0f} images/s")
    saved = "last checkpoint" if result["best_epoch"] is None else "last and best checkpoint"
    print(f"run folder     {result['run']} ({saved}, history.jsonl, curves.png)")
    print(f"next           {program} evaluate {result['run']}")


def _which_weights(result: dict[str, Any]) -> str:
    if result["test_checkpoint"] == "best":
        return (
            f"weights of epoch {result['best_epoch']}, validation {result['best_val_accuracy']:.2%}"
        )
    return "weights of the last epoch"
