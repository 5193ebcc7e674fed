"""A sweep that kills itself with SIGKILL at a chosen moment of its second trial; see test_sweep.

Arguments: the moment, then those of cli.py. The moments: "made" is before the study is whole,
"taken" is after the trial was taken and before its run folder is there, "step" is inside its second
epoch, "told" is after its run is finished and before the study knows.
"""

from __future__ import annotations

import os
import signal
import sys

from minires.cli import main
from minires.sweep import study, work

moment = sys.argv[1]


def kill(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)


def in_second_trial(real):
    def call(self, claim, *arguments, **more):
        if claim.number == 1:
            kill()
        return real(self, claim, *arguments, **more)

    return call


class KillInSecond(work.TrialLines):
    def on_step(self, trainer):
        if self.label.startswith("trial 2/") and trainer.state.step == 7:
            kill()


if moment == "made":
    study.os.replace = kill
elif moment == "taken":
    work._train = lambda spec, claim, *rest, real=work._train: in_second_trial(
        lambda self, *more: real(spec, *more)
    )(None, claim, *rest)
elif moment == "step":
    work.work.__defaults__ = (KillInSecond,)
else:
    study.Study.finish = in_second_trial(study.Study.finish)
main(sys.argv[2:])
