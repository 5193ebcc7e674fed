r"""The loss around trained weights, along random directions.

For weights $\theta$ and directions $d_1, d_2$ it is $L(\theta + a d_1 + b d_2)$ over a grid of
$(a, b)$. Networks differ in the size of their weights, and batch norm makes that size meaningless,
so each filter of a direction gets the norm of the same filter of $\theta$: a step of 1 is then as
long as the weights themselves, in every network. Biases and batch norm stay as they are, and the
network runs in evaluation mode.

Source: Li, Xu, Taylor, Studer and Goldstein 2018, "Visualizing the loss landscape of neural nets",
sections 4 and 5.
"""

from __future__ import annotations

import io
import json
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minires.atomic import write_atomically
from minires.backend import Array, Device, array_module, to_device, to_host
from minires.errors import Interrupted, UsageError
from minires.functional.loss import cross_entropy_forward
from minires.models.network import Network
from minires.training.trained import Trained

SAVE_EVERY = 5.0
"""Seconds between two writings of an unfinished grid."""

Direction = dict[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """Which points are computed: `points` on each of `dims` (1 or 2) axes, from -span to span.

    The directions are drawn from `seed`; the loss is that of the first `images` images of `split`.
    """

    dims: int = 1
    points: int = 41
    span: float = 1.0
    seed: int = 0
    images: int = 500
    split: str = "train"

    @property
    def axis(self) -> np.ndarray:
        """The places along an axis; an odd number of them has the trained weights in the middle."""
        return np.linspace(-self.span, self.span, self.points)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the grid."""
        return (self.points,) * self.dims


@dataclass
class Grid:
    """Loss and accuracy of one network, float64 of the plan's shape, and what is `done` so far."""

    fingerprint: str
    loss: np.ndarray
    accuracy: np.ndarray
    done: np.ndarray


def random_direction(model: Network, seed: int, number: int) -> Direction:
    """Direction `number` of `seed`, filter-normalised: an array for each parameter's name."""
    generator = np.random.Generator(np.random.PCG64([seed, number]))
    direction = {}
    for name, parameter in model.named_parameters():
        weight = to_host(parameter.data)
        direction[name] = filter_normalized(generator.standard_normal(weight.shape), weight)
    return direction


def filter_normalized(direction: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`direction` with each filter, direction[k], as long as weight[k]; 0 for biases and scales."""
    if weight.ndim < 2:
        return np.zeros(weight.shape)
    axes = tuple(range(1, weight.ndim))
    own = np.sqrt((direction**2).sum(axis=axes, keepdims=True))
    wanted = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
    return direction * (wanted / own)


class Landscape:
    """The grids of several networks, computed point by point and kept in a file as they grow."""

    def __init__(self, runs: Sequence[Trained], plan: Plan, file: Path) -> None:
        """Take up what `file` holds; `UsageError` if it belongs to other weights or points."""
        self.runs, self.plan, self.file = runs, plan, file
        shape = plan.shape
        self.grids = [
            Grid(_fingerprint(run), np.full(shape, np.nan), np.full(shape, np.nan),
                 np.zeros(shape, dtype=bool))
            for run in runs
        ]  # fmt: skip
        if file.exists():
            self._load()
        elif not file.resolve().parent.is_dir():
            raise UsageError(f"--grid {file}: its folder does not exist")

    @property
    def total(self) -> int:
        """The number of points of all networks."""
        return sum(grid.done.size for grid in self.grids)

    @property
    def finished(self) -> int:
        """How many of them are done."""
        return sum(int(grid.done.sum()) for grid in self.grids)

    def compute(self, on_point: Callable[[int, int], None] | None = None) -> None:
        """Compute what is missing; `on_point(done, all)` follows each point.

        Ctrl-C saves what there is and becomes `Interrupted`.
        """
        saved = time.monotonic()
        try:
            for run, grid in zip(self.runs, self.grids, strict=True):
                for _ in self._points(run, grid):
                    if on_point is not None:
                        on_point(self.finished, self.total)
                    if time.monotonic() - saved > SAVE_EVERY:
                        self.save()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            self.save()
            raise Interrupted(
                f"{self.finished} of {self.total} points are kept in {self.file}; "
                "the same command goes on from there"
            ) from None
        self.save()

    def save(self) -> None:
        """Write the grids, whole or not at all."""
        arrays = {}
        for number, grid in enumerate(self.grids):
            arrays |= {f"{name}{number}": getattr(grid, name) for name in _ARRAYS}
        content = io.BytesIO()
        np.savez(content, about=np.array(json.dumps(self._about())), **arrays)
        write_atomically(self.file, content.getvalue())

    def _about(self) -> dict:
        return {**asdict(self.plan), "weights": [grid.fingerprint for grid in self.grids]}

    def _load(self) -> None:
        try:
            with np.load(self.file, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"--grid {self.file}: holds no landscape; delete it or choose another"
            ) from error
        if about != self._about():
            other = [name for name, value in self._about().items() if about.get(name) != value]
            raise UsageError(
                f"--grid {self.file}: belongs to another landscape (other {', '.join(other)}); "
                "delete it or choose another file"
            )
        for number, grid in enumerate(self.grids):
            for name in _ARRAYS:
                getattr(grid, name)[...] = arrays[f"{name}{number}"]

    def _points(self, run: Trained, grid: Grid) -> Iterator[None]:
        """Compute the missing points of one network, one each time."""
        if grid.done.all():
            return
        model = run.model().eval()
        surface = _Surface(model, run.device, self.plan)
        dataset, indices = run.images(self.plan.split)
        batches = list(run.loader(dataset, indices[: self.plan.images]).epoch(0))
        axis = self.plan.axis
        for place in np.argwhere(~grid.done):
            surface.move([float(axis[k]) for k in place])
            grid.loss[tuple(place)], grid.accuracy[tuple(place)] = _measure(model, batches)
            grid.done[tuple(place)] = True
            yield


_ARRAYS = ("loss", "accuracy", "done")


class _Surface:
    """A network whose weights can be moved along the directions of a plan."""

    def __init__(self, model: Network, device: Device, plan: Plan) -> None:
        drawn = [random_direction(model, plan.seed, number) for number in range(plan.dims)]
        self._parts = []
        for name, parameter in model.named_parameters():
            if parameter.data.ndim < 2:
                continue
            center = parameter.data.copy()
            steps = [to_device(d[name].astype(center.dtype), device) for d in drawn]
            self._parts.append((parameter, center, steps))

    def move(self, place: Sequence[float]) -> None:
        """Set the weights to the trained ones plus `place`[k] times direction k."""
        for parameter, center, steps in self._parts:
            moved = center
            for share, step in zip(place, steps, strict=True):
                moved = moved + center.dtype.type(share) * step
            parameter.data[...] = moved


def _measure(model: Network, batches: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """Mean loss, infinite where it overflows, and accuracy."""
    loss, hits, images = 0.0, 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # far away, the logits may overflow
        for x, labels in batches:
            logits = model(x)
            xp = array_module(logits)
            value = float(cross_entropy_forward(logits, labels)[0])
            loss += len(labels) * (value if np.isfinite(value) else np.inf)
            hits += int((xp.argmax(logits, axis=1) == labels).sum())
            images += len(labels)
    return loss / images, hits / images


def _fingerprint(run: Trained) -> str:
    """SHA-256 of the weights and of the images that they were trained on."""
    import hashlib

    digest = hashlib.sha256(run.checkpoint.data_fingerprint.encode())
    for name, array in sorted(run.model().state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
