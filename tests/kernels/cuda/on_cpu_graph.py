"""Training steps as a graph against training steps op by op, on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from kernels.cuda.graph_runtime import GraphTwin

import minires.kernels.cuda  # noqa: F401  (registers the launchers)
from minires import backend
from minires.data.dataset import Dataset
from minires.data.loader import AugmentConfig, Loader
from minires.data.normalization import Normalization
from minires.kernels.cuda import graph as graphs
from minires.kernels.cuda import precision, runtime
from minires.kernels.cuda import weights as copies
from minires.models import build
from minires.nn import CrossEntropyLoss, Parameter, convolution_weights
from minires.optim import SGD, Adam, AdamW, LossScaler, RMSprop, WeightAverage, flat
from minires.training.graph import GraphedStep
from minires.training.step import TrainingStep

STEPS, SIZE = 5, 8

CROPPED = AugmentConfig()
ALL = AugmentConfig(color_jitter=0.2, cutout=3, mixup=0.4, cutmix=1.0, mix_share=0.5)

CASES = {
    "sgd": {},
    "sgd, frozen rates": {"factor": 0.5, "cycle": True},
    "adam, clipped": {"kind": Adam, "clip_norm": 0.5, "clip_value": 0.1},
    "adamw in float16": {"kind": AdamW, "name": "fp16", "scale": 2.0**6},
    "sgd in float16, scale too large": {"name": "fp16", "scale": 2.0**127},
    "adam in float16, scale too large": {"kind": Adam, "name": "fp16", "scale": 2.0**127},
    "rmsprop, averaged": {"kind": RMSprop, "ema": 0.9},
    "bfloat16": {"name": "bf16"},
    "dropout": {"model_options": {"width": 0.25, "dropout": 0.3, "head_dropout": 0.5}},
    "no augmentation": {"augment": None},
    "all of the augmentation, shares as labels": {"name": "fp16", "scale": 2.0**6, "augment": ALL},
    "biases and pooling": {"model": "cnn", "model_options": {"width": 0.125}, "size": 32},
}


def make_loader(augment, size):
    """Three batches of four images in an epoch."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (13, 3, size, size), dtype=np.uint8)
    dataset = Dataset("noise", images, rng.integers(0, 10, 13), tuple("0123456789"))
    return Loader(dataset, np.arange(13), 4, device=backend.CPU,
                  normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=3, augment=augment,
                  shuffle=True, drop_last=True)  # fmt: skip


def batches(loader):
    """(step, epoch, indices) of each step."""
    for step in range(STEPS):
        epoch, number = divmod(step, len(loader))
        yield step, epoch, next(loader.index_batches(epoch, number))


def train(
    graph, kind=SGD, name="fp32", model="resnet8", model_options=None, factor=1.0, cycle=False,
    scale=None, ema=None, clip_norm=0.0, clip_value=0.0, can_capture=True, size=SIZE,
    augment=CROPPED,
):  # fmt: skip
    """Everything that a training leaves behind, and the runtime that it ran on."""
    net = build(model, seed=1, **(model_options or {"width": 0.25}))
    rates = {"lr_factor": lambda n: 1.0 if n.startswith("fc") else factor}
    optimizer = kind(net.named_parameters(), weight_decay=1e-3, **rates)
    net.train()
    scaler = None if scale is None else LossScaler(backend.CPU, scale)
    average = None if ema is None else WeightAverage(net, optimizer, ema)
    work = TrainingStep(
        net, CrossEntropyLoss(0.1), optimizer, scaler, average, clip_norm, clip_value
    )
    totals, said, norms = np.zeros(2), [], []
    with runtime.use(GraphTwin(can_capture)) as twin:
        loader, graphed = make_loader(augment, size), None
        if graph:
            graphed = GraphedStep(work, backend.CPU, totals, said.append, loader.batch)
        for step, epoch, indices in batches(loader):
            lr, momentum = 0.05 / (step + 1), 0.9 - 0.05 * step if cycle else None
            decay = None if average is None else average.decay_after(step + 1)
            if graph:
                graphed.run(indices, epoch, step, lr, momentum, decay)
            else:
                net.set_step(step)
                rate = np.float32(lr)
                x, labels = loader.batch(indices, epoch)
                work.run(x, labels, float(rate), momentum, decay, totals)
            if clip_norm:
                norms.append(np.array(work.gradient_norm).view(np.ndarray)[()])
    parts = [net, optimizer, *(part for part in (scaler, average) if part is not None)]
    result = {"totals": totals, "norms": np.array(norms)}
    for part in parts:
        result |= part.state_dict()
    return result, twin, said


@pytest.fixture(autouse=True)
def launchers(monkeypatch):
    """The GPU's launchers and layouts, on the CPU."""
    kernels = {(op, "cpu"): f for (op, kind), f in backend._kernels.items() if kind == "gpu"}
    monkeypatch.setattr(backend, "_kernels", kernels)
    monkeypatch.setattr(backend, "_fixed_weights", {"cpu": backend._fixed_weights["gpu"]})
    monkeypatch.setattr(flat, "weight_layout", lambda device: (0, 2, 3, 1))
    backend.reset_fallback_counts()


