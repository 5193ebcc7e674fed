"""Proof that the gradient check works: plant one bug after another and see each one caught.

A bug counts as caught when a check fails that passes without it. The bugs themselves are in
`minires.analysis.bugs`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import minires.functional as F
from minires import nn
from minires.analysis.bugs import BUGS, Bug
from minires.analysis.gradcheck import Case, Check, check_case, substituted
from minires.analysis.gradcheck_cases import all_cases, fits
from minires.errors import UsageError


@dataclass(frozen=True)
class Caught:
    """What became of one bug: the first check that failed, or None if all passed."""

    bug: Bug
    check: Check | None

    @property
    def caught(self) -> bool:
        """Whether a check failed."""
        return self.check is not None


def select_bugs(bugs: list[Bug], pattern: str | None = None) -> list[Bug]:
    """Those of `bugs` whose name or target holds `pattern`; `UsageError` if there is none."""
    if pattern is None:
        return bugs
    chosen = [bug for bug in bugs if pattern.lower() in f"{bug.target} {bug.name}".lower()]
    if not chosen:
        targets = ", ".join(sorted({bug.target for bug in bugs}))
        raise UsageError(f"--only {pattern}: no planted bug fits; they are in {targets}")
    return chosen


def plant(bug: Bug) -> AbstractContextManager[None]:
    """Replace the correct function or method by the broken one while the context lasts."""
    owner, _, method = bug.target.rpartition(".")
    if owner:
        return _broken_method(getattr(nn, owner, None) or getattr(nn.residual, owner), method, bug)
    right = getattr(F, bug.target)
    return substituted(right, functools.partial(bug.broken, right))


@contextmanager
def _broken_method(owner: type, name: str, bug: Bug) -> Iterator[None]:
    right = getattr(owner, name)
    setattr(owner, name, lambda self, *args: bug.broken(right, self, *args))
    try:
        yield
    finally:
        setattr(owner, name, right)


def run_planted_bugs(
    bugs: list[Bug] = BUGS, on_result: Callable[[Caught], None] | None = None
) -> tuple[list[Caught], list[Check]]:
    """Plant each of `bugs` and run the checks that concern it until one fails.

    Returns what became of each, and the same checks without a bug, which must all pass: a check
    that fails anyway proves nothing.
    """
    results, control = [], {}
    for bug in bugs:
        result = Caught(bug, _first_failure(bug, control))
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results, list(control.values())


def _first_failure(bug: Bug, control: dict[str, Check]) -> Check | None:
    for case in cases_for(bug):
        if case.name not in control:
            control[case.name] = check_case(case)
        if not control[case.name].passed:
            continue
        with plant(bug):
            check = check_case(case)
        if not check.passed:
            return check
    return None


def cases_for(bug: Bug) -> list[Case]:
    """The checks that concern `bug`, the smallest part of the network first."""
    return [case for case in all_cases() if any(fits(case, pattern) for pattern in bug.cases)]
