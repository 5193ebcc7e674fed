"""The initial weights: functions of the seed and of the parameter's number, the same everywhere."""

from __future__ import annotations

import numpy as np

from minires.functional.random import INIT


class Initializer:
    """Draws initial weights; the n-th draw depends on the seed and on n alone.

    seed: any integer; dtype: of the arrays that are returned, drawn in float64 and rounded.
    """

    def __init__(self, seed: int = 0, dtype: str = "float32") -> None:
        self.seed = seed
        self.dtype = np.dtype(dtype)
        self._draws = 0

    def _generator(self) -> np.random.Generator:
        self._draws += 1
        return np.random.Generator(np.random.PCG64([self.seed % 2**64, INIT, self._draws]))

    def he_normal(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        """Convolution weights (K, C, kh, kw) with variance 2 / (C kh kw).

        A ReLU halves the mean square of its input; the 2 makes up for it, so the signal keeps its
        size through the layers. Source: He et al. 2015, "Delving deep into rectifiers", eq. 10.
        """
        fan_in = shape[1] * shape[2] * shape[3]
        return self._round(self._generator().standard_normal(shape) * (2.0 / fan_in) ** 0.5)

    def uniform_linear(self, shape: tuple[int, int]) -> np.ndarray:
        """Linear weights (K, C), uniform in +-1/sqrt(C): small first logits, as in PyTorch."""
        bound = shape[1] ** -0.5
        return self._round(self._generator().uniform(-bound, bound, shape))

    def constant(self, shape: tuple[int, ...], value: float) -> np.ndarray:
        """An array of equal values."""
        return np.full(shape, value, self.dtype)

    def _round(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self.dtype)
