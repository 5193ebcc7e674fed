from __future__ import annotations

import json
import os

import numpy as np
import pytest

from minires.cli import main
from minires.models import build
from minires.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    restore_model,
    save_checkpoint,
)
from minires.training.weights import read_weights


@pytest.fixture
def run_cli(capsys):
    """Run the command line; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def weights(tmp_path):
    """A file of weights as PyTorch users save them, without torch."""
    from safetensors.numpy import save_file

    state = build("resnet8", seed=7).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({"module." + n.replace("fc.", "linear."): v for n, v in state.items()}, path)
    return path


def import_json(run_cli, *arguments):
    code, out, err = run_cli("import", *arguments, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def test_import_makes_a_run_folder(run_cli, weights, tmp_path):
    run = tmp_path / "runs" / "imported"
    result = import_json(run_cli, weights, "--model", "resnet8", "--output", run)
    assert os.listdir(run) == ["best.safetensors"]
    assert result["run"] == str(run) and result["model"] == "resnet8"
    assert result["parameters"] == sum(p.size for _, p in build("resnet8").named_parameters())
    checkpoint = load_checkpoint(run / "best.safetensors")
    model = restore_model(checkpoint, run)
    for name, array in build("resnet8", seed=7).state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    assert checkpoint.config["dataset"] == "cifar10" and checkpoint.spec["num_classes"] == 10
    assert checkpoint.class_names[3] == "cat" and len(checkpoint.class_names) == 10


def test_a_network_with_other_options(run_cli, tmp_path):
    from safetensors.numpy import save_file

    state = build("resnet18", 7, width=0.125, blocks=(1, 2), stem="imagenet").state_dict()
    save_file(state, tmp_path / "w")
    options = ("--width", "0.125", "--blocks", "1,2", "--num-classes", "7", "--model", "resnet18")
    code, _, err = run_cli("import", tmp_path / "w", *options, "--output", tmp_path / "run")
    assert code == 4 and "try --stem imagenet" in err and not (tmp_path / "run").exists()
    import_json(
        run_cli, tmp_path / "w", *options, "--stem", "imagenet", "--output", tmp_path / "run"
    )
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert checkpoint.spec["stem"] == "imagenet" and checkpoint.config["blocks"] == [1, 2]
    restored = restore_model(checkpoint, tmp_path / "run").state_dict()
    assert all(restored[name].tobytes() == array.tobytes() for name, array in state.items())


def test_the_normalisation_is_stored_and_shown(run_cli, weights, tmp_path):
    code, out, _ = run_cli("import", weights, "--model", "resnet8", "--output", tmp_path / "a")
    assert code == 0
    assert "mean 0.4914,0.4822,0.4465, std 0.247,0.2435,0.2616 (CIFAR-10's" in out
    assert load_checkpoint(tmp_path / "a" / "best.safetensors").std == (0.2470, 0.2435, 0.2616)
    given = ("--mean", "0.1,0.2,0.3", "--std", "0.4, 0.5, 1")
    import_json(run_cli, weights, "--model", "resnet8", *given, "--output", tmp_path / "b")
    checkpoint = load_checkpoint(tmp_path / "b" / "best.safetensors")
    assert checkpoint.mean == (0.1, 0.2, 0.3) and checkpoint.std == (0.4, 0.5, 1.0)


def test_the_default_constants_are_those_of_the_real_data():
    from minires.training.weights import CIFAR10_MEAN, CIFAR10_STD

    # computed once from the 50,000 training images, in float64
    np.testing.assert_allclose(CIFAR10_MEAN, [0.49139968, 0.48215841, 0.44653091], atol=5e-5)
    np.testing.assert_allclose(CIFAR10_STD, [0.24703223, 0.24348513, 0.26158784], atol=5e-5)


def test_export_and_import_again_lose_nothing(run_cli, weights, tmp_path):
    first, file, second = tmp_path / "first", tmp_path / "out.safetensors", tmp_path / "second"
    given = ("--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6")
    import_json(run_cli, weights, "--model", "resnet8", *given, "--output", first)
    code, out, err = run_cli("export", first, "--output", file, "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(file)
    result = import_json(run_cli, file, "--model", "resnet8", "--output", second)
    assert (result["mean"], result["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    before, after = (load_checkpoint(run / "best.safetensors") for run in (first, second))
    assert set(before.model) == set(after.model) == set(read_weights(file).arrays)
    for name, array in before.model.items():
        assert array.tobytes() == after.model[name].tobytes()


def test_export_takes_the_checkpoint_asked_for(run_cli, tmp_path):
    for seed, which in enumerate(("last", "best")):
        model = build("resnet8", seed=seed)
        checkpoint = Checkpoint(model.state_dict(), model.spec, (0, 0, 0), (1, 1, 1), ())
        save_checkpoint(tmp_path / f"{which}.safetensors", checkpoint)
    for option, seed in (((), 1), (("--checkpoint", "last"), 0), (("--checkpoint", "best"), 1)):
        code, out, _ = run_cli("export", tmp_path, *option, "--output", tmp_path / "w")
        assert code == 0 and "exported" in out
        expected = build("resnet8", seed=seed).state_dict()["fc.weight"]
        np.testing.assert_array_equal(read_weights(tmp_path / "w").arrays["fc.weight"], expected)


@pytest.mark.parametrize("name, options", [("resnet20", {}), ("resnet18", {"width": 0.125})])
def test_torch_loads_an_export_strictly_and_agrees(run_cli, tmp_path, name, options):
    torch_models = pytest.importorskip("torch_models")
    import torch
    from safetensors.torch import load_file, save_file

    widths = (8, 16, 32, 64) if options else None
    twin = torch_models.randomize(torch_models.build_torch(name, widths=widths)).eval()
    save_file(twin.state_dict(), tmp_path / "in")
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    import_json(run_cli, tmp_path / "in", "--model", name, *arguments, "--output", tmp_path / "r")
    assert run_cli("export", tmp_path / "r", "--output", tmp_path / "out")[0] == 0
    again = torch_models.build_torch(name, widths=widths).eval()
    again.load_state_dict(load_file(tmp_path / "out"), strict=True)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(x), twin(x))


@pytest.mark.parametrize(
    "note", [[], {"mean": [1, 2], "std": "x", "class_names": [1] * 10}, {"class_names": 5}]
)
def test_a_note_from_elsewhere_does_no_harm(run_cli, weights, tmp_path, note):
    from minires.training.weights import export_weights

    export_weights(tmp_path / "w", build("resnet8").state_dict(), note)
    import_json(run_cli, tmp_path / "w", "--model", "resnet8", "--output", tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert checkpoint.mean == (0.4914, 0.4822, 0.4465) and checkpoint.class_names[0] == "airplane"


# --- mistakes -----------------------------------------------------------------------------------


def assert_refused(run_cli, code, words, *arguments):
    actual, out, err = run_cli(*arguments)
    assert (actual, out) == (code, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err, err


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (("--model", "resnet14"), 4, "missing: layer1.1"),
        (("--model", "resnet8", "--num-classes", 100), 4, "try --num-classes 10"),
        (("--model", "resnet8", "--shortcut", "B"), 4, "try --shortcut A"),
        (("--model", "resnet10"), 2, "--depth 10"),
        (("--model", "resnt8"), 2, "did you mean 'resnet8'"),
        (("--model", "resnet8", "--mean", "0.5,0.5"), 2, "--mean 0.5,0.5: must be three numbers"),
        (("--model", "resnet8", "--mean", "nan,0,0"), 2, "three numbers"),
        (("--model", "resnet8", "--mean", "125,123,114"), 2, "divide values for 0..255 by 255"),
        (("--model", "resnet8", "--std", "0.2,0,0.2"), 2, "--std 0.2,0,0.2: must lie above 0"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(
    run_cli, weights, tmp_path, arguments, code, words
):
    run = tmp_path / "run"
    assert_refused(run_cli, code, words, "import", weights, *arguments, "--output", run)
    assert os.listdir(tmp_path) == [weights.name]


def test_import_does_not_touch_a_run_that_is_there(run_cli, weights, tmp_path):
    run = tmp_path / "run"
    import_json(run_cli, weights, "--model", "resnet8", "--output", run)
    before = (run / "best.safetensors").read_bytes()
    arguments = ("import", weights, "--model", "resnet8", "--output", run)
    assert_refused(run_cli, 2, "holds a run already", *arguments)
    assert (run / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("content, words", [(b"", "empty"), (b"PK\x03\x04" * 9, "pickle")])
def test_foreign_files_are_refused(run_cli, tmp_path, content, words):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    run = tmp_path / "run"
    assert_refused(run_cli, 4, words, "import", file, "--model", "resnet8", "--output", run)
    assert_refused(run_cli, 4, words, "export", file, "--output", tmp_path / "out")
    assert os.listdir(tmp_path) == ["weights.pth"]


def test_missing_files_and_places_are_one_line(run_cli, weights, tmp_path):
    missing = tmp_path / "missing"
    model = ("--model", "resnet8")
    below = weights / "below"
    assert_refused(run_cli, 4, str(missing), "import", missing, *model, "--output", tmp_path / "r")
    assert_refused(run_cli, 4, str(below), "import", weights, *model, "--output", below)
    assert_refused(run_cli, 4, "no such run", "export", missing, "--output", tmp_path / "w")
    run = tmp_path / "run"
    import_json(run_cli, weights, *model, "--output", run)
    assert_refused(run_cli, 4, str(below), "export", run, "--output", below)
    last = ("export", run, "--checkpoint", "last", "--output", tmp_path / "w")
    assert_refused(run_cli, 4, "there is best.safetensors", *last)
    assert_refused(run_cli, 2, "itself", "export", run, "--output", run / "best.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["run", "weights.safetensors"]
