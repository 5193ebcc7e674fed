"""Matrix products of our own, in the processor's vector registers, called from compiled loops.

BLAS is made for large matrices: it copies both factors into blocks before it multiplies. Winograd's
products are small, a few hundred rows times filters that are used again at once, and here nothing
is copied. A block of the result stays in registers while the inner dimension passes by once: each
step loads one line of the right factor, and multiplies it by one value of each of the block's rows.
The wider and higher the block, the more often a loaded value is used; the number of registers is
the limit.

A compiler does not find this in Python's loops. So the loops are written in the language that numba
compiles to, LLVM's, in which a vector of any width is a type: 16 float32 with AVX-512, 8 with AVX,
4 elsewhere. Sums are in the order of the inner dimension, whatever the blocks are.

How to read the code: nothing in `_Loops` multiplies. Its methods run once, when numba compiles, and
append instructions to a function through `builder`. A Python loop therefore writes its body out
many times, and `cgutils.for_range` writes a loop that will run. For blocks of 6 rows and 4
registers what comes out is

    for each PANEL of columns (all of them at once where nothing is copied)      _Loops.over
        for column in steps of 4 registers, then for row in steps of 6           _Loops._cover
            24 registers = c's values, or 0                                      _Loops._block
            for l in range(depth)
                4 registers = b[l, column ...]
                6 times: one more = a[row + i, l] in all places; 4 sums += it times b's
            c[row ..., column ...] = 24 registers

and again, with smaller blocks, for the columns and rows that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from minires.kernels.cpu.compiled import compiled

_SIZE, _FLOAT = ir.IntType(64), ir.FloatType()

PANEL = 64  # columns, a multiple of those of all wide blocks
_LONG = 256  # values in a line from which on copying pays
_FEW = 24  # rows that have to read the copied lines


class _Shape(NamedTuple):
    """Blocks of one width: registers side by side, values in each, and the heights to choose of."""

    registers: int
    lanes: int
    heights: tuple[int, ...]

    @property
    def register(self) -> ir.VectorType:
        """The type of one register's values."""
        return ir.VectorType(_FLOAT, self.lanes)


def _shapes(features: list[str]) -> list[_Shape]:
    """The blocks for a processor, the widest first; the narrow ones are for what is left over.

    With AVX-512, 6 rows of 4 registers take 24 of 32, and the line of the right factor 4 more. ARM
    has 32 as well, of 4 values. With AVX there are 16 in all: 6 rows of 2 take 12.
    `features` are LLVM's names: "+avx" stands beside "+avx512f", and ARM has neither.
    """
    if "+avx512f" in features:
        wide = [_Shape(4, 16, (6, 4, 2, 1)), _Shape(2, 16, (12, 8, 4, 1))]
        wide.append(_Shape(1, 16, (16, 8, 4, 1)))
    elif "+avx" in features:
        wide = [_Shape(2, 8, (6, 4, 2, 1)), _Shape(1, 8, (12, 8, 4, 1))]
    else:
        wide = [_Shape(4, 4, (6, 4, 2, 1)), _Shape(2, 4, (12, 8, 4, 1))]
    rest = [_Shape(1, lanes, (8, 1)) for lanes in (8, 4) if lanes < wide[-1].lanes]
    return [*wide, *rest, _Shape(1, 1, (4, 1))]


@intrinsic
def _product(typing, a, a_at, row, inner, b, b_at, ldb, c, c_at, ldc, m, n, depth, add, panel):
    """c (m, n) = a b, or += if `add`, over `depth` values of the inner dimension.

    Value (i, l) of the left factor is a[a_at + i row + l inner], whichever way round it lies; the
    lines of b and c start every `ldb` and `ldc` values, from `b_at` and `c_at` on. `panel` is
    scratch for `depth` lines of PANEL values, or empty: see `_Loops._line_up`. The arrays are
    float32 in one piece, of any shape, and the positions count their values.
    """

    def generate(context, builder, signature, arguments):
        a, a_at, row, inner, b, b_at, ldb, c, c_at, ldc, m, n, depth, add, panel = arguments
        kinds = signature.args[0], signature.args[4], signature.args[7]
        a, b, c = (
            builder.gep(context.make_array(kind)(context, builder, array).data, [at])
            for kind, array, at in zip(kinds, (a, b, c), (a_at, b_at, c_at), strict=True)
        )
        panel = context.make_array(signature.args[14])(context, builder, panel)
        copied = builder.icmp_signed(">", panel.nitems, ir.Constant(_SIZE, 0))
        shapes = _shapes(context.codegen().magic_tuple()[2].split(","))
        loops = _Loops(builder, (a, row, inner), (b, ldb), (c, ldc), depth, add)
        loops.over(m, n, shapes, copied, panel.data)
        return context.get_dummy_value()

    if any(array.layout != "C" or array.dtype != types.float32 for array in (a, b, c, panel)):
        raise TypingError("products are for float32 arrays in one piece")
    i = types.int64
    return types.void(a, i, i, i, b, i, i, c, i, i, i, i, i, types.boolean, panel), generate


