"""Read a picture of an ECG as ink on paper: the image view of a patient, from any scanner or camera."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps
from scipy import ndimage

from datasets.ecg_image import SMALLEST_SIDE, Picture
from datasets.sources import DataError

RESAMPLING = Image.Resampling.HAMMING

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
LARGEST_PICTURE = 80_000_000
"""Pixels above which a file is refused before it is decoded."""
FAINT = 0.2
"""Darkness, as a share of that of black, that is still paper: grain, and what JPEG leaves of a grid."""
FINENESS = 4
"""Ink is told from paper at up to so many times the size asked for, where a thin trace is still dark."""


def read_ecg_image(path: Path, height: int, width: int | None = None) -> Picture:
    """Read a picture of an ECG as ink on paper, at one size, its aspect kept.

    Parameters
    ----------
    path : pathlib.Path
        JPEG, PNG, TIFF, BMP, GIF or WebP of any size; a rotation noted by the camera is undone.
    height, width : int
        Pixels wanted; width by default ten times the height, as a strip of lead II has it.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width)
        See `to_ink`.

    Raises
    ------
    DataError
        If the file is absent, damaged, cut short, too large or too small, or shows nothing.
    """
    ink = to_ink(_open(path), height, width)
    if not ink.any():
        raise DataError(f"The picture {path.name} shows nothing but paper: replace it.")
    return ink


def to_ink(picture: Image.Image | Picture, height: int, width: int | None = None) -> Picture:
    """Return how much ink there is in each pixel of a picture, scaled to fit a box with its aspect kept.

    Ink is what is dark in all three colours, beside the paper around it: a grid in red, green or blue
    vanishes, and so do shadows; a grey grid stays, and a coloured trace fades.

    Parameters
    ----------
    picture : PIL.Image.Image, or numpy.ndarray of uint8 of shape (rows, columns, 3)
    height, width : int
        Pixels of the box; width by default ten times the height. The rest of the box is paper.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width)
        255 black ink, 0 paper.
    """
    width = 10 * height if width is None else width
    if height < 1 or width < 1:
        raise ValueError(f"A picture of {height} x {width} pixels was asked for; at least 1 x 1 is needed.")
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    lightest = functools.reduce(ImageChops.lighter, _on_white(image).split())
    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    fine = lightest.reduce(max(1, int(1 / (FINENESS * scale))))
    ink = _darker_than(_paper_around(lightest.resize(size, RESAMPLING)), fine).resize(size, RESAMPLING)
    box = np.zeros((height, width), dtype=np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    box[top : top + size[1], left : left + size[0]] = np.asarray(ink).round()
    return box


def _open(path: Path) -> Image.Image:
    """Return a decoded picture, turned upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image)
                return ImageOps.exif_transpose(image)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"The picture {path.name} does not exist.") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"The picture {path.name} cannot be read ({error}): replace it.") from error


def _check_size(path: Path, image: Image.Image) -> None:
    """Refuse a picture before it is decoded."""
    if image.width * image.height > LARGEST_PICTURE:
        raise DataError(
            f"The picture {path.name} has {image.width} x {image.height} pixels; "
            f"at most {LARGEST_PICTURE // 1_000_000} million are read: scale it down."
        )
    if min(image.size) < SMALLEST_SIDE:
        raise DataError(
            f"The picture {path.name} has {image.width} x {image.height} pixels, "
            f"and {SMALLEST_SIDE} are the least for a side: replace it."
        )


def _on_white(image: Image.Image) -> Image.Image:
    """Return any picture as red, green and blue, transparent parts white."""
    if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would cut off at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") and values.max() > 255 else max(values.max(), 1e-9)
        return Image.fromarray((255 * np.clip(values / top, 0, 1)).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _paper_around(image: Image.Image) -> Image.Image:
    """Return how light the paper is: the lightest within an eighth of the height, smoothed over as much."""
    grey = np.asarray(image, dtype=np.float32)
    reach = 2 * max(1, grey.shape[0] // 8) + 1
    return Image.fromarray(ndimage.uniform_filter(ndimage.maximum_filter(grey, size=reach), size=reach))


def _darker_than(paper: Image.Image, image: Image.Image) -> Image.Image:
    """Return how much darker each pixel of an image is than the paper, 0 to 255, as real numbers."""
    light = np.asarray(paper.resize(image.size, Image.Resampling.BILINEAR))
    darkness = (light - np.asarray(image, dtype=np.float32)) / np.maximum(light, 1)
    return Image.fromarray(255 * np.clip((darkness - FAINT) / (1 - FAINT), 0, 1))
