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
def multiply(sgemm, v, filters, m, targets, rows, at_once):
    """m[targets[p]] += v[p] U[p] for all p, from zero, `at_once` rows at a time.

    v and m are planes, (rows, C) and (rows, K) each; filters is (P, C, K). The first products go to
    one position of m each.
    """
    c, k = filters.shape[1], filters.shape[2]
    for p in range(filters.shape[0]):
        beta = _ZERO if p < m.shape[0] else _ONE
        for row in range(0, rows, at_once):
            some = min(at_once, rows - row)
            left, result = v[p, row * c :], m[targets[p], row * k :]
            _sgemm(sgemm, False, False, some, k, c, left, c, filters[p], k, beta, result, k)


@compiled
def multiply_back(sgemm, m, filters, turned, v, targets, rows, at_once):
    """v[p] = m[targets[p]] U[p]^T for all p, where filters holds U^T (P, K, C) if `turned`, else U.

    Only with U^T are the products cut up: the small ones are slow the other way round.
    """
    c, k = filters.shape[1], filters.shape[2]
    if turned:
        c, k = k, c
    else:
        at_once = rows
    for p in range(filters.shape[0]):
        for row in range(0, rows, at_once):
            some = min(at_once, rows - row)
            left, result = m[targets[p], row * k :], v[p, row * c :]
            length = c if turned else k
            _sgemm(
                sgemm, False, not turned, some, c, k,
                left, k, filters[p], length, _ZERO, result, c,
            )  # fmt: skip


@compiled
def add_products(sgemm, v, m, targets, rows, out, first):
    """out[p] += v[p]^T m[targets[p]] for all p, from zero if `first`; out is (P, C, K)."""
    c, k, beta = out.shape[1], out.shape[2], _ZERO if first else _ONE
    for p in range(out.shape[0]):
        _sgemm(sgemm, True, False, c, k, rows, v[p], c, m[targets[p]], k, beta, out[p], k)
