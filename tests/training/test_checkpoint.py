from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from minires.errors import CheckpointError
from minires.models import build
from minires.training.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    restore_model,
    save_checkpoint,
)

ROOT = Path(__file__).parents[2]


def make_checkpoint(step=0, size=20):
    """A checkpoint in which every number is `step`, to see at once whether two were mixed."""
    return Checkpoint(
        model={
            "layer1.0.conv1.weight": np.full((size, 2, 3, 3), step, np.float32),
            "bn1.num_batches_tracked": np.array(step, np.int64),
        },
        optimizer={"momentum.layer1.0.conv1.weight": np.full((size, 2, 3, 3), step, np.float32)},
        spec={"name": "resnet20", "num_classes": 10, "width": 1.0, "plain": False},
        mean=(0.5, 0.25, 0.125),
        std=(0.1, 0.2, 0.3),
        class_names=("cat", "dog"),
        config={"lr": 0.2, "milestones": [0.5, 0.75], "data_dir": None},
        step=step,
        epoch=step // 10,
        batch=step % 10,
        running={"loss_sum": 0.1 + 0.2, "seen": 3},
        metrics={"val_accuracy": 1 / 3, "nothing": None},
        data_fingerprint="ab" * 32,
        extra={"history_bytes": 12},
    )


def assert_same(loaded, expected):
    for group in ("model", "optimizer"):
        arrays, originals = getattr(loaded, group), getattr(expected, group)
        assert set(arrays) == set(originals)
        for name, original in originals.items():
            assert arrays[name].dtype == original.dtype and arrays[name].shape == original.shape
            assert arrays[name].tobytes() == original.tobytes()
    for name in (f.name for f in fields(Checkpoint)):
        if name not in ("model", "optimizer", "versions"):
            assert getattr(loaded, name) == getattr(expected, name), name


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make_checkpoint(37))
    loaded = load_checkpoint(path)
    assert_same(loaded, make_checkpoint(37))
    assert set(loaded.versions) == {"minires", "python", "numpy"}
    assert os.listdir(tmp_path) == ["last.safetensors"]


def test_a_file_that_is_saved_again_keeps_the_versions_that_trained_it(tmp_path):
    path = tmp_path / "last.safetensors"
    versions = {"minires": "0.0.1", "python": "3.9", "numpy": "1.0"}
    save_checkpoint(path, replace(make_checkpoint(), versions=versions))
    assert load_checkpoint(path).versions == versions


def test_numbers_come_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**63, 1000, dtype=np.int64).view(np.float64)
    numbers = [float(v) for v in values if np.isfinite(v)] + [5e-324, -0.0, 2.0**60 + 2**10]
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, replace(make_checkpoint(), running={"sums": numbers}))
    loaded = load_checkpoint(path).running["sums"]
    assert np.array(loaded).tobytes() == np.array(numbers).tobytes()


def test_any_memory_order_and_numpy_numbers_can_be_saved(tmp_path):
    weight = np.arange(24.0).reshape(2, 3, 2, 2).transpose(3, 1, 0, 2)[:, ::-1]
    checkpoint = replace(
        make_checkpoint(),
        model={"w": weight, "scalar": np.array(3, np.int64)},
        metrics={"accuracy": np.float32(0.5), "count": np.int64(7)},
        config={"data_dir": Path("data")},
    )
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded.model["w"], weight)
    assert loaded.model["scalar"].shape == ()
    assert loaded.metrics == {"accuracy": 0.5, "count": 7} and loaded.config["data_dir"] == "data"


def test_the_file_is_plain_safetensors_with_readable_names(tmp_path):
    from safetensors.numpy import load_file

    save_checkpoint(tmp_path / "a.safetensors", make_checkpoint(3))
    assert set(load_file(tmp_path / "a.safetensors")) == {
        "model.layer1.0.conv1.weight",
        "model.bn1.num_batches_tracked",
        "optimizer.momentum.layer1.0.conv1.weight",
    }


