"""Adam, AdamW and RMSprop against torch.optim, and what all optimizers share."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from minires.backend import CPU
from minires.errors import CheckpointError
from minires.functional import optimizer as functional
from minires.nn import Parameter
from minires.optim import SGD, Adam, AdamW, RMSprop

SHAPES = {"conv.weight": (6, 5, 3, 3), "bn.weight": (5,), "fc.weight": (7, 6), "fc.bias": (7,)}
DECAYED = {"conv.weight", "fc.weight"}
STEPS = 50


def make_parameters(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {
        name: Parameter(rng.normal(size=shape).astype(dtype), decay=name in DECAYED)
        for name, shape in SHAPES.items()
    }


def random_grads(step, dtype=np.float64):
    rng = np.random.default_rng(1000 + step)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def step_with(optimizer, parameters, grads, lr, momentum=None):
    optimizer.zero_grad()
    for name, grad in grads.items():
        parameters[name].accumulate(grad)
    optimizer.step(lr, momentum)


CASES = {
    "adam": (Adam, "Adam", {}, {}),
    "adam, own betas": (
        Adam, "Adam", dict(betas=(0.8, 0.95), eps=1e-3), dict(betas=(0.8, 0.95), eps=1e-3)
    ),
    "adamw": (AdamW, "AdamW", {}, {}),
    "rmsprop": (RMSprop, "RMSprop", {}, {}),
    "rmsprop, momentum": (
        RMSprop, "RMSprop", dict(momentum=0.9, alpha=0.9), dict(momentum=0.9, alpha=0.9)
    ),
    "rmsprop, centered": (RMSprop, "RMSprop", dict(centered=True), dict(centered=True)),
    "rmsprop, both": (
        RMSprop, "RMSprop", dict(centered=True, momentum=0.5), dict(centered=True, momentum=0.5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_are_torch_s(monkeypatch, case, decay_all):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(functional, "CHUNK", 50)
    kind, name, options, twin_options = CASES[case]
    parameters = make_parameters()
    twins = {n: torch.nn.Parameter(torch.tensor(np.array(p.data))) for n, p in parameters.items()}
    groups = [
        {"params": [t for n, t in twins.items() if decay_all or n in DECAYED],
         "weight_decay": 0.05},
        {"params": [t for n, t in twins.items() if not (decay_all or n in DECAYED)],
         "weight_decay": 0.0},
    ]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    oracle = getattr(torch.optim, name)(groups, lr=1.0, **twin_options)
    ours = kind(parameters.items(), weight_decay=0.05, decay_all=decay_all, **options)
    for step in range(STEPS):
        grads, lr = random_grads(step), 0.03 / (1 + 0.1 * step)
        step_with(ours, parameters, grads, lr)
        for key, twin in twins.items():
            twin.grad = torch.tensor(grads[key])
        for group in oracle.param_groups:
            group["lr"] = lr
        oracle.step()
    for key, twin in twins.items():
        np.testing.assert_allclose(
            parameters[key].data, twin.detach().numpy(), rtol=1e-10, atol=1e-13, err_msg=key
        )


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_momentum_for_each_step_is_torch_s(kind):
    torch = pytest.importorskip("torch")
    parameters = make_parameters()
    twins = {n: torch.nn.Parameter(torch.tensor(np.array(p.data))) for n, p in parameters.items()}
    if kind is SGD:
        oracle = torch.optim.SGD(twins.values(), lr=0.1, momentum=0.9, nesterov=True)
        ours = SGD(parameters.items(), weight_decay=0.0)
    else:
        oracle = torch.optim.Adam(twins.values(), lr=0.1)
        ours = Adam(parameters.items())
    for step in range(STEPS):
        grads, momentum = random_grads(step), 0.95 - 0.002 * step
        step_with(ours, parameters, grads, 0.01, momentum)
        for key, twin in twins.items():
            twin.grad = torch.tensor(grads[key])
        for group in oracle.param_groups:
            group["lr"] = 0.01
            if kind is SGD:
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, 0.999)
        oracle.step()
    for key, twin in twins.items():
        np.testing.assert_allclose(parameters[key].data, twin.detach().numpy(), rtol=1e-10)


def test_frozen_values_of_adam_and_adamw():
    # gradient 2 in both steps, lr 0.1: mean and square corrected are 2 and 4, each step is lr.
    # AdamW with decay 0.5 shrinks first: 1 * 0.95 - 0.1 = 0.85; 0.85 * 0.95 - 0.1 = 0.7075
    for kind, decay, expected in ((Adam, 0.0, 0.8), (AdamW, 0.5, 0.7075)):
        parameters = {"w": Parameter(np.ones(3))}
        optimizer = kind(parameters.items(), weight_decay=decay)
        for _ in range(2):
            step_with(optimizer, parameters, {"w": np.full(3, 2.0)}, 0.1)
        np.testing.assert_allclose(parameters["w"].data, expected, rtol=1e-8)


KINDS = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": lambda p, **more: AdamW(p, weight_decay=0.1, **more),
    "rmsprop": lambda p, **more: RMSprop(p, momentum=0.9, centered=True, **more),
}


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_continues_bit_for_bit(kind):
    make = KINDS[kind]
    straight, resumed = make_parameters(np.float32), make_parameters(np.float32)
    first, second = make(straight.items()), make(resumed.items())
    for step in range(3):
        for optimizer, parameters in ((first, straight), (second, resumed)):
            step_with(optimizer, parameters, random_grads(step, np.float32), 0.01)
    third_parameters = {n: Parameter(p.data.copy(), p.decay) for n, p in resumed.items()}
    third = make(third_parameters.items())
    third.load_state_dict(second.state_dict())
    for step in range(3, 6):
        step_with(first, straight, random_grads(step, np.float32), 0.01)
        step_with(third, third_parameters, random_grads(step, np.float32), 0.01)
    for name in SHAPES:
        assert third_parameters[name].data.dtype == np.float32
        np.testing.assert_array_equal(straight[name].data, third_parameters[name].data)
    with pytest.raises(CheckpointError, match="unexpected|missing"):
        third.load_state_dict({"elsewhere": np.zeros(1)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_rate_for_some_is_the_same_as_a_smaller_rate(kind):
    make = KINDS[kind]
    mixed, full, small = (make_parameters() for _ in range(3))
    optimizers = [
        make(mixed.items(), lr_factor=lambda name: 1.0 if name.startswith("fc.") else 0.25),
        make(full.items()),
        make(small.items()),
    ]
    assert len(optimizers[0].groups) == 4
    for step in range(4):
        for optimizer, parameters, lr in zip(
            optimizers, (mixed, full, small), (0.01, 0.01, 0.0025), strict=True
        ):
            step_with(optimizer, parameters, random_grads(step), lr)
    for name, parameter in mixed.items():
        expected = full if name.startswith("fc.") else small
        np.testing.assert_allclose(parameter.data, expected[name].data, rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_only_read_and_no_type_is_promoted(kind):
    parameters = make_parameters(np.float32)
    optimizer = KINDS[kind](parameters.items())
    grads = random_grads(0, np.float32)
    step_with(optimizer, parameters, grads, np.float64(0.01))
    for name, parameter in parameters.items():
        assert parameter.data.dtype == np.float32
        np.testing.assert_array_equal(parameter.grad, grads[name])


def test_a_constant_gradient_under_centered_rmsprop_stays_finite():
    parameters = {"w": Parameter(np.ones(50, np.float32))}
    optimizer = RMSprop(parameters.items(), alpha=0.5, centered=True)
    for _ in range(200):
        step_with(optimizer, parameters, {"w": np.full(50, 0.1, np.float32)}, 1e-9)
    assert np.isfinite(parameters["w"].data).all()


ALL = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


@pytest.mark.parametrize("kind", ALL)
def test_a_skipped_step_is_as_if_it_had_not_been(kind):
    results = []
    for skips in ([0, 1, 0], [None, None]):
        parameters = make_parameters()
        optimizer = ALL[kind](parameters.items(), weight_decay=0.01)
        for number, skip in enumerate(skips):
            grads = {name: np.full(p.shape, np.inf) for name, p in parameters.items()}
            if not skip:
                grads = random_grads(min(number, 1))
            optimizer.zero_grad()
            for name, grad in grads.items():
                parameters[name].accumulate(grad)
            optimizer.step(0.01, skip=None if skip is None else np.array(skip, np.float32))
        results.append({n: p.data for n, p in parameters.items()} | optimizer.state_dict())
    assert results[0].keys() == results[1].keys()
    for name, expected in results[1].items():
        np.testing.assert_array_equal(results[0][name], expected, err_msg=name)


@pytest.mark.parametrize("kind", ALL)
def test_a_rate_for_each_group_in_an_array_is_the_rate_times_its_factor(kind):
    results = []
    for in_array in (False, True):
        parameters = make_parameters(np.float32)
        factor = {"fc.weight": 0.1, "fc.bias": 0.1}
        optimizer = ALL[kind](parameters.items(), lr_factor=lambda name, f=factor: f.get(name, 1.0))
        rates = np.array([0.02 * f for f in optimizer.lr_factors], np.float32)
        assert len(rates) == 4  # decayed or not, at the full rate or a tenth
        step_with(optimizer, parameters, random_grads(0, np.float32), rates if in_array else 0.02)
        results.append(parameters)
    for name, parameter in results[0].items():
        np.testing.assert_allclose(results[1][name].data, parameter.data, rtol=1e-6, err_msg=name)


def test_adam_counts_on_the_device_as_it_does_in_python_and_not_the_skipped():
    results = []
    for on_device in (False, True):
        parameters = make_parameters()
        optimizer = Adam(parameters.items())
        for step, skip in enumerate((None, 1, 0, None)):
            if on_device:
                optimizer.count_on_device(CPU)  # the first call is the one that counts
            optimizer.zero_grad()
            for name, grad in random_grads(step).items():
                parameters[name].accumulate(grad)
            optimizer.step(0.01, skip=None if skip is None else np.array(skip, np.float32))
        assert optimizer.state_dict()["steps"] == 3
        results.append(parameters)
    for name, parameter in results[0].items():
        np.testing.assert_allclose(results[1][name].data, parameter.data, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind, name", [(Adam, "Adam"), (RMSprop, "RMSprop")])
def test_numbers_that_are_not_given_are_torch_s(kind, name):
    torch = pytest.importorskip("torch")
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(kind).parameters
    shared = {"betas", "alpha", "eps", "weight_decay", "momentum", "centered"} & set(ours)
    assert {n: ours[n].default for n in shared} == {n: theirs[n].default for n in shared}
