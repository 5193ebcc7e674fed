"""The command line: one group, one file per command, each loaded only when it is called.

A user's mistake ends as one line on stderr, `error: ...`, and the exit code of its class in
`minires.errors`; `--debug` shows the traceback. Nothing here imports NumPy, so `--help` is quick.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

import click

from minires import __version__
from minires.errors import MiniresError
from minires.spelling import nearest

COMMANDS = {
    "train": ("minires.cli.train", "Train a network, or continue a run with --resume."),
    "recipes": ("minires.cli.recipes", "List the trainings that have a name, or show one."),
    "evaluate": ("minires.cli.evaluate", "Measure a run: accuracy, loss, each class."),
    "compare": ("minires.cli.compare", "Put runs side by side, with their curves in one picture."),
    "lr-find": ("minires.cli.lr_find", "Find a learning rate: raise it until the loss explodes."),
    "sanity": ("minires.cli.sanity", "Check a training before it is run, and explain what fails."),
    "sweep": ("minires.cli.sweep", "Train many variants from one TOML file, and compare them."),
    "predict": ("minires.cli.predict", "Say what is on images of your own."),
    "plot": ("minires.cli.plot", "Draw a picture of a run: curves, confusion, Grad-CAM, ..."),
    "bench": ("minires.cli.bench", "Time training and inference, also against PyTorch."),
    "report": ("minires.cli.report", "Write one HTML page about a run."),
    "gradcheck": ("minires.cli.gradcheck", "Check every derivative against differences."),
    "summary": ("minires.cli.summary", "Show a model layer by layer: shapes, parameters, work."),
    "explain": ("minires.cli.explain", "Explain a layer: formulas, code, numbers of one batch."),
    "download": ("minires.cli.download", "Fetch CIFAR-10 or CIFAR-100, or unpack an archive."),
    "info": ("minires.cli.info", "Show devices, libraries, data and fast kernels."),
    "import": ("minires.cli.import_", "Make a run from weights trained elsewhere."),
    "export": ("minires.cli.export", "Write the weights of a run for torch.nn."),
}
"""Command name: (module, the line in --help). The module holds a click command `command`."""

FOLDER_VARIABLE = "MINIRES_DATA"
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[name][0])
        command = getattr(module, "command", None) or getattr(module, name)
        command.name = name
        complete_options(command, name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """As click does, with the nearest name in the error."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def complete_options(command: click.Command, name: str) -> None:
    """Give `command` what all commands share: --debug, and its options from the environment.

    `--epochs` of the command `name` train is read from MINIRES_TRAIN_EPOCHS, else from
    MINIRES_EPOCHS. MINIRES_DATA is no `--data`: it is the folder, wherever an option says so.
    """
    if any(parameter.name == "debug" for parameter in command.params):
        return
    command.params.append(_debug_option())
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            own = parameter.envvar or []
            own = [own] if isinstance(own, str) else list(own)
            option = parameter.name.strip("_").upper()
            prefix = name.upper().replace("-", "_")
            names = [f"MINIRES_{prefix}_{option}", f"MINIRES_{option}"]
            parameter.envvar = own + [name for name in names if name != FOLDER_VARIABLE]


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."
    )


@click.group(
    cls=LazyGroup,
    context_settings={
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    params=[_debug_option()],
    epilog="Options also come from the environment: MINIRES_EPOCHS=10, or MINIRES_TRAIN_EPOCHS=10 "
    "for train alone. MINIRES_DATA names the folder of the data.",
)
@click.version_option(__version__, prog_name="minires")
def cli() -> None:
    """minires: residual networks on CIFAR-10, every derivative written by hand.

    To begin: train --recipe quickstart
    """


def main(args: Sequence[str] | None = None, prog_name: str = "minires") -> NoReturn:
    """Run the command line with `args` (default: `sys.argv`) and exit with its code."""
    _open_closed()
    _replace_unprintable()
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args or bool(os.environ.get("MINIRES_DEBUG"))
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's: the numbers show it as well
        code = _run(args, prog_name, debug)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _discard_output()
    sys.exit(code)


def _open_closed() -> None:
    """Let what is written to a closed stdout or stderr vanish: Python has None for them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _replace_unprintable() -> None:
    """Let a character that the output's encoding lacks come out as ?, not as an error.

    Windows writes files and pipes in an old encoding of the country, without block characters; the
    locale C of other systems has ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        if sys.stdout.errors == "strict" or not utf8:
            sys.stdout.reconfigure(errors="replace")


def _run(args: list[str], prog_name: str, debug: bool) -> int:
    """Run one command and return its exit code; errors become one line on stderr."""
    try:
        result = cli.main(args=args, prog_name=prog_name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0
    except click.ClickException as error:
        return _report(_usage_line(error), error.exit_code, debug)
    except MiniresError as error:
        return _report(str(error), error.exit_code, debug)
    except MemoryError:
        return _report("out of memory; a smaller network, image or batch needs less", 1, debug)
    except OSError as error:
        return _report(_os_line(error), 1, debug)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        return _report(f"{missing} is not installed; pip install -e . does it", 1, debug)
    except Exception as error:
        hint = "this is a fault of minires; --debug shows where"
        return _report(f"{type(error).__name__}: {error} ({hint})", 1, debug)


def _usage_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return error.format_message().rstrip(".") + hint


def _os_line(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _report(message: str, code: int, debug: bool = False) -> int:
    """Write `error: message` to stderr as one line, after the traceback if asked for."""
    try:
        if debug:
            traceback.print_exc()
        print("error:", " ".join(message.split()), file=sys.stderr)
    except BrokenPipeError:
        _discard_output()
    return code


def _discard_output() -> None:
    """Let nothing complain about a closed pipe when the interpreter flushes at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            os.dup2(null, stream.fileno())
