"""The run folder: numbering, never overwriting, one process at a time."""

from __future__ import annotations

import errno

import pytest

from minires.errors import CheckpointError, UsageError
from minires.training.run import RunFolder, create_run, open_run


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_default_folders_are_numbered_above_all_that_are_there(tmp_path):
    assert str(create_run(None, "resnet8", "shapes").path) == "runs/resnet8-shapes-001"
    (tmp_path / "runs/resnet8-shapes-007").mkdir()
    (tmp_path / "runs/resnet8-shapes-copy").mkdir()
    assert create_run(None, "resnet8", "shapes").path.name == "resnet8-shapes-008"
    assert create_run(None, "resnet20", "shapes").path.name == "resnet20-shapes-001"


def test_an_empty_folder_is_taken_one_with_a_run_is_not(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    run = create_run(folder, "m", "d")
    run.config.write_text("")
    with pytest.raises(UsageError, match=r"--run-dir .*mine: holds a run already.*--resume"):
        create_run(folder, "m", "d")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--run-dir .*file"):
        create_run(tmp_path / "file" / "run", "m", "d")
    with pytest.raises(UsageError, match="--run-dir .*file"):
        create_run(tmp_path / "file", "m", "d")


def test_opening_what_is_no_run_names_the_newest_run(tmp_path):
    create_run(None, "resnet8", "shapes").config.write_text("")
    with pytest.raises(CheckpointError, match="no such folder.*newest run.*resnet8-shapes-001"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no run"):
        open_run(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        open_run(tmp_path / "file")


def test_one_process_at_a_time(tmp_path):
    run = RunFolder(tmp_path)
    with run.lock(), pytest.raises(UsageError, match="another process"), run.lock():
        pass
    with run.lock():
        pass


def test_a_drive_without_locks_is_no_reason_to_refuse(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with RunFolder(tmp_path).lock():
        pass


def test_result_is_read_as_written(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_result() is None
    run.write_result({"test_accuracy": 0.5})
    assert run.read_result() == {"test_accuracy": 0.5}


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff"])
def test_a_damaged_result_is_refused(tmp_path, text):
    run = RunFolder(tmp_path)
    run.result.write_bytes(text)
    with pytest.raises(CheckpointError, match="result.json: damaged"):
        run.read_result()
