"""Write a dictionary in the bytes that CIFAR's own batches are made of.

The official files are pickles of protocol 2, written by Python 2. Its strings are byte strings,
which Python 3 cannot write any more, so the opcodes are spelled out here. The images of an official
batch, written again, give the official file, byte for byte.

Source: the Python standard library, `pickletools`, for the opcodes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

_PIECE = 1_000  # lists are written in pieces of this many items


def pickle_bytes(entries: Mapping[str, Any]) -> bytes:
    """The pickle of `entries`: str keys; values are str, int, lists of those or uint8 arrays.

    Strings are Latin-1 of at most 255 characters, integers fit 32 bits; ValueError or TypeError
    otherwise.
    """
    writer = _Writer()
    writer.parts.append(b"\x80\x02}")
    writer.remember()
    writer.parts.append(b"(")
    for key, value in entries.items():
        writer.scalar(key)
        writer.value(value)
    writer.parts.append(b"u.")
    return b"".join(writer.parts)


class _Writer:
    """The pieces written so far, and how many values the reader will have in its memo."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.remembered = 0

    def remember(self) -> None:
        """Have the reader keep the value in its memo, as Python 2 did, under the next number."""
        self.remembered += 1
        n = self.remembered
        self.parts.append(b"q" + bytes([n]) if n < 256 else b"r" + struct.pack("<I", n))

    def value(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, list | tuple):
            self.list(value)
        else:
            self.scalar(value)

    def scalar(self, value: str | int) -> None:
        if isinstance(value, str):
            self.parts.append(_string(value))
            self.remember()
        elif 0 <= value < 256:
            self.parts.append(b"K" + bytes([value]))
        elif 0 <= value < 65536:
            self.parts.append(b"M" + struct.pack("<H", value))
        else:
            self.parts.append(b"J" + _int32(value))

    def list(self, values: list | tuple) -> None:
        self.parts.append(b"]")
        self.remember()
        for start in range(0, len(values), _PIECE):
            self.parts.append(b"(")
            for value in values[start : start + _PIECE]:
                self.scalar(value)
            self.parts.append(b"e")

    def array(self, array: np.ndarray) -> None:
        """`_reconstruct(ndarray, (0,), 'b')`, then version, shape, dtype, order and bytes."""
        if array.dtype != np.uint8 or array.ndim != 2:
            raise TypeError(f"expected a uint8 array of two axes, got {array.dtype}, {array.ndim}")
        self.parts.append(b"cnumpy.core.multiarray\n_reconstruct\n")
        self.remember()
        self.parts.append(b"cnumpy\nndarray\n")
        self.remember()
        self.parts.append(b"K\x00\x85" + _string("b") + b"\x87R")
        self.remember()
        self.parts.append(b"(K\x01")
        for length in array.shape:
            self.scalar(length)
        self.parts.append(b"\x86cnumpy\ndtype\n")
        self.remember()
        self.parts.append(_string("u1") + b"K\x00K\x01\x87R")
        self.remember()
        no_fields = b"NNN" + b"J" + _int32(-1) + b"J" + _int32(-1) + b"K\x00"
        self.parts.append(b"(K\x03" + _string("|") + no_fields + b"tb\x89")
        self.parts.append(b"T" + _int32(array.size) + array.tobytes())
        self.remember()
        self.parts.append(b"t")
        self.remember()
        self.parts.append(b"b")


def _string(text: str) -> bytes:
    raw = text.encode("latin-1")
    if len(raw) > 255:
        raise ValueError(f"a string of {len(raw)} characters; at most 255 fit")
    return b"U" + bytes([len(raw)]) + raw


def _int32(value: int) -> bytes:
    return struct.pack("<i", value)
