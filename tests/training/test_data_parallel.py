"""Processes that share a batch, against one process and against the float64 reference."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from shared_batch import BATCH, IN_TWO_PROCESSES, Batches, batch, children, make

from minires import devices
from minires.backend import options, reference_only
from minires.models import build
from minires.models.freezing import freeze
from minires.nn import CrossEntropyLoss
from minires.optim import SGD
from minires.training.data_parallel import LEAST_IMAGES, DataParallel, processes_for
from minires.training.evaluate import evaluate
from minires.training.step import TrainingStep

pytestmark = IN_TWO_PROCESSES

TOLERANCE = 1e-2
"""Length of the difference by length of the array. Sums in another order change the seventh digit,
and now and then the side of zero that a value before a ReLU falls on: 4e-3 was seen."""


def train(processes, name="resnet8", steps=2, hwnc=False, **more):
    """Gradients, weights, statistics and evaluated logits after some steps, by name."""
    devices.select_device("cpu", threads=processes)
    model, optimizer = make(name, **more)
    with DataParallel(model, BATCH) as network:
        step = TrainingStep(network, CrossEntropyLoss(), optimizer)
        found = {}
        for number in range(steps):
            network.train()
            model.set_step(number)
            x, labels = batch(number)
            if hwnc:
                x = np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
            loss, logits = step.forward_backward(x, labels)
            found |= {f"loss {number}": loss, f"logits {number}": logits}
            found |= {f"grad {number} {n}": p.grad.copy() for n, p in model.named_parameters()}
            step.update(0.01)
        network.eval()
        found["evaluated"] = network(batch(9)[0])
        assert len(children()) == processes - 1
    return found | model.state_dict()


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert_close(found[name], values, name)


def assert_close(found, wanted, name):
    difference, length = (np.linalg.norm(np.ravel(v)) for v in (found - wanted, wanted))
    assert difference <= TOLERANCE * length + 1e-7, f"{name}: {difference / length:.1e} of {length}"


@pytest.mark.parametrize("name", ["resnet8", "cnn"])
def test_two_processes_compute_what_one_does(name):
    assert_same(train(2, name), train(1, name))


def test_one_step_of_a_network_with_maxima_and_batch_norm_of_vectors():
    found, wanted = (train(n, "vgg16", steps=1, width=0.125) for n in (2, 1))
    del found["evaluated"], wanted["evaluated"]  # 13 layers in a row amplify what differs
    assert_same(found, wanted)


def test_three_processes_need_three_shares_of_images(monkeypatch):
    monkeypatch.setattr("minires.training.data_parallel.LEAST_IMAGES", BATCH // 3)
    assert_same(train(3), train(1))


def test_images_in_the_memory_order_of_the_kernels_give_the_same():
    assert_same(train(2, hwnc=True), train(2))


def test_the_masks_of_dropout_are_those_of_one_process():
    assert_same(train(2, dropout=0.4, head_dropout=0.5), train(1, dropout=0.4, head_dropout=0.5))


def test_the_same_bits_twice():
    first, second = train(2), train(2)
    for name, values in first.items():
        assert values.tobytes() == second[name].tobytes(), name


def test_gradients_and_statistics_are_those_of_the_reference_in_float64():
    model, _ = make()
    x, labels = batch()
    truth, _ = make()
    for _, holder in (*truth.named_parameters(), *truth.named_buffers()):
        if holder.data.ndim:
            holder.data = holder.data.astype(np.float64)
    loss = CrossEntropyLoss()
    with reference_only():
        loss.forward(truth(x.astype(np.float64)), labels)
        truth.backward(loss.backward())
    with DataParallel(model, BATCH) as network:
        loss.forward(network(x), labels)
        network.backward(loss.backward())
    pairs = zip(model.named_parameters(), truth.named_parameters(), strict=True)
    for (name, parameter), (_, wanted) in pairs:
        assert_close(parameter.grad, wanted.grad, name)
    for (name, b), (_, wanted) in zip(model.named_buffers(), truth.named_buffers(), strict=True):
        np.testing.assert_allclose(b.data, wanted.data, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("optimizer", [True, False], ids=["optimizer", "no optimizer"])
def test_gradients_of_two_passes_add_up(optimizer):
    found = []
    for processes in (1, 2):
        devices.select_device("cpu", threads=processes)
        model = build("resnet8", width=0.5, seed=1)
        keeper = SGD(model.trainable_parameters()) if optimizer else None
        loss = CrossEntropyLoss()
        with DataParallel(model, BATCH) as network:
            for step in range(3):
                if step == 1:  # what the first pass gave is forgotten
                    model.zero_grad()
                loss.forward(network(batch(step)[0]), batch(step)[1])
                network.backward(loss.backward())
        found.append({name: p.grad.copy() for name, p in model.named_parameters()})
        if optimizer:
            flat = [group.gradients() for group in keeper.groups]
            total = sum(float(np.square(g).sum()) for g in found[-1].values())
            assert sum(float(np.square(g).sum()) for g in flat) == pytest.approx(total, rel=1e-4)
    assert_same(*found)


def test_an_optimizer_that_comes_after_the_first_batch_gets_all_gradients():
    found = []
    for processes in (1, 2):
        devices.select_device("cpu", threads=processes)
        model, loss = build("resnet8", width=0.5, seed=1), CrossEntropyLoss()
        with DataParallel(model, BATCH) as network:
            network(batch(0)[0])
            step = TrainingStep(network, loss, SGD(model.trainable_parameters()))
            step.forward_backward(*batch(1))
            step.update(0.1)  # the next logits are those of other weights
            step.forward_backward(*batch(2))
        found.append({name: p.grad.copy() for name, p in model.named_parameters()})
    assert_same(*found)


def test_frozen_parameters_get_no_gradient():
    model = build("resnet8", width=0.5)
    freeze(model, "conv1, bn1, layer1", devices.select_device("cpu", threads=2))
    loss = CrossEntropyLoss()
    with DataParallel(model, BATCH) as network:
        network.train()
        x, labels = batch()
        loss.forward(network(x), labels)
        network.backward(loss.backward())
    for name, p in model.named_parameters():
        assert p.grad.any() != p.frozen, name


def test_the_reference_takes_one_process():
    model, _ = make()
    with DataParallel(model, BATCH) as network, reference_only():
        network(batch()[0])
        assert children() == []


def test_without_kernels_there_is_one_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "minires.kernels.cpu", None)  # as if deleted
    devices.select_device("cpu", threads=2)
    assert options.processes == 1


@pytest.mark.parametrize("training", [True, False])
def test_statistics_that_are_loaded_later_are_everybodys(training):
    model = build("resnet8", width=0.5)
    freeze(model, "conv1, bn1", devices.select_device("cpu", threads=2))
    x, _ = batch()
    with DataParallel(model, BATCH) as network:
        network.train()
        network(x)
        state = model.state_dict()  # frozen batch norm reads them in training too
        network.module.load_state_dict({**state, "bn1.running_mean": state["bn1.weight"] * 0.3})
        found = network.train(training)(x)
    assert_close(found, model.train(training)(x), "logits")


DOUBLE, SINGLE = np.float64, np.float32


@pytest.mark.parametrize("images, weights", [(DOUBLE, DOUBLE), (DOUBLE, SINGLE), (SINGLE, DOUBLE)])
def test_what_the_reference_alone_computes_takes_one_process(images, weights):
    x, labels = batch()
    gradients = []
    for shared in (True, False):
        model, _ = make()
        for _, holder in (*model.named_parameters(), *model.named_buffers()):
            if holder.data.ndim:
                holder.data = holder.data.astype(weights)
        loss = CrossEntropyLoss()
        with DataParallel(model, BATCH) as network:
            computed = network if shared else model
            loss.forward(computed(x.astype(images)), labels)
            computed.backward(loss.backward())
            assert children() == []
        gradients.append(model.conv1.weight.grad)
    np.testing.assert_array_equal(*gradients)


def test_a_thread_that_is_not_the_main_one_computes_alone():
    x, labels = batch()
    wanted, found = train(2), {}

    def elsewhere():
        model, _ = make()
        loss = CrossEntropyLoss()
        with DataParallel(model, BATCH) as network:
            loss.forward(network(x), labels)
            network.backward(loss.backward())
            found["children"] = children()
        found.update({n: p.grad.copy() for n, p in model.named_parameters()})

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found.pop("children") == []
    assert len(found) > 10
    for name, gradient in found.items():
        assert_close(gradient, wanted[f"grad 0 {name}"], name)


def test_a_small_batch_takes_one_process():
    model, _ = make()
    with DataParallel(model, BATCH) as network:
        network(batch(size=2 * LEAST_IMAGES - 1)[0])
        assert children() == []
        network(batch()[0])
        assert len(children()) == 1


def test_a_larger_batch_than_was_announced_is_taken():
    model, _ = make()
    model.eval()
    with DataParallel(model, 2 * LEAST_IMAGES) as network:
        network.eval()
        network(batch(size=2 * LEAST_IMAGES)[0])
        x, _ = batch(size=3 * LEAST_IMAGES)
        assert_close(network(x), model(x), "logits")


@pytest.mark.parametrize(
    "size, threads, processes, wanted",
    [(64, 2, None, 2), (63, 2, None, 1), (128, 8, None, 4), (128, 2, 1, 1), (128, 2, 9, 2)],
)
def test_how_many_processes_share_a_batch(size, threads, processes, wanted):
    devices.select_device("cpu", threads=threads, processes=processes)
    model, _ = make()
    assert processes_for(model, size) == wanted


def test_threads_are_shared_out_while_processes_compute():
    devices.select_device("cpu", threads=5, processes=2)
    model, _ = make()
    seen, forward = [], model.fc.forward
    model.fc.forward = lambda x: seen.append(options.threads) or forward(x)
    with DataParallel(model, BATCH) as network:
        network(batch()[0])
    assert (seen, options.threads) == ([2], 5)


def test_evaluation_counts_the_same():
    model, _ = make()
    found = evaluate(model, Batches(), 10)
    devices.select_device("cpu", threads=1)
    wanted = evaluate(model, Batches(), 10)
    assert found.images == wanted.images == BATCH + 7
    np.testing.assert_array_equal(found.counts, wanted.counts)
    np.testing.assert_array_equal(found.correct, wanted.correct)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_the_mode_as_it_was(training):
    model, _ = make()
    model.train(training)
    evaluate(model, Batches(), 10)
    assert [module.training for module in model.modules()] == [training] * len([*model.modules()])
