"""Activations and gradients by layer, against PyTorch; and what augmentation shows."""

from __future__ import annotations

import numpy as np
import pytest

from minires.analysis.augmented import SHOWN, each_kind, variants
from minires.analysis.courses import all_courses, course_of
from minires.analysis.signals import signals
from minires.backend import CPU
from minires.data import load_dataset
from minires.models import build
from minires.nn import observe, observe_gradients
from minires.training.config import TrainConfig


@pytest.fixture(scope="module")
def shapes():
    return load_dataset("shapes", "train", "nowhere")


def test_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    torch_models = pytest.importorskip("torch_models")
    twin = torch_models.randomize(torch_models.build_torch("resnet8"), seed=2).train()
    model = build("resnet8", device=CPU)
    model.load_state_dict(torch_models.to_arrays(twin))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 10, 4)
    before = model.state_dict()
    found = {signal.name: signal for signal in signals(model, x, labels)}
    assert list(found)[0] == "conv1" and list(found)[-1] == "fc" and len(found) == 8

    kept = {}

    def keep(name):
        def hook(module, inputs, output):
            output.retain_grad()
            kept[name] = (inputs[0].detach().numpy(), output)

        return hook

    for name in found:
        twin.get_submodule(name).register_forward_hook(keep(name))
    torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels)).backward()
    for name, signal in found.items():
        entering, output = kept[name]
        quantiles = np.quantile(entering, [0.05, 0.5, 0.95])
        np.testing.assert_allclose(signal.entering, quantiles, rtol=1e-3, atol=1e-3)
        assert signal.zeros == pytest.approx(float((entering == 0).mean()), abs=1e-3)
        gradient = float(output.grad.square().mean().sqrt())
        assert signal.gradient == pytest.approx(gradient, rel=1e-3)
        weight = twin.get_submodule(name).weight
        assert signal.update == pytest.approx(
            float(weight.grad.norm() / weight.detach().norm()), rel=1e-3
        )
    assert 0.2 < found["layer2.0.conv2"].zeros < 0.8
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_observed_gradients_come_in_reverse_and_leave_nothing_behind():
    model = build("resnet8", width=0.25, device=CPU)
    forward, backward = [], []
    x = np.zeros((2, 3, 32, 32), dtype=np.float32)
    with (
        observe(model, lambda name, module, x, y: forward.append(name)),
        observe_gradients(model, lambda name, module, grad: backward.append(name)),
    ):
        model.backward(np.ones_like(model(x)))
    leaves = [name for name, module in model.named_modules() if not list(module.named_children())]
    assert sorted(backward) == sorted(leaves)
    assert [n for n in forward if "conv" in n] == [n for n in reversed(backward) if "conv" in n]
    assert not any("backward" in vars(module) for module in model.modules())


def test_variants_are_what_the_loader_gives(shapes):
    config = TrainConfig(dataset="shapes", crop_padding=0, flip=True)
    found = variants(config, shapes, 7, 12, "flip")
    image = shapes.images[7]
    mirrored = image[:, :, ::-1]
    same = [np.array_equal(one, image) for one in found.images]
    assert all(s or np.array_equal(o, mirrored) for s, o in zip(same, found.images, strict=True))
    assert 0 < sum(same) < 12
    assert set(found.captions) == {""}


def test_each_kind_alone_changes_the_image_in_its_own_way(shapes):
    kinds = each_kind(TrainConfig(dataset="shapes"), shapes, 3, 6)
    assert [kind.name for kind in kinds] == list(SHOWN)
    for kind in kinds:
        assert kind.images.shape == (6, 3, 32, 32) and kind.images.dtype == np.uint8
        assert not all(np.array_equal(one, shapes.images[3]) for one in kind.images)
    mixed = [all("%" in caption for caption in kind.captions) for kind in kinds]
    assert mixed == [False, False, False, True, True]


def test_a_course_is_the_schedule_of_the_training():
    course = course_of(TrainConfig(schedule="step", lr=0.3, epochs=8, gamma=0.5), 10)
    rates = dict(zip(course.epochs, course.rates, strict=True))
    assert [rates[e] for e in (0.0, 3.9, 4.0, 5.9, 6.0)] == pytest.approx(
        [0.3, 0.3, 0.15, 0.15, 0.075]
    )
    assert not course.momentum
    cycle = course_of(TrainConfig(schedule="one-cycle", cycle_momentum=True, epochs=10), 10)
    assert cycle.rates.index(max(cycle.rates)) == cycle.momentum.index(min(cycle.momentum)) == 29
    names = [course.name for course in all_courses(TrainConfig())]
    assert names == ["constant", "step", "cosine", "one-cycle", "cosine-restarts"]
