"""The kernels run on the CPU under the address sanitizer, in processes of their own.

The sanitizer has to be loaded before Python starts, hence the processes. The checks are in the
files on_cpu*.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernels.cuda.twin_runtime import SANITIZE, compiler

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def sanitizer() -> str | None:
    """The sanitizer's library, None where the compiler or the library is missing."""
    if compiler() is None:
        return None
    command = [compiler(), "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).is_file() else None


FILES = (
    "on_cpu_convolution.py",
    "on_cpu.py",
    "on_cpu_hopper.py",
    "on_cpu_tma.py",
    "on_cpu_graph.py",
    "on_cpu_self_check.py",
)


def run_checks(name: str, library: str) -> subprocess.CompletedProcess:
    """The checks of one file under the address sanitizer."""
    environment = {
        **os.environ,
        SANITIZE: "1",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # capture=sys: what the sanitizer writes as the process dies must come through
    command = [sys.executable, "-m", "pytest", "-qx", "--capture=sys", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, str(HERE / name)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def runs():
    """The checks of each file, all started at once, two at a time."""
    library = sanitizer()
    if library is None:
        pytest.skip("g++ with its address sanitizer is not installed")
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run_checks, name, library) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_the_kernels_on_the_cpu_against_the_reference_under_the_address_sanitizer(name, runs):
    done = runs[name].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
