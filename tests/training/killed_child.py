"""A training that kills itself with SIGKILL at a chosen moment; run by test_resume.

Arguments: the moment ("step" or "last"), the step at which it comes, then those of cli.py.
"step" is right after an update; "last" is at the end of an epoch, when `best` has been written
and `last` has not.
"""

from __future__ import annotations

import os
import signal
import sys

from minires.cli import main
from minires.training import progress, training

moment, at = sys.argv[1], int(sys.argv[2])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfterStep(progress.EpochLines):
    def on_step(self, trainer):
        if trainer.state.step == at:
            kill()


def save_or_die(path, checkpoint):
    if checkpoint.step == at and path.name.startswith("last"):
        kill()
    save(path, checkpoint)


if moment == "step":
    progress.progress_callback = KillAfterStep
else:
    save, training.save_checkpoint = training.save_checkpoint, save_or_die
main(sys.argv[3:])
