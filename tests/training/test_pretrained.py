"""Weights for ImageNet, by torchvision's names, in a network for CIFAR; a frozen body."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from minires.backend import CPU
from minires.data import Normalization
from minires.errors import CheckpointError, Interrupted, UsageError
from minires.models import build
from minires.models.freezing import freeze
from minires.training.checkpoint import load_checkpoint
from minires.training.loop import Callback
from minires.training.resolve import resolve
from minires.training.run import RunFolder
from minires.training.runner import resume, start
from minires.training.setup import check_model
from minires.training.weights import export_weights, import_weights, load_pretrained

NARROW = dict(width=0.25)
WIDTHS = (16, 32, 64, 128)


def images(size):
    return np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)


def save(path, state):
    from safetensors.numpy import save_file

    save_file({n: np.array(v, order="C") for n, v in state.items()}, path)
    return path


def torchvision_file(path, num_classes=1000):
    """A torch ResNet-50 with the stem for ImageNet, in evaluation mode, saved to `path`."""
    pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle here")
    torch_models = pytest.importorskip("torch_models")
    families = pytest.importorskip("torch_families")
    twin = torch_models.randomize(families.TorchImageNetResNet(WIDTHS, num_classes), seed=1).eval()
    save(path, torch_models.to_arrays(twin))
    return twin


def assert_near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "resnet50.safetensors"


def test_imported_weights_of_resnet50_give_torch_s_logits(path):
    import_twin = torchvision_file(path)
    import torch

    model = build("resnet50", 1000, stem="imagenet", **NARROW).eval()
    import_weights(model, path)
    with torch.no_grad():
        wanted = import_twin(torch.tensor(images(96))).numpy()
    assert_near(model(images(96)), wanted)


def test_the_body_of_a_transfer_network_is_torch_s(path):
    twin = torchvision_file(path)
    import torch

    model = build("resnet50-transfer", upsample=3, **NARROW)
    head = {n: a for n, a in model.state_dict().items() if model.in_head(n)}
    note = load_pretrained(model, path).note
    assert note == f"body from {path}; its fc is ignored, the head here is another"
    for name, array in head.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    twin.fc, twin.upsample = torch.nn.Identity(), 3
    with torch.no_grad():
        features = twin(torch.tensor(images(32))).numpy()
    x = images(32)
    for part in model.eval().parts[:-1]:
        x = part(x)
    assert_near(x, features)


def test_the_same_head_is_loaded_too_and_another_is_not(path):
    state = build("resnet8", 7, seed=5).state_dict()
    save(path, state)
    model = build("resnet8", 7)
    assert load_pretrained(model, path).note == f"body and head from {path}"
    np.testing.assert_array_equal(model.fc.weight.data, state["fc.weight"])
    other = build("resnet8", 10)
    before = other.fc.weight.data.copy()
    assert load_pretrained(other, path).note.endswith(
        "; its fc is ignored, the head here is another"
    )
    np.testing.assert_array_equal(other.fc.weight.data, before)
    np.testing.assert_array_equal(other.conv1.weight.data, state["conv1.weight"])


def test_a_file_without_any_head_will_do(path):
    state = build("resnet8").state_dict()
    save(path, {n: a for n, a in state.items() if not n.startswith("fc.")})
    assert load_pretrained(build("resnet8", seed=1), path).note == f"body from {path}"


def test_the_wrong_network_is_listed_and_nothing_changes(path):
    save(path, build("resnet18", 10, width=0.125).state_dict())
    model = build("resnet50-transfer", width=0.125, upsample=1)
    before = {n: a.tobytes() for n, a in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(model, path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the body of resnet50-transfer: missing: layer1")
    assert "wrong shape: conv1.weight is (8, 3, 3, 3) instead of (8, 3, 7, 7)" in message
    assert "fc" not in message and "\n" not in message
    assert {n: a.tobytes() for n, a in model.state_dict().items()} == before


def test_the_stem_for_imagenet_is_hinted_at(path):
    save(path, build("resnet18", stem="imagenet", width=0.125).state_dict())
    with pytest.raises(CheckpointError, match="try --stem imagenet"):
        load_pretrained(build("resnet18", width=0.125), path)


def test_a_training_with_a_frozen_pretrained_body(path, tmp_path):
    source = build("resnet8", 100, seed=5, width=0.5)
    for name, buffer in source.named_buffers():
        if name.endswith("running_mean"):
            buffer.data += 0.1
    body = {n: a for n, a in source.state_dict().items() if not n.startswith("fc.")}
    save(path, source.state_dict())
    options = dict(dataset="shapes", model="resnet8", width=0.5, limit=60, epochs=1)
    options |= dict(batch_size=16, pretrained=str(path), freeze="body", device="cpu", threads=1)
    said = []
    start(resolve(options), tmp_path / "run", said.append)
    assert any(line.endswith("; its fc is ignored, the head here is another") for line in said)
    assert any(line.startswith("model    resnet8, ") and "(330 trained)" in line for line in said)
    checkpoint = load_checkpoint(RunFolder(tmp_path / "run").last)
    assert (checkpoint.mean, checkpoint.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "pixels   mean 0.4850/0.4560/0.4060, std 0.2290/0.2240/0.2250 (from 0 to 1)" in said
    for name, array in body.items():
        assert checkpoint.model[name].tobytes() == array.tobytes(), name
    assert set(checkpoint.optimizer) == {"momentum.fc.weight", "momentum.fc.bias"}
    assert checkpoint.config["freeze"] == "body"


def test_the_colours_that_a_file_notes_are_kept_in_the_run_and_over_a_resume(path, tmp_path):
    mean, std = [0.5, 0.25, 0.125], [0.3, 0.2, 0.1]
    export_weights(path, build("resnet8", width=0.5).state_dict(), dict(mean=mean, std=std))
    options = dict(dataset="shapes", model="resnet8", width=0.5, limit=60, epochs=2)
    options |= dict(batch_size=16, pretrained=str(path), device="cpu", threads=1)

    class Stop(Callback):
        def on_epoch(self, trainer, metrics):
            os.kill(os.getpid(), signal.SIGINT)

    start(resolve(options), tmp_path / "whole", str)
    with pytest.raises(Interrupted):
        start(resolve(options), tmp_path / "run", str, Stop())
    path.unlink()  # the weights are in the checkpoint
    resume(tmp_path / "run", say=str)
    for folder in ("run", "whole"):
        checkpoint = load_checkpoint(RunFolder(tmp_path / folder).last)
        assert (list(checkpoint.mean), list(checkpoint.std)) == (mean, std)
    weights = [load_checkpoint(RunFolder(tmp_path / f).last).model for f in ("run", "whole")]
    assert all(weights[0][name].tobytes() == a.tobytes() for name, a in weights[1].items())


def test_a_note_that_is_no_colour_is_ignored(path):
    export_weights(path, build("resnet8").state_dict(), dict(mean=[1, 2], std="x"))
    found = load_pretrained(build("resnet8"), path).normalization
    assert found == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(model="resnet18", max_parameters=5_000_000), "resnet18 has 11,173,962 parameters"),
        (dict(model="resnet20", max_parameters=269_721), "resnet20 has 269,722 parameters"),
        (dict(model="vgg61"), "did you mean 'vgg16'"),
    ],
)
def test_a_network_over_its_budget_is_refused_before_anything_is_read(options, message, tmp_path):
    config = resolve(options | dict(data_dir=str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match=message):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_within_its_budget_passes():
    check_model(resolve(dict(model="resnet18", blocks=[4, 4, 3], max_parameters=5_000_000)))
    check_model(resolve(dict(model="resnet20", max_parameters=269_722)))
    # the budget counts the classes of the data set: 65 parameters for each of 90 more
    with pytest.raises(UsageError, match="275,572"):
        check_model(resolve(dict(model="resnet20", dataset="cifar100", max_parameters=275_571)))


def test_freezing_is_checked_before_the_run_folder_is_made(tmp_path):
    config = resolve(dict(dataset="shapes", limit=60, batch_size=16, freeze="layer9"))
    with pytest.raises(UsageError, match="--freeze layer9"):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_stay_while_the_head_of_the_transfer_network_learns(path):
    save(path, build("resnet50", 1000, stem="imagenet", width=0.125, seed=4).state_dict())
    model = build("resnet50-transfer", width=0.125, upsample=1)
    load_pretrained(model, path)
    freeze(model, "body", CPU)
    before = {n: a.tobytes() for n, a in model.state_dict().items()}
    from minires.nn import CrossEntropyLoss
    from minires.optim import SGD

    optimizer, loss = SGD(model.trainable_parameters()), CrossEntropyLoss()
    values = []
    for step in range(6):
        model.set_step(step)
        model.zero_grad()
        values.append(float(loss(model(images(32)), np.array([1, 5, 7]))))
        model.backward(loss.backward())
        optimizer.step(0.05)
    assert values[-1] < values[0]
    after = {n: a.tobytes() for n, a in model.state_dict().items()}
    same = {n for n in before if before[n] == after[n]}
    assert same == {n for n in before if not model.in_head(n)}
