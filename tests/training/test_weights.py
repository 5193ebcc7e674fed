from __future__ import annotations

import numpy as np
import pytest

from minires.errors import CheckpointError
from minires.models import build
from minires.training.weights import (
    export_weights,
    import_weights,
    read_weights,
    standard_name,
)

CASES = {
    "resnet20": dict(),
    "resnet20 option B": dict(shortcut="B"),
    "resnet14 plain": dict(plain=True),
    "resnet18 narrow": dict(width=0.25),
    "resnet50 narrow": dict(width=0.125),
}


def make_pair(case, dtype="float32"):
    """A minires model and its torch twin with random values, in evaluation mode."""
    torch_models = pytest.importorskip("torch_models")
    name, options = case.split()[0], CASES[case]
    base = (16, 32, 64) if name in ("resnet20", "resnet14") else (64, 128, 256, 512)
    widths = tuple(int(w * options.get("width", 1)) for w in base)
    twin = torch_models.build_torch(
        name, widths=widths, shortcut=options.get("shortcut"), plain=options.get("plain", False)
    )
    twin = torch_models.randomize(twin, seed=1).eval()
    return build(name, seed=3, dtype=dtype, **options).eval(), twin


def save_torch(twin, path, rename=lambda name: name, drop=()):
    from safetensors.torch import save_file

    state = {rename(n): v.contiguous() for n, v in twin.state_dict().items()}
    save_file({n: v for n, v in state.items() if not n.endswith(tuple(drop))}, path)
    return path


def images(n=3):
    return np.random.default_rng(0).normal(size=(n, 3, 32, 32)).astype(np.float32)


def torch_logits(twin, x):
    import torch

    with torch.no_grad():
        return twin(torch.tensor(x)).numpy()


@pytest.mark.parametrize("case", CASES)
def test_imported_weights_give_torch_s_logits(case, tmp_path):
    model, twin = make_pair(case)
    import_weights(model, save_torch(twin, tmp_path / "w.safetensors"))
    expected = torch_logits(twin, images())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(images()), expected, rtol=0, atol=2e-5 * scale)
    model64, _ = make_pair(case, dtype="float64")
    model64.load_state_dict(model.state_dict())
    expected = torch_logits(twin.double(), images().astype(np.float64))
    np.testing.assert_allclose(model64(images().astype(np.float64)), expected, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_exported_weights_load_strictly_in_torch(case, tmp_path):
    model, twin = make_pair(case)
    from safetensors.torch import load_file

    rng = np.random.default_rng(5)
    state = {
        n: v if v.ndim == 0 else rng.uniform(0.1, 0.2, v.shape).astype(np.float32)
        for n, v in model.state_dict().items()
    }
    model.load_state_dict(state)
    export_weights(tmp_path / "w.safetensors", model.state_dict())
    twin.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    for name, tensor in twin.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name])
        assert tuple(tensor.shape) == state[name].shape


RENAMINGS = {
    "as torchvision": lambda n: n,
    "DataParallel": lambda n: "module." + n,
    "compiled DataParallel": lambda n: "_orig_mod.module." + n,
    "linear": lambda n: n.replace("fc.", "linear."),
    "shortcut": lambda n: n.replace("downsample", "shortcut"),
    "all at once": lambda n: (
        "module." + n.replace("fc.", "linear.").replace("downsample", "shortcut")
    ),
}


