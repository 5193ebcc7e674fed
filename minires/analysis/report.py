"""One page about one run: a self-contained HTML file that needs no network and no program.

Pictures are inside the file, each in a light and a dark version; the browser takes the one that
suits. Everything that comes from files or the user is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, fields
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from minires.analysis.pictures.style import THEMES, Theme, picture_bytes, themed
from minires.errors import UsageError
from minires.training.config import FIELDS, TrainConfig, option_name
from minires.training.history import read_history
from minires.training.progress import duration
from minires.training.run import RunFolder
from minires.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minires.analysis.predictions import Predictions

PIXELS_PER_INCH = 84
"""How large pictures are shown; a picture has more dots than that, for sharp screens."""

Draw = Callable[[Theme], "Figure | None"]


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    html: str


def make_report(
    run: RunFolder,
    trained: Trained,
    answers: Predictions,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """The page about `run` as HTML.

    trained: its weights; answers: what they answer for a split. `say` is told what is being drawn.
    """
    records = read_history(run.history) if run.history.exists() else []
    result = run.read_result()
    sections = [
        Section("At a glance", _cards(trained, answers, result, records)),
        *_pictures(trained, answers, records, say),
        Section("Config", _config(trained.config)),
        Section("Timing", _timing(records, result)),
        Section("Machine and versions", _environment(trained, result)),
        Section("Again", _commands(trained)),
    ]
    page = resources.files("minires.analysis") / "report.html"
    shown = [section for section in sections if section.html]
    return Template(page.read_text(encoding="utf-8")).substitute(
        title=escape(run.path.absolute().name),
        subtitle=escape(_subtitle(trained)),
        body="\n".join(f"<section><h2>{s.title}</h2>\n{s.html}</section>" for s in shown),
    )


def _subtitle(trained: Trained) -> str:
    plain = "plain " if trained.config.plain else ""
    return f"{plain}{trained.config.model} on {trained.config.dataset}"


def _cards(
    trained: Trained, answers: Predictions, result: dict | None, records: list[dict]
) -> str:
    """The few numbers that people ask for first."""
    cards = [(f"{answers.accuracy:.2%}", f"accuracy on the {answers.split} images")]
    epochs = [r for r in records if r["kind"] == "epoch"]
    best = max((r["val_accuracy"] for r in epochs if r.get("val_accuracy") is not None), default=0)
    if best:
        cards.append((f"{best:.2%}", "best accuracy on the validation images"))
    parameters = sum(a.size for n, a in trained.checkpoint.model.items() if _learned(n))
    cards.append((f"{parameters:,}", "parameters"))
    done = epochs[-1]["epoch"] if epochs else trained.checkpoint.epoch
    cards.append((f"{done:,} of {trained.config.epochs:,}", "epochs"))
    if result:
        cards.append((duration(result["seconds"]), "of training"))
        cards.append((f"{result['images_per_second']:,.0f}", "images per second"))
    else:
        cards.append(("not finished", "state of the training"))
    shown = (f"<li><b>{escape(value)}</b><span>{escape(what)}</span></li>" for value, what in cards)
    return f'<ul class="cards">{"".join(shown)}</ul>'


def _learned(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _pictures(
    trained: Trained, answers: Predictions, records: list[dict], say: Callable[[str], None]
) -> list[Section]:
    """Curves, confusion matrix, classes, calibration, mistakes."""
    from minires.analysis.metrics import calibration
    from minires.analysis.pictures.calibration import draw_calibration
    from minires.analysis.pictures.classes import draw_classes
    from minires.analysis.pictures.confusion import draw_confusion
    from minires.analysis.pictures.curves import draw_curves
    from minires.analysis.pictures.mistakes import draw_mistakes

    names, matrix = answers.class_names, answers.confusion
    sureness = calibration(answers.confidence, answers.correct)
    plans: list[tuple[str, str, Draw, str]] = [
        (
            "Curves",
            "loss, accuracy and learning rate over the epochs",
            lambda theme: draw_curves(theme, records, ""),
            "",
        ),
        (
            "Confusion matrix",
            "rows: true classes; columns: answers of the network",
            lambda theme: draw_confusion(theme, matrix, names, ""),
            "",
        ),
        (
            "Classes",
            "accuracy and precision of each class",
            lambda theme: draw_classes(theme, matrix, names, ""),
            _class_table(answers),
        ),
        (
            "Calibration",
            "does it know how sure it can be?",
            lambda theme: draw_calibration(theme, sureness, ""),
            "",
        ),
        (
            "The most confident mistakes",
            "images, their class, and the wrong answer",
            lambda theme: draw_mistakes(theme, answers, ""),
            "",
        ),
    ]
    sections = []
    for title, words, draw, more in plans:
        say(title.lower())
        html = _picture(draw, words)
        if html:
            sections.append(Section(title, html + more))
    return sections


def _picture(draw: Draw, words: str) -> str:
    """A picture in both themes as one HTML element; empty where there is nothing to draw."""
    data = {}
    for name in THEMES:
        with themed(name) as theme:
            figure = draw(theme)
            if figure is None:
                return ""
            width, height = (round(PIXELS_PER_INCH * side) for side in figure.get_size_inches())
            data[name] = base64.b64encode(picture_bytes(figure, ".png")).decode()
    url = "data:image/png;base64,"
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{url}'
        f'{data["dark"]}"><img alt="{escape(words)}" width="{width}" height="{height}" '
        f'src="{url}{data["light"]}"></picture>'
        f"<figcaption>{escape(words)}</figcaption></figure>\n"
    )


def _class_table(answers: Predictions) -> str:
    from minires.analysis.pictures.classes import class_records

    rows = [
        (r["name"], f"{r['images']:,}", _share(r["accuracy"]), _share(r["precision"]))
        for r in class_records(answers.confusion, answers.class_names)
    ]
    return _table(("class", "images", "accuracy", "precision"), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _config(config: TrainConfig) -> str:
    """What differs from the defaults, and, folded away, everything."""
    values, defaults = config.to_dict(), TrainConfig().to_dict()
    chosen = [(k, v) for k, v in values.items() if v != defaults[k] and k not in PLACES]
    rows = [(option_name(k), _spell(v), _spell(defaults[k])) for k, v in chosen]
    table = _table(("option", "here", "default"), rows) if rows else "<p>All defaults.</p>"
    every = [(option_name(f.name), _spell(values[f.name]), FIELDS[f.name]["help"])
             for f in fields(TrainConfig)]  # fmt: skip
    return (
        f"{table}<details><summary>all options</summary>"
        f"{_table(('option', 'value', 'what it is'), every)}</details>"
    )


PLACES = ("data_dir", "device", "threads", "pretrained")
"""Options that tell where things lie on the machine of the training."""


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _timing(records: list[dict], result: dict | None) -> str:
    """The speed of each epoch."""
    epochs = [r for r in records if r["kind"] == "epoch"]
    if not epochs:
        return ""
    before, rows = 0.0, []
    for record in epochs:
        took, before = record["seconds"] - before, record["seconds"]
        rows.append((str(record["epoch"]), duration(max(took, 0.0)),
                     f"{record['images_per_second']:,.0f}"))  # fmt: skip
    total = f"<p>{duration(result['seconds'])} in all.</p>" if result else ""
    table = _table(("epoch", "time", "images per second"), rows)
    return f"{total}<details><summary>each epoch</summary>{table}</details>"


def _environment(trained: Trained, result: dict | None) -> str:
    """Where the training ran, as result.json says, else which versions wrote the checkpoint."""
    if result is None:
        return _table(("", ""), [(k, str(v)) for k, v in trained.checkpoint.versions.items()])
    facts = dict(result.get("environment", {}))
    rows = [("device", result.get("device")), ("threads", result.get("threads"))]
    rows += [(name, version) for name, version in facts.pop("packages", {}).items()]
    memory = facts.pop("memory_bytes", None)
    rows += list(facts.items())
    rows.append(("memory", f"{memory / 2**30:.0f} GiB" if memory else None))
    return _table(("", ""), [(k, str(v)) for k, v in rows if v is not None])


def _commands(trained: Trained) -> str:
    """How to measure these weights and to train them anew."""
    folder = escape(str(trained.path.parent.name))
    return (
        f"<pre>python cli.py evaluate {folder}\n"
        f"python cli.py train --config {folder}/config.toml</pre>"
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """An HTML table; columns of numbers are set to the right."""
    right = [
        bool(rows) and all(row[k][:1].isdigit() or row[k] == "-" for row in rows)
        for k in range(len(head))
    ]
    parts = []
    if any(head):
        parts.append(_row("th", head, right))
    parts += [_row("td", row, right) for row in rows]
    return f'<div class="wide"><table>{"".join(parts)}</table></div>\n'


def _row(tag: str, cells: tuple[str, ...], right: list[bool]) -> str:
    kinds = (' class="n"' if number else "" for number in right)
    shown = (
        f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def check_page(path: Path) -> None:
    """Raise `UsageError` unless a page can be written to `path`."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {path}: must end in .html")
    if path.is_dir():
        raise UsageError(f"--output {path}: is a folder")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"--output {path}: its folder does not exist")


def default_output(run: RunFolder) -> Path:
    """Where the page goes unless the user says otherwise."""
    return run.path / "report.html"
