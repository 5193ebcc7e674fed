"""The log: appended, cut back, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from minires.training.history import History, cut_history, read_history


def test_cut_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.append({"kind": "step", "step": 1})
    length = history.sync()
    history.append({"kind": "step", "step": 2})
    history.append({"kind": "epoch", "step": 2})
    history.close()

    cut_history(path, length)
    again = History(path)
    again.append({"kind": "step", "step": 2})
    again.close()
    assert [r["step"] for r in read_history(path)] == [1, 2]


def test_the_length_counts_what_an_earlier_process_wrote(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n')
    history = History(path)
    assert history.sync() == path.stat().st_size
    history.append({"kind": "step", "step": 2})
    assert history.sync() == path.stat().st_size
    history.close()


def test_a_shorter_file_is_left_alone(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"kind": "step"}\n')
    cut_history(path, 1000)
    assert path.read_text() == '{"kind": "step"}\n'
    cut_history(tmp_path / "missing.jsonl", 3)


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    assert read_history(path) == [{"kind": "step", "step": 1}]
    assert read_history(path, "epoch") == []
    assert read_history(tmp_path / "missing.jsonl") == []


@pytest.mark.parametrize("foreign", [b"\xff\xfe", b"123", b"[1]", b'{"step": 1}', b"\0\0", b"null"])
def test_what_is_no_record_is_left_out(tmp_path, foreign):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n' + foreign + b'\n{"kind": "epoch"}\n')
    assert read_history(path) == [{"kind": "step", "step": 1}, {"kind": "epoch"}]
    assert read_history(path, "epoch") == [{"kind": "epoch"}]


def test_a_full_disk_names_the_log():
    history = History(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        history.append({"kind": "step"})
    history.close()
