"""Records of sweeps: `docs/results/sweep-NAME/`, and the tables that show them.

spec.toml     what was asked for
report.csv    one line for each trial
report.png    the picture
sweep.json    what was typed, each trial, the environment (commit, versions, machine)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tools.pages import DocumentError

RECORD = "sweep.json"
COPIED = ("spec.toml", "report.csv", "report.png")


def record(sweep: Path, name: str, typed: str, note: str, results: Path) -> None:
    """Copy the report of a finished sweep to docs/results/NAME."""
    from minires.sweep.folder import SweepFolder
    from minires.sweep.report import summary_of, write_report
    from minires.sweep.spec import load_spec
    from minires.sweep.study import open_study

    folder = SweepFolder(sweep)
    study = open_study(folder, load_spec(str(sweep)), None)
    rows = write_report(study)
    left = [row["trial"] for row in rows if row["state"] in ("running", "cut off")]
    if left or len(rows) < study.spec.trials:
        raise DocumentError(f"{sweep}: {len(rows) - len(left)} of {study.spec.trials} are done")
    summary = summary_of(study, rows)
    machines = [t.user_attrs["result"] for t in study.trials() if "result" in t.user_attrs]
    for row in rows:
        row["run"] = Path(row["run"]).relative_to(sweep).as_posix()
    kept = ("method", "metric", "asked", "finished", "pruned", "failed", "best", "telling")
    text = {
        "title": study.spec.name,
        "command": typed,
        "note": note,
        **{key: summary[key] for key in kept},
        "trials": rows,
        "device": machines[0]["device"],
        "threads": machines[0]["threads"],
        "environment": machines[0]["environment"],
    }
    target = results / name
    target.mkdir(parents=True, exist_ok=True)
    for file in COPIED:
        shutil.copyfile(sweep / file, target / file)
    (target / RECORD).write_text(json.dumps(text, indent=2) + "\n")


def _records(results: Path) -> list[dict]:
    paths = sorted(results.glob(f"*/{RECORD}"))
    return [{"name": path.parent.name, **json.loads(path.read_text())} for path in paths]


def sweep_table(results: Path) -> str:
    """One row for each recorded sweep."""
    lines = [
        "| sweep | trials | best validation | its test accuracy | machine | typed | record |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in _records(results):
        states = (f"{r[s]} {s}" for s in ("finished", "pruned", "failed") if r[s])
        machine = r["environment"]["cpu"] if r["device"] == "cpu" else r["device"]
        folder = f"docs/results/{r['name']}"
        lines.append(
            f"| {r['title']}{r['note'] and ', '}{r['note']} | {', '.join(states)} "
            f"| {r['best']['val_accuracy']:.2%} | {r['best']['test_accuracy']:.2%} "
            f"| {machine}, {r['environment']['cores']} cores | `{r['command']}` "
            f"| [{r['name']}]({folder}), [picture]({folder}/report.png) |"
        )
    return "\n".join(lines) + "\n"


def trial_table(results: Path) -> str:
    """One row for each trial of each recorded sweep, the best first."""
    from minires.sweep.space import shown

    lines = [
        "| sweep | trial | options | validation | test | epochs | time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in _records(results):
        for row in sorted(r["trials"], key=lambda row: -(row["val_accuracy"] or -1)):
            options = " ".join(f"`{key}={shown(v)}`" for key, v in row["options"].items())
            trial = f"{row['trial']}{row['name'] and ' '}{row['name']}"
            done = row["val_accuracy"] is not None
            figures = (
                f"{row['val_accuracy']:.2%} | {row['test_accuracy']:.2%} | {row['epochs']} "
                f"| {row['seconds']:.0f} s"
                if done
                else " |  |  | "
            )
            state = "" if row["state"] == "finished" else f", {row['state']}"
            lines.append(f"| {r['title']} | {trial}{state} | {options} | {figures} |")
    return "\n".join(lines) + "\n"
