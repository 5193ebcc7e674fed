"""Finding, reading and telling apart the data sets; what is wrong with files that are refused."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest

from minires.data import Dataset, find_data, fingerprint, load_dataset
from minires.data.cifar import CIFAR10, write_cifar10, write_cifar10_batch
from minires.data.pickle_reader import read_pickle
from minires.data.pickle_writer import pickle_bytes
from minires.errors import DataError, UsageError

BATCHES = "cifar-10-batches-py"


def rewrite(path, **changes) -> None:
    """Change some entries of a batch file; None takes an entry out."""
    entries = {**read_pickle(path), **changes}
    path.write_bytes(pickle_bytes({k: v for k, v in entries.items() if v is not None}))


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split, files", [("train", CIFAR10.files["train"]), ("test", ["test_batch"])]
)
def test_cifar10_gives_what_pickle_gives(cifar10, split, files):
    dataset = load_dataset("cifar10", split, cifar10)
    batches = [
        pickle.loads((cifar10 / BATCHES / name).read_bytes(), encoding="bytes") for name in files
    ]
    data = np.concatenate([batch[b"data"] for batch in batches])
    assert dataset.images.shape == (len(data), 3, 32, 32)
    assert dataset.images.dtype == np.uint8 and dataset.images.flags.c_contiguous
    assert dataset.labels.dtype == np.int64
    np.testing.assert_array_equal(dataset.images.reshape(len(data), -1), data)
    assert dataset.labels.tolist() == [label for batch in batches for label in batch[b"labels"]]
    assert dataset.class_names[:2] == ("airplane", "automobile")
    assert (dataset.name, len(dataset)) == ("cifar10", len(data))


def test_cifar100_has_the_fine_labels(cifar100):
    train, test = (load_dataset("cifar100", split, cifar100) for split in ("train", "test"))
    assert (len(train), len(test), len(train.class_names)) == (200, 100, 100)
    assert train.labels.tolist() == [*range(100), *range(100)]
    assert test.class_names[99] == "fine 99"


def test_shapes_from_files_and_drawn_are_the_same(tmp_path):
    drawn = [load_dataset("shapes", split, tmp_path) for split in ("train", "test")]
    folder = tmp_path / "shapes-batches-py"
    folder.mkdir()
    parts = [(dataset.images, dataset.labels) for dataset in drawn]
    write_cifar10(folder, *parts, drawn[0].class_names)
    read = [load_dataset("shapes", split, tmp_path) for split in ("train", "test")]
    assert find_data("shapes", tmp_path) == find_data("shapes", folder) == folder
    assert fingerprint(*read) == fingerprint(*drawn)


# --- finding --------------------------------------------------------------------------------


def test_the_folder_or_its_parent_by_option_or_variable(cifar10, monkeypatch):
    folder = cifar10 / BATCHES
    assert find_data("cifar10", cifar10) == find_data("cifar10", str(folder)) == folder
    monkeypatch.setenv("MINIRES_DATA", str(cifar10))
    assert find_data("cifar10") == folder
    monkeypatch.setenv("MINIRES_DATA", "/nowhere")
    assert find_data("cifar10", cifar10) == folder
    monkeypatch.delenv("MINIRES_DATA")
    monkeypatch.chdir(cifar10.parent)
    assert find_data("cifar10").resolve() == folder.resolve()


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", "train", tmp_path)
    for word in (str(tmp_path), "cli.py download", "--data-dir", "MINIRES_DATA"):
        assert word in str(caught.value)


def test_an_empty_folder_holds_no_data_set(tmp_path):
    for folder in ("cifar-10-batches-py", "shapes-batches-py"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="no cifar-10-batches-py"):
        find_data("cifar10", tmp_path)
    assert len(load_dataset("shapes", "test", tmp_path)) > 0  # drawn


def test_one_data_set_is_not_taken_for_another(cifar10, tmp_path):
    shapes = tmp_path / "shapes-batches-py"
    (cifar10 / BATCHES).rename(shapes)
    with pytest.raises(DataError):
        find_data("cifar10", shapes)
    with pytest.raises(DataError):
        find_data("cifar100", shapes)
    assert find_data("shapes", shapes) == shapes


def test_names_that_do_not_exist(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        load_dataset("cifar", "train", tmp_path)
    with pytest.raises(UsageError, match="no split 'val'"):
        load_dataset("shapes", "val", tmp_path)


# --- files that are wrong -------------------------------------------------------------------


def refused(data_dir, *words: str, split: str = "train") -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", split, data_dir)
    message = str(caught.value)
    for word in (*words, "python cli.py download --dataset cifar10"):
        assert word in message


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_missing_file(cifar10, name):
    (cifar10 / BATCHES / name).unlink()
    refused(cifar10, name, "no such file")


@pytest.mark.parametrize("length", [0, 1, 100, 10_000, 60_000, -1])
def test_a_truncated_batch(cifar10, length):
    path = cifar10 / BATCHES / "data_batch_5"
    path.write_bytes(path.read_bytes()[:length])
    refused(cifar10, "data_batch_5", "cut off")


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(labels=[*range(10), 10] + [0] * 9), "label 10 of image 10"),
        (dict(labels=[0, -1] + [0] * 18), "label -1 of image 1"),
        (dict(labels=[0] * 19), "20 images but 19 labels"),
        (dict(labels=["cat"] * 20), "'labels' is missing"),
        (dict(labels=None), "'labels' is missing"),
        (dict(data=None), "not an array of rows"),
        (dict(data=np.zeros((20, 3071), dtype=np.uint8)), "not an array of rows"),
        (dict(data="pixels"), "not an array of rows"),
        (dict(data=np.zeros((1, 3072), dtype=np.uint8), labels=[1]), "1 images instead of 20"),
    ],
)
def test_a_batch_with_wrong_contents(cifar10, changes, words):
    rewrite(cifar10 / BATCHES / "test_batch", **changes)
    refused(cifar10, "test_batch", words, split="test")
    assert len(load_dataset("cifar10", "train", cifar10)) == 100


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(label_names=["cat"] * 9), "9 class names instead of 10"),
        (dict(label_names=[1] * 10), "'label_names' is missing"),
        (dict(label_names=None), "'label_names' is missing"),
        (dict(num_cases_per_batch="many"), "'num_cases_per_batch' is missing"),
        (dict(num_cases_per_batch=19), "20 images instead of 19"),
    ],
)
def test_a_wrong_meta_file(cifar10, changes, words):
    rewrite(cifar10 / BATCHES / "batches.meta", **changes)
    refused(cifar10, words)


def test_a_cifar100_label_out_of_range(cifar100):
    rewrite(cifar100 / "cifar-100-python" / "test", fine_labels=[100] * 100)
    with pytest.raises(DataError, match="label 100 of image 0.*--dataset cifar100"):
        load_dataset("cifar100", "test", cifar100)


# --- writing --------------------------------------------------------------------------------


def test_a_batch_that_cannot_be_written_leaves_the_old_one(cifar10, monkeypatch):
    path = cifar10 / BATCHES / "test_batch"
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_cifar10_batch(path, np.zeros((2, 3, 32, 32), np.uint8), [0, 1])
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 7


def test_the_train_set_must_be_five_times_the_test_set(tmp_path):
    part = np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4)
    with pytest.raises(ValueError, match="five times"):
        write_cifar10(tmp_path, part, part, ["a"] * 10)


# --- fingerprints ---------------------------------------------------------------------------


def test_a_fingerprint_covers_everything():
    images = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3, 32, 32)
    base = Dataset("cifar10", images, np.array([1, 2]), ("a", "b", "c"))
    other = images.copy()
    other[1, 2, 31, 31] ^= 1
    variants = [
        base,
        replace(base, name="cifar100"),
        replace(base, images=other),
        replace(base, labels=np.array([1, 0])),
        replace(base, class_names=("a", "b", "d")),
        replace(base, images=images[:1], labels=base.labels[:1]),
    ]
    prints = [fingerprint(variant) for variant in variants]
    prints += [fingerprint(base, base), fingerprint()]
    assert len(set(prints)) == len(prints)
    assert fingerprint(replace(base, images=np.asfortranarray(images))) == prints[0]
    assert prints[0] == FROZEN


FROZEN = "9e9990ce487877e3980d2efb87ab36d91367478e0b78e4029311c7d26f777806"


# --- the real files -------------------------------------------------------------------------


def test_the_real_cifar10(real_data):
    train, test = (load_dataset("cifar10", split, real_data) for split in ("train", "test"))
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    assert train.class_names[3] == "cat"


def test_the_real_files_written_again_are_the_same_bytes(real_data):
    folder = find_data("cifar10", real_data)
    for name in CIFAR10.all_files:
        again = pickle_bytes(read_pickle(folder / name))
        expected = (folder / name).read_bytes()
        assert hashlib.sha256(again).digest() == hashlib.sha256(expected).digest(), name
