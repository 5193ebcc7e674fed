"""`train`: a new run from options, or an old one continued."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from minires.errors import UsageError
from minires.training.config import FIELDS, TrainConfig, chosen_values, option_name, resolve

GROUPS = {
    "Run": ("recipe", "config_file", "run_dir", "resume_path"),
    "Data": (
        *("dataset", "data_dir", "limit", "val_split", "augment", "crop_padding", "flip"),
        *("color_jitter", "cutout", "mixup", "cutmix", "mix_share", "tta"),
    ),
    "Model": ("depth", "model", "width", "plain", "shortcut", "zero_init_residual", "dropout"),
    "Optimisation": (
        *("epochs", "patience", "batch_size", "lr", "body_lr_factor"),
        *("schedule", "warmup", "milestones", "gamma", "cycle_momentum", "cycle_shape"),
        *("cycles", "cycle_growth", "plateau_patience"),
        *("optimizer", "momentum", "nesterov", "beta1", "beta2", "eps"),
        *("rms_alpha", "rms_momentum", "rms_centered", "weight_decay", "decay_all"),
        *("clip_norm", "clip_value", "ema", "label_smoothing"),
    ),
    "Machine and output": (
        *("seed", "device", "threads", "conv", "save_every", "log_every", "eval_batch_size"),
        "as_json",
    ),
}
"""The sections of the help, and the order of the options in each."""


class GroupedCommand(click.Command):
    """A command whose help shows its options in the sections of `GROUPS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names if name in records])
        with formatter.section("Help"):
            formatter.write_dl([record for record in records.values() if record])


def _config_options(command: Callable) -> Callable:
    """One option for each field of the config; None where the user gave none."""
    for name, spec in FIELDS.items():
        flag = option_name(name)
        settings: dict[str, Any] = {"default": None, "help": _help(name)}
        if spec["kind"] is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        elif spec.get("choices"):
            settings["type"] = click.Choice(spec["choices"])
        else:
            settings["type"] = {int: int, float: float}.get(spec["kind"], str)
            settings["metavar"] = _METAVARS.get(name, _METAVARS.get(spec["kind"], "TEXT"))
        if name == "data_dir":
            settings["envvar"] = "MINIRES_DATA"
        command = click.option(flag, name, **settings)(command)
    return command


def _help(name: str) -> str:
    """The help of a field with its default."""
    spec = FIELDS[name]
    return f"{spec['help']}  [default: {spec.get('shown', _shown(getattr(TrainConfig(), name)))}]"


_METAVARS = {
    int: "N",
    float: "X",
    "data_dir": "DIR",
    "model": "NAME",
    "device": "NAME",
    "milestones": "X,X",
}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@click.command(cls=GroupedCommand)
@click.option("--recipe", metavar="NAME", help="Begin with a named recipe, such as quickstart.")
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
    help="Folder of the new run.  [default: runs/MODEL-DATASET-NNN]",
)
@click.option(
    "--resume",
    "resume_path",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Continue the run in this folder, bit for bit.",
)
@click.option(
    "--depth", type=int, metavar="N", help="18, 34, 50, 101, or 6n+2 such as 20, 32, 44, 56, 110."
)
@_config_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str | None,
    config_file: Path | None,
    run_dir: Path | None,
    resume_path: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, or continue a run with --resume.

    To begin: train --recipe quickstart (no data to download, under two minutes).

    The defaults train a ResNet-20 on CIFAR-10. Ctrl-C finishes the step and saves; a second
    Ctrl-C ends at once.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "milestones" in given:
        given["milestones"] = _numbers(given["milestones"])
    if resume_path is None:
        config = resolve(given, config_file, recipe)
    elif run_dir is not None:
        raise UsageError("--run-dir and --resume: a resumed run stays in its folder")
    else:
        changes = chosen_values(given, config_file, recipe)

    from minires.training.progress import progress_callback
    from minires.training.run import RunFolder
    from minires.training.runner import resume, start

    was_finished = resume_path is not None and RunFolder(resume_path).result.exists()
    program = ctx.find_root().info_name or "minires"
    if resume_path is None:
        result = start(config, run_dir, _say, progress_callback(), program)
    else:
        result = resume(resume_path, changes, _say, progress_callback(), program)
    if as_json:
        print(json.dumps(result))
    elif not was_finished:
        _conclude(result, program)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _numbers(text: str) -> list[float]:
    """The numbers of a list such as 0.5,0.75."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--milestones {text}: must be numbers such as 0.5,0.75") from None


def _conclude(result: dict[str, Any], program: str) -> None:
    """The last lines: what came out, where it lies, what to type next."""
    from minires.training.progress import duration

    print()
    print(f"test accuracy  {result['test_accuracy']:.2%} ({_which_weights(result)})")
    print(f"time           {duration(result['seconds'])}, ", end="")
    print(f"{result['images_per_second']:,.0f} images/s")
    print(f"run folder     {result['run']} (last and best checkpoint, history.jsonl, curves.png)")
    print(f"next           {program} evaluate {result['run']}")


def _which_weights(result: dict[str, Any]) -> str:
    if result["test_checkpoint"] == "best":
        return (
            f"weights of epoch {result['best_epoch']}, "
            f"validation {result['best_val_accuracy']:.2%}"
        )
    return "weights of the last epoch"
