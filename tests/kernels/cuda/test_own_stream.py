"""The stream that a training works on, with CuPy's part played by a recorder."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from minires.kernels.cuda.runtime import CupyRuntime


class Stream:
    """Notes what is asked of it."""

    def __init__(self, events):
        self.events = events

    def __enter__(self):
        self.events.append("ours")

    def __exit__(self, *error):
        self.events.append("default")

    def synchronize(self):
        self.events.append("wait for ours")


@pytest.fixture
def events(monkeypatch):
    """The calls of CuPy, in order."""
    events = []
    device = SimpleNamespace(synchronize=lambda: events.append("wait for the device"))
    pool = SimpleNamespace(free_all_blocks=lambda: events.append("free"))

    def stream(non_blocking):
        assert non_blocking, "a blocking stream waits for the default one, which ends a capture"
        return Stream(events)

    cuda = SimpleNamespace(Device=lambda: device, Stream=stream)
    cupy = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return events


def test_what_other_streams_have_freed_is_given_back_before_the_work_begins(events):
    with CupyRuntime().own_stream():
        events.append("work")
    assert events == ["wait for the device", "free", "ours", "work", "wait for ours", "default"]


def test_work_that_fails_is_waited_for_too(events):
    with pytest.raises(ZeroDivisionError), CupyRuntime().own_stream():
        raise ZeroDivisionError
    assert events[-2:] == ["wait for ours", "default"]
