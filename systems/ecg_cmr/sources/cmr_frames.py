"""Bring a cine CMR to one size, pixel spacing, number of frames and range of brightness."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datasets.sources import DataError
from systems.ecg_cmr.sources.cmr_files import Cine

Pixels = NDArray[np.float32]


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
        Frames wanted, evenly over the one cycle that the file shows; linear between its frames.
    size : int
        Height and width wanted, pixels. What lies outside the picture is 0.
    pixel_spacing : float
        Millimetres a pixel wanted; finer pixels are averaged.
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
