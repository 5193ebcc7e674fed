"""Memory that is used again: fresh pages cost more than the arithmetic done on them.

The operating system hands out zeroed pages on first touch, at a few GB/s. A training step needs the
same memory again and again, so the pool keeps what it got and deals it out in pieces: a piece
returns by itself when the last view of it is gone, and neighbours that are both free become one
piece again. So the memory that a network's small, deep layers held is there for the large gradients
of its first layers.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref

import numpy as np

from minires.backend import Array

_ALIGNMENT = 16  # values: 64 bytes, a cache line
_STAGGER = 272  # values between pieces, so that arrays of equal shape fall on different cache lines
_CHUNK = 1 << 27  # values asked of the system at once: 512 MiB, of which only what is used is real


class BufferPool:
    """Float32 arrays in memory order (H, W, N, C), with or without a border of zeros."""

    def __init__(self) -> None:
        self._bordered: set[int] = set()
        self.start_anew()

    def start_anew(self) -> None:
        """Forget who is being served, and all memory, in a forked process.

        Nobody is served there, and a page of the parent's would be copied before it is written.
        """
        self._turn = threading.Lock()
        self._chunks: list[_Chunk] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A contiguous array of `shape`; its values are left from an earlier use."""
        return self._piece(shape).reshape(shape)

    def take_bordered(self, h: int, w: int, n: int, c: int) -> np.ndarray:
        """An array (H + 2, W + 2, N, C) whose outermost rows and columns are zero.

        Only the interior may be written.
        """
        shape = (h + 2, w + 2, n, c)
        owner, has_border = self._piece_with(shape)
        padded = owner.reshape(shape)
        if not has_border:
            padded[0] = padded[-1] = 0
            padded[:, 0] = padded[:, -1] = 0
        self._bordered.add(id(owner))
        weakref.finalize(owner, self._bordered.discard, id(owner)).atexit = False
        return padded

    def bordered_around(self, hwnc: np.ndarray) -> np.ndarray | None:
        """The (H + 2, W + 2, N, C) array of this pool whose interior is exactly `hwnc`, or None."""
        owner = hwnc.base
        if id(owner) not in self._bordered:
            return None
        h, w, n, c = hwnc.shape
        shape = (h + 2, w + 2, n, c)
        if owner.size != shape[0] * shape[1] * n * c:
            return None
        padded = owner.reshape(shape)
        inside = padded[1:-1, 1:-1]
        same = hwnc.strides == inside.strides and hwnc.ctypes.data == inside.ctypes.data
        return padded if same else None

    def nbytes(self) -> int:
        """The bytes that have been in use at any time: each chunk up to its highest piece."""
        return 4 * sum(chunk.highest for chunk in self._chunks)

    def forget_peak(self) -> None:
        """Let `nbytes` count from what is in use now."""
        with self._turn:
            for chunk in self._chunks:
                chunk.forget_peak()

    def clear(self) -> None:
        """Forget all memory; pieces in use live until their last view is gone."""
        self._chunks.clear()

    def _piece(self, shape: tuple[int, ...]) -> np.ndarray:
        """A one-dimensional array that every view made of it holds on to."""
        return self._piece_with(shape, bordered=False)[0]

    def _piece_with(self, shape: tuple[int, ...], bordered: bool = True) -> tuple[np.ndarray, bool]:
        """`_piece`, and whether it has a border of zeros from its last use in the same shape.

        `bordered` says that it will have one.
        """
        size, border = math.prod(shape), shape if bordered else None
        with self._turn:
            for chunk in self._chunks:
                taken = chunk.take(size, border)
                if taken is not None:
                    return taken
            self._chunks.append(_Chunk(size))
            return self._chunks[-1].take(size, border)


