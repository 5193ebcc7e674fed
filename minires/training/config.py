"""Every decision of a training, as one frozen record.

The fields below are the single source: the options of `train`, their help, the keys that a TOML
file may hold and all range checks are read from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from minires.errors import CheckpointError, UsageError
from minires.spelling import nearest
from minires.training.values import check_blocks, check_milestones, check_value, toml_value

CYCLE_SHAPES = ("cosine", "linear")
DATASETS = ("cifar10", "cifar100", "shapes")
SCHEDULES = ("constant", "step", "cosine", "one-cycle", "cosine-restarts", "plateau")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def _option(default: Any, help: str, **more: Any) -> Any:
    """A field with its help and checks.

    more: `kind` (a type, default: that of `default`; for `tuple`, `check` is the function that
    checks the values, and `item` the type of each), `choices`, `low` and `high` (allowed range,
    ends included), `above` (a lower end that is not allowed itself), `same_result` (True where
    another value gives the same training, up to rounding), `shown` (the default in words).
    """
    kind = more.pop("kind", type(default))
    return field(default=default, metadata={"help": help, "kind": kind, **more})


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training; see the help text of each field."""

    dataset: str = _option("cifar10", "Data set.", choices=DATASETS)
    data_dir: str | None = _option(
        None,
        "Folder that holds the data (or MINIRES_DATA).",
        kind=str,
        same_result=True,
        shown="./data",
    )
    limit: int = _option(0, "Use only the first so many images of each split; 0: all.", low=0)
    model: str = _option("resnet20", "A network by name: resnet20, resnet9, vgg16, cnn, ...")
    width: float = _option(1.0, "Factor on the number of channels.", above=0.0, high=64.0)
    plain: bool = _option(False, "Take the shortcuts out of the network.")
    blocks: tuple[int, ...] | None = _option(
        None,
        "Blocks (or convolutions) in each stage, such as 3,4,3.",
        kind=tuple,
        item=int,
        check=check_blocks,
        shown="the family's own",
    )
    shortcut: str | None = _option(
        None,
        "A: subsample and pad, no parameters; B: projection.",
        kind=str,
        choices=("A", "B"),
        shown="the family's own",
    )
    zero_init_residual: bool = _option(False, "Start each block's last batch norm at zero.")
    dropout: float = _option(0.0, "Share of values dropped inside the blocks.", low=0.0, high=0.95)
    head_dropout: float | None = _option(
        None,
        "Share of values dropped in front of the classes.",
        kind=float,
        low=0.0,
        high=0.95,
        shown="the family's own",
    )
    stem: str | None = _option(
        None,
        "First layers: cifar is 3x3; imagenet is 7x7 with stride 2 and a max pool.",
        kind=str,
        choices=("cifar", "imagenet"),
        shown="the family's own",
    )
    upsample: int | None = _option(
        None,
        "Enlarge the images by this factor in front of the network.",
        kind=int,
        low=1,
        high=16,
        shown="the family's own",
    )
    max_parameters: int = _option(
        0, "Refuse a network with more parameters; 0: no limit.", low=0, same_result=True
    )
    pretrained: str | None = _option(
        None,
        "Begin with the weights in this safetensors file, by torchvision's names.",
        kind=str,
        shown="none",
    )
    freeze: str | None = _option(
        None,
        "Parts that are not trained: names or patterns with commas; body is all but the head.",
        kind=str,
        shown="none",
    )
    whiten: bool = _option(False, "Fix the first convolution so that it whitens image patches.")
    epochs: int = _option(20, "Passes over the training images.", low=1)
    batch_size: int = _option(128, "Images per step.", low=1)
    lr: float = _option(0.2, "Learning rate per step; the peak of the schedule.", above=0.0)
    body_lr_factor: float = _option(
        1.0, "Factor on the rate of all layers but the last, as for a pretrained body.", low=0.0
    )
    optimizer: str = _option("sgd", "How gradients become updates.", choices=OPTIMIZERS)
    momentum: float = _option(0.9, "Momentum of SGD.", low=0.0, high=0.9999)
    nesterov: bool = _option(True, "Nesterov's form of momentum.")
    beta1: float = _option(0.9, "Adam: share of the old mean.", low=0.0, high=0.9999)
    beta2: float = _option(0.999, "Adam: share of the old mean square.", low=0.0, high=0.999999)
    eps: float = _option(1e-8, "Adam and RMSprop: added to the divisor.", low=0.0)
    rms_alpha: float = _option(0.99, "RMSprop: share of the old mean square.", low=0.0, high=0.9999)
    rms_momentum: float = _option(0.0, "RMSprop: momentum.", low=0.0, high=0.9999)
    rms_centered: bool = _option(False, "RMSprop: divide by the deviation from the mean.")
    weight_decay: float = _option(5e-4, "Weight decay, added to the gradient.", low=0.0)
    decay_all: bool = _option(True, "Decay batch norm and biases too, as PyTorch does.")
    schedule: str = _option("one-cycle", "Course of the learning rate.", choices=SCHEDULES)
    warmup: float | None = _option(
        None,
        "Share of all steps in which the rate rises.",
        kind=float,
        low=0.0,
        high=0.95,
        shown="0.3 for one-cycle, else 0",
    )
    milestones: tuple[float, ...] = _option(
        (0.5, 0.75),
        "Step schedule: where the rate drops, as shares of all steps.",
        kind=tuple,
        item=float,
        check=check_milestones,
    )
    gamma: float = _option(
        0.1, "Step and plateau schedules: factor of each drop.", above=0.0, high=1.0
    )
    cycle_momentum: bool = _option(
        False, "One-cycle: the momentum goes from 0.95 to 0.85 and back, against the rate."
    )
    cycle_shape: str = _option(
        "cosine", "One-cycle: half cosines, or the three lines of the paper.", choices=CYCLE_SHAPES
    )
    cycles: int = _option(3, "Cosine with restarts: how many falls.", low=1, high=1000)
    cycle_growth: float = _option(
        2.0, "Cosine with restarts: length of a fall by that before.", low=1.0, high=100.0
    )
    plateau_patience: int = _option(
        5, "Plateau schedule: epochs without a lower validation loss before a drop.", low=0
    )
    clip_norm: float = _option(0.0, "Largest norm of all gradients together; 0: any.", low=0.0)
    clip_value: float = _option(0.0, "Largest component of a gradient; 0: any.", low=0.0)
    ema: float = _option(
        0.0,
        "Average the weights, keeping this share of the average in each step; 0: do not.",
        low=0.0,
        high=0.999999,
    )
    patience: int = _option(
        0, "Stop after so many epochs without a better validation; 0: never.", low=0
    )
    label_smoothing: float = _option(0.0, "Label smoothing.", low=0.0, high=0.99)
    augment: bool = _option(True, "Crop and flip the training images at random.")
    crop_padding: int = _option(4, "Pixels added on each side before the crop.", low=0, high=16)
    flip: bool = _option(True, "Mirror half of the images.")
    color_jitter: float = _option(
        0.0, "Brightness and contrast vary by up to this share; 0: not.", low=0.0, high=1.0
    )
    cutout: int = _option(
        0, "Side of a square of the mean colour, in pixels; 0: none.", low=0, high=64
    )
    mixup: float = _option(
        0.0, "Blend pairs of images, shares from Beta(this, this); 0: not.", low=0.0, high=100.0
    )
    cutmix: float = _option(
        0.0, "Paste a part of another image, shares from Beta(this, this); 0: not.", low=0.0,
        high=100.0,
    )  # fmt: skip
    mix_share: float = _option(1.0, "Share of images that mixup or cutmix take.", low=0.0, high=1.0)
    tta: bool = _option(False, "Validate and test on the mean of an image and its mirror.")
    val_split: float = _option(
        0.1, "Training images held out: a share below 1, else a count; 0: none.", low=0.0
    )
    seed: int = _option(0, "Seed of the weights, order, augmentation and split.", low=0)
    device: str = _option("auto", "auto, cpu, gpu or gpu:1.", same_result=True)
    precision: str = _option(
        "fp32",
        "Type of the activations on a GPU: tf32, bf16 and fp16 use its tensor cores.",
        choices=PRECISIONS,
    )
    graph: bool = _option(
        True, "On a GPU, run the steps as one CUDA graph; the bits are the same.", same_result=True
    )
    threads: int | None = _option(
        None, "CPU threads.", kind=int, low=1, same_result=True, shown="all cores"
    )
    processes: int | None = _option(
        None,
        "CPU processes that share a batch, and the threads, with 32 images each or more.",
        kind=int,
        low=1,
        same_result=True,
        shown="what is fastest",
    )
    conv: str = _option(
        "auto",
        "Convolution kernels: auto picks the fastest, direct avoids Winograd.",
        choices=("auto", "direct"),
        same_result=True,
    )
    save_every: int = _option(
        200, "Save a checkpoint after so many steps, besides each epoch.", low=1, same_result=True
    )
    log_every: int = _option(20, "Write a line of the log after so many steps.", low=1)
    eval_batch_size: int | None = _option(
        None,
        "Images per step of evaluation.",
        kind=int,
        low=1,
        same_result=True,
        shown="as --batch-size",
    )

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that do not go together."""
        if self.cycle_momentum and self.schedule != "one-cycle":
            raise UsageError("--cycle-momentum: only goes with --schedule one-cycle")
        if self.cycle_momentum and self.optimizer == "rmsprop":
            raise UsageError("--cycle-momentum: only goes with sgd, adam and adamw")
        if self.whiten and self.pretrained:
            raise UsageError("--whiten and --pretrained: both give the first weights; choose one")
        if self.val_split == 0 and self.schedule == "plateau":
            raise UsageError("--schedule plateau: needs a validation, --val-split 0 leaves none")
        if self.val_split == 0 and self.patience:
            raise UsageError("--patience: needs a validation, --val-split 0 leaves none")

    @property
    def model_options(self) -> dict[str, Any]:
        """The keyword arguments of `minires.models.build` beside the name and the classes."""
        return {name: getattr(self, name) for name in ("seed", *MODEL_OPTIONS)}

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> TrainConfig:
        """The config that a checkpoint keeps; `CheckpointError` if it is not one of this version.

        source: what to name in an error, for example the file.
        """
        try:
            return cls(**check_layer(values, f"{source}: ", allow_none=True))
        except UsageError as error:
            raise CheckpointError(f"{error} (written by another version of minires?)") from None

    def differences(self, other: TrainConfig) -> list[str]:
        """The fields that change the result and differ, as "epochs: 6 here, 10 there" lines."""
        return [
            f"{name}: {getattr(self, name)} in the run, {getattr(other, name)} asked for"
            for name in FIELDS
            if name not in SETTINGS and getattr(self, name) != getattr(other, name)
        ]

    def to_toml(self) -> str:
        """The config as a TOML file that `--config` reads."""
        lines = ["# The config of this run; train --config FILE repeats it."]
        lines += [
            f"{name} = {toml_value(value)}"
            for name, value in self.to_dict().items()
            if value is not None
        ]
        return "\n".join(lines) + "\n"


MODEL_OPTIONS = (
    *("width", "blocks", "plain", "shortcut", "zero_init_residual"),
    *("dropout", "head_dropout", "stem", "upsample"),
)
"""The fields that describe the network beside its name."""

FIELDS: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(TrainConfig)}
"""Field name: help, kind and checks."""

SETTINGS = frozenset(name for name, spec in FIELDS.items() if spec.get("same_result"))
"""The fields that leave the training as it is: the data's folder, the device, when to save, ..."""


def option_name(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def check_layer(values: Mapping[str, Any], source: str, allow_none: bool = False) -> dict[str, Any]:
    """`values` with each key and value checked, and `depth` turned into `model`.

    source: what an error begins with, for example "my.toml: "; empty for the command line.
    """
    checked = {}
    for key, value in values.items():
        label = f"{source}{key}" if source else option_name(key)
        if key == "depth":
            if "model" in values:
                raise UsageError(f"{label}: give the depth or the model, not both")
            checked["model"] = _model_for_depth(value, source, label)
        elif key not in FIELDS:
            raise UsageError(f"{label}: unknown key{nearest(key, ['depth', *FIELDS])}")
        elif value is None and allow_none:
            checked[key] = None
        else:
            checked[key] = check_value(value, FIELDS[key], label)
    return checked


def _model_for_depth(depth: Any, source: str, label: str) -> str:
    if type(depth) is not int:
        raise UsageError(f"{label}: must be a whole number, not {depth!r}")
    from minires.models import name_for_depth

    try:
        return name_for_depth(depth)
    except UsageError as error:
        raise UsageError(f"{source}{error}") from None
