from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import minires.nn as nn
from minires.analysis.explain import explain, layer_names, record_step
from minires.analysis.explanations import EXPLANATIONS, explanation_of
from minires.errors import UsageError
from minires.models import build, model_names
from minires.nn import Module, Sequential

ROOT = Path(__file__).parents[2]


def batch(count=4, size=12, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, size, size), dtype=np.float32)
    return x, rng.integers(0, 10, count)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in nn.__all__
        if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), Module)
    ],
)
def test_every_layer_has_an_explanation(name):
    if name not in ("Module", "Sequential"):
        assert explanation_of(name) is not None


@pytest.mark.parametrize("model", model_names())
def test_every_leaf_of_every_network_can_be_explained(model):
    network = build(model, width=0.05)
    known = layer_names(network)
    for name, module in network.named_modules():
        leaf = not list(module.named_children())
        assert name in known or not leaf or not name, name
        assert name in known or isinstance(module, Sequential) or network is module, name


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_the_code_shown_is_what_stands_in_the_file(name):
    explanation = EXPLANATIONS[name]
    network = build(explanation.model, width=0.1, **dict(explanation.options))
    found = explain(network, name, *batch(size=32))
    assert found.sources
    for source in found.sources:
        lines = (ROOT / source.file).read_text(encoding="utf-8").splitlines()
        there = lines[source.line - 1 : source.line - 1 + len(source.lines)]
        assert [line.strip() for line in there] == [line.strip() for line in source.lines]
        assert any(line.lstrip().startswith(("def ", "class ")) for line in source.lines)


def test_the_functions_shown_are_those_that_the_layers_call():
    """The reference functions that run while a layer works are the ones its explanation names."""
    from minires.backend import observe_operations, reference_only

    for name in ("conv", "batch-norm", "relu", "linear", "average-pool", "shortcut"):
        explanation = EXPLANATIONS[name]
        network = build("resnet20", width=0.2)
        _, layer = next(
            (place, module)
            for place, module in [("", nn.ReLU()), *network.named_modules()]
            if type(module).__name__ in explanation.kinds and getattr(module, "need_grad_x", True)
            and place != "conv1"
        )  # fmt: skip
        x = np.random.default_rng(0).standard_normal((2, 6, 4, 4), dtype=np.float32)
        x = x[:, :3] if getattr(layer, "in_channels", 0) == 3 else x
        if name == "linear":
            x = np.ones((2, layer.in_features), np.float32)
        elif name in ("conv", "batch-norm", "shortcut"):
            channels = getattr(layer, "in_channels", getattr(layer, "channels", 3))
            x = np.random.default_rng(0).standard_normal((2, channels, 4, 4), dtype=np.float32)
        called = []

        def note(operation, run, args, kwargs, called=called):
            if not operation.endswith("_in_place"):  # a parameter takes its gradient
                called.append(operation)
            return run(*args, **kwargs)

        with reference_only(), observe_operations(note):
            y = layer.train()(x)
            layer.backward(np.ones_like(y))
        shown = [function.partition(":")[2] for function in explanation.functions]
        called = [operation for operation in called if operation != "add_in_place"]
        assert called == shown, name  # a layer adds the gradients of its parameters as well


def test_the_numbers_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle here")
    torch_models = pytest.importorskip("torch_models")
    network = build("resnet20", width=0.5, dtype="float64")
    twin = torch_models.build_torch("resnet20", widths=(8, 16, 32)).double()
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in network.state_dict().items()})
    x, labels = batch(size=16)
    x = x.astype(np.float64)

    seen = {}

    def keep(module, inputs, output):
        seen["x"], seen["y"] = inputs[0], output
        for tensor in seen.values():
            tensor.retain_grad()

    twin.layer2[0].conv2.register_forward_hook(keep)
    loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(labels))
    loss.backward()

    live = explain(network, "layer2.0.conv2", x, labels).live
    weight = twin.layer2[0].conv2.weight
    expected = {
        "x": seen["x"],
        "y": seen["y"],
        "grad_output": seen["y"].grad,
        "grad_x": seen["x"].grad,
        "weight": weight,
        "gradient of weight": weight.grad,
    }
    assert set(live) == set(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        numbers = live[name]
        assert numbers.shape == tuple(tensor.shape)
        scale = float(tensor.abs().max())
        assert numbers.mean == pytest.approx(float(tensor.mean()), rel=1e-6, abs=1e-9 * scale)
        assert numbers.std == pytest.approx(float(tensor.std(unbiased=False)), rel=1e-6)
        assert numbers.norm == pytest.approx(float(tensor.norm()), rel=1e-6)
    the_loss = explain(network, "loss", x, labels).live["loss"]
    assert the_loss.norm == pytest.approx(float(loss.detach()), rel=1e-6)


def test_a_block_counts_what_is_inside_it():
    network = build("resnet20")
    found = explain(network, "layer2.0", *batch(size=32))
    # Two 3x3 convolutions to 32 channels of 16x16 pixels, from 16 and from 32 channels.
    assert found.multiply_adds == 16 * 16 * 32 * 9 * (16 + 32)
    assert found.parameter_count == 9 * 32 * (16 + 32) + 4 * 32
    assert found.live["x"].shape == (4, 16, 32, 32)
    assert found.live["y"].shape == (4, 32, 16, 16)


def test_nothing_is_left_behind_in_the_layer():
    network = build("resnet20", width=0.25)
    layer = dict(network.named_modules())["layer1.0.conv1"]
    record_step(network, layer, *batch())
    assert "forward" not in vars(layer) and "backward" not in vars(layer)
    assert layer._observer is None


def test_unknown_layers_are_named():
    network = build("resnet20", width=0.25)
    with pytest.raises(UsageError, match="LAYER cnov: unknown; did you mean 'conv'"):
        explain(network, "cnov", *batch())
    with pytest.raises(UsageError, match="did you mean 'layer1.0.conv1'"):
        explain(network, "layer1.0.con1", *batch())
    with pytest.raises(UsageError, match="resnet20 has none; try --model resnet9"):
        explain(network, "max-pool", *batch())
