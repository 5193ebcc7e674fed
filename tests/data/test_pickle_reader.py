"""The safe pickle reader: what it reads, and that it refuses all else with `DataError` alone."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest

from minires.data import pickle_reader
from minires.data.pickle_reader import parse_pickle, read_pickle
from minires.data.pickle_writer import pickle_bytes
from minires.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)
ENTRIES = {
    "batch_label": "testing batch 1 of 1",
    "labels": [3, 0, 999, 70_000, -1],
    "data": ARRAY,
    "filenames": ["a.png", "caf\xe9.png", ""],
}
BATCH = pickle_bytes(ENTRIES)


def mapping(*items: bytes) -> bytes:
    """The pickle of a dictionary from the opcodes of its keys and values."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


def string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


KEY = string(b"data")
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NEW_ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
UINT8 = (
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def array(shape: bytes, raw: bytes, dtype: bytes = UINT8, order: bytes = b"\x89") -> bytes:
    """The opcodes of an array, from those of its parts."""
    return NEW_ARRAY + b"(K\x01" + shape + dtype + order + raw + b"tb"


def refused(data: bytes, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_pickle(data, "bad file")
    message = str(caught.value)
    assert "bad file" in message
    assert "\n" not in message
    for word in words:
        assert word in message


# --- what it reads --------------------------------------------------------------------------


def test_gives_what_pickle_gives():
    ours = parse_pickle(BATCH)
    theirs = pickle.loads(BATCH, encoding="latin1")
    assert list(ours) == list(theirs) == list(ENTRIES)
    for key in ("batch_label", "labels", "filenames"):
        assert ours[key] == theirs[key] == ENTRIES[key]
    for result in (ours["data"], theirs["data"]):
        np.testing.assert_array_equal(result, ARRAY)
    assert ours["data"].dtype == np.uint8
    assert not ours["data"].flags.writeable


def test_python_3_reads_the_same_file_as_bytes():
    theirs = pickle.loads(BATCH, encoding="bytes")
    assert theirs[b"filenames"] == [b"a.png", b"caf\xe9.png", b""]


def test_an_array_in_fortran_order():
    raw = string(np.asfortranarray(ARRAY).tobytes("A"))
    data = mapping(KEY, array(b"K\x04K\x06\x86", raw, order=b"\x88"))
    np.testing.assert_array_equal(parse_pickle(data)["data"], ARRAY)


def test_the_memo_gives_scalars_again():
    data = mapping(string(b"a"), b"U\x03dogq\x01", string(b"b"), b"h\x01")
    assert parse_pickle(data) == {"a": "dog", "b": "dog"}


def test_long_lists_in_pieces(tmp_path):
    labels = [n % 10 for n in range(12_345)]
    path = tmp_path / "batch"
    path.write_bytes(pickle_bytes({"labels": labels}))
    assert read_pickle(path) == {"labels": labels}


# --- malice ---------------------------------------------------------------------------------


class Calls:
    """An object whose pickle has `function(*arguments)` called."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_a_function(protocol, tmp_path):
    target = tmp_path / "made"
    refused(pickle.dumps({"data": Calls(os.mkdir, str(target))}, protocol))
    refused(pickle.dumps(Calls(os.mkdir, str(target)), protocol))
    assert not target.exists()


MALICE = {
    "REDUCE": b"cos\nsystem\n(S'touch made'\ntR.",
    "GLOBAL": b"\x80\x02cos\nsystem\n.",
    "GLOBAL of numpy": mapping(KEY, b"cnumpy\nload\n"),
    "GLOBAL of the newer numpy": mapping(KEY, b"cnumpy._core.multiarray\n_reconstruct\n"),
    "GLOBAL with a dotted name": mapping(KEY, b"cnumpy\ndtype.__class__\n"),
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "INST": b"(S'touch made'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch made'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pname\n.",
    "BINPERSID": b"\x80\x02K\x01Q.",
    "BUILD on a dictionary": b"\x80\x02}}U\x01aK\x01sb.",
    "BUILD on an array with the wrong state": mapping(KEY, NEW_ARRAY + b"K\x01b"),
    "BUILD on a dtype with the wrong state": mapping(KEY, UINT8.replace(b"U\x01|", b"U\x01>")),
    "REDUCE of ndarray itself": mapping(KEY, b"cnumpy\nndarray\nK\x08\x85R"),
    "REDUCE of a string": mapping(KEY, b"U\x06systemK\x00\x85R"),
    "_reconstruct of something else": mapping(KEY, RECONSTRUCT * 2 + b"K\x00\x85U\x01b\x87R"),
    "an object dtype": mapping(KEY, array(b"K\x01\x85", string(b"x"), UINT8.replace(b"u1", b"O8"))),
    "an array that is not built": mapping(KEY, NEW_ARRAY),
    "a bare global as value": mapping(KEY, b"cnumpy\ndtype\n"),
    "a negative length": mapping(KEY, array((b"J" + b"\xff" * 4) * 2 + b"\x86", string(b"x"))),
    "a length of zero": mapping(KEY, array(b"K\x00J\xff\xff\xff\x7f\x86", string(b""))),
    "huge lengths": mapping(KEY, array(b"\x8a\x08" + b"\x7f" * 8 + b"\x85", string(b"x"))),
    "a boolean length": mapping(KEY, array(b"\x88\x85", string(b"x"))),
    "fewer bytes than the shape says": mapping(KEY, array(b"K\x02K\x02\x86", string(b"abc"))),
    "more bytes than the shape says": mapping(KEY, array(b"K\x02\x85", string(b"abc"))),
    "a list as bytes": mapping(KEY, array(b"K\x01\x85", b"]")),
    "an array within a state": mapping(KEY, array(b"K\x01\x85", array(b"K\x01\x85", string(b"x")))),
    "a list within a list": mapping(KEY, b"](]e"),
    "a dictionary within the dictionary": mapping(KEY, b"}"),
    "a tuple as value": mapping(KEY, b"K\x01\x85"),
    "an integer as key": mapping(b"K\x01", b"K\x02"),
    "a tuple as key": mapping(b"K\x01\x85", b"K\x02"),
    "a key without a value": b"\x80\x02}(U\x01au.",
    "a list that holds itself": b"\x80\x02}q\x01(U\x01a]q\x02h\x02au.",
    "a dictionary that holds itself": b"\x80\x02}q\x01U\x01ah\x01s.",
    "a list under two names": b"\x80\x02}(U\x01a]q\x01U\x01bh\x01u.",
    "an unknown memo": mapping(KEY, b"h\x07"),
    "a string with a bad escape": b"S'\\x'\n.",
    "a pickle of no dictionary": b"\x80\x02]." ,
    "two values": b"\x80\x02}}.",
    "nothing on the stack": b"\x80\x02.",
    "a mark as the result": b"\x80\x02(.",
    "APPENDS without a mark": b"\x80\x02]e.",
    "APPEND to nothing": b"\x80\x02K\x01a.",
    "APPENDS to a mark": b"\x80\x02((K\x01e.",
    "TUPLE3 across a mark": b"\x80\x02K\x01(K\x01K\x01\x87.",
    "PUT of nothing": b"\x80\x02q\x01.",
    "bytes after the end": BATCH + b".",
    "an unknown opcode": b"\x80\x02\xff.",
    "no bytes": b"",
    "text": b"<html><body>404 Not Found</body></html>",
}  # fmt: skip


@pytest.mark.parametrize("data", MALICE.values(), ids=MALICE)
def test_malicious_and_wrong_pickles(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(data)
    assert list(tmp_path.iterdir()) == []


def test_the_message_says_what_was_asked_for():
    refused(b"\x80\x02cos\nsystem\n.", "os system", "byte 2", "nothing in it was run")
    refused(b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "SHORT_BINUNICODE")
    refused(BATCH[:40], "cut off")


# --- bombs ----------------------------------------------------------------------------------

BOMBS = {
    "stack": b"\x80\x02" + b"N" * 100_000 + b".",
    "marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "nested tuples": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 5_000 + b"a" * 4_999 + b".",
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "laughs": b"\x80\x02]q\x00" + b"](h\x00h\x00h\x00eq\x00" * 1_000 + b".",
    "many strings": b"\x80\x02" + b"U\xff" + b"x" * 255 + (b"q\x00" + b"h\x00" * 50_000) + b".",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_in_little_memory(data):
    tracemalloc.start()
    try:
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_caps_on_the_memo_and_on_opcodes(monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_MEMO", 1_000)
    monkeypatch.setattr(pickle_reader, "MAX_OPCODES", 10_000)
    puts = b"".join(b"r" + struct.pack("<I", n) for n in range(1_001))
    refused(b"\x80\x02N" + puts + b".", "1,000 remembered")
    refused(b"\x80\x02]" + b"Na" * 5_000 + b".", "10,000 opcodes")


LENGTHS = {
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "BINSTRING, negative": b"T\xff\xff\xff\xff",
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINUNICODE8": b"\x8d" + b"\xff" * 8,
    "BINBYTES": b"B\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "BYTEARRAY8": b"\x96" + b"\xff" * 7 + b"\x7f",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG": b"L" + b"9" * 10_000 + b"L\n",
    "INT": b"I" + b"9" * 10_000 + b"\n",
    "FRAME": b"\x95" + b"\xff" * 8,
}


@pytest.mark.parametrize("claim", LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_are_claimed_and_not_there(claim):
    tracemalloc.start()
    try:
        refused(mapping(KEY, claim + b"abc"))
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_file_too_large(monkeypatch, tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(BATCH)
    monkeypatch.setattr(pickle_reader, "MAX_BYTES", len(BATCH) - 1)
    with pytest.raises(DataError, match="larger than"):
        read_pickle(path)


# --- damage ---------------------------------------------------------------------------------


def test_every_truncation_is_refused():
    for length in range(len(BATCH)):
        refused(BATCH[:length])


@pytest.mark.filterwarnings("ignore:invalid escape")  # from pickletools, on a broken GLOBAL
def test_ten_thousand_mutations_raise_only_data_error():
    """Any bytes give a dictionary that keeps the rules, or `DataError`."""
    generator = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(10_000):
        data = bytearray(BATCH)
        for _ in range(generator.randint(1, 4)):
            mutate(data, generator)
        try:
            result = parse_pickle(bytes(data))
        except DataError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            check_inert(result)
    assert min(outcomes.values()) > 100, "the mutations should spoil some pickles, not all"


def mutate(data: bytearray, generator: random.Random) -> None:
    """Change, insert, remove or repeat a byte or a few."""
    place = generator.randrange(len(data))
    kind = generator.randrange(5)
    if kind == 0:
        data[place] ^= 1 << generator.randrange(8)
    elif kind == 1:
        data[place] = generator.randrange(256)
    elif kind == 2:
        data[place:place] = generator.randbytes(generator.randint(1, 4))
    elif kind == 3 and len(data) > 20:
        del data[place : place + generator.randint(1, 8)]
    else:
        data[place:place] = data[place : place + generator.randint(1, 40)]


def check_inert(result: dict) -> None:
    assert type(result) is dict
    for key, value in result.items():
        assert type(key) is str
        if type(value) is np.ndarray:
            assert value.dtype == np.uint8 and not value.dtype.hasobject
        elif type(value) is list:
            assert all(type(item) in (str, int, bool, type(None)) for item in value)
        else:
            assert type(value) in (str, int, bool, type(None))


# --- files ----------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "missing")
    with pytest.raises(DataError, match="not a file"):
        read_pickle(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="not a file"):
            read_pickle(tmp_path / "pipe")
