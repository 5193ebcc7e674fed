"""Batch norm folded into the filters in front of it, for evaluation.

Its scale goes into the filters, its shift becomes their bias. That, and Winograd's transform of the
filters, is the same for every batch as long as the weights are. So what was made last is kept for
small filters, with copies of the arrays that it was made of: it is used again only where these hold
the same values, whoever changed them. Comparing is a tenth of the work of making.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.batch_norm import affine
from minires.kernels.cpu.buffers import aligned
from minires.kernels.cpu.products import transform

_LARGEST = 64 * 64 * 9  # values of a unit's filters that are kept: 0.6 MB when transformed
_MOST = 256  # units


class Folded:
    """The filters and the bias of a convolution with batch norm inside.

    weight (K, C, kh, kw) and shift (K,) float32; mean and inv_std (K,) float32 are batch norm's.
    """

    def __init__(self, weight, gamma, beta, mean, variance, eps: float) -> None:
        wide = mean.astype(np.float64), variance.astype(np.float64)
        inv_std, scale, self.shift = affine(gamma, beta, *wide, eps)
        self.weight = weight * scale[:, None, None, None]
        self.mean, self.inv_std = mean.astype(np.float32), inv_std.astype(np.float32)
        self.is_kept = False
        self._filters: dict[int, np.ndarray] = {}

    def keep(self, sources: tuple[np.ndarray, ...], eps: float) -> None:
        """Remember what this was made of."""
        self._sources, self._eps = tuple(a.copy(order="K") for a in sources), eps
        self.is_kept = True

    def was_made_of(self, sources: tuple[np.ndarray, ...], eps: float) -> bool:
        """Whether the arrays hold the values that this was made of."""
        return eps == self._eps and all(map(np.array_equal, sources, self._sources))

    def transformed(self, matrix: np.ndarray, taps: np.ndarray) -> np.ndarray:
        """The filters (P, C, K) of taps (Q, C, K), this unit's; matrix (P, Q) is Winograd's.

        No two ways of Winograd have the same number P of products.
        """
        filters = self._filters.get(len(matrix))
        if filters is None:
            shape = (len(matrix), *taps.shape[1:])
            filters = aligned(int(np.prod(shape))).reshape(shape)
            transform(matrix, taps, filters)
            self._filters[len(matrix)] = filters
        return filters


_kept: dict[int, Folded] = {}  # by the address of the weights


def folded(weight, gamma, beta, mean, variance, eps: float) -> Folded:
    """Weights (K, C, kh, kw) with batch norm inside; gamma to variance (K,), all float32."""
    sources = weight, gamma, beta, mean, variance
    address = weight.__array_interface__["data"][0]
    found = _kept.get(address)
    if found is not None and found.was_made_of(sources, eps):
        return found
    made = Folded(*sources, eps)
    if weight.size <= _LARGEST:
        if len(_kept) >= _MOST:
            _kept.clear()
        made.keep(sources, eps)
        _kept[address] = made
    return made
