"""A whole training from config to result, started anew or continued from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minires.backend import options
from minires.data import Normalization
from minires.devices import check_kernels, select_device, why_no_gpu
from minires.errors import CheckpointError
from minires.training.checkpoint import Checkpoint, load_checkpoint
from minires.training.config import TrainConfig
from minires.training.loop import Callback
from minires.training.run import create_run, open_run
from minires.training.setup import TrainingData, check_model, load_training_data, make_model
from minires.training.training import Say, Training, image_counts, refuse_differences
from minires.training.weights import load_pretrained
from minires.training.whitening import whiten_first_conv


def start(
    config: TrainConfig,
    run_dir: Path | None = None,
    say: Say = print,
    progress: Callback | None = None,
    program: str = "minires",
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as `config` says into a new run folder, and return what result.json holds.

    `run_dir` None: the next free runs/MODEL-DATASET-NNN. `say` gets lines for a person; `program`
    is what that person types before the name of a command. `callbacks` come after all others.
    Everything that can be checked is checked before the folder is made.
    """
    check_model(config)
    device = select_device(
        config.device, config.threads, config.conv, config.precision, config.processes
    )
    data = load_training_data(config)
    check_kernels(device, say)
    model = make_model(config, data.num_classes, device)
    if config.pretrained:
        loaded = load_pretrained(model, Path(config.pretrained))
        say(f"weights  {loaded.note}")
        data = replace(data, normalization=loaded.normalization)
    if config.whiten:
        whiten_first_conv(model, data.train.images, data.train_indices, data.normalization)
    run = create_run(run_dir, config.model, config.dataset)
    with run.lock():
        run.config.write_text(config.to_toml(), encoding="utf-8")
        settled = replace(
            config,
            device=str(device),
            threads=options.threads,
            processes=options.processes,
            data_dir=config.data_dir and str(Path(config.data_dir).resolve()),
        )
        if config.device == "auto" and device.kind == "cpu":
            say(f"no GPU   {why_no_gpu()}")
        training = Training(settled, run, data, device, model, say)
        return training.run_to_end(progress, program, callbacks)


def resume(
    path: Path,
    changes: Mapping[str, Any] | None = None,
    say: Say = print,
    progress: Callback | None = None,
    program: str = "minires",
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Continue the run in the folder `path` where its last checkpoint stands, bit for bit.

    `changes` are config values that may differ from the run's, such as `save_every`. Raises
    `CheckpointError`, with the list of differences, if they or the data make another training.
    A finished run is only reported.
    """
    run = open_run(path)
    with run.lock():
        if not run.last.exists():
            raise CheckpointError(
                f"{path}: holds no {run.last.name} to continue from (imported weights, or stopped "
                "before its first checkpoint); train anew"
            )
        checkpoint = load_checkpoint(run.last)
        config = TrainConfig.from_dict(checkpoint.config, str(run.last))
        asked = replace(config, **(changes or {}))
        refuse_differences(path, config.differences(asked))
        result = run.read_result()
        if result is not None:
            test = f"{result['test_accuracy']:.2%} on the test set"
            epochs = result.get("epochs", config.epochs)
            say(f"{path} is finished already: {epochs} epoch{'s' * (epochs != 1)}, {test}")
            return result
        _note_rounding(config, asked, say)
        device = select_device(
            asked.device, asked.threads, asked.conv, asked.precision, asked.processes
        )
        data = load_training_data(asked)
        refuse_differences(path, _data_differences(checkpoint, data))
        data = replace(data, normalization=Normalization(checkpoint.mean, checkpoint.std))
        check_kernels(device, say)
        model = make_model(asked, data.num_classes, device)
        training = Training(asked, run, data, device, model, say)
        training.load(checkpoint)
        return training.run_to_end(progress, program, callbacks)


def _note_rounding(config: TrainConfig, asked: TrainConfig, say: Say) -> None:
    for name in ("device", "threads", "processes", "conv"):
        before, now = getattr(config, name), getattr(asked, name)
        if before != now:
            say(f"note: {name} was {before}, is {now} now: results may differ in rounding")


def _data_differences(checkpoint: Checkpoint, data: TrainingData) -> list[str]:
    """What tells `data` from the data of the checkpoint."""
    if checkpoint.data_fingerprint == data.fingerprint:
        return []
    seen = checkpoint.extra.get("images", {})
    now = image_counts(data)
    differences = [
        f"{name} images: {seen[name]} in the run, {now[name]} here"
        for name in now
        if name in seen and seen[name] != now[name]
    ]
    if tuple(checkpoint.class_names) != tuple(data.train.class_names):
        differences.append("class names")
    return differences or [
        f"data: fingerprint {checkpoint.data_fingerprint[:12]} in the run, "
        f"{data.fingerprint[:12]} here (other images or labels)"
    ]
