"""The classic checks before a long training: small trials that show the usual mistakes.

Source: Karpathy 2019, "A recipe for training neural networks", steps 2 and 3; the ratio of update
to weight is from the notes of Stanford's CS231n, "Neural networks 3".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minires.backend import Array, array_module, observe_operations, to_host
from minires.functional.loss import cross_entropy_forward
from minires.nn import Conv2d, Dropout, observe
from minires.optim import gradient_norm
from minires.training.config import TrainConfig
from minires.training.setup import make_eval_loader
from minires.training.throwaway import Throwaway

IMAGES = 64
WARM_UP, MEASURED = 10, 20
"""The rate rises in the first steps; the updates after them, up to this step, are measured."""

LARGEST_LOSS, LARGEST_GRADIENT = 3.0, 100.0
"""The first loss as a multiple of ln K (a max pool in front of the last layer makes it 2), and the
norm of the first gradient (1 to 20 where all is well)."""

RATIOS = (1e-5, 1e-1)
"""Where the ratio of update to weight should lie; a good training is near 1e-3, and with batch
norm, which takes the scale of the weights away again, up to 5e-2 at the peak of the rate."""


@dataclass(frozen=True)
class Check:
    """One check: its name, how it went, what was found, and what to do if it failed."""

    name: str
    passed: bool
    found: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def run_checks(
    config: TrainConfig, steps: int = 200, on_check: Callable[[Check], None] | None = None
) -> list[Check]:
    """Try `config` on 64 images, without augmentation and dropout, for `steps` steps at most."""
    trial = _Trial(config, steps)
    checks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an overflow shows in the checks
        for check in trial.checks():
            checks.append(check)
            if on_check is not None:
                on_check(check)
    return checks


class _Trial:
    """A throwaway training on one batch, and what is asked of it."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self.training = Throwaway(config)
        self.config = config
        self.steps = max(steps, MEASURED)
        data = self.training.data
        loader = make_eval_loader(
            config,
            self.training.images,
            data.train_indices[: min(IMAGES, len(data.train_indices))],
            self.training.device,
            data.normalization,
        )
        batches = list(loader.epoch(0))
        xp = array_module(batches[0][0])
        self.x = xp.concatenate([x for x, _ in batches])
        self.labels = xp.concatenate([labels for _, labels in batches])
        self.num_classes = data.num_classes

    def checks(self) -> Iterator[Check]:
        """The checks, each as soon as it is done."""
        yield self.initial_loss()
        yield self.resolution()
        yield self.gradients()
        for module in self.training.model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        dead_at_first = dead_units(self.training.model, self.x)
        yield from self.overfit()
        yield self.dead_relus(dead_at_first)
        yield self.evaluation_mode()

    def initial_loss(self) -> Check:
        """Without knowledge each class has the share 1/K, and the loss is ln K."""
        model, expected = self.training.model, math.log(self.num_classes)
        loss = float(cross_entropy_forward(model.train()(self.x), self.labels)[0])
        return Check(
            "initial loss",
            0.5 * expected < loss < LARGEST_LOSS * expected,
            f"{loss:.3f}; ln {self.num_classes} is {expected:.3f}",
            "The first logits should be small and alike: look at the initial weights of the last "
            "layer, at the normalisation of the images and at the number of classes.",
        )

    def resolution(self) -> Check:
        """A network for 224x224 images shrinks 32x32 to a single pixel long before its end."""
        sides: list[tuple[int, ...]] = []

        def note(name, module, x, y):
            if isinstance(module, Conv2d):
                sides.append(tuple(y.shape[2:]))

        with observe(self.training.model, note):
            self.training.model.train()(self.x[:2])
        side = sides[-1] if sides else tuple(self.x.shape[2:])
        return Check(
            "resolution",
            min(side) >= 2,
            f"the last convolution sees {side[0]}x{side[1]} pixels",
            "Nothing spatial is left for the last layers. A network made for ImageNet halves the "
            "image too often: use --stem cifar, or --upsample in front of it.",
        )

    def gradients(self) -> Check:
        """The first gradient is a finite number of ordinary size."""
        self.training.forward_backward(self.x, self.labels)
        norm = float(gradient_norm(self.training.optimizer))
        return Check(
            "gradient",
            0 < norm < LARGEST_GRADIENT,
            f"norm {norm:.3g} in the first step",
            "An exploding or vanishing gradient: deep plain networks need batch norm or shortcuts; "
            "check the initial weights and the images for NaN. --clip-norm 1 treats the symptom.",
        )

    # --- on one batch -----------------------------------------------------------------------

    def overfit(self) -> Iterator[Check]:
        """Learn the batch by heart; measure the updates on the way."""
        training, xp = self.training, array_module(self.x)
        training.renew()
        for module in training.model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        ratios: list[float] = []
        untouched = {name for name, _ in training.model.trainable_parameters()}
        accuracy, loss, step = 0.0, math.nan, 0
        for step in range(1, self.steps + 1):
            value, logits = training.forward_backward(self.x, self.labels)
            loss = float(value)
            accuracy = float((logits.argmax(axis=1) == self.labels).mean())
            if not math.isfinite(loss) or (accuracy == 1.0 and step > MEASURED):
                break
            if step <= MEASURED:
                gradients = training.model.trainable_parameters()
                untouched -= {name for name, p in gradients if bool(xp.any(p.grad))}
            weights = self._weights()
            before = [w.copy() for w in weights] if WARM_UP < step <= MEASURED else []
            training.update(self.config.lr * min(1.0, step / WARM_UP))
            for old, new in zip(before, weights, strict=False):
                ratios.append(_norm(new - old) / max(_norm(old), 1e-12))
        yield Check(
            "learns 64 images by heart",
            accuracy == 1.0 and math.isfinite(loss),
            f"accuracy {accuracy:.1%}, loss {loss:.3g} after {step} steps at rate "
            f"{self.config.lr:g}",
            "A network that cannot learn one small batch learns nothing. A loss stuck near ln K: "
            "rate far too low, or labels that do not fit the images. A loss that rises or is NaN: "
            "rate too high. lr-find shows a good one; gradcheck checks the derivatives.",
        )
        yield self._update_ratio(ratios)
        shown = ", ".join(sorted(untouched)[:3]) + (" ..." if len(untouched) > 3 else "")
        yield Check(
            "every parameter learns",
            not untouched,
            "all get gradients" if not untouched else f"no gradient ever reached {shown}",
            "These parameters are cut off from the loss: a dead layer in front of them, a branch "
            "that is never used, or a backward pass that forgets them.",
        )

    def _update_ratio(self, ratios: list[float]) -> Check:
        ratio = float(np.median(ratios)) if ratios else math.nan
        low, high = RATIOS
        word = "lower" if ratio > high else "raise"
        return Check(
            "update to weight",
            low < ratio < high,
            f"an update changes a weight by the share {ratio:.1e} (median over layers); "
            "near 1e-3 is good",
            f"The rate does not suit this optimizer: {word} --lr; lr-find helps. SGD likes 0.05 to "
            "0.5 here, Adam 1e-4 to 1e-2.",
        )

    def _weights(self) -> list[Array]:
        """The weights of convolutions and linear layers."""
        return [p.data for _, p in self.training.model.trainable_parameters() if p.data.ndim > 1]

    # --- afterwards -------------------------------------------------------------------------

    def dead_relus(self, at_first: dict[str, float]) -> Check:
        """A unit is dead where its ReLU gives 0 for every image and at every place."""
        shares = dead_units(self.training.model, self.x)
        worst = max(shares, key=lambda name: max(shares[name], at_first[name]), default=None)
        dead = [name for name in shares if max(shares[name], at_first[name]) == 1.0]
        if worst is None:
            found = "there is no ReLU"
        elif dead:
            found = f"nothing passes the ReLU behind {', '.join(dead[:3])}"
        else:
            share = max(shares[worst], at_first[worst])
            found = f"at most {share:.0%} of the units of a layer (behind {worst})"
        return Check(
            "dead ReLUs",
            not dead,
            found,
            "A layer that gives 0 for every image passes no gradient and never recovers: the rate "
            "was too high, or its bias starts far below 0.",
        )

    def evaluation_mode(self) -> Check:
        """In evaluation mode an image's logits depend on this image alone, and nothing changes."""
        model = self.training.model.eval()
        before = {name: to_host(b.data).copy() for name, b in model.named_buffers()}
        first, second, alone = (to_host(model(x)) for x in (self.x, self.x, self.x[:1]))
        after = {name: to_host(b.data) for name, b in model.named_buffers()}
        if not np.isfinite(first).all():
            return Check(
                "evaluation mode",
                False,
                "nothing to compare, the trials above left NaN or infinity in the logits",
                "Mend what failed above first, most likely the rate.",
            )
        tolerance = 1e-3 * max(float(np.abs(first).max()), 1.0)
        faults = []
        if not np.array_equal(first, second):
            faults.append("the same images give other logits the second time")
        elif not float(np.abs(first[:1] - alone).max()) < tolerance:
            faults.append("the logits of an image depend on the others in the batch")
        if any(not np.array_equal(before[name], after[name]) for name in before):
            faults.append("evaluation changes the running statistics")
        model.train()
        return Check(
            "evaluation mode",
            not faults,
            "; ".join(faults) or "the same logits twice, alone and in a batch",
            "A layer behaves as in training: dropout that still drops, or batch norm that uses the "
            "batch instead of its running statistics. Call model.eval() before measuring.",
        )


def dead_units(model: Any, x: Array) -> dict[str, float]:
    """For each ReLU, the share of units (channels) that are 0 for all of x in training mode.

    A ReLU is named by the layer in front of it. Fused units run one by one meanwhile.
    """
    names: list[str] = [""]
    shares: dict[str, float] = {}

    def note_layer(name, module, x, y):
        names.append(name)

    def note_relu(operation, run, args, kwargs):
        result = run(*args, **kwargs)
        if operation == "relu_forward":
            y = result[0]
            axes = tuple(axis for axis in range(y.ndim) if axis != 1)
            shares[names[-1]] = float((y.max(axis=axes) <= 0).mean())
        return result

    with observe(model, note_layer), observe_operations(note_relu):
        model.train()(x)
    return shares


def _norm(values: Array) -> float:
    return float((values * values).sum()) ** 0.5
