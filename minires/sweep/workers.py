"""Several workers of one sweep: processes that are told to stop, and that stop with their parent.

Each worker has a session of its own, so that Ctrl-C on the terminal reaches the parent alone, which
passes it on once. A worker's input is a pipe from its parent: when that closes, by whatever end
of the parent, the worker saves and ends too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import minires
from minires.errors import MiniresError
from minires.training.interrupt import InterruptGuard

LOOK_EVERY = 0.1
ROOT = Path(minires.__file__).parent.parent


def run_workers(command: Sequence[str], count: int) -> list[int]:
    """Run `command` as `count` processes to their end; their exit codes, negative for a signal.

    Raises `Interrupted` after Ctrl-C or SIGTERM, when all workers have saved. A second Ctrl-C ends
    them at once.
    """
    with InterruptGuard() as guard:
        workers = [_begin(command) for _ in range(count)]
        try:
            told = False
            while any(worker.poll() is None for worker in workers):
                if guard.requested and not told:
                    told = True
                    for worker in workers:
                        worker.terminate()
                time.sleep(LOOK_EVERY)
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
        finally:
            for worker in workers:
                worker.stdin.close()
                worker.wait()
        if guard.requested:
            raise guard.error("the workers have saved")
    return [worker.returncode for worker in workers]


def stop_with_parent() -> None:
    """In a worker: wait in the background for the end of the parent, then stop as on SIGTERM."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _begin(command: Sequence[str]) -> subprocess.Popen:
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        )
    except OSError as error:
        raise MiniresError(f"a worker cannot be started ({error.strerror})") from error


def program() -> list[str]:
    """The command that starts this program again, wherever it was started from."""
    return [sys.executable, "-c", "from minires.cli import main; main()"]
