"""Read a cine CMR from a file, whatever its axes and orientation.

===========  ============================================================================================
file         axes
===========  ============================================================================================
NIfTI, 4     (height, width, slices, frames); of the three in space, that with the fewest samples is
             the slices, wherever it is
NIfTI, 3     (height, width, frames)
``.npy``     (frames, height, width) or (frames, slices, height, width), rows from top to bottom
===========  ============================================================================================

Axes of length one do not count. What the motion contradicts is refused (`cine_axes`).

Of several slices the middle one is taken. A NIfTI that states how it lies in the patient is turned so that
columns run to the patient's left, and rows to back and feet: the usual display. It is turned by quarters
and mirrored only, so no value changes. One that does not state it, and ``.npy``, are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datasets.sources import DataError
from systems.ecg_cmr.sources.cine_axes import (
    FEWEST_FRAMES,
    Stated,
    require_cycle,
    require_frames_first,
    stated_axes,
    time_axis,
)

Pixels = NDArray[np.float32]

_LARGEST_FILE = 400_000_000
"""Values above which a file is refused before it is decoded."""
PLAUSIBLE_SPACING = (0.2, 10.0)
"""Millimetres a pixel that are plausible."""
_USUAL_SPACING, _USUAL_FRAMES = (0.6, 3.5), (12, 60)
"""What a cine commonly has; anything else is named, and used."""
_MOST_LOOKED_AT = 4_000_000
"""Values of a file from which its motion is measured; of larger ones every second row and column, or less."""
LEFT, _DOWN = np.array([-1.0, 0.0, 0.0]), np.array([0.0, -1.0, -1.0]) / np.sqrt(2)
"""Directions that columns and rows shall have, where x is to the right, y to the front, z to the head."""
ENDINGS = (".nii", ".nii.gz", ".npy")


@dataclass(frozen=True)
class Cine:
    """A cine as a file has it, one slice.

    Attributes
    ----------
    frames : numpy.ndarray of float32, shape (frames, height, width)
        Brightness in units of the file; rows from top to bottom.
    spacing : tuple of float
        Height and width of a pixel, mm.
    slices : int
        Slices of the file, of which this is the middle one.
    warnings : tuple of str
        What was unusual, in whole sentences.
    """

    frames: Pixels
    spacing: tuple[float, float]
    slices: int
    warnings: tuple[str, ...] = ()


def read_cine(path: Path, spacing: float = 0.0) -> Cine:
    """Read a cine.

    Parameters
    ----------
    path : pathlib.Path
        ``.nii``, ``.nii.gz`` or ``.npy``.
    spacing : float
        Millimetres a pixel; requested for ``.npy`` and otherwise in place of what the file says. 0: unknown.

    Raises
    ------
    DataError
        If the file is absent, cut short, has other axes, no pixel size, too few frames, values that are no
        numbers, or shows nothing.
    """
    if not path.is_file():
        raise DataError(f"The file {path.name} does not exist.")
    cine = _read_npy(path, spacing) if path.name.lower().endswith(".npy") else _read_nifti(path, spacing)
    low, high = PLAUSIBLE_SPACING
    if not all(low <= size <= high for size in cine.spacing):
        raise DataError(
            f"The pixels of {path.name} measure {_sizes(cine)} mm; {low:g} to {high:g} are possible."
        )
    if not np.isfinite(cine.frames).all():
        count = int((~np.isfinite(cine.frames)).sum())
        raise DataError(f"The file {path.name} holds {count} values that are no numbers (NaN or infinite).")
    if cine.frames.min() == cine.frames.max():
        raise DataError(f"The file {path.name} shows nothing: all its values are the same.")
    return Cine(cine.frames, cine.spacing, cine.slices, (*cine.warnings, *_unusual(cine)))


def _unusual(cine: Cine) -> list[str]:
    """Name an uncommon pixel size or number of frames."""
    warnings = []
    if any(not _USUAL_SPACING[0] <= size <= _USUAL_SPACING[1] for size in cine.spacing):
        warnings.append(f"Its pixels measure {_sizes(cine)} mm, which is unusual.")
    if max(cine.spacing) > 1.1 * min(cine.spacing):
        warnings.append(f"Its pixels measure {_sizes(cine)} mm: they are not square.")
    if not _USUAL_FRAMES[0] <= len(cine.frames) <= _USUAL_FRAMES[1]:
        warnings.append(f"It has {len(cine.frames)} frames, which is unusual.")
    return warnings


def _sizes(cine: Cine) -> str:
    return " x ".join(f"{size:.3g}" for size in cine.spacing)


def _check_axes(path: Path, shape: tuple[int, ...], frames: int) -> None:
    """Refuse what cannot be a cine before it is decoded."""
    if frames < FEWEST_FRAMES:
        raise DataError(f"The file {path.name} has {frames} frames; a cine has at least {FEWEST_FRAMES}.")
    if min(shape) < 1 or np.prod([float(length) for length in shape]) > _LARGEST_FILE:
        raise DataError(
            f"The file {path.name} has axes of {' x '.join(map(str, shape))}: no cine is so large."
        )


# NumPy ----------------------------------------------------------------------------------------------


def _read_npy(path: Path, spacing: float) -> Cine:
    """Return the cine of an array file."""
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for damaged files
        raise DataError(f"The file {path.name} cannot be read ({error}).") from error
    if not isinstance(data, np.ndarray) or data.ndim not in (3, 4) or data.dtype.kind not in "uif":
        raise DataError(
            f"The file {path.name} is no array of (frames, height, width) or (frames, slices, height, width)."
        )
    data = data[tuple(0 if length == 1 else slice(None) for length in data.shape)]
    if data.ndim not in (3, 4):
        raise DataError(f"The file {path.name} has {data.ndim} axes longer than one; a cine has 3 or 4.")
    _check_axes(path, data.shape, data.shape[0])
    if spacing <= 0:
        raise DataError(f"The pixel size of {path.name} is not known: state it in the table of pairs, in mm.")
    require_frames_first(path.name, _thinned(data), data.shape)
    slices = data.shape[1] if data.ndim == 4 else 1
    frames = np.asarray(data[:, slices // 2] if data.ndim == 4 else data, dtype=np.float32)
    return Cine(frames, (spacing, spacing), slices, require_cycle(path.name, frames, None))


def _thinned(data: Any) -> NDArray[Any]:
    """Return an array, with fewer samples along its two longest axes where it is large."""
    longest = sorted(range(len(data.shape)), key=lambda axis: -data.shape[axis])[:2]
    size = float(np.prod([float(length) for length in data.shape]))
    step = int(np.ceil(np.sqrt(size / _MOST_LOOKED_AT)))
    steps = (step if axis in longest else 1 for axis in range(len(data.shape)))
    return np.asarray(data[tuple(slice(None, None, each) for each in steps)])


# NIfTI ----------------------------------------------------------------------------------------------


def _read_nifti(path: Path, spacing: float) -> Cine:
    """Return the cine of a NIfTI file, in the usual display."""
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(f"The file {path.name} is neither NIfTI (.nii, .nii.gz) nor NumPy (.npy).")
    image = open_nifti(path)
    stated, axes = stated_axes(image), _long_axes(path, image)
    try:
        time, of_time = time_axis(path.name, _thinned(image.dataobj), image.shape, axes, stated)
        _check_axes(path, image.shape, image.shape[time])
        slice_axis = _slice_axis(image.shape, [axis for axis in axes if axis != time])
        where: list[slice | int] = [slice(None) if axis in axes else 0 for axis in range(len(image.shape))]
        slices = 1 if slice_axis is None else image.shape[slice_axis]
        if slice_axis is not None:
            where[slice_axis] = slices // 2
        data = np.asarray(image.dataobj[tuple(where)], dtype=np.float32)
    except DataError:
        raise
    except Exception as error:  # nibabel raises many kinds for damaged files
        raise damaged_nifti(path, error) from error
    plane = [axis for axis in axes if axis not in (time, slice_axis)]
    if max(plane) > 2:
        raise DataError(f"The file {path.name} has no height and width among its first three axes.")
    frames = np.moveaxis(data, [axis for axis in axes if axis != slice_axis].index(time), 0)
    sizes, doubt = _voxel_sizes(image, plane, stated)
    if spacing > 0:
        sizes, doubt = (spacing, spacing), ()
    warnings = (*stated.warnings, *of_time, *_warnings_of_axes(image.shape, axes, slice_axis))
    warnings += require_cycle(path.name, frames, stated.steps[time] if time < 3 and slices == 1 else None)
    shown, sizes = _displayed(frames, sizes, _directions(image, plane))
    return Cine(np.ascontiguousarray(shown), sizes, int(slices), (*warnings, *doubt))


def open_nifti(path: Path) -> nibabel.Nifti1Image:
    """Return a NIfTI whose values are not read yet.

    Raises
    ------
    DataError
        If it is damaged, or another kind of image.
    """
    try:
        image = nibabel.load(path)
    except Exception as error:  # nibabel raises many kinds for damaged files
        raise damaged_nifti(path, error) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(f"The file {path.name} is {type(image).__name__}, not NIfTI.")
    return image


def damaged_nifti(path: Path, error: Exception) -> DataError:
    """Return what is said of a file that cannot be read."""
    return DataError(f"The file {path.name} cannot be read: it is damaged or cut short ({error}).")


def _long_axes(path: Path, image: nibabel.Nifti1Image) -> list[int]:
    """Return the three or four axes longer than one."""
    kind = image.get_data_dtype()
    if kind.kind not in "uif":
        raise DataError(f"The file {path.name} holds {kind} values: one brightness a voxel is needed.")
    axes = [axis for axis, length in enumerate(image.shape) if length != 1]
    if len(axes) not in (3, 4) or len(image.shape) == 2:
        raise DataError(
            f"The file {path.name} has {len(axes)} axes longer than one; (height, width, slices, frames) are "
            "needed."
        )
    _check_axes(path, image.shape, FEWEST_FRAMES)
    return axes


def _slice_axis(shape: Sequence[int], space: Sequence[int]) -> int | None:
    """Return the axis across the slices: the shortest of the three in space, the last of equals."""
    return None if len(space) == 2 else min(reversed(space), key=lambda axis: shape[axis])


def _warnings_of_axes(shape: Sequence[int], axes: Sequence[int], slice_axis: int | None) -> tuple[str, ...]:
    """Name an unusual order of the axes."""
    if slice_axis is None:
        return ("It has three axes; the last is taken for time.",) if axes == [0, 1, 2] else ()
    order = ("first", "second", "third")
    if slice_axis > 1:
        return ()
    return (f"Its {order[slice_axis]} axis, the shortest, is taken for that of the slices.",)


def _oriented(image: nibabel.Nifti1Image) -> bool:
    """Tell whether a file states how it lies in the patient."""
    affine = np.asarray(image.affine, float)
    stated = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    return stated and bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine[:3, :3])) > 1e-9


def _voxel_sizes(
    image: nibabel.Nifti1Image, plane: list[int], stated: Stated
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return the sizes of a pixel along two axes, mm, and what is doubtful about them."""
    factor = stated.factor
    zooms = np.abs(np.array(image.header.get_zooms()[:3], float))[plane]
    found, doubt = zooms, tuple[str, ...]()
    if _oriented(image):
        found = np.linalg.norm(np.asarray(image.affine, float)[:3, plane], axis=0)
        if not np.allclose(found, zooms, rtol=0.05):
            both = [" x ".join(f"{factor * size:.3g}" for size in sizes) for sizes in (found, zooms)]
            doubt = (f"It states two pixel sizes, {both[0]} and {both[1]} mm; the first is used.",)
    return (float(factor * found[0]), float(factor * found[1])), doubt