def _pages(size: int) -> np.ndarray:
    """`size` float32 values of fresh memory, of which the system gives a page when it is touched.

    Not `np.empty`, so that tools that trace Python's memory do not count pages never touched.
    Private: shared pages, mmap's default, would be written by a forked process and its parent.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    try:
        return np.frombuffer(mmap.mmap(-1, 4 * size, **private), np.float32)
    except OSError as error:
        raise MemoryError(f"no {4 * size / 1e9:.1f} GB of memory for the kernels") from error


class _Chunk:
    """One allocation of the system and the holes in it, first hole first."""

    def __init__(self, at_least: int) -> None:
        size = at_least + _STAGGER + 2 * _ALIGNMENT
        try:
            self._memory = _pages(max(size, _CHUNK))
        except (MemoryError, OSError):
            self._memory = _pages(size)
        first = -(self._memory.ctypes.data // 4) % _ALIGNMENT
        self._holes: list[tuple[int, int]] = [(first, self._memory.size - first)]
        self._freed: list[tuple[int, int]] = []
        self._borders: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.highest = 0

    def take(
        self, size: int, border: tuple[int, ...] | None = None
    ) -> tuple[np.ndarray, bool] | None:
        """A piece of `size` values, or None where no hole is large enough.

        `border` is the shape (H, W, ...) in which it will have zeros in its outermost rows and
        columns. Also says whether they are there: the memory had them in its last use.
        """
        if self._freed:
            self._close_gaps()
        room = -(-(size + _STAGGER) // _ALIGNMENT) * _ALIGNMENT
        for index, (start, length) in enumerate(self._holes):
            if length >= room:
                rest = (start + room, length - room)
                self._holes[index : index + 1] = [rest] if rest[1] else []
                self.highest = max(self.highest, start + size)
                # The base of this array is a memoryview, so views of it have the array itself, not
                # the whole chunk, as their base: it dies with the last of them.
                piece = np.frombuffer(memoryview(self._memory)[start : start + size], np.float32)
                weakref.finalize(piece, self._freed.append, (start, room)).atexit = False
                return piece, self._remember(start, start + size, border)
        return None

    def _remember(self, start: int, stop: int, border: tuple[int, ...] | None) -> bool:
        """Note what `start` to `stop` becomes; whether it had just such a border before.

        A border lasts when its piece dies, since only the inside was written, until some other
        piece takes any of its memory.
        """
        if border is not None and self._borders.get(start) == (stop, border):
            return True
        overlapping = [a for a, (b, _) in self._borders.items() if a < stop and start < b]
        for other in overlapping:
            del self._borders[other]
        if border is not None:
            self._borders[start] = stop, border
        return False

    def forget_peak(self) -> None:
        """Set `highest` to the end of the last piece that is in use."""
        self._close_gaps()
        start, length = self._holes[-1] if self._holes else (self._memory.size, 0)
        self.highest = start if start + length == self._memory.size else self._memory.size
        if len(self._holes) == 1 and self.highest <= _ALIGNMENT:
            self.highest = 0

    def _close_gaps(self) -> None:
        """Take back the pieces that died, and join holes that touch."""
        freed = []
        while self._freed:  # one by one: a piece may die, and be added, at any moment
            freed.append(self._freed.pop())
        holes: list[tuple[int, int]] = []
        for start, length in sorted([*self._holes, *freed]):
            if holes and holes[-1][0] + holes[-1][1] == start:
                start, length = holes[-1][0], holes.pop()[1] + length
            holes.append((start, length))
        self._holes = holes


def aligned(size: int) -> np.ndarray:
    """`size` float32 values that begin with a cache line: NumPy's own large arrays do not.

    Loads of 64 bytes then take one line of the cache each, not two.
    """
    values = np.empty(size + _ALIGNMENT, np.float32)
    first = -(values.ctypes.data // 4) % _ALIGNMENT
    return values[first : first + size]


class Workspace:
    """Scratch memory of one thread: named arrays that grow and are never given back."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._zeros = np.zeros(1, np.float32)

    def get(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array of `shape`, valid until the next `get` of the same name."""
        size = 1
        for n in shape:
            size *= n
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = aligned(size)
        return array[:size].reshape(shape)

    def zeros(self, size: int) -> np.ndarray:
        """A float32 vector of zeros that nobody writes to."""
        array = self._zeros
        if array.size < size:
            array = self._zeros = np.zeros(size, np.float32)
        return array[:size]

    def nbytes(self) -> int:
        """The bytes that the workspace holds."""
        return sum(array.nbytes for array in self._arrays.values())


pool = BufferPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: pool.start_anew())


def logical(hwnc: np.ndarray) -> Array:
    """An (H, W, N, C) array under its logical shape (N, C, H, W)."""
    return hwnc.transpose(2, 3, 0, 1)


def as_hwnc(x: Array) -> np.ndarray | None:
    """x (N, C, H, W) as an (H, W, N, C) view if its memory is in that order, else None."""
    if x.dtype != np.float32 or x.ndim != 4:
        return None
    view = x.transpose(2, 3, 0, 1)
    n, c = x.shape[:2]
    if view.strides[3] != 4 and c > 1:
        return None
    if view.strides[2] != 4 * c and n > 1:
        return None
    return view


def to_hwnc(x: Array) -> np.ndarray:
    """x (N, C, H, W) in memory order (H, W, N, C): the same memory where it fits, else a copy."""
    view = as_hwnc(x)
    if view is None:
        view = pool.take((x.shape[2], x.shape[3], x.shape[0], x.shape[1]))
        np.copyto(view, x.transpose(2, 3, 0, 1))
    return view
