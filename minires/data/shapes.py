"""`shapes`: a built-in data set of ten drawn classes, in the format of CIFAR-10.

Each image is 32x32 pixels: one shape of random colour, place, size, stretch and rotation, before a
darker background with a colour gradient and three dots of any colour, under noise. No colour and no
place says anything about the class, so a linear model of the pixels learns next to nothing.

A shape is a signed distance function (SDF): for a point (u, v), how far outside the shape it lies,
negative within. A pixel's coverage is clip(1/2 - distance, 0, 1), which gives smooth edges.

The same seed gives the same bits on every machine: all numbers come from a counter-based hash, and
the arithmetic is +, -, *, /, sqrt, min and max, which IEEE 754 rounds exactly. Sine and cosine,
which it does not, are rounded to a table once.

Source: Inigo Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d/.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minires.functional.random import SHAPES, integers, random_bits

SIZE = 32
TRAIN_IMAGES, TEST_IMAGES = 5_000, 1_000
_SPLITS = {"train": 0, "test": 1}
_CHUNK = 256  # images drawn at once: each temporary array then has 2 MB
_DOTS = 3

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def draw_shapes(split: str, count: int | None = None, seed: int = 0) -> tuple:
    """Draw `count` images of the ten `CLASSES`, as many of each as possible.

    split: "train" or "test", which share no image; count: default 5,000 and 1,000.
    Returns (images uint8 (count, 3, 32, 32), labels int64 (count,)).
    """
    count = (TRAIN_IMAGES if split == "train" else TEST_IMAGES) if count is None else count
    draws = _Draws(seed, _SPLITS[split])
    order = np.argsort(draws.bits(np.arange(count), 0), kind="stable")
    labels = np.empty(count, dtype=np.int64)
    labels[order] = np.arange(count) % len(CLASSES)
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    for label, distance in enumerate(CLASSES.values()):
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            images[chunk] = _draw(distance, chunk, draws)
    return images, labels


class _Draws:
    """Random numbers for images: a function of (seed, split, image, number of the draw)."""

    def __init__(self, seed: int, split: int) -> None:
        self.seed, self.split = seed, split

    def bits(self, images: np.ndarray, first: int, count: int | None = None) -> np.ndarray:
        """Draw number `first` of each image, (N,), or `count` draws from there, (N, count)."""
        if count is None:
            return random_bits(self.seed, SHAPES, self.split, images, first)
        numbers = np.arange(first, first + count)
        return random_bits(self.seed, SHAPES, self.split, images[:, None], numbers)

    def between(self, low: float, high: float, images: np.ndarray, first: int, *shape: int):
        """Numbers in steps of a 1024th of the range, float64 (N, *shape)."""
        bits = self.bits(images, first, math.prod(shape)).reshape(len(images), *shape)
        return integers(bits, 0, 1024) * ((high - low) / 1024) + low


# --- drawing --------------------------------------------------------------------------------


def _draw(distance: Distance, images: np.ndarray, draws: _Draws) -> np.ndarray:
    """Images number `images` (N,) of the class with this distance function, (N, 3, 32, 32)."""
    background, foreground = _colours(images, draws)
    canvas = _add_dots(background, images, draws)
    covered = _coverage(distance, images, draws)[:, None]
    canvas = canvas + (foreground - canvas) * covered
    canvas = canvas + _noise(images, draws)
    return np.clip(np.floor(canvas + 0.5), 0, 255).astype(np.uint8)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """The x and y of the pixel centres from the middle of the image, (1, 32) and (32, 1)."""
    places = np.arange(SIZE) - (SIZE - 1) / 2
    return places[None, :], places[:, None]


def _coverage(distance: Distance, images: np.ndarray, draws: _Draws) -> np.ndarray:
    """How much of each pixel the shape covers, 0 to 1, (N, 32, 32)."""
    radius = draws.between(8, 13, images, 1, 1, 1)
    room = SIZE / 2 - 0.9 * radius
    x, y = _grid()
    x = x - room * draws.between(-1, 1, images, 2, 1, 1)
    y = y - room * draws.between(-1, 1, images, 3, 1, 1)
    turn = integers(draws.bits(images, 4), 0, len(_COSINES) - 1)
    cosine, sine = _COSINES[turn][:, None, None], _SINES[turn][:, None, None]
    stretch = draws.between(0.85, 1.15, images, 5, 1, 1)
    u = (x * cosine + y * sine) / (radius * stretch)
    v = (y * cosine - x * sine) * stretch / radius
    return np.clip(0.5 - distance(u, v) * radius, 0, 1)


def _colours(images: np.ndarray, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Background (N, 3, 32, 32), a gradient, and foreground (N, 3, 1, 1), the lighter one.

    In one channel, chosen at random, the two differ by 70 to 125 steps of 256, in the others by 0
    to 125.
    """
    base = draws.between(0, 130, images, 10, 3, 1, 1)
    slope = draws.between(-1.2, 1.2, images, 20, 3, 2, 1, 1)
    x, y = _grid()
    background = base + slope[:, :, 0] * x + slope[:, :, 1] * y
    difference = draws.between(0, 125, images, 30, 3, 1, 1)
    strong = integers(draws.bits(images, 40), 0, 2)
    difference[np.arange(len(images)), strong] = draws.between(70, 125, images, 41, 1, 1)
    return background, base + difference


