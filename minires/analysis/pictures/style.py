"""The look of all pictures: two themes, and how a picture becomes a file.

The colours are those of Okabe and Ito (2008), which every common kind of colour vision tells apart;
quantities are shown in viridis and cividis, whose brightness rises evenly, also in grey print.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.atomic import write_atomically
from minires.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
DOTS_PER_INCH = 140
LETTERS_PER_INCH = 13


@dataclass(frozen=True)
class Theme:
    """Colours: text (`ink`), background (`paper`), `muted` text, `grid`, and a `series` of lines.

    `right` and `wrong` are for answers; `quantity` names a colour map for shares and sizes.
    """

    name: str
    ink: str
    paper: str
    muted: str
    grid: str
    right: str
    wrong: str
    series: tuple[str, ...]
    quantity: str = "viridis"


THEMES = {
    "light": Theme(
        name="light",
        ink="#222222",
        paper="#ffffff",
        muted="#666666",
        grid="#d8d8d8",
        right="#0072b2",
        wrong="#d55e00",
        series=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    ),
    "dark": Theme(
        name="dark",
        ink="#e8e8e8",
        paper="#14171c",
        muted="#9aa0a8",
        grid="#363b44",
        right="#56b4e9",
        wrong="#f08a3c",
        series=("#56b4e9", "#f08a3c", "#2fc49a", "#e39cc6", "#f0e442", "#5b8fd6"),
    ),
}


@contextmanager
def themed(name: str = "light") -> Iterator[Theme]:
    """Matplotlib with the fonts and colours of the theme `name`, for drawing and for saving."""
    import matplotlib

    theme = THEMES[name]
    with matplotlib.rc_context(_settings(theme)):
        yield theme


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that arranges its parts itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture_bytes(figure: Figure, suffix: str) -> bytes:
    """The picture as a file of the kind `suffix`; no date is written into it."""
    file = io.BytesIO()
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(file, format=suffix[1:], dpi=DOTS_PER_INCH, metadata=dates.get(suffix))
    return file.getvalue()


def save_picture(figure: Figure, path: Path) -> None:
    """Write the picture to `path`, whole or not at all; its kind is that of the suffix."""
    write_atomically(path, picture_bytes(figure, path.suffix.lower()))


def check_output(path: Path) -> None:
    """Raise `UsageError` unless a picture can be written to `path`."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {path}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.is_dir():
        raise UsageError(f"--output {path}: is a folder")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"--output {path}: its folder does not exist")


def heading(figure: Figure, title: str, text: str = "") -> None:
    """A bold title at the upper left; `text` below it, or below a picture of many parts."""
    bold = {"ha": "left", "fontsize": 12, "fontweight": "bold"}
    if len(figure.axes) == 1:
        axes = figure.axes[0]
        axes.set_title(text, loc="left", fontsize=10)
        above = (0, 24 if text else 8)
        axes.annotate(title, (0, 1), above, "axes fraction", textcoords="offset points", **bold)
        return
    figure.suptitle(title, x=0.01, **bold)
    if text:
        letters = int(LETTERS_PER_INCH * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(text, letters), fontsize=10)


def fade(theme: Theme, color: str) -> Colormap:
    """A colour map from the background to `color`."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("fade", [theme.paper, color])


def ink_on(color: Any) -> str:
    """Black or white, whichever is easier to read on `color`."""
    from matplotlib.colors import to_rgb

    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.21 else "#ffffff"


def bare(axes: Axes) -> None:
    """Axes without ticks and frame, for an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.facecolor": theme.paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "figure.facecolor": theme.paper,
        "legend.edgecolor": "none",
        "legend.facecolor": theme.paper,
        "legend.framealpha": 0.85,
        "lines.linewidth": 1.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "minires",
        "xtick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.color": theme.muted,
        "ytick.labelcolor": theme.ink,
    }
