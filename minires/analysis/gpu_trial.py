"""All that a GPU has to tell, in one call: `python -m minires.analysis.gpu_trial OUT_DIR`.

It runs the kernels' tests, times training steps in each precision, runs the benchmark and a short
training, each in a process of its own with a time limit, and writes OUT_DIR/trial.json after each
of them, so that a trial that ends early leaves what it has. The logs lie beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minires.backend import describe_gpus, select_device, synchronize, why_no_gpu
from minires.environment import environment
from minires.errors import DeviceError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MODELS = (("resnet18", 512), ("resnet20", 128))
COMMAND = "from minires.cli import main; main()"


class Part(NamedTuple):
    """One process of the trial: its name, its arguments after `python`, its limit in seconds."""

    name: str
    arguments: tuple[str, ...]
    limit: float


def parts(out: Path) -> list[Part]:
    """What a trial runs, in the order of what it would miss most."""
    steps = [
        Part(f"steps-{model}-{precision}",
             ("-m", "minires.analysis.gpu_trial", "--steps", model, str(batch), precision), 120)
        for precision in PRECISIONS[::-1]
        for model, batch in MODELS
    ]
    bench = [
        Part(f"bench-{model}",
             ("-c", COMMAND, "bench", "--model", model, "--batch-size", str(batch),
              "--device", "gpu", "--json"), 180)
        for model, batch in MODELS
    ]
    train = ("-c", COMMAND, "train", "--depth", "20", "--epochs", "2", "--device", "gpu", "--json")
    return [
        Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/kernels/cuda"), 300),
        *steps,
        *bench,
        Part("train", (*train, "--run-dir", str(out / "run")), 180),
    ]


def run_part(part: Part, out: Path) -> dict[str, Any]:
    """Run one part; its log goes to `out`, its last line, if that is JSON, into the result."""
    start = time.monotonic()
    log = out / f"{part.name}.log"
    try:
        with log.open("w", encoding="utf-8") as errors:
            done = subprocess.run(
                [sys.executable, *part.arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=part.limit,
            )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, output = None, (error.stdout or b"").decode(errors="replace")
    with log.open("a", encoding="utf-8") as file:
        file.write(output)
    result = {"name": part.name, "exit_code": code, "seconds": time.monotonic() - start}
    return {**result, "result": _json_of(output)}


def _json_of(output: str) -> Any:
    """What a process printed, if all of it or its last line is JSON, else None."""
    for text in (output, (output.strip().splitlines() or [""])[-1]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None


def run_trial(out: Path, chosen: Iterable[Part]) -> dict[str, Any]:
    """Run the parts one after the other and keep trial.json up to date."""
    out.mkdir(parents=True, exist_ok=True)
    trial: dict[str, Any] = {
        "environment": environment(),
        "gpus": describe_gpus(),
        "parts": [],
    }
    for part in chosen:
        trial["parts"].append(run_part(part, out))
        (out / "trial.json").write_text(json.dumps(trial, indent=1), encoding="utf-8")
    return trial


def time_steps(model_name: str, batch: int, precision: str, steps: int = 30) -> dict[str, Any]:
    """Time training steps op by op: images per second over `steps`, after as many to warm up."""
    import numpy as np

    from minires.backend import fallback_counts, to_device
    from minires.functional.augmentation import augment_batch, normalization_table
    from minires.kernels.cuda import set_precision
    from minires.models import build
    from minires.nn import CrossEntropyLoss
    from minires.optim import SGD

    device = select_device("gpu")
    set_precision(precision)
    rng = np.random.default_rng(0)
    images = to_device(rng.integers(0, 256, (batch, 3, 32, 32), dtype=np.uint8), device)
    labels = to_device(rng.integers(0, 10, batch), device)
    table = to_device(normalization_table((0.5,) * 3, (0.25,) * 3), device)
    indices = to_device(np.arange(batch), device)
    model = build(model_name, device=device)
    optimizer, loss = SGD(model.named_parameters()), CrossEntropyLoss()
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(steps):
            model.zero_grad()
            x = augment_batch(images, indices, table)
            value = loss.forward(model(x), labels)
            model.backward(loss.backward())
            optimizer.step(1e-3)
        synchronize(device)
        seconds = time.perf_counter() - start
    return {
        "model": model_name,
        "batch_size": batch,
        "precision": precision,
        "images_per_second": batch * steps / seconds,
        "loss": float(value),
        "fallbacks": fallback_counts(),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Test, time and train on a GPU, in one call.")
    parser.add_argument("out", nargs="?", type=Path, help="the folder for trial.json and logs")
    parser.add_argument("--steps", nargs=3, metavar=("MODEL", "BATCH", "PRECISION"),
                        help="time training steps alone and print JSON")
    given = parser.parse_args(arguments)
    if given.out is None and given.steps is None:
        parser.error("name the folder for the results")
    if why_no_gpu() is not None:
        print(f"error: {why_no_gpu()}", file=sys.stderr)
        return DeviceError.exit_code
    if given.steps is not None:
        model, batch, precision = given.steps
        print(json.dumps(time_steps(model, int(batch), precision)))
        return 0
    trial = run_trial(given.out, parts(given.out))
    for part in trial["parts"]:
        print(f"{part['name']:24} exit {part['exit_code']}  {part['seconds']:.0f} s")
    return 0 if all(part["exit_code"] == 0 for part in trial["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