def test_a_save_replaces_the_old_file_and_removes_partial_ones(tmp_path):
    path = tmp_path / "last.safetensors"
    for name in (".last.safetensors.abc.partial", ".best.safetensors.x_9.partial"):
        (tmp_path / name).write_bytes(b"left by a killed process")
    save_checkpoint(path, make_checkpoint(1))
    save_checkpoint(path, make_checkpoint(2))
    assert_same(load_checkpoint(path), make_checkpoint(2))
    assert os.listdir(tmp_path) == ["last.safetensors"]


# --- kill -9 ------------------------------------------------------------------------------------

SAVER = """
import os, sys
sys.path[:0] = sys.argv[2:]
from test_checkpoint import make_checkpoint, save_checkpoint, Path
path = Path(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        step = int(line)
        while True:
            step += 1
            save_checkpoint(path, make_checkpoint(step, 20_000))
            os.write(1, b"saved\\n") if step == int(line) + 1 else None
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills_leave_whole_checkpoints(tmp_path):
    """A process saves in a tight loop and is killed: what is left is one whole checkpoint."""
    path = tmp_path / "last.safetensors"
    rng = random.Random(0)
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path), str(ROOT), str(Path(__file__).parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    step, interrupted = 0, 0
    with saver:
        for _ in range(50):
            saver.stdin.write(f"{step}\n")
            saver.stdin.flush()
            words = {saver.stdout.readline().strip() for _ in range(2)}  # the pid, and one save
            (child,) = (int(word) for word in words if word.isdigit())
            for _ in range(rng.randrange(20_000)):  # some random time; each look takes about 1 us
                os.path.exists(path)
            os.kill(child, signal.SIGKILL)
            while saver.stdout.readline().strip() != "ended":
                pass
            interrupted += len(os.listdir(tmp_path)) - 1
            loaded = load_checkpoint(path)
            assert loaded.step > step
            step = loaded.step
            assert_same(loaded, make_checkpoint(step, 20_000))
        saver.stdin.close()
    assert interrupted > 0, "no kill hit a save in the middle; the test shows nothing"
    save_checkpoint(path, make_checkpoint(1))
    assert os.listdir(tmp_path) == ["last.safetensors"]


# --- what can go wrong when saving --------------------------------------------------------------


def assert_failed_save_keeps_the_old(tmp_path, match):
    path = tmp_path / "last.safetensors"
    with pytest.raises(CheckpointError, match=match) as caught:
        save_checkpoint(path, make_checkpoint(2, 20_000))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert_same(load_checkpoint(path), make_checkpoint(1))
    assert os.listdir(tmp_path) == ["last.safetensors"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_failing_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, call, code):
    save_checkpoint(tmp_path / "last.safetensors", make_checkpoint(1))

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    assert_failed_save_keeps_the_old(tmp_path, match=os.strerror(code))


def test_a_disk_that_fills_in_the_middle_keeps_the_old_checkpoint(tmp_path):
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path / "last.safetensors", make_checkpoint(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert_failed_save_keeps_the_old(tmp_path, match="free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_ctrl_c_while_saving_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make_checkpoint(1))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, make_checkpoint(2))
    assert_same(load_checkpoint(path), make_checkpoint(1))
    assert os.listdir(tmp_path) == ["last.safetensors"]


@pytest.mark.parametrize("place", ["a file/last.safetensors", "missing/last.safetensors", "dir"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, place):
    (tmp_path / "a file").write_bytes(b"")
    (tmp_path / "dir").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save_checkpoint(tmp_path / place, make_checkpoint())
    assert caught.value.exit_code == 4
    assert sorted(os.listdir(tmp_path)) == ["a file", "dir"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="may write"):
            save_checkpoint(tmp_path / "last.safetensors", make_checkpoint())
    finally:
        tmp_path.chmod(0o700)


# --- what can go wrong when loading -------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, make_checkpoint(5, size=2))
    return path


def assert_refused(path, match=None):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_every_truncation_is_refused(whole, tmp_path):
    content = whole.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for length in [*range(12), *range(12, len(content), 37), len(content) - 1]:
        broken.write_bytes(content[:length])
        assert_refused(broken)
    broken.write_bytes(content + b"x")
    assert_refused(broken)


def test_mutated_files_load_or_are_refused(whole, tmp_path):
    content = whole.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng, refused = random.Random(1), 0
    for _ in range(1000):
        mutated = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(header)] = rng.randrange(256)
        whole.write_bytes(mutated)
        try:
            load_checkpoint(whole)
        except CheckpointError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize(
    "content, word",
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "PyTorch pickle"),
        (b"\x80\x02}q\x00." + bytes(100), "PyTorch pickle"),
        (b"hello, world, I am a text file\n" * 9, "another kind"),
        ((2**40).to_bytes(8, "little") + b"{}", "truncated"),
    ],
)
def test_foreign_files_are_refused_by_what_they_are(tmp_path, content, word):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(path, word)


def write_with(path, tensors=None, **changes):
    """A checkpoint file whose metadata or tensors are changed by hand."""
    from safetensors.numpy import save_file

    meta = {n: v for n, v in asdict(make_checkpoint()).items() if n not in ("model", "optimizer")}
    meta = {"format_version": 1, **meta, **changes}
    save_file(tensors or {"model.w": np.zeros(2)}, path, {"minires": json.dumps(meta)})


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(format_version=2), "later minires"),
        (dict(format_version=None), "format version"),
        (dict(step="many"), "step"),
        (dict(step=True), "step"),
        (dict(spec=[]), "spec"),
        (dict(mean=[0.1, 0.2]), "mean is not 3 numbers"),
        (dict(std=[0.1, "a", 1]), "std is not 3 numbers"),
        (dict(class_names=[1]), "class_names"),
        (dict(data_fingerprint=None), "data_fingerprint"),
        (dict(tensors={"weights.w": np.zeros(2)}), "weights.w"),
        (dict(tensors={"model": np.zeros(2)}), "does not belong"),
    ],
)
def test_wrong_content_is_refused_by_name(tmp_path, changes, word):
    path = tmp_path / "a.safetensors"
    write_with(path)
    load_checkpoint(path)
    write_with(path, **changes)
    assert_refused(path, word)


def test_deeply_nested_metadata_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"model.w": np.zeros(2)}, path, {"minires": "[" * 100_000})
    assert_refused(path, "damaged")


def test_weights_alone_are_sent_to_import(tmp_path):
    from safetensors.numpy import save_file

    save_file({"conv1.weight": np.zeros(2)}, tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors", "import command")


def test_missing_files_and_folders_are_refused(tmp_path):
    assert_refused(tmp_path / "none.safetensors", "No such file")
    assert_refused(tmp_path, "not a file")


def test_the_model_comes_back_with_its_weights(tmp_path):
    model = build("resnet8", num_classes=4, seed=3, width=0.5)
    path = tmp_path / "a.safetensors"
    checkpoint = replace(make_checkpoint(), model=model.state_dict(), spec=model.spec)
    save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    restored = restore_model(loaded, path)
    assert restored.spec == model.spec
    for name, array in restored.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
    for spec in ({"name": "resnet9999"}, {"name": "resnet8", "wings": 2}, {}):
        with pytest.raises(CheckpointError, match="describes no model"):
            restore_model(replace(loaded, spec=spec), path)
    with pytest.raises(CheckpointError, match="do not fit"):
        restore_model(replace(loaded, spec={**model.spec, "num_classes": 5}), path)


# --- which checkpoint ---------------------------------------------------------------------------


def test_find_checkpoint_prefers_best_unless_told(tmp_path):
    with pytest.raises(CheckpointError, match="no best or last.safetensors; is it a run"):
        find_checkpoint(tmp_path)
    (tmp_path / "last.safetensors").touch()
    assert find_checkpoint(tmp_path).name == "last.safetensors"
    with pytest.raises(CheckpointError, match="there is last.safetensors"):
        find_checkpoint(tmp_path, "best")
    (tmp_path / "best.safetensors").touch()
    assert find_checkpoint(tmp_path).name == "best.safetensors"
    assert find_checkpoint(tmp_path, "last").name == "last.safetensors"
    assert find_checkpoint(tmp_path / "last.safetensors") == tmp_path / "last.safetensors"
    with pytest.raises(CheckpointError, match="no such run folder"):
        find_checkpoint(tmp_path / "typo")
