r"""The snippets of a page run, and what they print is compared.

    ```python              runs; all of a page share one namespace, from the first to the last
    ```text                right after it: what it printed
    ```console             lines that begin with `$ python cli.py` run through the command line;
                           `| head -5`, `| tail -5` and `| grep TEXT` are understood

Included code (see `tools.includes`) is not run, and neither are other fences (`sh`, `diff`, none).
A comment on the line before a snippet says what may vary from machine to machine or time to time:

    <!-- varies: seconds errors -->     these parts are masked before the comparison, see MASKS
    <!-- exits: 2 -->                   the command's exit code, where it is not 0
"""

from __future__ import annotations

import io
import os
import re
import shlex
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from tools import includes
from tools.pages import DocumentError, line_of

SNIPPET = re.compile(
    r"(?P<notes>(?:^<!-- (?:varies|exits): [^\n]* -->\n)*)"
    r"^```(?P<kind>python|console)\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
MASKS = {
    "seconds": re.compile(r"\b\d+(\.\d+)? ?(s|ms|us|min)\b"),
    "errors": re.compile(r"\b\d\.\d+e[-+]\d\d\b"),
    "numbers": re.compile(r"\d[\d,]*(\.\d+)?(e[-+]\d\d)?"),
}


def refresh(text: str, page: str) -> str:
    """The page with the output of its snippets made anew; `page` is its name, for messages.

    An output that differs only in what the page says may vary is left as it is.
    """
    included = [match.span() for match in includes.MARK.finditer(text)]
    namespace: dict = {"__name__": "__main__"}

    def run(match: re.Match) -> str:
        if any(start <= match.start() < end for start, end in included):
            return match[0]
        where = f"{page}:{line_of(text, match.start('code')) - 1}"
        masks, code = _notes(match["notes"], where)
        if match["kind"] == "python":
            before = match["output"] or ""
            output = run_python(match["code"], namespace, where)
            head = f"{match['notes']}```python\n{match['code']}```\n"
            if masked(output, masks) == masked(before, masks):
                return match[0]
            return head + (f"\n```text\n{output}```\n" if output else "")
        output = run_console(match["code"], code, where)
        if masked(output, masks) == masked(match["code"], masks):
            return match[0]
        after = match[0].partition("\n```text\n")[1:] if match["output"] else ("",)
        return f"{match['notes']}```console\n{output}```\n" + "".join(after)

    with _clean_surroundings():
        return SNIPPET.sub(run, text)


def run_python(code: str, namespace: dict, where: str) -> str:
    """What `code` prints when it runs in `namespace`; `DocumentError` if it raises."""
    stream = io.StringIO()
    try:
        with redirect_stdout(stream):
            exec(compile(code, where, "exec"), namespace)
    except Exception:
        last = traceback.format_exc(limit=-1).strip()
        raise DocumentError(f"{where}: the snippet fails\n{last}") from None
    return _tidy(stream.getvalue())


def run_console(block: str, expected_code: int, where: str) -> str:
    """The block with the output of each of its commands after it."""
    written = []
    for command in re.findall(r"^\$ (.*)\n", block, re.MULTILINE):
        words = shlex.split(command)
        if words[:2] != ["python", "cli.py"]:
            raise DocumentError(f"{where}: only `python cli.py` runs in a console block; use sh")
        words, pipes = _split_pipes(words[2:])
        output, code = run_cli(words)
        if code != expected_code:
            raise DocumentError(f"{where}: exit code {code} of: {command}\n{output}")
        written.append(f"$ {command}\n{_tidy(_piped(output, pipes, where))}")
    return "".join(written)


def run_cli(arguments: list[str]) -> tuple[str, int]:
    """What the command line writes for `arguments`, and its exit code."""
    from minires.cli import main

    stream, code = io.StringIO(), 0
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            main(arguments, prog_name="python cli.py")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return stream.getvalue(), code


def masked(text: str, masks: list[str]) -> str:
    """The text with all that may vary replaced by its kind."""
    for name in masks:
        text = MASKS[name].sub(f"<{name}>", text)
    return text


def _notes(notes: str, where: str) -> tuple[list[str], int]:
    """The masks and the exit code that the comments before a snippet ask for."""
    masks = [name for line in re.findall(r"varies: (.*) -->", notes) for name in line.split()]
    unknown = [name for name in masks if name not in MASKS]
    if unknown:
        raise DocumentError(f"{where}: varies: {unknown[0]}: unknown; use {', '.join(MASKS)}")
    codes = re.findall(r"exits: (\d+) -->", notes)
    return masks, int(codes[-1]) if codes else 0


def _split_pipes(words: list[str]) -> tuple[list[str], list[list[str]]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts[0], parts[1:]


def _piped(output: str, pipes: list[list[str]], where: str) -> str:
    lines = output.splitlines()
    for pipe in pipes:
        match pipe:
            case ["head", number]:
                lines = lines[: int(number.lstrip("-"))]
            case ["tail", number]:
                lines = lines[-int(number.lstrip("-")) :]
            case ["grep", text]:
                lines = [line for line in lines if text in line]
            case _:
                raise DocumentError(f"{where}: after | come head -N, tail -N or grep TEXT")
    return "\n".join(lines)


def _tidy(output: str) -> str:
    """The output without spaces at the ends of lines and without empty lines around it."""
    lines = [line.rstrip() for line in output.splitlines()]
    text = "\n".join(lines).strip("\n")
    return text + "\n" if text else ""


@contextmanager
def _clean_surroundings() -> Iterator[None]:
    """An empty folder to run in, no settings from outside, the CPU, and 100 columns."""
    import numpy as np

    kept = {k: v for k, v in os.environ.items() if not k.startswith("MINIRES_")}
    folder, saved = os.getcwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as empty, np.printoptions():
        os.environ.clear()
        os.environ.update(kept, MINIRES_DEVICE="cpu", COLUMNS="100", NO_COLOR="1")
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(saved)
