"""Read a raw CIFAR batch, which is a Python pickle, without running anything.

`pickle.load` is an interpreter: a pickle may name any function and have it called. This module is
an interpreter too, over the same opcodes (`pickletools.genops` splits the bytes), but one that can
only build data. Five rules make that so:

1. Only the opcodes in `_OPCODES` exist: those that the official files use, and a few near them.
2. A GLOBAL is one of three names, kept as an inert `_Name`. Nothing is imported or looked up.
3. REDUCE and BUILD call nothing. They match the four exact forms with which NumPy spells
   a uint8 array and put a placeholder, then an array over the file's own bytes, on the stack.
4. The result is flat: a dictionary with string keys whose values are scalars, lists of scalars or
   arrays. The memo hands back scalars only, so no value holds itself and none grows by repetition.
5. File size, opcodes, stack, memo and marks are capped; every step costs what it consumes.

Whatever breaks a rule is refused with `DataError`; no other exception leaves this module.

Source: the Python standard library, `pickletools`; NEP 1 for what an array consists of.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minires.errors import DataError

MAX_BYTES = 256 * 2**20
"""The largest file that is read; CIFAR-100's `train` has 155 million bytes."""
MAX_OPCODES = 1_000_000
"""CIFAR-100's `train` needs about 250,000."""
MAX_STACK = 10_000
"""Python writes lists in pieces of 1,000 items, so no honest stack comes near."""
MAX_MEMO = 250_000
"""CIFAR-100's `train` remembers one entry for each of its 50,000 file names."""
MAX_MARKS = 8
MAX_TUPLE = 8


class _Name(Enum):
    """The globals that a pickled array mentions; names, nothing more."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"


class _NewDtype:
    """`dtype('u1', 0, 1)` before its BUILD."""


class _Uint8:
    """The dtype uint8, the only one that there is."""


class _NewArray:
    """`_reconstruct(ndarray, (0,), 'b')`: an array before BUILD gives it shape and bytes."""


_SCALARS = (str, int, type(None))  # bool is an int
_IN_TUPLES = (*_SCALARS, tuple, memoryview, _Name, _Uint8)
_MARK = object()

_RECONSTRUCT_ARGUMENTS = (_Name.NDARRAY, (0,), "b")
_DTYPE_ARGUMENTS = ("u1", 0, 1)
_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 0)
_ARRAY_VERSION = 1


def read_pickle(path: str | Path) -> dict[str, Any]:
    """The dictionary in the pickle file at `path`; see `parse_pickle`.

    Raises `DataError` if the file is missing, unreadable, too large or not a CIFAR pickle.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_pickle(data, str(path))


