"""The frame of the command line: quick help, one-line errors, the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

from minires import __version__, cli
from minires.errors import DataError

ROOT = Path(__file__).parents[2]


def run(capsys, *args):
    """Exit code, stdout and stderr of the command line, in this process."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.fixture
def broken(monkeypatch):
    """A command `train` that raises what the test puts into `broken.error`."""

    class Holder:
        error: BaseException

    @click.command()
    @click.option("--number", type=int)
    def command(number):
        raise Holder.error

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Holder)
    Holder.command = command
    return Holder


def test_help_loads_no_heavy_module():
    program = (
        "import sys; sys.argv = ['cli.py', '--help']\n"
        "from minires.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    heavy = {'numpy', 'matplotlib', 'rich', 'safetensors', 'pooch', 'PIL', 'cupy'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "HEAVY []" in done.stdout
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_no_command_loads_numpy_for_its_help(name):
    program = (
        "import sys\nfrom minires.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "finally: print('NUMPY', 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "NUMPY False" in done.stdout, done.stderr
    assert done.returncode == 0
    assert "--debug" in done.stdout


def test_cli_py_is_the_same_program():
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"minires, version {__version__}"


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--version"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: click is not installed; pip install -e . does it\n"


def test_a_misspelt_command_or_option_is_one_line(capsys):
    code, out, err = run(capsys, "trian")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and "'train'" in err
    code, out, err = run(capsys, "train", "--epoch", "3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--epoch" in err
    code, _, err = run(capsys, "evaluate")
    assert (code, err.count("\n")) == (2, 1)
    assert "RUN" in err


def test_no_command_shows_the_help(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert "Commands:" in out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("no data here;\nfetch it"), 3, "error: no data here; fetch it\n"),
        (OSError(28, "No space left on device", "x.png"), 1, "error: x.png: No space left"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (MemoryError(), 1, "error: out of memory"),
        (ValueError("odd"), 1, "error: ValueError: odd"),
        (ModuleNotFoundError("no", name="PIL"), 1, "error: PIL is not installed; pip install"),
    ],
)
def test_each_error_has_its_code_and_one_line(capsys, broken, error, code, line):
    broken.error = error
    got, out, err = run(capsys, "train")
    assert (got, out) == (code, "")
    assert err.strip().startswith(line.strip())
    assert err.strip().count("\n") == 0


@pytest.mark.parametrize("args", [["--debug", "train"], ["train", "--debug"]])
def test_debug_shows_the_traceback(capsys, broken, args):
    broken.error = DataError("gone")
    code, _, err = run(capsys, *args)
    assert code == 3
    assert "Traceback" in err
    assert err.endswith("error: gone\n")


def test_a_warning_of_numpy_is_for_debug(capsys, broken):
    class Overflow(Exception):
        def __str__(self):
            warnings.warn("overflow encountered in matmul", RuntimeWarning, stacklevel=1)
            return "gone"

    broken.error = Overflow()
    code, _, err = run(capsys, "train")
    assert code == 1 and "overflow" not in err
    with pytest.warns(RuntimeWarning, match="overflow"):
        run(capsys, "--debug", "train")


def as_a_shell_would(command, **environment):
    line = f"{sys.executable} {ROOT / 'cli.py'} {command}"
    return subprocess.run(
        line, shell=True, capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize("command", ["summary --depth 8 >&-", "summary --depth 8 >/dev/null 2>&-"])
def test_a_closed_stream_is_no_error(command):
    done = as_a_shell_would(command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_locale_with_ascii_alone_is_no_error():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = as_a_shell_would("explain conv --no-source", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "conv1" in done.stdout and "?" in done.stdout  # for a sum sign


def test_a_closed_pipe_is_quiet():
    program = "from minires.cli import main; main(['--help'])"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONUNBUFFERED": "1"},
    )
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    child.wait()


@pytest.mark.parametrize("variable", ["MINIRES_EPOCHS", "MINIRES_TRAIN_EPOCHS"])
def test_options_come_from_the_environment(capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "0")
    code, _, err = run(capsys, "train")
    assert code == 2
    assert "--epochs" in err


def test_the_command_line_wins_over_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("MINIRES_LR", "-1")
    monkeypatch.setenv("MINIRES_EPOCHS", "0")
    _, _, err = run(capsys, "train", "--lr", "0.1")
    assert "--epochs" in err


def test_the_folder_of_the_data_is_not_taken_for_a_switch(capsys, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", "/somewhere/cifar10")
    code, _, err = run(capsys, "bench", "--model", "nothing")
    assert code == 2
    assert "nothing" in err and "--data" not in err
