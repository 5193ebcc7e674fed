"""One worker of a sweep: it takes one trial after the other and trains it in its run folder."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from minires.errors import DivergedError, Interrupted, UsageError
from minires.sweep.folder import SweepFolder
from minires.sweep.report import write_report
from minires.sweep.space import shown
from minires.sweep.spec import SweepSpec
from minires.sweep.study import Claim, Study
from minires.training import runner
from minires.training.loop import Callback, Trainer
from minires.training.progress import duration, epoch_line
from minires.training.run import RunFolder

Say = Callable[[str], None]

PRUNED = "pruned: hopeless beside the other trials"
KEPT_WORDS = ("warning", "note", "resumed")
"""How the lines of a training begin that are worth repeating in a sweep."""


class FollowTrial(Callback):
    """Reports each epoch's validation accuracy to the study, and ends a hopeless training.

    It comes after the checkpoints: a kill in between finds the epoch saved, and the report is made
    when the training goes on.
    """

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_start(self, trainer: Trainer) -> None:
        """Make up for what a kill may have prevented."""
        if trainer.state.epoch:
            self._follow(trainer)

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Report, and prune if the study says so."""
        self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        state = trainer.state
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of what was reported before the kill
            self.trial.report(state.val_accuracy, state.epoch)
        if state.epoch < trainer.epochs and self.trial.should_prune():
            trainer.stop(PRUNED)


class TrialLines(Callback):
    """One plain line on stderr after each epoch, which names the trial."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Print the epoch."""
        line = f"{self.label}  {epoch_line(metrics, trainer.epochs)}"
        print(line, file=sys.stderr, flush=True)


def work(
    study: Study,
    machine: Mapping[str, Any],
    say: Say,
    progress: Callable[[str], Callback] = TrialLines,
) -> None:
    """Run trials until there are none left to take.

    machine: config values that do not change the result, such as `threads`; they win over the
    spec's. progress: makes what shows a training, from the label of its trial. Raises
    `Interrupted` after a signal, once the training is saved; its trial is continued another time.
    """
    while (claim := study.claim()) is not None:
        with claim.lock:
            label = f"trial {claim.number + 1}/{study.spec.trials}"
            _run_trial(study, claim, machine, label, say, progress(label))
            write_report(study)


def _run_trial(
    study: Study,
    claim: Claim,
    machine: Mapping[str, Any],
    label: str,
    say: Say,
    progress: Callback,
) -> None:
    """Train one trial, or the rest of it, and tell the study."""
    run = study.folder.run(claim.number, claim.name)
    name = f"{claim.name}: " if claim.name else ""
    values = " ".join(f"{key}={shown(value)}" for key, value in claim.values.items())
    say(f"{label}  {'continued: ' if claim.continued else ''}{name}{values}")
    try:
        result = _train(study.spec, claim, run, machine, label, say, progress)
    except _Impossible as error:
        say(f"{label}  failed: {error}")
        study.fail(claim, str(error))
        return
    except Interrupted as stop:
        reason = stop.__cause__ or stop
        raise Interrupted(f"{reason} (trial {claim.number + 1})", stop.exit_code) from stop
    pruned = result["stop_reason"] == PRUNED
    study.finish(claim, result, pruned)
    accuracy = f"validation {result['best_val_accuracy']:.2%}, {duration(result['seconds'])}"
    say(f"{label}  {'pruned' if pruned else 'finished'}: {accuracy}")


class _Impossible(Exception):
    """A trial whose values make no training: one that diverges, or a network over its budget."""


def _train(
    spec: SweepSpec,
    claim: Claim,
    run: RunFolder,
    machine: Mapping[str, Any],
    label: str,
    say: Say,
    progress: Callback,
) -> dict[str, Any]:
    def say_some(line: str) -> None:
        if line.startswith(KEPT_WORDS):
            say(f"{label}  {line}")

    callbacks = [FollowTrial(claim.trial)]
    try:
        if run.last.exists():
            return runner.resume(run.path, machine, say_some, progress, callbacks=callbacks)
        if run.path.exists():  # cut off before its first checkpoint
            shutil.rmtree(run.path)
        try:
            config = spec.config(claim.values, **machine)
            return runner.start(config, run.path, say_some, progress, callbacks=callbacks)
        except UsageError as error:
            raise _Impossible(str(error)) from error
    except DivergedError as error:
        raise _Impossible(str(error)) from error
    except MemoryError as error:
        raise _Impossible("out of memory") from error


def folder_lines(study: Study, folder: SweepFolder) -> list[str]:
    """What to say before the first trial: what it is, and how far it has come."""
    spec = study.spec
    over = ", ".join(spec.varied())
    lines = [f"sweep    {spec.name}: {spec.method}, {spec.trials} trials over {over}"]
    lines.append(f"folder   {folder.path}")
    done = study.count("COMPLETE", "PRUNED", "FAIL")
    running = [t.number for t in study.trials() if t.state.name == "RUNNING"]
    cut_off = sum(not folder.is_held(number) for number in running)
    if done or running:
        parts = [f"{done} of {spec.trials} trials are done"]
        parts += [f"{cut_off} cut off"] * bool(cut_off)
        parts += [f"{len(running) - cut_off} running elsewhere"] * (len(running) > cut_off)
        lines.append("resumed  " + ", ".join(parts))
    return lines
