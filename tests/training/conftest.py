"""What the tests of trainings share."""

from __future__ import annotations

import pytest
from shared_batch import children

from minires import devices


@pytest.fixture
def two_processes():
    """Two threads, and so two processes for a large batch, none of which may be left at the end."""
    devices.select_device("cpu", threads=2)
    yield
    devices.select_device("cpu")
    assert children() == []
