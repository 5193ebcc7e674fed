"""All that a GPU has to tell, in one call: `python -m minires.analysis.gpu_trial OUT_DIR`.

It runs the kernels' tests, the benchmark against PyTorch and a short training, and times training
steps in each precision, as a graph and op by op, each in a process of its own with a time limit. It
writes OUT_DIR/trial.json after each of them, so that a trial that ends early leaves what it has.
The logs lie beside it.
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

from minires.devices import check_kernels, describe_gpus, select_device, why_no_gpu
from minires.environment import environment
from minires.errors import DeviceError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MODELS = (("resnet18", 512), ("resnet20", 128))
COMMAND = "from minires.cli import main; main()"
WITH_TMA = "import os; os.environ['MINIRES_TMA'] = '1'; "
"""Before COMMAND: the benchmark then times both rungs of Hopper."""


class Part(NamedTuple):
    """One process of the trial: its name, its arguments after `python`, its limit in seconds."""

    name: str
    arguments: tuple[str, ...]
    limit: float


def parts(out: Path) -> list[Part]:
    """What a trial runs, in the order of what it would miss most."""
    steps = [
        Part(f"steps-{model}-{precision}",
             ("-m", "minires.analysis.gpu_trial", "--steps", model, str(batch), precision), 40)
        for precision in PRECISIONS[::-1]
        for model, batch in MODELS
    ]
    bench = [
        Part(f"bench-{model}",
             ("-c", COMMAND, "bench", "--model", model, "--batch-size", str(batch),
              "--device", "gpu", "--precision", "bf16", "--against", "torch", "--no-inference",
              "--rounds", "5", "--json"), 150)
        for model, batch in MODELS
    ]
    name, (_, command, *options), limit = bench[0]
    tma = Part(f"{name}-tma", ("-c", WITH_TMA + command, *options), limit)
    train = ("-c", COMMAND, "train", "--depth", "20", "--epochs", "2", "--device", "gpu",
             "--precision", "bf16", "--json")
    return [
        Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/kernels/cuda"), 150),
        *bench,
        Part("train", (*train, "--run-dir", str(out / "run")), 60),
        *steps,
        tma,  # the last: no GPU has run that rung yet
    ]


LIMIT = 590.0
"""Seconds of a whole trial; a part gets no more than what is left of them."""


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
    start = time.monotonic()
    for part in chosen:
        left = LIMIT - (time.monotonic() - start)
        trial["parts"].append(run_part(part._replace(limit=min(part.limit, max(left, 1.0))), out))
        (out / "trial.json").write_text(json.dumps(trial, indent=1), encoding="utf-8")
    return trial


def time_steps(model_name: str, batch: int, precision: str, steps: int = 30) -> dict[str, Any]:
    """Images per second of training steps, as a graph and op by op, and whether the bits agree."""
    import numpy as np

    from minires.analysis.bench_contenders import TRAINING, MiniresContender, random_batch
    from minires.backend import cuda_module, fallback_counts
    from minires.models import build

    device = select_device("gpu", precision=precision)
    spec, images = build(model_name).spec, random_batch(batch)
    rates, states, notes = {}, {}, []
    check_kernels(device, notes.append)
    with cuda_module("runtime").current().own_stream():
        for way, graph in (("op_by_op", False), ("graph", True)):
            contender = MiniresContender(spec, images, device, graph=graph)
            contender.prepare(TRAINING)
            for _ in range(2):
                start = time.perf_counter()
                for _ in range(steps):
                    contender.begin()
                contender.finish()
                seconds = time.perf_counter() - start
            rates[way] = batch * steps / seconds
            states[way] = contender.model.state_dict()
            notes += contender.notes
    same = all(np.array_equal(states["graph"][k], v) for k, v in states["op_by_op"].items())
    return {
        "model": model_name,
        "batch_size": batch,
        "precision": precision,
        "images_per_second": rates,
        "same_bits": same,
        "notes": notes,
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
