"""Generated tables: their numbers come from files in docs/results.

A table stands between `<!-- table: KIND -->` and `<!-- end table -->`. `NAME/result.json` records
one training (with its log and picture beside it), `bench-NAME.json` one benchmark,
`ladder-cpu.json` one climb of the ladder of convolutions,
`NAME/sweep.json` a sweep.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tools import sweeps
from tools.pages import DOCS, DocumentError

RESULTS = DOCS / "results"
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
        machine = _plain(where["cpu"]) if r["device"] == "cpu" else r["device"]
        if r["device"] == "cpu":
            processes = r.get("processes", 1)
            many, what = (processes, "process") if processes > 1 else (r["threads"], "thread")
            plural = "es" if what == "process" else "s"
            machine += f", {many} {what}{plural if many > 1 else ''}"
        lines.append(
            f"| {r['title']} | {r['test_accuracy']:.2%} | {r['epochs']} | {_minutes(r['seconds'])} "
            f"| {r['images_per_second']:,.0f} | {machine} "
            f"| [{r['name']}](docs/results/{r['name']}) |"
        )
    return "\n".join(lines) + "\n"


def benchmark_table(results: Path = RESULTS) -> str:
    """One row for each contender of each recorded CPU benchmark."""
    lines = [
        "| machine | model | what | contender | images/s | to PyTorch's best eager layout "
        "| peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(results.glob("bench-*.json")):
        record = json.loads(path.read_text())
        for r in record["results"]:
            ratio = r["ratio_to_torch"]
            memory = r["peak_memory_bytes"]
            lines.append(
                f"| {_plain(record['machine']['cpu'])} | {r['model']} | {r['mode']} | {r['name']} "
                f"| {r['images_per_second']:,.0f} "
                f"| {'-' if ratio is None else f'{ratio:.2f}'} "
                f"| {'-' if memory is None else f'{memory / 1e6:,.0f} MB'} |"
            )
    return "\n".join(lines) + "\n"


def _plain(cpu: str) -> str:
    """A processor's name without its trademarks."""
    return re.sub(r"\((R|TM)\)", "", cpu).removesuffix(" Processor")


def ladder_table(results: Path = RESULTS) -> str:
    """One row for each rung of the recorded ladder."""
    from minires.analysis.ladder_report import duration, rate

    lines = [
        "| rung | why it is faster | time per image | GFLOP/s | gain | relative error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in json.loads((results / "ladder-cpu.json").read_text())["rungs"]:
        gain = "" if r["gain"] is None else f"{r['gain']:.1f} x"
        error = f"{r['relative_error']:.0e}" if r["relative_error"] else ""
        lines.append(
            f"| {r['name']} | {r['reason']} | {duration(r['seconds_per_image'])} "
            f"| {rate(r['flops_per_second'])} | {gain} | {error} |"
        )
    return "\n".join(lines) + "\n"


def recipe_table(results: Path = RESULTS) -> str:
    """One row for each recipe, or for each training of a recipe that has several."""
    from minires.training.comparison import compare
    from minires.training.recipe_report import reached, record_folders, reports

    lines = [
        "| recipe | what it is | parameters | multiply-adds | epochs x steps | test accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in reports(results):
        name, what = one.recipe.name, one.recipe.about.what
        for cost in one.costs:
            shown = f"{name}/{cost.run}" if cost.run else name
            folders = record_folders(f"{name}-{cost.run}" if cost.run else name, results)
            links = ", ".join(f"[{p.name}](docs/results/{p.name})" for p in folders)
            rows = compare(folders)
            lines.append(
                f"| `{shown}` | {what} | {cost.parameters:,} | {cost.multiply_adds / 1e6:,.1f} M "
                f"| {cost.epochs} x {cost.steps_per_epoch:,} "
                f"| {reached(rows)}{f': {links}' if links else ''} |"
            )
            what = "the same" if cost.run else what
    return "\n".join(lines) + "\n"


TABLES = {
    "trainings": training_table,
    "benchmarks": benchmark_table,
    "ladder": ladder_table,
    "recipes": recipe_table,
    "sweeps": sweeps.sweep_table,
    "sweep-trials": sweeps.trial_table,
}


def refresh(text: str, page: str, results: Path = RESULTS) -> str:
    """The page with its generated tables made anew; `page` is its name from the root."""

    def table(match: re.Match) -> str:
        if match[2] not in TABLES:
            raise DocumentError(f"{page}: no table {match[2]}; there are {', '.join(TABLES)}")
        made = TABLES[match[2]](results)
        if page.startswith("docs/"):
            up = "../" * (page.count("/") - 1)
            made = made.replace("](docs/results/", f"]({up}results/")
        if page.startswith("docs/results/"):
            made = made.replace("](../results/", "](")
        return match[1] + made + match[3]

    return MARK.sub(table, text)


def record(run: Path, name: str, title: str, typed: str, results: Path = RESULTS) -> None:
    """Copy a finished run's result and log to docs/results/NAME, and draw its curves."""
    from minires.training.curves import draw_curves
    from minires.training.history import read_history

    target = results / name
    target.mkdir(parents=True, exist_ok=True)
    result = json.loads((run / "result.json").read_text())
    result.pop("run")
    result["config"]["data_dir"] = None
    result = {"title": title, "command": typed, **result}
    (target / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.copyfile(run / "history.jsonl", target / "history.jsonl")
    draw_curves(read_history(run / "history.jsonl"), target / "curves.png", title)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