def _directions(image: nibabel.Nifti1Image, plane: list[int]) -> NDArray[np.float64] | None:
    """Return in which direction of the patient two axes run, shape (2, 3); None where it is not stated."""
    if not _oriented(image):
        return None
    columns = np.asarray(image.affine, float)[:3, plane]
    return (columns / np.linalg.norm(columns, axis=0)).T


def _displayed(
    frames: Pixels, sizes: tuple[float, float], directions: NDArray[np.float64] | None
) -> tuple[Pixels, tuple[float, float]]:
    """Return frames (frames, axis, axis) and pixel sizes in the usual display, rows from top to bottom."""
    if directions is None:
        return frames, sizes
    along = np.stack([directions @ _DOWN, directions @ LEFT])  # rows down and columns left, by axis
    if abs(along[0, 1]) + abs(along[1, 0]) > abs(along[0, 0]) + abs(along[1, 1]):
        frames, sizes, along = frames.swapaxes(1, 2), sizes[::-1], along[:, ::-1]
    mirrored = [slice(None, None, -1 if along[axis, axis] < 0 else 1) for axis in range(2)]
    return frames[:, mirrored[0], mirrored[1]], sizes


def display_affine(spacing: float, thickness: float = 8.0) -> NDArray[np.float64]:
    """Return the affine of a slice whose columns run to the left and whose rows run to back and feet, mm."""
    affine = np.eye(4)
    across = np.cross(LEFT, _DOWN)
    affine[:3, :3] = np.stack([spacing * LEFT, spacing * _DOWN, thickness * across], axis=1)
    return affine


