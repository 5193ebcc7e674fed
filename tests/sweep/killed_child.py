"""A sweep that kills itself with SIGKILL at a chosen moment of its second trial; see test_sweep.

Arguments: the moment, then those of cli.py. The moments: "taken" is after the trial was taken and
before its run folder is there, "step" is inside its second epoch, "told" is after its run is
finished and before the study knows.
"""

from __future__ import annotations

import os
import signal
import sys

from minires.cli import main
from minires.sweep import study, work

moment = sys.argv[1]


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def in_second_trial(real):
    def call(a_study, claim, *arguments, **more):
        if claim.number == 1:
            kill()
        return real(a_study, claim, *arguments, **more)

    return call


class KillInSecond(work.TrialLines):
    def on_step(self, trainer):
        if self.label.startswith("trial 2/") and trainer.state.step == 7:
            kill()


if moment == "taken":
    work._run_trial = in_second_trial(work._run_trial)
elif moment == "step":
    work.work.__defaults__ = (KillInSecond,)
else:
    study.Study.finish = in_second_trial(study.Study.finish)
main(sys.argv[2:])
