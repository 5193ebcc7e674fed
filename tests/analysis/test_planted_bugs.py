from __future__ import annotations

import pytest

from minires import functional as F
from minires import nn
from minires.analysis.bugs import BUGS, Bug
from minires.analysis.gradcheck import check_case
from minires.analysis.gradcheck_cases import select_cases
from minires.analysis.planted_bugs import cases_for, plant, run_planted_bugs, select_bugs
from minires.errors import UsageError


def label(bug):
    return f"{bug.target}: {bug.name}"


@pytest.mark.parametrize("bug", BUGS, ids=label)
def test_every_bug_is_caught(bug):
    (result,), control = run_planted_bugs([bug])
    assert result.caught
    assert all(check.passed for check in control)
    assert result.check.max_relative_error > 1e-3  # far from the tolerance of 1e-5


def test_there_are_many_bugs_and_each_has_a_name():
    assert len(BUGS) >= 15
    assert len({label(bug) for bug in BUGS}) == len(BUGS)
    for bug in BUGS:
        assert cases_for(bug), label(bug)


def test_a_backward_pass_of_every_kind_is_broken():
    targets = {bug.target for bug in BUGS}
    assert {n for n in F.__all__ if n.endswith("_backward")} <= targets
    assert {"ResidualBlock.backward", "Parameter.accumulate"} <= targets


def test_the_right_code_comes_back():
    before = F.conv2d_backward, nn.Conv2d.backward, nn.residual.ResidualBlock.backward
    run_planted_bugs(BUGS[:2] + select_bugs(BUGS, "Conv2d.backward"))
    assert before == (F.conv2d_backward, nn.Conv2d.backward, nn.residual.ResidualBlock.backward)


def test_a_bug_that_changes_nothing_is_not_caught():
    harmless = Bug("harmless", "relu_backward", lambda right, *args: right(*args), ("relu:*",))
    (result,), _ = run_planted_bugs([harmless])
    assert not result.caught


def test_a_planted_bug_reaches_fused_operations_and_networks():
    (bug,) = select_bugs(BUGS, "term through the mean")
    for name in ("conv_bn_relu: 3x3", "BasicBlock: identity", "network: resnet8"):
        case = select_cases(name)[0]
        with plant(bug):
            assert not check_case(case).passed, name
        assert check_case(case).passed, name


def test_bugs_are_chosen_by_name_or_place():
    assert {bug.target for bug in select_bugs(BUGS, "POOL")} == {
        *("max_pool2d_backward", "global_avg_pool_backward"),
    }
    with pytest.raises(UsageError, match="no planted bug fits"):
        select_bugs(BUGS, "forward")
