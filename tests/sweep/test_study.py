"""The study: who takes which trial, what a kill leaves, which values come out."""

from __future__ import annotations

import sqlite3

import pytest

from minires.errors import UsageError
from minires.sweep.folder import SweepFolder, folder_of
from minires.sweep.report import rows_of
from minires.sweep.spec import read_spec
from minires.sweep.study import Study, open_study

pytest.importorskip("optuna", reason='needs Optuna: pip install -e ".[sweep]"')

BASE = '[base]\nrecipe = "quickstart"\n'
GRID = '[sweep]\nmethod = "grid"\n' + BASE + "[search]\nlr = [0.1, 0.2]\nblocks = [[1], [1, 2]]\n"
SEARCH = "[search]\nlr = {low = 0.01, high = 1, log = true}\ndropout = {low = 0, high = 0.5}\n"
RESULT = {"best_val_accuracy": 0.5, "best_epoch": 1, "epochs": 2, "test_accuracy": 0.4}


def spec_of(text):
    return read_spec(text, "my.toml: ", "my")


def random(method="random", trials=4):
    return spec_of(f'[sweep]\nmethod = "{method}"\ntrials = {trials}\n' + BASE + SEARCH)


def opened(tmp_path, spec, name="sweep"):
    return open_study(SweepFolder(tmp_path / name), spec, "data")


def take_all(*studies):
    """Every trial in turns, finished at once: its number and values."""
    taken, going = [], True
    while going:
        going = False
        for study in studies:
            claim = study.claim()
            if claim is not None:
                going = True
                taken.append((claim.number, claim.values))
                study.finish(claim, RESULT, pruned=False)
                claim.lock.close()
    return taken


def test_a_grid_is_taken_once_and_in_order_by_two_workers(tmp_path):
    spec = spec_of(GRID)
    taken = take_all(opened(tmp_path, spec), opened(tmp_path, spec))
    assert taken == [(i, values) for i, (_, values) in enumerate(spec.points())]
    assert [row["state"] for row in rows_of(opened(tmp_path, spec))] == ["finished"] * 4


def test_a_trial_that_is_held_is_left_alone_and_one_cut_off_is_continued(tmp_path):
    one, two = (opened(tmp_path, spec_of(GRID)) for _ in range(2))
    first, second = one.claim(), two.claim()
    assert (first.number, second.number) == (0, 1)
    assert [row["state"] for row in rows_of(one)] == ["running", "running"]
    first.lock.close()  # as the end of its process would do
    assert [row["state"] for row in rows_of(one)] == ["cut off", "running"]
    again = two.claim()
    assert (again.number, again.values, again.continued) == (0, first.values, True)
    assert two.claim().number == 2


def test_random_values_do_not_depend_on_kills_or_workers(tmp_path):
    spec = random()
    whole = take_all(opened(tmp_path, spec, "whole"))
    assert len({values["lr"] for _, values in whole}) == 4
    assert all(0.01 <= v["lr"] <= 1 and 0 <= v["dropout"] <= 0.5 for _, v in whole)
    lost = opened(tmp_path, spec).claim()
    lost.lock.close()
    assert take_all(opened(tmp_path, spec), opened(tmp_path, spec)) == whole


def test_a_trial_cut_off_before_it_had_its_values_gets_the_same(tmp_path, monkeypatch):
    spec = random()
    whole = take_all(opened(tmp_path, spec, "whole"))
    study = opened(tmp_path, spec)

    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    range_type = type(spec.options["dropout"])
    with monkeypatch.context() as patch:
        patch.setattr(range_type, "suggest", killed)
        with pytest.raises(Killed):
            study.claim()
    del study
    assert take_all(opened(tmp_path, spec)) == whole


def test_tpe_learns_from_what_came_out(tmp_path):
    spec = spec_of(
        '[sweep]\nmethod = "tpe"\ntrials = 20\nstartup = 5\n'
        + BASE
        + "[search]\ndropout = {low = 0, high = 0.9}\n"
    )
    study = opened(tmp_path, spec)
    values = []
    while (claim := study.claim()) is not None:
        dropout = claim.values["dropout"]
        values.append(dropout)
        study.finish(claim, {"best_val_accuracy": 1 - abs(dropout - 0.7)}, pruned=False)
        claim.lock.close()
    assert len(values) == 20
    distance = [abs(v - 0.7) for v in values]
    assert sum(distance[-8:]) / 8 < sum(distance[:5]) / 5


def test_another_spec_or_other_data_are_refused(tmp_path):
    opened(tmp_path, spec_of(GRID))
    with pytest.raises(UsageError) as error:
        opened(tmp_path, spec_of(GRID.replace("0.2", "0.4")))
    assert "[search] lr: [0.1, 0.2] in the study, [0.1, 0.4] here" in str(error.value)
    with pytest.raises(UsageError, match="data: fingerprint data in the study, other here"):
        open_study(SweepFolder(tmp_path / "sweep"), spec_of(GRID), "other")


def test_a_study_that_was_half_made_is_made_anew(tmp_path, monkeypatch):
    spec = spec_of(GRID)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minires.sweep.study.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, spec)
    folder = tmp_path / "sweep"
    assert (folder / ".study.db.partial").exists() and not (folder / "study.db").exists()
    assert len(take_all(opened(tmp_path, spec))) == 4
    assert not (folder / ".study.db.partial").exists()


def test_the_file_is_a_whole_data_base_with_the_spec_beside_it(tmp_path):
    spec = spec_of(GRID)
    study = opened(tmp_path / "a folder? with #odd%20 name", spec)
    take_all(study)
    with sqlite3.connect(study.folder.study) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert study.folder.spec.read_text() == GRID
    assert folder_of(spec, None, str(study.folder.path)).path == study.folder.path


def test_a_report_without_a_sweep(tmp_path):
    with pytest.raises(UsageError, match="holds no sweep yet"):
        open_study(SweepFolder(tmp_path / "none"), random(), None)
    assert not (tmp_path / "none").exists()


def test_failed_and_pruned_trials_say_so_and_are_not_repeated(tmp_path):
    study = opened(tmp_path, random(trials=2))
    claim = study.claim()
    study.fail(claim, "diverged: the loss is nan")
    claim.lock.close()
    claim = study.claim()
    claim.trial.report(0.25, 1)
    study.finish(claim, {**RESULT, "stop_reason": "pruned: hopeless"}, pruned=True)
    claim.lock.close()
    assert study.claim() is None
    one, two = rows_of(Study(study.folder, study.spec))
    assert (one["state"], one["note"], one["val_accuracy"]) == (
        "failed",
        "diverged: the loss is nan",
        None,
    )
    assert (two["state"], two["note"], two["val_accuracy"]) == ("pruned", "pruned: hopeless", 0.5)