class _Loops:
    """Writes the loops into `builder`; all operands are LLVM's values, the arrays pointers.

    No value but the lists of shapes and their numbers is known when these methods run.
    """

    def __init__(self, builder, left, right, result, depth, add) -> None:
        self.builder, self.depth, self.add = builder, depth, add
        self.a, self.row, self.inner = left
        self.b, self.ldb = right
        self.c, self.ldc = result

    def over(self, m, n, shapes: list[_Shape], copied, panel) -> None:
        """Blocks of columns, the widest first; in each, blocks of rows, the highest first.

        `copied` says whether to copy lines to `panel`; n is then a multiple of PANEL.
        """
        builder = self.builder
        widths = {shape.registers * shape.lanes: shape for shape in shapes}
        step = builder.select(copied, ir.Constant(_SIZE, PANEL), n)
        with cgutils.for_range_slice(builder, ir.Constant(_SIZE, 0), n, step) as (first, _):
            right = self._line_up(shapes[0], first, copied, panel)

            def columns(width: int, column) -> None:
                shape = widths[width]
                place = right[0], right[1], column, builder.add(first, column)
                self._cover(
                    m, shape.heights, lambda rows, row: self._block(shape, rows, row, place)
                )

            self._cover(step, widths, columns)

    def _line_up(self, shape: _Shape, first, copied, panel):
        """Where the lines of the right factor start, from column `first` on, and how far apart.

        Where they are long, the columns of a block lie on as many pages of memory as there are
        lines, more than the processor finds quickly. There, PANEL columns are copied together.
        """
        builder, width = self.builder, ir.Constant(_SIZE, PANEL)
        with builder.if_then(copied), cgutils.for_range(builder, self.depth) as loop:
            line = self._at(self.b, self._times(loop.index, self.ldb), first)
            place = self._at(panel, self._times(loop.index, width))
            for j in range(0, PANEL, shape.lanes):
                self._store(self._load(self._at(line, j), shape), self._at(place, j))
        start = builder.select(copied, panel, self._at(self.b, first))
        return start, builder.select(copied, width, self.ldb)

    def _cover(self, count, sizes, body: Callable) -> None:
        """body(size, start) for pieces of 0 .. count, each as large as fits.

        `sizes`, numbers from the largest to 1, are those that a piece may have.
        """
        start = cgutils.alloca_once(self.builder, _SIZE)
        self.builder.store(ir.Constant(_SIZE, 0), start)
        for size in sizes:
            with self._while_fits(start, size, count) as at:
                body(size, at)

    @contextmanager
    def _while_fits(self, start, size: int, count) -> Iterator:
        """while start + size <= count: what the context writes, given `start`; start += size."""
        builder = self.builder
        test, inside, after = (builder.append_basic_block(n) for n in ("test", "inside", "after"))
        builder.branch(test)
        builder.position_at_end(test)
        at = builder.load(start)
        following = self._plus(at, size)
        builder.cbranch(builder.icmp_signed("<=", following, count), inside, after)
        builder.position_at_end(inside)
        yield at
        builder.store(following, start)
        builder.branch(test)
        builder.position_at_end(after)

    def _block(self, shape: _Shape, rows: int, row, place) -> None:
        """One block of the result, from row `row` on.

        `place` is where the lines of the right factor start and how far apart they are, and the
        column where the block starts, in those lines and in the result.

        The sums stand in variables, which LLVM turns into registers.
        """
        builder, lanes = self.builder, shape.lanes
        register = shape.register
        lines, step, inside, column = place
        lines = self._at(lines, inside)
        cells = [(i, j) for i in range(rows) for j in range(shape.registers)]
        results = [self._at(self.c, self._times(self._plus(row, i), self.ldc)) for i in range(rows)]
        places = {(i, j): self._at(results[i], column, lanes * j) for i, j in cells}
        firsts = [self._at(self.a, self._times(self._plus(row, i), self.row)) for i in range(rows)]
        sums = {cell: cgutils.alloca_once(builder, register) for cell in cells}
        with builder.if_else(self.add) as (from_there, from_zero):
            with from_there:
                for cell in cells:
                    builder.store(self._load(places[cell], shape), sums[cell])
            with from_zero:
                for cell in cells:
                    builder.store(ir.Constant(register, None), sums[cell])
        with cgutils.for_range(builder, self.depth) as loop:
            line = self._at(lines, self._times(loop.index, step))
            values = [self._load(self._at(line, lanes * j), shape) for j in range(shape.registers)]
            along = self._times(loop.index, self.inner)
            for i in range(rows):
                left = self._everywhere(builder.load(self._at(firsts[i], along)), register)
                for j in range(shape.registers):
                    total = self._multiply_add(left, values[j], builder.load(sums[i, j]))
                    builder.store(total, sums[i, j])
        for cell in cells:
            self._store(builder.load(sums[cell]), places[cell])

    def _multiply_add(self, a, b, c):
        """a * b + c, rounded once where the processor can."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        name = f"llvm.fmuladd.v{a.type.count}f32"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def _plus(self, value, constant: int):
        return self.builder.add(value, ir.Constant(_SIZE, constant))

    def _times(self, value, factor):
        return self.builder.mul(value, factor)

    def _at(self, pointer, *offsets):
        """The pointer moved by values, given as LLVM's or as plain numbers."""
        for offset in offsets:
            offset = ir.Constant(_SIZE, offset) if isinstance(offset, int) else offset
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def _everywhere(self, value, register):
        """A register with `value` in all places."""
        index, undefined = ir.IntType(32), ir.Constant(register, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(index, 0))
        zeros = ir.Constant(ir.VectorType(index, register.count), None)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def _load(self, pointer, shape: _Shape):
        """A register from `pointer` on, which is where a float32 may be, no multiple of more."""
        place = self.builder.bitcast(pointer, shape.register.as_pointer())
        return self.builder.load(place, align=4)

    def _store(self, value, pointer) -> None:
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, place, align=4)