@pytest.mark.parametrize("case", CASES)
def test_a_graph_gives_the_bits_of_single_launches(case, monkeypatch):
    options = CASES[case]
    name = options.get("name", "fp32")
    if name == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: no bfloat16")
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    wanted, eager, _ = train(False, **options)
    got, twin, said = train(True, **options)
    assert not backend.fallback_counts() and not said
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        assert np.array_equal(got[key], value, equal_nan=True), key
    assert len(twin.graphs) == 1, "captured once"
    graph = twin.graphs[0]
    assert graph.launched == STEPS - graphs.WARM_UP
    assert graph.fresh == 0, "the capture needs no new memory"
    one_step = eager.launches[len(eager.launches) // STEPS * (STEPS - 1) :]
    captured = [name for name, _ in graph.captured]
    uncounted = [[n for n in names if n != "count_update"] for names in (captured, one_step)]
    assert uncounted[0] == uncounted[1]
    assert twin.launches.count("set_numbers") == STEPS
    assert len(twin.launches) == graphs.WARM_UP * len(captured) + STEPS
    if options.get("scale", 0) > 2.0**100:
        assert got["loss_scale.scale"] < options["scale"], "a step was left out"


@pytest.mark.parametrize("alone", [(1,), (2,), (1, 2)], ids=str)
def test_a_batch_of_another_size_before_the_capture_leaves_no_trace_in_the_graph(alone):
    """Its number is the host's and its loss is looked at; the masks of dropout show the number."""

    def run(graph):
        net = build("resnet8", seed=1, width=0.25, dropout=0.3, head_dropout=0.5)
        net.train()
        work = TrainingStep(net, CrossEntropyLoss(), SGD(net.named_parameters()))
        totals, said = np.zeros(2), []

        def look(loss):
            if twin.captured is not None:
                raise RuntimeError("the host reads a value back")

        with runtime.use(GraphTwin()) as twin:
            loader = make_loader(CROPPED, SIZE)
            graphed = GraphedStep(work, backend.CPU, totals, said.append, loader.batch)
            for step in range(len(alone) + STEPS):
                epoch, number = divmod(step, len(loader))
                indices = next(loader.index_batches(epoch, number))
                if graph and step not in alone:
                    graphed.run(indices, epoch, step, 0.125, None, None)
                    continue
                net.set_step(step)
                work.check = look
                x, labels = loader.batch(indices[:2] if step in alone else indices, epoch)
                work.run(x, labels, 0.125, None, None, totals)
        assert not said
        return net.state_dict() | {"totals": totals}, twin

    wanted, _ = run(False)
    got, twin = run(True)
    assert twin.graphs[0].launched == STEPS - graphs.WARM_UP
    for key, value in wanted.items():
        assert np.array_equal(got[key], value), key


def test_a_gradient_waits_where_it_is_until_somebody_looks():
    parameter = Parameter(np.ones((2, 3), np.float32))
    group = flat.FlatGroup([("weight", parameter)])
    first, second = (np.full((2, 3), value, np.float32) for value in (2, 5))
    with runtime.use(GraphTwin()) as twin:
        parameter.zero_grad()
        parameter.accumulate(first)
        assert not twin.launches
        assert np.array_equal(group.gradients()[:6], first.ravel())
        assert twin.launches == ["copy_pieces"]
        parameter.accumulate(second)
        assert np.array_equal(parameter.grad, first + second)
        parameter.zero_grad()
        for grad in (second, second, first):  # a parameter with three uses
            parameter.accumulate(grad)
        assert np.array_equal(group.gradients()[:6], (second + second + first).ravel())
        parameter.zero_grad()
        parameter.accumulate(first)
        parameter.zero_grad()
        assert not group.gradients().any()


def test_where_nothing_can_be_captured_it_goes_on_op_by_op():
    wanted, _, _ = train(False)
    got, twin, said = train(True, can_capture=False)
    assert all(np.array_equal(got[key], value) for key, value in wanted.items())
    assert not twin.graphs
    [line] = said
    assert line.startswith("note: no CUDA graph (RuntimeError: cudaErrorStreamCapture")
    assert line.endswith("going on op by op") and "\n" not in line


def test_a_step_that_reads_a_value_back_is_not_captured(monkeypatch):
    """The capture fails half way; the step is then taken op by op, and counted once."""
    from minires.training import step as module

    wanted, _, _ = train(False)
    plain = module.count_batch

    def peek(logits, labels, loss, totals):
        if runtime.current().captured is not None:
            float(loss)
        plain(logits, labels, loss, totals)

    monkeypatch.setattr(module, "count_batch", peek)
    got, twin, said = train(True)
    assert all(np.array_equal(got[key], value) for key, value in wanted.items())
    assert "the host reads a value back" in said[0]
    assert twin.graphs[-1].launched == 0


def test_copies_of_weights_live_as_long_as_the_step_that_captured_them(monkeypatch):
    """Other models come in between, and their copies push those of this one out of the store."""
    monkeypatch.setattr(precision, "current", precision.PRECISIONS["fp16"])
    monkeypatch.setattr(copies, "KEPT_MODELS", 1)
    net = build("resnet8", seed=1, width=0.25)
    work = TrainingStep(net, CrossEntropyLoss(), SGD(net.named_parameters()))
    with runtime.use(GraphTwin()):
        loader = make_loader(None, SIZE)
        graphed = GraphedStep(work, backend.CPU, np.zeros(2), print, loader.batch)
        for step, epoch, indices in batches(loader):
            graphed.run(indices, epoch, step, 0.1, None, None)
        held = weakref.ref(work._copies)
        other = build("resnet8", seed=2, width=0.25)
        SGD(other.named_parameters())  # it brings the weights into the order of the GPU
        with backend.fixed_weights(convolution_weights(other)) as theirs:
            assert theirs is not None and theirs is not held()
        gc.collect()
        assert held() is not None and held() not in copies._kept.values()
