"""Generated cines as files, each marked as generated: in the picture, and in what the file says of itself."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from common.files import replacing
from systems.ecg_cmr.figures import strip_of

NOTICE = "GENERATED from an ECG by a model. Not measured, no medical image, nothing to diagnose from."
_SHORT_NOTICE = "GENERATED from an ECG, not measured"
LETTER = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)
"""A G: burnt into the lower right corner of every frame, as what a file says of itself is easily lost."""
_SCALE = 5
"""Pixels of a picture for each of a cine."""
_CYCLE_MS = 1000
"""Milliseconds that a GIF takes for one cycle."""
BAR = 16
"""Height of the bar below a picture that says what it is, pixels."""
_THICKNESS = 8.0
"""Millimetres of the slice, as usual."""


def marked(cine: ArrayLike) -> NDArray[np.uint8]:
    """Return a cine (frames, H, W), 0 to 1, as bytes with the letter burnt in."""
    pixels = np.round(np.clip(np.asarray(cine, float), 0, 1) * 255).astype(np.uint8)
    height, width = LETTER.shape
    if pixels.ndim != 3 or min(pixels.shape[1:]) < 2 * max(LETTER.shape):
        raise ValueError(f"A cine must have shape (frames, height, width): {pixels.shape}.")
    pixels[:, -height - 1 : -1, -width - 1 : -1] = np.where(LETTER, 255, 0)
    return pixels


def write_nifti(path: Path, cine: ArrayLike, pixel_spacing: float, affine: NDArray[np.float64]) -> None:
    """Write a cine (frames, H, W), 0 to 1, as NIfTI of shape (W, H, 1, frames).

    Parameters
    ----------
    path : pathlib.Path
        Ending in ``.nii.gz``.
    cine : array_like
    pixel_spacing : float
        Millimetres.
    affine : numpy.ndarray, shape (4, 4)
        How the slice lies in the patient.
    """
    image = nibabel.Nifti1Image(marked(cine).transpose(2, 1, 0)[:, :, None], affine)
    image.header.set_zooms((pixel_spacing, pixel_spacing, _THICKNESS, 1.0))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _SHORT_NOTICE.encode()
    image.header["intent_name"] = b"generated"
    image.header.extensions.append(Nifti1Extension("comment", NOTICE.encode()))
    with replacing(path) as temporary:
        nibabel.save(image, temporary)


def write_gif(path: Path, cine: ArrayLike) -> None:
    """Write a cine (frames, H, W), 0 to 1, as a GIF that goes round, what it is below every frame."""
    pictures = [_with_bar(_enlarged(frame)) for frame in marked(cine)]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=_CYCLE_MS // len(pictures),
            loop=0,
            comment=NOTICE.encode(),
        )


def write_strip(path: Path, cines: ArrayLike, frames: int = 8) -> None:
    """Write some frames of cines (N, frames, H, W), 0 to 1, as a PNG: a row a cine."""
    rows = [strip_of(marked(cine), frames) for cine in np.asarray(cines, float)]
    metadata = PngInfo()
    metadata.add_text("Description", NOTICE)
    with replacing(path) as temporary:
        _with_bar(_enlarged(np.concatenate(rows), scale=3)).save(temporary, pnginfo=metadata)


def _enlarged(picture: NDArray[np.uint8], scale: int = _SCALE) -> NDArray[np.uint8]:
    """Return a picture with every pixel as a square of pixels."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _with_bar(picture: NDArray[np.uint8]) -> Image.Image:
    """Return a picture with a bar below that says what it is."""
    height, width = picture.shape
    whole = Image.new("L", (width, height + BAR), 0)
    whole.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(whole).text((4, height + 2), _SHORT_NOTICE, fill=255)
    return whole
