"""The import rule: which part of minires may know which, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minires

ROOT = Path(minires.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LOWER = {"errors", "spelling", "atomic", "__init__"}
"""Small modules that anything may import and that know nothing of the rest."""

ALLOWED = {
    "backend": LOWER,
    "devices": LOWER | {"backend"},
    "environment": LOWER | {"devices"},
    "processes": LOWER | {"backend"},
    "functional": LOWER | {"backend"},
    "kernels": LOWER | {"backend", "functional", "processes"},
    "nn": LOWER | {"backend", "functional", "processes"},
    "models": LOWER | {"backend", "functional", "nn"},
    "optim": LOWER | {"backend", "functional", "nn"},
    "data": LOWER | {"backend", "functional"},
    "training": LOWER
    | {"backend", "devices", "functional", "nn", "models", "optim", "data", "recipes"}
    | {"environment", "processes"},
}
"""What each part may import besides itself. The parts not named here may import all but `cli`."""

HEAVY = {
    *("matplotlib", "rich", "pooch", "safetensors", "PIL", "torch", "numba", "cupy", "click"),
    *("optuna", "sqlalchemy"),
}


def part(path):
    """`functional` for minires/functional/conv.py, `backend` for minires/backend.py."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path, top_level_only=False):
    """The full names of the modules that `path` imports, also from inside functions.

    Imports under `if TYPE_CHECKING:` are for readers and type checkers: they never run.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found, waiting = [], list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                found.append(argument.value)
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def parts_imported(path):
    """The parts of minires that `path` imports: {"backend", "nn"}."""
    names = [name.split(".") for name in imports(path) if name.split(".")[0] == "minires"]
    known = {part(file) for file in FILES}
    return {pieces[1] for pieces in names if len(pieces) > 1 and pieces[1] in known}


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_arrows_point_one_way(path):
    own = part(path)
    if own in LOWER:
        assert parts_imported(path) <= LOWER
    elif own in ALLOWED:
        assert parts_imported(path) <= ALLOWED[own] | {own}


@pytest.mark.parametrize("path", [f for f in FILES if part(f) != "cli"], ids=ids)
def test_nothing_imports_the_command_line(path):
    assert "cli" not in parts_imported(path)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_cupy_is_known_to_the_backend_the_devices_and_the_kernels_alone(path):
    if part(path) in ("backend", "devices") or path.is_relative_to(ROOT / "kernels" / "cuda"):
        return
    assert not [name for name in imports(path) if name.split(".")[0] == "cupy"]


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_heavy_modules_load_lazily(path):
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    allowed = {"click"} if part(path) in ("cli", "__main__") else set()
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "kernels" and relative.stem.startswith("compiled"):
        allowed = {"numba"}  # loaded by name, and only where numba is installed
    if relative.parts[:2] == ("kernels", "cuda"):
        allowed = {"cupy"}
    if relative.stem == "torch_models":
        allowed = {"torch"}  # the twins in torch.nn, for those who have it
    assert heavy <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=ids)
def test_commands_load_without_numpy(path):
    assert "numpy" not in {name.split(".")[0] for name in imports(path, top_level_only=True)}


def test_loading_the_command_line_loads_no_array_code():
    code = (
        "import sys, minires.cli;"
        "print([m for m in ('numpy', 'rich', 'matplotlib', 'numba') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert output.stdout.strip() == "[]"


def test_importing_the_library_loads_nothing_heavy():
    code = (
        "import sys, minires.models, minires.data, minires.optim;"
        f"print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert output.stdout.strip() == "[]"
