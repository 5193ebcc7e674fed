"""PNG and JPEG files as the small square images that the networks take."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minires.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 50_000_000
"""A file may unpack to thousands of times its size; above this an image is refused unread."""

FITS = ("crop", "squash")


def images_in(folder: Path) -> list[Path]:
    """The PNG and JPEG files directly in `folder`, by their names' endings, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def read_image(path: Path, side: int = 32, fit: str = "crop") -> np.ndarray:
    """The image as uint8 (3, side, side), upright, red, green, blue.

    fit: "crop" takes the largest square in the middle, "squash" the whole image. What is
    transparent becomes white. Shrinking averages over all pixels (Lanczos). Raises `DataError`
    with the reason for a file that is missing, broken, too large or no PNG or JPEG.
    """
    if not path.is_file():
        raise DataError("is not a file" if path.exists() else "no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is an error here, or nothing
        try:
            return _read(path, side, fit)
        except DataError:
            raise
        except Exception as error:  # a broken file can raise anything in Pillow's decoders
            raise DataError(_reason(error)) from error


def _read(path: Path, side: int, fit: str) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path, formats=("PNG", "JPEG")) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise DataError(
                f"{width:,} x {height:,} pixels are too many; at most {MOST_PIXELS:,} are read"
            )
        image = _opaque(ImageOps.exif_transpose(image))
    width, height = image.size
    box = (0.0, 0.0, width, height)
    if fit == "crop":
        edge = min(width, height)
        left, top = (width - edge) / 2, (height - edge) / 2
        box = (left, top, left + edge, top + edge)
    image = image.resize((side, side), Image.Resampling.LANCZOS, box)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _opaque(image: Image.Image) -> Image.Image:
    """The image in red, green and blue, on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip instead of scale
        values = np.asarray(image, dtype=np.float64) / 65_535 * 255
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is no PNG or JPEG"
    if isinstance(error, Image.DecompressionBombError):
        return f"has too many pixels; at most {MOST_PIXELS:,} are read"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"is broken ({error})"