def prepare_cine(
    cine: Cine,
    frames: int,
    size: int,
    pixel_spacing: float,
    center: Literal["motion", "image"] = "motion",
    first_frame: int = 0,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> NDArray[np.uint8]:
    """Return a cine of fixed size, spacing and number of frames, brightness from 0 to 255.

    Parameters
    ----------
    cine : Cine
    frames : int
        Frames requested, evenly over the one cycle that the file shows; linear between its frames.
    size : int
        Height and width requested, pixels. What lies outside the picture is 0.
    pixel_spacing : float
        Millimetres a pixel requested; finer pixels are averaged.
    center : {"motion", "image"}
        Cut out around what moves, without leaving the picture, or around its middle.
    first_frame : int
        Frame of the file, from 0, that becomes the first.
    percentiles : tuple of float
        Percentiles of brightness that become 0 and 255.
    """
    moved = in_time(cine.frames, frames, first_frame)
    middle = _middle(moved, cine.spacing, size * pixel_spacing, center)
    rows, columns = (
        _sampling(moved.shape[axis + 1], middle[axis], pixel_spacing / cine.spacing[axis], size)
        for axis in range(2)
    )
    return to_bytes(np.asarray(rows @ moved @ columns.T, np.float32), percentiles)


def to_bytes(frames: Pixels, percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    """Return brightness from 0 to 255 between two percentiles of all frames.

    Raises
    ------
    DataError
        If the two are the same.
    """
    low, high = np.percentile(frames, percentiles)
    if not high > low:
        raise DataError("It shows nothing where the heart should be: its brightness is the same throughout.")
    scaled = np.clip((frames - low) * (255 / (high - low)), 0, 255)
    return np.round(scaled).astype(np.uint8)


def in_time(frames: Pixels, count: int, first: int = 0) -> Pixels:
    """Return so many frames of a cycle, evenly spread, beginning with one of them; linear between frames."""
    place = np.arange(count) * (len(frames) / count) + first
    below = np.floor(place).astype(np.intp)
    weight = (place - below).astype(np.float32)[:, None, None]
    return (1 - weight) * frames[below % len(frames)] + weight * frames[(below + 1) % len(frames)]


def _sampling(length: int, middle: float, step: float, size: int) -> Pixels:
    """Return the weights (size, length) that sample an axis at places a step apart, without aliases."""
    place = middle + (np.arange(size) - (size - 1) / 2) * step
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(length)) / max(step, 1.0), 0.0)
    inside = (place >= -0.5) & (place <= length - 0.5)
    total = weights.sum(axis=1)
    return (weights * (inside / np.where(total > 0, total, 1.0))[:, None]).astype(np.float32)