def parse_pickle(data: bytes, source: str = "pickle") -> dict[str, Any]:
    """The dictionary that the pickle `data` spells, built without calling anything.

    Keys are str. Values are str (bytes of the file as Latin-1), int, bool, None, lists of those,
    or read-only uint8 arrays of any shape that view `data`. Raises `DataError` for all else, with
    `source` and the position of the byte.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{source}: larger than {MAX_BYTES:,} bytes, so not a CIFAR batch")
    return _Machine(data, source).run()


class _Machine:
    """A stack, a memo and the opcodes of `_OPCODES`.

    `stack` holds values and `_MARK`s; `marks` the places of the latter.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.data = memoryview(data)
        self.stream = io.BytesIO(data)
        self.opcodes = pickletools.genops(self.stream)
        self.source = source
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> dict[str, Any]:
        """Go on to STOP, which must be the last byte, and return what is on the stack."""
        for _ in range(MAX_OPCODES):
            name, argument = self.next_opcode()
            if name == "STOP":
                return self.result()
            _OPCODES[name](self, argument)
            if len(self.stack) > MAX_STACK:
                self.refuse(f"more than {MAX_STACK:,} values on the stack")
        self.refuse(f"more than {MAX_OPCODES:,} opcodes")

    def next_opcode(self) -> tuple[str, Any]:
        """The next opcode's name and argument; the argument is not decoded unless it is allowed."""
        self.position = self.stream.tell()
        if self.position == len(self.data):
            self.refuse("the file is cut off")
        opcode = pickletools.code2op.get(chr(self.data[self.position]))
        if opcode is None or (opcode.name != "STOP" and opcode.name not in _OPCODES):
            name = "an unknown opcode" if opcode is None else f"the opcode {opcode.name}"
            self.refuse(f"{name}, which no CIFAR batch needs")
        try:
            opcode, argument, _ = next(self.opcodes)
        except Exception as error:  # genops raises many types on broken bytes
            reason = " ".join(str(error).split())[:80] or type(error).__name__
            self.refuse(f"broken or cut off ({reason})")
        return opcode.name, argument

    def result(self) -> dict[str, Any]:
        if self.position + 1 != len(self.data):
            self.refuse("there are more bytes after the end of the pickle")
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            self.refuse("the pickle is not one dictionary")
        return self.stack[0]

    def refuse(self, reason: str) -> NoReturn:
        raise DataError(
            f"{self.source}: not a CIFAR batch: at byte {self.position:,}: {reason}; "
            "nothing in it was run"
        )

    # --- the stack ---------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            self.refuse("the stack is empty")
        return self.stack.pop()

    def top(self, kind: type, what: str) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            self.refuse(f"expected {what} on the stack")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        if len(self.marks) == MAX_MARKS:
            self.refuse(f"nested more than {MAX_MARKS} deep")
        self.marks.append(len(self.stack))
        self.stack.append(_MARK)

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse("there is no mark on the stack")
        place = self.marks.pop()
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    # --- values ------------------------------------------------------------------------------

    def binstring(self, text: str) -> None:
        """The bytes of an array, as a view of the file."""
        start = self.position + 5  # the opcode and four bytes of length
        self.push(self.data[start : start + len(text)])

    def tuple_of(self, items: list[Any]) -> None:
        if len(items) > MAX_TUPLE or not all(isinstance(item, _IN_TUPLES) for item in items):
            self.refuse("a tuple that no array needs")
        inner = [part for item in items if isinstance(item, tuple) for part in item]
        if any(isinstance(part, tuple) for part in inner):
            self.refuse("tuples nested too deep")
        self.push(tuple(items))

    def extend(self, items: list[Any]) -> None:
        target = self.top(list, "a list")
        if not all(isinstance(item, _SCALARS) for item in items):
            self.refuse("a list that holds more than numbers and strings")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.top(dict, "a dictionary")
        if len(items) % 2:
            self.refuse("a dictionary with a key and no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse("a dictionary key that is not a string")
            if not isinstance(value, (*_SCALARS, list, np.ndarray)):
                self.refuse(f"the entry {key[:40]!r} is neither a scalar, a list nor an array")
            target[key] = value

    def name(self, argument: str) -> None:
        try:
            self.push(_Name(argument))
        except ValueError:
            self.refuse(f"it asks for {argument[:60]!r}")

    # --- the memo ----------------------------------------------------------------------------

    def put(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            self.refuse("nothing to remember")
        if len(self.memo) == MAX_MEMO:
            self.refuse(f"more than {MAX_MEMO:,} remembered values")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo.get(index, _MARK)
        if not isinstance(value, _SCALARS):
            self.refuse("it asks again for a value that is not a scalar")
        self.push(value)

    # --- arrays ------------------------------------------------------------------------------

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if function is _Name.RECONSTRUCT and arguments == _RECONSTRUCT_ARGUMENTS:
            self.push(_NewArray())
        elif function is _Name.DTYPE and arguments == _DTYPE_ARGUMENTS:
            self.push(_NewDtype())
        else:
            self.refuse("it asks for something other than an array of bytes")

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _NewDtype) and state == _DTYPE_STATE:
            self.push(_Uint8())
        elif isinstance(target, _NewArray) and isinstance(state, tuple) and len(state) == 5:
            self.push(self.array(*state))
        else:
            self.refuse("it asks for something other than an array of bytes")

    def array(self, version: Any, shape: Any, dtype: Any, fortran: Any, raw: Any) -> np.ndarray:
        """The bytes `raw` as a uint8 array of `shape`, rows first unless `fortran`."""
        if version != _ARRAY_VERSION or not isinstance(dtype, _Uint8):
            self.refuse("an array that is not of uint8")
        if not isinstance(shape, tuple) or not all(type(n) is int and n > 0 for n in shape):
            self.refuse("an array without a shape")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw  # a short one
        if not isinstance(raw, bytes | memoryview) or type(fortran) is not bool:
            self.refuse("an array without its bytes")
        if prod(shape) != len(raw):
            self.refuse(f"an array of another size than its {len(raw):,} bytes")
        order = "F" if fortran else "C"
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order=order)


_Action = Callable[[_Machine, Any], None]

_OPCODES: dict[str, _Action] = {
    "PROTO": lambda machine, version: None,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "SHORT_BINSTRING": _Machine.push,
    "BINSTRING": _Machine.binstring,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.tuple_of(machine.pop_to_mark()),
    "TUPLE1": lambda machine, _: machine.tuple_of([machine.pop()]),
    "TUPLE2": lambda machine, _: machine.tuple_of([machine.pop(), machine.pop()][::-1]),
    "TUPLE3": lambda machine, _: machine.tuple_of([machine.pop() for _ in range(3)][::-1]),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""The allow-list: what each opcode does to the machine. STOP ends it."""
