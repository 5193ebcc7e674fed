"""Memory that is used again: fresh pages cost more than the arithmetic done on them.

The operating system hands out zeroed pages on first touch, at a few GB/s. A training step asks for
the same shapes again and again, so the pool keeps every buffer and hands one out whenever nobody
looks at it any more. "Nobody looks at it" is its reference count: each view of an array holds a
reference to the array that owns the memory.
"""

from __future__ import annotations

import sys

import numpy as np

from minires.backend import Array


def _references_when_unused() -> int:
    shelf = [np.empty(1)]
    return sys.getrefcount(shelf[0])


_UNUSED = _references_when_unused()  # the shelf's reference and that of the question itself


class BufferPool:
    """Float32 arrays in memory order (H, W, N, C), with or without a border of zeros."""

    def __init__(self) -> None:
        self._plain: dict[int, list[np.ndarray]] = {}
        self._bordered: dict[tuple[int, ...], list[np.ndarray]] = {}
        self._border_ids: set[int] = set()  # the shelves keep these arrays alive

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A contiguous array of `shape`; its values are left from an earlier use."""
        size = 1
        for n in shape:
            size *= n
        shelf = self._plain.setdefault(size, [])
        return self._free(shelf, lambda: np.empty(size, np.float32)).reshape(shape)

    def take_bordered(self, h: int, w: int, n: int, c: int) -> np.ndarray:
        """An array (H + 2, W + 2, N, C) whose outermost rows and columns are zero.

        Only the interior may be written, so the border stays zero from use to use.
        """
        shape = (h + 2, w + 2, n, c)
        shelf = self._bordered.setdefault(shape, [])
        buffer = self._free(shelf, lambda: np.zeros(shape, np.float32))
        self._border_ids.add(id(buffer))
        return buffer[...]

    def bordered_around(self, hwnc: np.ndarray) -> np.ndarray | None:
        """The (H + 2, W + 2, N, C) array of this pool whose interior is exactly `hwnc`, or None."""
        owner = hwnc.base
        if id(owner) not in self._border_ids:
            return None
        h, w, n, c = hwnc.shape
        if owner.shape != (h + 2, w + 2, n, c) or hwnc.strides != owner.strides:
            return None
        offset = hwnc.ctypes.data - owner.ctypes.data
        return owner if offset == owner.strides[0] + owner.strides[1] else None

    def nbytes(self) -> int:
        """The bytes that the pool holds, in use or not."""
        shelves = (*self._plain.values(), *self._bordered.values())
        return sum(buffer.nbytes for shelf in shelves for buffer in shelf)

    def clear(self) -> None:
        """Forget all buffers; those in use live until their last view is gone."""
        self._plain.clear()
        self._bordered.clear()
        self._border_ids.clear()

    @staticmethod
    def _free(shelf: list[np.ndarray], make) -> np.ndarray:
        for index in range(len(shelf)):
            if sys.getrefcount(shelf[index]) == _UNUSED:
                return shelf[index]
        shelf.append(make())
        return shelf[-1]


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
            array = self._arrays[name] = np.empty(size, np.float32)
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