@compiled
def _panel(rows, depth, line):
    """Scratch for `_product`, empty where copying does not pay: short lines, or few rows."""
    pays = line >= _LONG and line % PANEL == 0 and rows >= _FEW
    return np.empty(depth * PANEL if pays else 0, np.float32)


@compiled
def multiply(v, filters, m, targets, rows):
    """m[targets[p]] += v[p] U[p] for all p, from zero.

    v and m are planes, (rows, C) and (rows, K) each; filters is (P, C, K). The first products go to
    one position of m each.
    """
    c, k = filters.shape[1], filters.shape[2]
    panel = _panel(rows, c, k)
    for p in range(filters.shape[0]):
        _product(
            v, p * v.shape[1], c, 1, filters, p * c * k, k, m, targets[p] * m.shape[1], k,
            rows, k, c, p >= m.shape[0], panel,
        )  # fmt: skip


@compiled
def multiply_back(m, turned, v, targets, rows):
    """v[p] = m[targets[p]] U[p] for all p; `turned` holds the filters U (P, K, C)."""
    k, c = turned.shape[1], turned.shape[2]
    panel = _panel(rows, k, c)
    for p in range(turned.shape[0]):
        _product(
            m, targets[p] * m.shape[1], k, 1, turned, p * c * k, c, v, p * v.shape[1], c,
            rows, c, k, False, panel,
        )  # fmt: skip


@compiled
def add_products(v, m, targets, rows, out, first):
    """out[p] += v[p]^T m[targets[p]] for all p, from zero if `first`; out is (P, C, K)."""
    c, k = out.shape[1], out.shape[2]
    panel = _panel(c, rows, k)
    for p in range(out.shape[0]):
        _product(
            v, p * v.shape[1], 1, c, m, targets[p] * m.shape[1], k, out, p * c * k, k,
            c, k, rows, not first, panel,
        )  # fmt: skip
