"""All cases of the gradient check, and the choice among them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from minires.analysis.gradcheck import Case
from minires.analysis.gradcheck_losses import loss_cases
from minires.analysis.gradcheck_modules import module_cases
from minires.analysis.gradcheck_operations import operation_cases
from minires.analysis.gradcheck_resizing import resizing_cases
from minires.errors import UsageError


def all_cases() -> list[Case]:
    """Operations first, then layers, blocks and networks: where a fault is, it shows first."""
    return [*operation_cases(), *resizing_cases(), *loss_cases(), *module_cases()]


def select_cases(pattern: str | None = None, cases: list[Case] | None = None) -> list[Case]:
    """Those of `cases` (default: all) whose name or kind fits `pattern`.

    A pattern is a part of the name, or the whole name with `*`; case does not matter. Raises
    `UsageError` if none fits.
    """
    cases = all_cases() if cases is None else cases
    if pattern is None:
        return cases
    chosen = [case for case in cases if fits(case, pattern)]
    if not chosen:
        names = sorted({case.name.partition(":")[0] for case in cases})
        raise UsageError(f"--only {pattern}: no check fits; there are {', '.join(names)}")
    return chosen


def fits(case: Case, pattern: str) -> bool:
    """Whether `pattern` describes `case`, as `select_cases` has it."""
    pattern = pattern.lower()
    return any(
        pattern in text or fnmatchcase(text, pattern) for text in (case.name.lower(), case.kind)
    )
