"""NumPy's own matrix product, called from compiled loops.

NumPy brings OpenBLAS as a shared library. Compiled code that calls it by its address needs no
Python between one product and the next, so a thread never waits for the interpreter's lock. And it
may ask for what `np.matmul` does not offer: out = a b + out.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import threadpoolctl
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minires.kernels.cpu.compiled import compiled

_NAMES = ("scipy_cblas_sgemm64_", "cblas_sgemm64_")  # those with 64-bit sizes, in NumPy's wheels
_ROW_MAJOR, _PLAIN, _TURNED = 101, 111, 112  # cblas.h
_ZERO, _ONE = np.float32(0), np.float32(1)


@cache
def sgemm_address() -> int:
    """Where the product of float32 matrices lies in this process, or 0 if it was not found."""
    for library in threadpoolctl.threadpool_info():
        if library.get("internal_api") == "openblas":
            symbols = ctypes.CDLL(library["filepath"])
            for name in _NAMES:
                if hasattr(symbols, name):
                    return ctypes.cast(getattr(symbols, name), ctypes.c_void_p).value
    return 0


@intrinsic
def _sgemm(typing, address, turn_a, turn_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """cblas_sgemm at `address`: c (m, n) = a (m, k) b (k, n) + beta c; lda ... are row lengths."""

    def generate(context, builder, signature, arguments):
        enum, size, real = ir.IntType(32), ir.IntType(64), ir.FloatType()
        pointer = ir.IntType(8).as_pointer()
        address, turn_a, turn_b, m, n, k, a, lda, b, ldb, beta, c, ldc = arguments
        product = ir.FunctionType(
            ir.VoidType(),
            [enum, enum, enum, size, size, size, real, pointer, size, pointer, size]
            + [real, pointer, size],
        )

        def data(position, array):
            made = context.make_array(signature.args[position])(context, builder, array)
            return builder.bitcast(made.data, pointer)

        def order(turned):
            flag = builder.icmp_unsigned("!=", turned, ir.Constant(turned.type, 0))
            return builder.select(flag, ir.Constant(enum, _TURNED), ir.Constant(enum, _PLAIN))

        function = builder.inttoptr(address, product.as_pointer())
        one = ir.Constant(real, 1.0)
        builder.call(
            function,
            [ir.Constant(enum, _ROW_MAJOR), order(turn_a), order(turn_b), m, n, k, one]
            + [data(6, a), lda, data(8, b), ldb, beta, data(11, c), ldc],
        )
        return context.get_dummy_value()

    i, flag = types.int64, types.boolean
    return types.void(i, flag, flag, i, i, i, a, i, b, i, types.float32, c, i), generate


@compiled
def multiply(sgemm, a, b, out, rows, inner, columns, at_once):
    """out = a b at each of the 36 positions, `at_once` rows at a time.

    a and out are planes, (rows, inner) and (rows, columns) each; b is (36, inner, columns).
    """
    for p in range(a.shape[0]):
        for row in range(0, rows, at_once):
            some = min(at_once, rows - row)
            left, result = a[p, row * inner :], out[p, row * columns :]
            _sgemm(
                sgemm, False, False, some, columns, inner,
                left, inner, b[p], columns, _ZERO, result, columns,
            )  # fmt: skip


@compiled
def multiply_turned(sgemm, a, b, out, rows, inner, columns):
    """out = a b^T at each of the 36 positions; b is (36, columns, inner)."""
    for p in range(a.shape[0]):
        _sgemm(
            sgemm, False, True, rows, columns, inner,
            a[p], inner, b[p], inner, _ZERO, out[p], columns,
        )  # fmt: skip


@compiled
def add_product(sgemm, a, b, out, rows, inner, columns, first):
    """out += a^T b at each of the 36 positions, or out = a^T b if `first`.

    a and b are planes, (rows, inner) and (rows, columns) each; out is (36, inner, columns).
    """
    for p in range(a.shape[0]):
        _sgemm(
            sgemm, True, False, inner, columns, rows,
            a[p], inner, b[p], columns, _ZERO if first else _ONE, out[p], columns,
        )  # fmt: skip
