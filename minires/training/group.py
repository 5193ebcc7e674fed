"""Several trainings as one task: the same config for many seeds, or the runs of a recipe.

Each member has a run folder of its own, BASE-MEMBER, such as runs/resnet20-cifar10-001-seed0. The
same task again goes on where it stopped: finished members are only read, one that was interrupted
is resumed, the others follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError, Interrupted, UsageError
from minires.training.comparison import compare, read_config
from minires.training.config import FIELDS, SETTINGS, TrainConfig
from minires.training.loop import Callback
from minires.training.run import RUNS, RunFolder, next_free
from minires.training.runner import resume, start
from minires.training.setup import check_model

MAX_SEEDS = 1000


@dataclass(frozen=True)
class Member:
    """One of several trainings: what its folder is called after the common name, its config."""

    name: str
    config: TrainConfig


def parse_seeds(text: str) -> list[int]:
    """The seeds in a text such as 0..4 or 0,1,5..8; `UsageError` where it is none."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise UsageError(f"--seeds {text}: must be numbers such as 0..4 or 0,1,2")
        stop = int(last) if dots else int(first)
        if stop < int(first):
            raise UsageError(f"--seeds {text}: {part.strip()} runs backwards")
        if stop - int(first) >= MAX_SEEDS:
            raise UsageError(f"--seeds {text}: more than {MAX_SEEDS} trainings")
        seeds += range(int(first), stop + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text}: names a seed twice")
    return seeds


def members_of(configs: Mapping[str, TrainConfig], seeds: Sequence[int] | None) -> list[Member]:
    """Each config with each seed; `configs` has the names of a recipe's runs, "" for a lone one."""
    members = []
    for name, config in configs.items():
        for seed in [None] if seeds is None else seeds:
            chosen = config if seed is None else replace(config, seed=seed)
            parts = [name] if name else []
            parts += [] if seed is None else [f"seed{seed}"]
            members.append(Member("-".join(parts), chosen))
    return members


def train_group(
    members: Sequence[Member],
    prefix: str,
    base: Path | None,
    changes: Mapping[str, Any],
    say: Callable[[str], None],
    progress: Callable[[], Callback],
    program: str,
) -> dict[str, Any]:
    """Train all `members`, or what is left of them, and compare them.

    base: the start of all folders' names; None: that of an earlier group of the same trainings in
    runs/, else runs/PREFIX-NNN. `changes` are the settings that a resumed run takes over, such as
    `threads`. `progress` makes the callback for one training. Returns the result of each training
    and the rows of their comparison.
    """
    for member in members:
        check_model(member.config)
    base = base or _same_group(members, prefix) or _new_base(members, prefix)
    results = []
    for number, member in enumerate(members, 1):
        say(f"--- {member.name} ({number} of {len(members)})")
        folder = _folder(base, member)
        try:
            result = _train(member, folder, changes, say, progress(), program)
            results.append(result | {"run": str(folder)})
        except Interrupted as stop:
            reason = stop.__cause__ or stop
            hint = "the same command again goes on from there"
            raise Interrupted(f"{member.name}: {reason}; {hint}", stop.exit_code) from stop
    rows = compare([_folder(base, member) for member in members])
    return {"base": str(base), "runs": results, "rows": [row.to_dict() for row in rows]}


def _train(
    member: Member,
    folder: Path,
    changes: Mapping[str, Any],
    say: Callable[[str], None],
    progress: Callback,
    program: str,
) -> dict[str, Any]:
    """The result of one member: read, resumed or trained."""
    run = RunFolder(folder)
    if run.exists() and not run.last.exists():
        with run.lock():
            _clear_if_unused(run)
    if not run.exists():
        return start(member.config, folder, say, progress, program)
    fixed = {n: getattr(member.config, n) for n in FIELDS if n not in SETTINGS}
    return resume(folder, fixed | dict(changes), say, progress, program)


def _clear_if_unused(run: RunFolder) -> None:
    """Take away the config of a training that was stopped before its first checkpoint."""
    trained = run.last.exists() or run.best.exists() or run.result.exists()
    if not trained and (not run.history.exists() or not run.history.stat().st_size):
        run.history.unlink(missing_ok=True)
        run.config.unlink(missing_ok=True)


def _folder(base: Path, member: Member) -> Path:
    return base.with_name(f"{base.name}-{member.name}")


def _new_base(members: Sequence[Member], prefix: str) -> Path:
    """runs/PREFIX-NNN with the first free number; the first member's folder is made."""
    ending = f"-{members[0].name}"
    try:
        folder = next_free(RUNS, prefix, ending)
    except OSError as error:
        hint = "choose another place with --run-dir"
        raise UsageError(f"{RUNS}: cannot be made ({error.strerror}); {hint}") from error
    return folder.with_name(folder.name.removesuffix(ending))


def _same_group(members: Sequence[Member], prefix: str) -> Path | None:
    """The newest base in runs/ under which some of `members` lie already, and no other training."""
    for base in _bases(prefix):
        there = [m for m in members if RunFolder(_folder(base, m)).config.exists()]
        if there and all(_has_config(_folder(base, m), m.config) for m in there):
            return base
    return None


def _bases(prefix: str) -> Iterator[Path]:
    """All runs/PREFIX-NNN that have a folder PREFIX-NNN-..., the newest first."""
    numbers = set()
    for entry in RUNS.glob(f"{prefix}-*-*") if RUNS.is_dir() else ():
        number = entry.name.removeprefix(f"{prefix}-").partition("-")[0]
        if number.isdecimal():
            numbers.add(number)
    for number in sorted(numbers, key=int, reverse=True):
        yield RUNS / f"{prefix}-{number}"


def _has_config(folder: Path, config: TrainConfig) -> bool:
    with contextlib.suppress(CheckpointError):
        return not read_config(RunFolder(folder).config).differences(config)
    return False
