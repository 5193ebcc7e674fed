"""Keep the documents in step with the measurements: `python docs/make.py`.

    python docs/make.py               rewrite the generated tables in README.md
    python docs/make.py --check       say what is out of date and exit 1, without writing
    python docs/make.py record RUN NAME --title "..." --command "..."
                                      copy a finished run's records to docs/results/NAME

A generated table stands between `<!-- table: KIND -->` and `<!-- end table -->`. Its numbers come
from files in docs/results: `NAME/result.json` for a training (with its log and config beside it),
`bench-NAME.json` for a benchmark.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = ("README.md", "docs/results/README.md")
MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def trainings(results: Path = RESULTS) -> list[dict]:
    """The recorded trainings, by name."""
    records = []
    for path in sorted(results.glob("*/result.json")):
        records.append({"name": path.parent.name, **json.loads(path.read_text())})
    return records


def training_table(results: Path = RESULTS) -> str:
    """One row for each recorded training."""
    lines = [
        "| training | test accuracy | epochs | time | images/s | machine | record |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in trainings(results):
        where = r["environment"]
        machine = where["cpu"] if r["device"] == "cpu" else r["device"]
        if r["device"] == "cpu":
            machine += f", {r['threads']} thread{'s' if r['threads'] > 1 else ''}"
        lines.append(
            f"| {r['title']} | {r['test_accuracy']:.2%} | {r['epochs']} | {_minutes(r['seconds'])} "
            f"| {r['images_per_second']:,.0f} | {machine} "
            f"| [{r['name']}](docs/results/{r['name']}) |"
        )
    return "\n".join(lines) + "\n"


def benchmark_table(results: Path = RESULTS) -> str:
    """One row for each contender of each recorded CPU benchmark."""
    lines = [
        "| model | what | contender | images/s | to PyTorch's best eager layout | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(results.glob("bench-*.json")):
        for r in json.loads(path.read_text())["results"]:
            ratio = r["ratio_to_torch"]
            memory = r["peak_memory_bytes"]
            lines.append(
                f"| {r['model']} | {r['mode']} | {r['name']} | {r['images_per_second']:,.0f} "
                f"| {'-' if ratio is None else f'{ratio:.2f}'} "
                f"| {'-' if memory is None else f'{memory / 1e6:,.0f} MB'} |"
            )
    return "\n".join(lines) + "\n"


TABLES = {"trainings": training_table, "benchmarks": benchmark_table}


def regenerate(text: str, page: str, results: Path = RESULTS) -> str:
    """The page with its generated tables made anew."""

    def table(match: re.Match) -> str:
        made = TABLES[match[2]](results)
        if page.startswith("docs/results/"):
            made = made.replace("](docs/results/", "](")
        return match[1] + made + match[3]

    return MARK.sub(table, text)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@click.group(invoke_without_command=True)
@click.option("--check", is_flag=True, help="Only say what is out of date.")
@click.pass_context
def main(ctx: click.Context, check: bool) -> None:
    """Rewrite the generated tables."""
    if ctx.invoked_subcommand is not None:
        return
    stale = []
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = regenerate(before, page)
        if before != after:
            stale.append(page)
            if not check:
                path.write_text(after, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date; run python docs/make.py' if check else 'rewritten'}")
    sys.exit(1 if check and stale else 0)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--title", required=True, help="The first column of its row.")
@click.option("--command", "typed", required=True, help="What was typed.")
def record(run: Path, name: str, title: str, typed: str) -> None:
    """Copy a finished run's result and log to docs/results/NAME, and draw its curves."""
    from minires.training.curves import draw_curves
    from minires.training.history import read_history

    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    result = json.loads((run / "result.json").read_text())
    result.pop("run")
    for key in ("data_dir",):
        result["config"][key] = None
    result = {"title": title, "command": typed, **result}
    (target / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.copyfile(run / "history.jsonl", target / "history.jsonl")
    draw_curves(read_history(run / "history.jsonl"), target / "curves.png", title)


if __name__ == "__main__":
    main()
