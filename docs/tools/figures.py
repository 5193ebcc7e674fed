r"""The figures: each is drawn by a function in docs/figures/*.py, and knows the code that drew it.

    <!-- figure: windows -->
    ![What one sees, for those who cannot](figures/windows.svg)

    *Figure 5.1. What it shows. Drawn by `python docs/make.py figures windows`.*

`@figure` marks the function (`windows`, with `_` for each `-` of the name); it returns a matplotlib
`Figure`. The picture carries a fingerprint of its file, of docs/figures/style.py and of the records
that the file names ("results/NAME.json"), so a test can tell, without drawing anything, that a
picture is older than its code or its numbers.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.pages import DOCS, ROOT, DocumentError, line_of, name_of, pages

MARK = re.compile(
    r"^<!-- figure: (?P<name>[\w-]+) -->\n!\[(?P<alt>[^\]]*)\]\((?P<file>[^)]+)\)\n"
    r"(?P<caption>(?:\n[^\n]+(?:\n[^\n]+)*)?)",
    re.MULTILINE,
)
RECORD = re.compile(rb'"(results/[\w./-]+)"')
FINGERPRINT = re.compile(rb"code ([0-9a-f]{64})")


@dataclass(frozen=True)
class Drawing:
    """One figure: its name, the file whose function draws it, and the picture."""

    name: str
    code: Path
    picture: Path

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the code that draws it and of the records that the code names."""
        style = self.code.parent / "style.py"
        text = self.code.read_bytes() + (style.read_bytes() if style.exists() else b"")
        for name in RECORD.findall(text):
            text += (self.code.parent.parent / name.decode()).read_bytes()
        return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()

    @property
    def current(self) -> bool:
        """Whether the picture exists and was drawn by the code as it stands."""
        if not self.picture.is_file():
            return False
        found = FINGERPRINT.search(self.picture.read_bytes())
        return found is not None and found[1].decode() == self.fingerprint


def drawings(folder: Path = DOCS / "figures") -> dict[str, Drawing]:
    """All figures by name, found by reading the code without running it."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            kind = next((k for k in map(_kind, node.decorator_list) if k), None)
            if kind:
                name = node.name.replace("_", "-")
                if name in found:
                    raise DocumentError(f"{path}: a second figure {name}")
                found[name] = Drawing(name, path, folder / f"{name}.{kind}")
    return found


def _kind(decorator: ast.expr) -> str | None:
    """ "svg" or "png" for `@figure`, `@figure("png")`; None for other decorators."""
    match decorator:
        case ast.Name("figure"):
            return "svg"
        case ast.Call(ast.Name("figure"), [ast.Constant(kind)]):
            return kind
    return None


def draw(drawing: Drawing, also_png: Path | None = None) -> None:
    """Draw one figure into its picture; `also_png` is a folder for a PNG to look at."""
    import matplotlib

    for folder in (str(drawing.code.parent), str(ROOT)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"figures_{drawing.code.stem}", drawing.code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = getattr(module, drawing.name.replace("-", "_"))()
    about = {"Description": f"{drawing.code.name}, code {drawing.fingerprint}"}
    if drawing.picture.suffix == ".svg":
        about["Date"] = None
    with matplotlib.rc_context({"svg.hashsalt": "minires"}):
        picture.savefig(drawing.picture, metadata=about, dpi=200)
    if drawing.picture.suffix == ".svg":  # matplotlib leaves spaces at the ends of lines
        lines = drawing.picture.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.rstrip() for line in lines) + "\n"
        drawing.picture.write_text(text, encoding="utf-8", newline="\n")
    if also_png is not None:
        picture.savefig(also_png / f"{drawing.name}.png", dpi=120)


def problems(root: Path = ROOT) -> list[str]:
    """Figures that no code draws, that no page shows, or that are older than their code."""
    known = drawings(root / "docs" / "figures")
    found, shown = [], set()
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        if len(re.findall(r"^<!-- figure:", text, re.MULTILINE)) != len(MARK.findall(text)):
            found.append(f"{name_of(page, root)}: a figure marker without its picture below it")
        for match in MARK.finditer(text):
            name, where = match["name"], f"{name_of(page, root)}:{line_of(text, match.start())}"
            shown.add(name)
            if name not in known:
                found.append(f"{where}: no function in docs/figures draws {name}")
            elif (page.parent / match["file"]).resolve() != known[name].picture.resolve():
                found.append(f"{where}: {match['file']} is not {known[name].picture.name}")
            if f"figures {name}`" not in " ".join(match["caption"].split()):
                found.append(f"{where}: the caption does not name its command")
            if not match["alt"].strip():
                found.append(f"{where}: the picture has no description for those who cannot see it")
    for name, drawing in known.items():
        if name not in shown:
            found.append(f"{drawing.code.name}: no page shows {name}")
        if not drawing.current:
            found.append(
                f"docs/figures/{drawing.picture.name}: older than its code or its numbers; "
                f"run python docs/make.py figures {name}"
            )
    return found