@pytest.mark.parametrize("drop", [(), ("num_batches_tracked",)])
@pytest.mark.parametrize("renaming", RENAMINGS)
def test_the_usual_variants_of_names_mean_the_same(renaming, drop, tmp_path):
    model, twin = make_pair("resnet18 narrow")
    import_weights(model, save_torch(twin, tmp_path / "w", RENAMINGS[renaming], drop))
    for name, tensor in twin.state_dict().items():
        if drop and name.endswith(drop):
            assert model.state_dict()[name] == 0
        else:
            np.testing.assert_array_equal(model.state_dict()[name], tensor.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_become_float32(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    model, twin = make_pair("resnet20")
    twin = twin.to(getattr(torch, dtype))
    import_weights(model, save_torch(twin, tmp_path / "w"))
    for name, tensor in twin.state_dict().items():
        loaded = model.state_dict()[name]
        if loaded.ndim:
            assert loaded.dtype == np.float32
            np.testing.assert_array_equal(loaded, tensor.float().numpy())


def test_bfloat16_is_decoded_without_torch(tmp_path):
    # 1.0, -2.5 and 3.140625: the upper halves of their float32 bits
    data = np.array([0x3F80, 0xC020, 0x4049], "<u2").tobytes()
    header = b'{"fc.bias":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    np.testing.assert_array_equal(read_weights(path).arrays["fc.bias"], [1.0, -2.5, 3.140625])


def test_standard_names():
    assert standard_name("module.model.linear.weight") == "fc.weight"
    assert standard_name("layer2.0.shortcut.1.running_mean") == "layer2.0.downsample.1.running_mean"
    assert standard_name("layer1.0.linear.weight") == "layer1.0.linear.weight"
    assert standard_name("modules.fc.weight") == "modules.fc.weight"


# --- files that do not fit ----------------------------------------------------------------------


def write(path, arrays, metadata=None):
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata)
    return path


def refusal(model, path):
    """The message with which `path` is refused; the model must be untouched."""
    before = model.state_dict()
    with pytest.raises(CheckpointError) as caught:
        import_weights(model, path)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000 and str(path) in message
    return message


def test_all_that_does_not_fit_is_listed(tmp_path):
    model = build("resnet8")
    state = model.state_dict()
    del state["layer1.0.conv1.weight"], state["bn1.running_mean"]
    state["layer4.0.conv1.weight"] = np.zeros((2, 2), np.float32)
    state["fc.bias"] = np.zeros(11, np.float32)
    message = refusal(model, write(tmp_path / "w.safetensors", state))
    for words in (
        "does not fit resnet8",
        "missing: layer1.0.conv1.weight, bn1.running_mean",
        "unexpected: layer4.0.conv1.weight",
        "fc.bias is (11,) instead of (10,)",
    ):
        assert words in message, message


@pytest.mark.parametrize(
    "source, options, target, words",
    [
        ("resnet8", dict(num_classes=100), dict(), "--num-classes 100"),
        ("resnet8", dict(shortcut="B"), dict(), "--shortcut B"),
        ("resnet8", dict(), dict(shortcut="B"), "--shortcut A"),
        ("resnet14", dict(), dict(), "unexpected: layer1.1.bn1.bias"),
        ("resnet8", dict(width=0.5), dict(), "wrong shape: "),
    ],
)
def test_weights_of_another_model_are_refused_with_a_hint(source, options, target, words, tmp_path):
    state = build(source, **options).state_dict()
    path = write(tmp_path / "w.safetensors", state)
    assert words in refusal(build("resnet8", **target), path)


def test_the_imagenet_stem_is_named(tmp_path):
    model = build("resnet18", width=0.0625)
    state = model.state_dict() | {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}
    assert "7x7 stem" in refusal(model, write(tmp_path / "w.safetensors", state))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"module.fc.bias": np.zeros(10, np.float32)}, "both mean fc.bias"),
        ({"fc.bias": np.full(10, np.nan, np.float32)}, "fc.bias holds NaN"),
        ({"fc.bias": np.full(10, 1e300)}, "fc.bias holds NaN, infinity or more"),
        ({"fc.bias": np.zeros(10, np.int32)}, "fc.bias is int32"),
    ],
)
def test_unusable_values_are_refused(change, words, tmp_path):
    model = build("resnet8")
    assert words in refusal(model, write(tmp_path / "w", model.state_dict() | change))


def test_a_checkpoint_is_no_file_of_weights(tmp_path):
    path = write(tmp_path / "w", {"model.fc.bias": np.zeros(10)}, {"minires": "{}"})
    assert "checkpoint already" in refusal(build("resnet8"), path)


def test_the_note_of_an_export_comes_back(tmp_path):
    model = build("resnet8")
    path = tmp_path / "w.safetensors"
    export_weights(path, model.state_dict(), {"mean": [0.1, 0.2, 0.3]})
    assert import_weights(model, path).note == {"mean": [0.1, 0.2, 0.3]}
    write(path, model.state_dict(), {"minires_weights": "[" * 10})
    assert read_weights(path).note == {}
