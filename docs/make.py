"""Keep the documents in step with the package: `python docs/make.py`.

    python docs/make.py               rewrite what is generated: tables, included code, outputs
    python docs/make.py --check       say what is out of date or broken and exit 1, without writing
    python docs/make.py --page 05     the same for the pages whose name holds 05
    python docs/make.py figures       redraw all figures, or those that are named
    python docs/make.py exercises     break the package as the exercises say; do the tests fail?
    python docs/make.py record RUN NAME --title "..." --command "..."
                                      copy a finished run's records to docs/results/NAME
    python docs/make.py record-answers RUN NAME
                                      ask the weights of RUN about each test image, for the same
    python docs/make.py record-sweep SWEEP NAME --command "..." --note "..."
                                      the same for the folder of a finished sweep

What an author writes into a chapter is told in docs/tools, one file for each kind of marker.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from tools import answers, includes, links, snippets, sweeps, tables  # noqa: E402
from tools import exercises as exercise_tools  # noqa: E402
from tools import figures as figure_tools  # noqa: E402
from tools.pages import DocumentError, name_of, pages  # noqa: E402


def refresh(text: str, name: str) -> str:
    """The text of page `name` (docs/05-convolution.md) with all that is generated made anew."""
    text = tables.refresh(text, name)
    text = includes.refresh(text, name)
    return snippets.refresh(text, name)


@click.group(invoke_without_command=True)
@click.option("--check", is_flag=True, help="Only say what is out of date or broken.")
@click.option("--page", "part", default="", metavar="PART", help="Pages whose name holds PART.")
@click.pass_context
def main(ctx: click.Context, check: bool, part: str) -> None:
    """Rewrite what is generated in the documents."""
    if ctx.invoked_subcommand is not None:
        return
    failed = False
    for page in pages():
        name = name_of(page)
        if part not in name:
            continue
        before = page.read_text(encoding="utf-8")
        try:
            after = refresh(before, name)
        except DocumentError as error:
            print(error)
            failed = True
            continue
        if before != after:
            print(f"{name}: {'out of date; run python docs/make.py' if check else 'rewritten'}")
            failed |= check
            if not check:
                page.write_text(after, encoding="utf-8", newline="\n")
        for problem in links.problems(page):
            print(problem)
            failed = True
    for problem in figure_tools.problems():
        print(problem)
        failed = True
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--png", type=click.Path(file_okay=False, path_type=Path), help="PNGs to look at.")
def figures(names: tuple[str, ...], png: Path | None) -> None:
    """Redraw all figures, or those that are named."""
    known = figure_tools.drawings()
    for name in names or known:
        if name not in known:
            raise click.UsageError(f"no figure {name}; there are {', '.join(known)}")
        if png is not None:
            png.mkdir(parents=True, exist_ok=True)
        figure_tools.draw(known[name], png)
        print(name_of(known[name].picture))


@main.command()
def exercises() -> None:
    """Break the package as the exercises say, in a copy, and see the named tests fail."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        exercise_tools.copy_project(Path(folder))
        for exercise in exercise_tools.breaks():
            problem = exercise_tools.problem(exercise, Path(folder))
            print(problem or f"{exercise.where}: {' '.join(exercise.tests)} fails, as it should")
            failed |= problem is not None
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--title", required=True, help="The first column of its row.")
@click.option("--command", "typed", required=True, help="What was typed.")
def record(run: Path, name: str, title: str, typed: str) -> None:
    """Copy a finished run's result and log to docs/results/NAME, and draw its curves."""
    tables.record(run, name, title, typed)


@main.command("record-answers")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
def record_answers(run: Path, name: str) -> None:
    """Ask the weights of a recorded run about each test image, for docs/results/NAME."""
    answers.record(run, name, tables.RESULTS)


@main.command("record-sweep")
@click.argument("sweep", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--command", "typed", required=True, help="What was typed.")
@click.option("--note", default="", help="What else is to be said of it, in a few words.")
def record_sweep(sweep: Path, name: str, typed: str, note: str) -> None:
    """Copy a finished sweep's report to docs/results/NAME."""
    sweeps.record(sweep, name, typed, note, tables.RESULTS)


if __name__ == "__main__":
    main()