def _add_dots(canvas: np.ndarray, images: np.ndarray, draws: _Draws) -> np.ndarray:
    """Dots of any colour, radius 1 to 3 pixels, on the background."""
    x, y = _grid()
    for dot in range(_DOTS):
        place = draws.between(-16, 16, images, 50 + 10 * dot, 2, 1, 1)
        radius = draws.between(1, 3, images, 53 + 10 * dot, 1, 1)
        colour = draws.between(0, 255, images, 54 + 10 * dot, 3, 1, 1)
        covered = np.clip(0.5 - (_length(x - place[:, 0], y - place[:, 1]) - radius), 0, 1)
        canvas = canvas + (colour - canvas) * covered[:, None]
    return canvas


def _noise(images: np.ndarray, draws: _Draws) -> np.ndarray:
    """Even noise on each pixel and channel, up to 5 to 25 steps either way, by image."""
    words = 3 * SIZE * SIZE // 8
    levels = draws.bits(images, 1000, words).astype("<u8").view(np.uint8)
    strength = draws.between(5, 25, images, 6, 1, 1, 1) / 128
    return (levels.reshape(-1, 3, SIZE, SIZE) - 127.5) * strength


def _table(function: Callable[[float], float]) -> np.ndarray:
    """`function` at 256 angles, rounded to multiples of 2**-20, so equal on every machine."""
    angles = (2 * math.pi * step / 256 for step in range(256))
    return np.array([round(function(angle) * 2**20) / 2**20 for angle in angles])


_COSINES, _SINES = _table(math.cos), _table(math.sin)


# --- the ten shapes: distance of the points (u, v), within about 0.9 of the origin -------------


def _length(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disk(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _length(u, v) - 0.8


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(_length(u, v) - 0.65) - 0.18


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(_length(u, v) - 0.88, 0.74 - _length(u - 0.46, v))


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(-v, 0.8660254 * np.abs(u) + 0.5 * v) - 0.48


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.68, 0.68)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, 0.9, 0.25), _box(u, v, 0.25, 0.9))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points at distance 1, folded onto one by the mirrors of the pentagram."""
    u = np.abs(u)
    for mirror_u, mirror_v in ((0.80901699, -0.58778525), (-0.80901699, -0.58778525)):
        beyond = 2 * np.maximum(mirror_u * u + mirror_v * v, 0)
        u, v = u - beyond * mirror_u, v - beyond * mirror_v
    u, v = np.abs(u), v - 1
    edge_u, edge_v = 0.45 * 0.58778525, 0.45 * 0.80901699 - 1
    along = np.clip((u * edge_u + v * edge_v) / (edge_u**2 + edge_v**2), 0, 1)
    outside = v * edge_u - u * edge_v
    return _length(u - along * edge_u, v - along * edge_v) * np.where(outside < 0, -1, 1)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square on its tip and a disk on each of its upper sides."""
    u, v = np.abs(u), v + 0.08
    return np.minimum((u + np.abs(v) - 0.68) * 0.70710678, _length(u - 0.34, v - 0.34) - 0.48083261)


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    head = np.maximum(-v, (np.abs(u) + v - 0.92) * 0.70710678)
    return np.minimum(head, _box(u, v + 0.4, 0.2, 0.5))


def _hourglass(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(v) - 0.78, (np.abs(u) - 0.8 * np.abs(v) - 0.06) * 0.78086881)


CLASSES: dict[str, Distance] = {
    "disk": _disk,
    "ring": _ring,
    "crescent": _crescent,
    "triangle": _triangle,
    "square": _square,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
    "arrow": _arrow,
    "hourglass": _hourglass,
}
"""Class names, in the order of their labels, and what draws them."""