def _middle(
    frames: Pixels, spacing: tuple[float, float], field: float, center: Literal["motion", "image"]
) -> tuple[float, float]:
    """Return the row and column that becomes the middle: where things move, as far as the picture allows."""
    middle = np.array([(length - 1) / 2 for length in frames.shape[1:]])
    room = np.array(
        [max(0.0, (n - field / size) / 2) for n, size in zip(frames.shape[1:], spacing, strict=True)]
    )
    if center == "image" or not room.any():
        return float(middle[0]), float(middle[1])
    moving = ndimage.gaussian_filter(frames.std(axis=0), [6 / size for size in spacing])
    moving = np.maximum(moving - 0.25 * moving.max(), 0.0) ** 2
    found = middle
    places = np.indices(moving.shape).reshape(2, -1)
    window = np.ones(moving.size)
    for _ in range(4):  # what moves far away, an arm or the liver, counts less and less
        weight = moving.ravel() * window
        if weight.sum() <= 0:
            break
        found = (places * weight).sum(axis=1) / weight.sum()
        away = ((places - found[:, None]) * np.array(spacing)[:, None] / (field / 3)) ** 2
        window = np.exp(-away.sum(axis=0) / 2)
    shift = np.clip(found - middle, -room, room)
    return float(middle[0] + shift[0]), float(middle[1] + shift[1])
