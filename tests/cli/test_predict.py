"""`predict` as typed: good files, bad files, folders, overlays, and the answers themselves."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minires.analysis.image_files import MOST_PIXELS, read_image
from minires.backend import CPU
from minires.cli import main
from minires.data import load_dataset
from minires.errors import DataError
from minires.models import build
from minires.training.checkpoint import Checkpoint, save_checkpoint

MEAN, STD = (0.45, 0.5, 0.55), (0.2, 0.25, 0.3)
NAMES = tuple(f"class {k}" for k in range(10))
HERE = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def shapes():
    return load_dataset("shapes", "test")


@pytest.fixture(scope="module")
def model():
    """A small network whose weights are large enough for answers that differ."""
    model = build("resnet8", width=0.5, seed=4, device=CPU)
    dict(model.named_parameters())["fc.weight"].data[...] *= 4
    return model


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    config = {"dataset": "shapes", "model": "resnet8", "width": 0.5}
    checkpoint = Checkpoint(model.state_dict(), model.spec, MEAN, STD, NAMES, config=config)
    save_checkpoint(folder / "best.safetensors", checkpoint)
    return folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["predict", *map(str, args), *HERE])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def save(name, pixels):
    Image.fromarray(pixels.transpose(1, 2, 0)).save(name)


def probabilities(model, pixels):
    """By hand: scale, normalise, softmax."""
    x = (pixels / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    powers = np.exp(model.eval()(x[None].astype(np.float32))[0].astype(float))
    return powers / powers.sum()


def test_a_file_of_the_right_size_gets_what_the_network_says(capsys, run, model, shapes):
    for n in range(3):
        save(f"{n}.png", shapes.images[n])
    code, out, err = call(capsys, run, "2.png", "0.png", "1.png", "--top", 10, "--json")
    assert (code, err) == (0, "")
    answers = json.loads(out)["images"]
    assert [answer["file"] for answer in answers] == ["2.png", "0.png", "1.png"]
    for answer, n in zip(answers, (2, 0, 1), strict=True):
        expected = probabilities(model, shapes.images[n])
        found = {row["class"]: row["probability"] for row in answer["top"]}
        np.testing.assert_allclose([found[name] for name in NAMES], expected, rtol=1e-3, atol=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert answer["top"][0]["class"] == NAMES[expected.argmax()]


def test_people_see_five_classes_with_bars(capsys, run, shapes):
    save("a.png", shapes.images[0])
    code, out, _ = call(capsys, run, "a.png")
    assert code == 0
    assert "a.png" in out and "█" in out
    assert sum("class " in line and "%" in line for line in out.splitlines()) == 5


def test_bars_that_the_output_cannot_hold_become_question_marks(run, shapes, monkeypatch):
    save("a.png", shapes.images[0])
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="cp1252", newline=""))
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), "a.png", *HERE])
    assert stop.value.code == 0
    assert b"class " in raw.getvalue() and b"???" in raw.getvalue()


def test_a_folder_gives_its_images_in_order(capsys, run, shapes):
    Path("folder/deeper").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "c.jpeg", ".hidden.png", "deeper/d.png"):
        save(f"folder/{name}", shapes.images[0])
    Path("folder/notes.txt").write_text("no image")
    code, out, _ = call(capsys, run, "folder", "--json")
    assert code == 0
    names = [answer["file"] for answer in json.loads(out)["images"]]
    assert names == ["folder/a.png", "folder/b.JPG", "folder/c.jpeg"]


def test_bad_files_are_skipped_with_their_reasons(capsys, run, shapes):
    save("good.png", shapes.images[0])
    good = Path("good.png").read_bytes()
    Path("cut.png").write_bytes(good[: len(good) // 2])
    Path("text.jpg").write_text("not an image")
    Path("empty.png").write_bytes(b"")
    Image.new("1", (9_000, 9_000)).save("huge.png")
    Image.fromarray(shapes.images[0][0]).save("other.gif")
    Path("nothing").mkdir()
    bad = ["cut.png", "text.jpg", "empty.png", "huge.png", "other.gif", "nothing", "missing.png"]
    code, out, err = call(capsys, run, "good.png", *bad, "good.png", "--json")
    assert code == 3
    result = json.loads(out)
    assert [answer["file"] for answer in result["images"]] == ["good.png", "good.png"]
    reasons = {item["file"]: item["reason"] for item in result["skipped"]}
    assert list(reasons) == bad
    for name, word in (
        ("cut.png", "broken"),
        ("text.jpg", "no PNG or JPEG"),
        ("empty.png", "no PNG or JPEG"),
        ("huge.png", "9,000 x 9,000 pixels"),
        ("other.gif", "no PNG or JPEG"),
        ("nothing", "holds no PNG or JPEG"),
        ("missing.png", "no such file"),
    ):
        assert word in reasons[name]
        assert f"skipped: {name}: {reasons[name]}\n" in err
    assert err.endswith("error: 7 of 9 could not be read as images\n")


def test_a_bomb_is_refused_before_it_is_unpacked():
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    Path("bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=f"{MOST_PIXELS:,}"):
        read_image(Path("bomb.png"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_crop_takes_the_middle_and_squash_all():
    wide = np.zeros((3, 40, 120), dtype=np.uint8)
    wide[0, :, :40], wide[1, :, 40:80], wide[2, :, 80:] = 255, 255, 255
    save("wide.png", wide)
    middle = read_image(Path("wide.png"), 8, "crop")
    assert (middle[1, :, 1:-1] > 250).all() and (middle[0, :, 1:-1] < 5).all()
    everything = read_image(Path("wide.png"), 9, "squash")
    assert [everything[:, 4, column].argmax() for column in (1, 4, 7)] == [0, 1, 2]


def test_shrinking_takes_the_mean_of_all_pixels():
    fine = np.zeros((3, 256, 256), dtype=np.uint8)
    fine[:, :, ::2] = 255  # every other column: taking single pixels would give 0 or 255
    save("fine.png", fine)
    assert np.abs(read_image(Path("fine.png")).astype(int) - 127).max() <= 12


def test_odd_kinds_of_images():
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(grey).save("grey.png")
    assert (read_image(Path("grey.png")) == grey).all()
    Image.fromarray(grey.astype(np.uint16) * 257).save("deep.png")  # 16 bits
    assert (read_image(Path("deep.png")) == grey).all()
    clear = np.zeros((32, 32, 4), dtype=np.uint8)
    clear[:16, :, 3] = 255
    Image.fromarray(clear).save("clear.png")  # black above, transparent below
    assert (read_image(Path("clear.png"))[:, :15] == 0).all()
    assert (read_image(Path("clear.png"))[:, 17:] == 255).all()
    turned = Image.fromarray(np.stack([grey] * 3, axis=2))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees to the right
    turned.save("turned.png", exif=exif)
    assert (read_image(Path("turned.png")) == np.rot90(grey, -1)).all()


def test_overlays_are_written_for_each_image(capsys, run, shapes):
    Path("one").mkdir()
    Path("two").mkdir()
    save("one/a.png", shapes.images[0])
    save("two/a.png", shapes.images[1])
    code, out, _ = call(capsys, run, "one/a.png", "two/a.png", "--gradcam", "new/cams", "--json")
    assert code == 0
    files = [answer["gradcam"] for answer in json.loads(out)["images"]]
    assert files == ["new/cams/a-gradcam.png", "new/cams/a-2-gradcam.png"]
    for name, file in zip(("one/a.png", "two/a.png"), files, strict=True):
        with Image.open(file) as picture, Image.open(name) as image:
            assert picture.size == (256, 256) and picture.mode == "RGB"
            large = np.asarray(image.resize(picture.size, Image.Resampling.LANCZOS), dtype=int)
            change = np.abs(np.asarray(picture, dtype=int) - large).max(axis=2)
        assert (change > 30).any()  # heat somewhere
        assert (change < 10).any()  # and the image elsewhere


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "IMAGE"),
        (["a.png", "--layer", "layer9", "--gradcam", "cams"], 2, "did you mean 'layer"),
        (["a.png", "--gradcam", "a.png"], 2, "--gradcam a.png"),
        (["a.png", "--top", "0"], 2, "--top"),
    ],
)
def test_a_mistake_is_one_line(capsys, run, shapes, args, code, words):
    save("a.png", shapes.images[0])
    got, out, err = call(capsys, run, *args)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1 and words in err


def test_no_run_is_one_line(capsys):
    code, _, err = call(capsys, "nowhere", "a.png")
    assert code == 4 and "nowhere: no such run folder" in err


def test_weights_that_overflow_are_refused_in_one_line(capsys, model, shapes, tmp_path):
    save("a.png", shapes.images[0])
    huge = {n: a * 0 + 3e38 if a.dtype.kind == "f" else a for n, a in model.state_dict().items()}
    save_checkpoint(tmp_path / "huge", Checkpoint(huge, model.spec, MEAN, STD, NAMES))
    code, out, err = call(capsys, "huge", "a.png", "--json")
    assert (code, out) == (4, "")
    assert err.count("\n") == 1 and "error: huge: gives no finite answer" in err
