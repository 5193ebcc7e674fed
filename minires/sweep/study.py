"""The study of a sweep: which trials there are, who runs them, what came out; kept by Optuna.

Optuna chooses the values (random, TPE) and says which trial is hopeless; its SQLite file is the
memory. The trials of a grid or a list are all laid down when the study is made.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from minires.errors import UsageError
from minires.sweep.folder import SweepFolder
from minires.sweep.spec import SweepSpec, differences

BUSY_SECONDS = 60.0
"""How long SQLite waits for another worker that is just writing."""

KEPT = (
    *("best_val_accuracy", "best_epoch", "epochs", "test_accuracy", "parameters", "seconds"),
    *("images_per_second", "device", "threads", "environment"),
)
"""What the study keeps of a run's result.json, so that the report needs no run folder."""


def load_optuna() -> Any:
    """Optuna, silent; `UsageError` with the command that installs it."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            f'sweep needs Optuna ({error.name} is not installed): pip install -e ".[sweep]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@dataclass
class Claim:
    """A trial that is this process's to run, until `lock` is closed."""

    number: int
    name: str
    values: dict[str, Any]
    trial: Any
    continued: bool
    lock: IO


class Study:
    """The study in `folder`; made by `open_study`."""

    def __init__(self, folder: SweepFolder, spec: SweepSpec) -> None:
        self.folder = folder
        self.spec = spec
        self._optuna = load_optuna()
        self._study = self._optuna.load_study(
            study_name=None, storage=_storage(folder.study), pruner=_pruner(self._optuna, spec)
        )
        self._states = self._optuna.trial.TrialState

    @property
    def facts(self) -> dict[str, Any]:
        """What the study was made for: `identity` and `data`."""
        return self._study.user_attrs

    def trials(self) -> list[Any]:
        """All trials as Optuna keeps them, by number."""
        return self._study.get_trials(deepcopy=False)

    def count(self, *states: str) -> int:
        """How many trials are in one of `states`, such as "COMPLETE"."""
        return sum(trial.state.name in states for trial in self.trials())

    def claim(self) -> Claim | None:
        """The next trial for this process: one that was cut off, else a new one; None: no more."""
        with self.folder.alone():
            trials = self.trials()
            for trial in trials:
                if trial.state == self._states.RUNNING:
                    claim = self._continue(trial.number)
                    if claim is not None:
                        return claim
            waiting = [t.number for t in trials if t.state == self._states.WAITING]
            if not waiting and len(trials) >= self.spec.trials:
                return None
            number = min(waiting, default=len(trials))
            self._study.sampler = _sampler(self._optuna, self.spec, number)
            lock = self.folder.hold(number)
            return self._claim(self._study.ask(), lock, continued=False)

    def _continue(self, number: int) -> Claim | None:
        """A running trial, if its process is gone."""
        lock = self.folder.hold(number)
        if lock is None:
            return None
        trial = self.trials()[number]  # again: it may have been finished just before
        if trial.state != self._states.RUNNING:
            lock.close()
            return None
        self._study.sampler = _sampler(self._optuna, self.spec, number)
        taken = self._optuna.trial.Trial(self._study, trial._trial_id)
        return self._claim(taken, lock, continued=True)

    def _claim(self, trial: Any, lock: IO, continued: bool) -> Claim:
        """`trial` with its values; those that it was given before it was cut off come back."""
        if self.spec.options:
            values = {key: o.suggest(trial, key) for key, o in self.spec.options.items()}
            trial.set_user_attr("values", values)
        return Claim(
            number=trial.number,
            name=trial.user_attrs.get("name", ""),
            values=dict(trial.user_attrs["values"]),
            trial=trial,
            continued=continued,
            lock=lock,
        )

    def finish(self, claim: Claim, result: Mapping[str, Any], pruned: bool) -> None:
        """Note the result of a trial, finished or pruned."""
        claim.trial.set_user_attr("result", {key: result.get(key) for key in KEPT})
        if pruned:
            claim.trial.set_user_attr("note", result["stop_reason"])
            self._study.tell(claim.number, state=self._states.PRUNED)
        else:
            self._study.tell(claim.number, result["best_val_accuracy"])

    def fail(self, claim: Claim, reason: str) -> None:
        """Note that a trial cannot be trained."""
        claim.trial.set_user_attr("note", reason)
        self._study.tell(claim.number, state=self._states.FAIL)


def open_study(folder: SweepFolder, spec: SweepSpec, fingerprint: str | None) -> Study:
    """The study in `folder`, made if there is none; `UsageError` if it is of another sweep.

    fingerprint: of the data; None where they are not at hand, and nothing may be made.
    """
    load_optuna()
    if fingerprint is None and not folder.study.exists():
        raise UsageError(f"{folder.path}: holds no sweep yet")
    folder.make()
    with folder.alone():
        if not folder.study.exists():
            _create(folder, spec, fingerprint)
        study = Study(folder, spec)
    found = differences(study.facts["identity"], spec.identity())
    if fingerprint is not None and study.facts["data"] != fingerprint:
        found.append(
            f"data: fingerprint {study.facts['data'][:12]} in the study, {fingerprint[:12]} here"
        )
    if found:
        listed = "; ".join(found)
        raise UsageError(f"{folder.path} holds another sweep; choose a new --sweep-dir: {listed}")
    return study


def _create(folder: SweepFolder, spec: SweepSpec, fingerprint: str) -> None:
    """Make the study with all the trials that are known, whole or not at all."""
    from minires.atomic import flush_folder, write_atomically

    optuna = load_optuna()
    partial = folder.path / ".study.db.partial"
    for leftover in folder.path.glob(f"{partial.name}*"):
        leftover.unlink()
    storage = _storage(partial)
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize")
    study.set_user_attr("identity", spec.identity())
    study.set_user_attr("data", fingerprint)
    for name, values in spec.points():
        fixed = {key: option.known_as(values[key]) for key, option in spec.options.items()}
        study.enqueue_trial(fixed, user_attrs={"name": name, "values": values})
    storage.remove_session()
    storage.engine.dispose()
    write_atomically(folder.spec, spec.text.encode())
    os.replace(partial, folder.study)
    flush_folder(folder.path)


def _storage(path: Path) -> Any:
    """Optuna's storage in the SQLite file `path`."""
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(path.resolve()))
    with _quiet():
        return load_optuna().storages.RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
        )


def _sampler(optuna: Any, spec: SweepSpec, number: int) -> Any:
    """What chooses the values of trial `number`: seeded by it, so a resumed sweep never repeats."""
    seed = int(np.random.SeedSequence((spec.seed, number)).generate_state(1)[0])
    if spec.method != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with _quiet():
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=spec.startup, constant_liar=True
        )


def _pruner(optuna: Any, spec: SweepSpec) -> Any:
    rule = spec.pruning
    if rule.method == "median":
        return optuna.pruners.MedianPruner(rule.startup_trials, rule.warmup_epochs)
    if rule.method == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(rule.min_epochs, rule.factor)
    return optuna.pruners.NopPruner()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
