"""Which kernels exist: for each source file, the names that its templates are compiled under.

A name is also what a launcher asks for, so a kernel that is not listed here cannot be launched, and
the test that compiles this list compiles everything that a training can ask for.
"""

from __future__ import annotations

from typing import NamedTuple

TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""NumPy's names of the activation types, and CUDA's."""

HALF_TYPES = ("__half", "__nv_bfloat16")

VECTOR = {"float": 4, "__half": 8, "__nv_bfloat16": 8}
"""How many values 16 bytes hold."""

STEP, STAGES = 32, 3
"""As in conv.cu: the length of one step of the inner product, and how many are under way."""


class Tile(NamedTuple):
    """A block's share of a matrix, rows x columns, and that of each of its warps."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * 32

    def kernel(self, name: str, dtype: str) -> str:
        """The instantiation of template `name` for this tile."""
        return f"{name}<{dtype}, {', '.join(str(size) for size in self)}>"

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory: the pipeline, or the finished tile."""
        pipeline = STAGES * (self.rows + self.columns) * STEP * 2
        return max(pipeline, self.rows * (self.columns + 8) * 2)


CONVOLVE_TILES = (
    Tile(128, 128, 64, 32),
    Tile(128, 64, 32, 32),
    Tile(128, 32, 32, 16),
    Tile(128, 16, 16, 16),
)
WEIGHT_TILES = (Tile(128, 128, 64, 32), Tile(64, 64, 32, 32), Tile(32, 32, 16, 16),
                Tile(16, 16, 16, 16))


HOPPER_STEP = 64
"""As in hopper.cuh: the length of one step of the inner product."""

HOPPER_THREADS = {"wgmma": 384, "tma": 288}
"""Threads per block, multiplying and copying, of conv_wgmma.cu and of conv_tma.cu."""

_SLACK = 1024 + 16 * 8
"""Bytes for the alignment of shared memory to 1024 and for the barriers of eight stages."""


class HopperTile(NamedTuple):
    """128 rows x `columns` of a convolution, and how many steps are under way."""

    columns: int
    stages: int

    rows = 128
    threads = HOPPER_THREADS["wgmma"]

    def kernel(self, name: str, dtype: str, rung: str = "wgmma") -> str:
        """The instantiation of template `name` for this tile, in conv_<rung>.cu."""
        return f"{name}_{rung}<{dtype}, {self.columns}, {self.stages}>"

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory: the pipeline, or the finished tile and its statistics."""
        pipeline = self.stages * (self.rows + self.columns) * HOPPER_STEP * 2
        finished = self.rows * (self.columns + 8) * 2 + 2 * 8 * self.columns * 4
        return max(pipeline, finished) + _SLACK


class HopperWeightTile(NamedTuple):
    """64 `below` rows (K) x 64 `beside` columns (R S C) of a weight gradient."""

    below: int
    beside: int
    stages: int

    threads = HOPPER_THREADS["wgmma"]

    @property
    def rows(self) -> int:
        """Of K."""
        return 64 * self.below

    @property
    def columns(self) -> int:
        """Of R S C."""
        return 64 * self.beside

    def kernel(self, name: str, dtype: str, rung: str = "wgmma") -> str:
        """The instantiation of template `name` for this tile, in conv_<rung>.cu."""
        return f"{name}_{rung}<{dtype}, {self.below}, {self.beside}, {self.stages}>"

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory: the pipeline."""
        return self.stages * (self.rows + self.columns) * HOPPER_STEP * 2 + _SLACK


HOPPER_TILES = (
    HopperTile(256, 4),
    HopperTile(128, 6),
    HopperTile(64, 4),
    HopperTile(32, 4),
    HopperTile(16, 4),
)
HOPPER_WEIGHT_TILES = (
    HopperWeightTile(2, 4, 4),
    HopperWeightTile(2, 2, 6),
    HopperWeightTile(1, 4, 4),
)

HOPPER_SOURCES = ("conv_wgmma", "conv_tma")
"""Sources that compile for sm_90a alone."""


def _vectors(*names: str) -> list[str]:
    return [
        f"{name}<{dtype}, {width}>"
        for name in names
        for dtype in VECTOR
        for width in (VECTOR[dtype], 1)
    ]


def _types(*names: str) -> list[str]:
    return [f"{name}<{dtype}>" for name in names for dtype in VECTOR]


def _hopper(rung: str) -> list[str]:
    tiles = {"convolve": HOPPER_TILES, "weight_gradient": HOPPER_WEIGHT_TILES}
    return [
        tile.kernel(name, dtype, rung)
        for name in tiles
        for dtype in HALF_TYPES
        for tile in tiles[name]
    ]


def _wider(name: str) -> list[str]:
    """For a gradient of the activation type or of float32."""
    return [f"{name}<{a}, {b}>" for a in VECTOR for b in VECTOR if a in ("float", b)]


INSTANTIATIONS: dict[str, list[str]] = {
    "batch_norm": [
        *_vectors("moments", "normalize", "gradient_sums", "input_gradient"),
        "finish_moments",
        "running_affine",
        "finish_gradient",
    ],
    "columns": _types("im2col", "col2im"),
    "conv": [
        *(tile.kernel("convolve", dtype) for dtype in HALF_TYPES for tile in CONVOLVE_TILES),
        *(tile.kernel("weight_gradient", dtype) for dtype in HALF_TYPES for tile in WEIGHT_TILES),
        "add_slabs",
    ],
    "conv_tma": _hopper("tma"),
    "conv_wgmma": _hopper("wgmma"),
    "distortion": [
        "draw_jitter",
        "draw_cutout",
        "draw_mixing",
        "mixed_targets",
        *_types("color_jitter", "cutout", "take_images", "mixup", "cutmix"),
    ],
    "dropout": [*_types("dropout_forward"), *_wider("dropout_backward")],
    "elementwise": [
        *_vectors("add", "relu_forward", "relu_backward"),
        *_types("shortcut_forward", "shortcut_backward"),
        *(f"pack<{a}, {b}>" for a in VECTOR for b in VECTOR),
    ],
    "images": ["draw", "take_labels", *_types("augment")],
    "loss": _types("cross_entropy", "cross_entropy_gradient"),
    "optimizer": [
        "sgd",
        "adam",
        "rmsprop",
        "average",
        "scale",
        "clip",
        "sum_of_squares",
        "finish_sum",
    ],
    "pooling": [
        *_types("average_forward", "max_forward", "max_backward"),
        *_wider("average_backward"),
    ],
    "resizing": _types("upsample_forward", "upsample_backward"),
    "scaling": ["unscale", "update_scale", "count_update"],
    "step": [
        "copy_values",
        "copy_pieces",
        "add_squares",
        "clip_factor",
        "set_numbers",
        *_types("add_bias", "column_sums", "count_batch"),
    ],
    "weights": [f"copy_weights<{dtype}>" for dtype in HALF_TYPES],
}
