"""A cine CMR of a simulated patient: what one sees of the heart that `simulation.heart_motion` moves.

Short axis as it is usually shown, from the apex: the right ventricle on the left, the anterior wall up.
Long axis like a four-chamber view: apex up, the right side on the left, the atria below. The frames are
spread evenly over one mean cycle, the first at the R wave. Papillary muscles belong to the cavity, as in
most clinical contours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.cine_background import FAT, coil_sensitivity, draw_background, rician
from simulation.cine_cut import Cut, cut_long_axis, cut_short_axis, draw_pose, still_pose
from simulation.heart import Heart
from simulation.heart_motion import MID_LEVEL
from simulation.patient import Floats

Pixels = NDArray[np.float32]

SHORT_AXIS_SPACING, LONG_AXIS_SPACING = 2.2, 3.2
"""Millimetres a pixel at which 64 pixels show the heart and what is around it."""
STRUCTURES = ("rv", "myocardium", "lv")
"""Order of the masks; their places counted from 1 are the labels of ACDC."""
NOISE = (0.05, 0.12)
"""Range of the standard deviation of the noise, where muscle is 1."""
_PAPILLARY_SHARE = 0.75
"""How much of the slice's thickness the papillary muscles fill."""


def phases_of(frames: int) -> Floats:
    """Return the phase of each frame, a share of the cycle from the R wave, shape (frames,)."""
    return np.arange(frames) / frames


def render_cine(
    heart: Heart,
    rng: np.random.Generator,
    frames: int = 16,
    size: int = 64,
    pixel_spacing: float | None = None,
    long_axis: bool = False,
) -> Pixels:
    """Return a cine of a heart.

    Parameters
    ----------
    heart : Heart
    rng : numpy.random.Generator
        Of this scan: pose, breathing, surroundings, coil and noise.
    frames : int
        Frames of one cycle; the first is end-diastole.
    size : int
        Height and width, pixels.
    pixel_spacing : float, optional
        Millimetres; absent: `SHORT_AXIS_SPACING` or `LONG_AXIS_SPACING` times 64 / size.
    long_axis : bool
        A view along the long axis instead of the slice across its middle.

    Returns
    -------
    numpy.ndarray of float32, shape (frames, size, size)
        Magnitude, not negative: muscle is 1 and blood `Heart.blood_contrast`, beside coil and noise.

    Raises
    ------
    ValueError
        If frames, size or spacing are too small.
    """
    pose_rng, place_rng, noise_rng = rng.spawn(3)
    spacing = _spacing(frames, size, pixel_spacing, long_axis)
    cut = _cut(heart, pose_rng, frames, size, spacing, long_axis, MID_LEVEL)
    background = draw_background(heart, cut, place_rng, size, spacing, long_axis)
    image = _painted(heart, cut, background, place_rng) * coil_sensitivity(place_rng, size)
    return rician(image, noise_rng.uniform(*NOISE), noise_rng)


def render_masks(
    heart: Heart,
    rng: np.random.Generator | None = None,
    frames: int = 16,
    size: int = 64,
    pixel_spacing: float | None = None,
    long_axis: bool = False,
    level: float = MID_LEVEL,
) -> Pixels:
    """Return what each pixel truly is.

    Parameters
    ----------
    heart, frames, size, pixel_spacing, long_axis
        As in `render_cine`.
    rng : numpy.random.Generator, optional
        In the state that it had for `render_cine`: masks of that very cine. Absent: a heart in its usual
        place that no breath moves.
    level : float
        Where the short axis is cut: 0 base, 1 apex of the LV cavity; its wall goes on a little further.
        It is a share of the length at each moment: the slice moves with the muscle.

    Returns
    -------
    numpy.ndarray of float32, shape (3, frames, size, size)
        Shares of each pixel, 0 to 1, in the order of `STRUCTURES`.
    """
    spacing = _spacing(frames, size, pixel_spacing, long_axis)
    pose_rng = rng.spawn(3)[0] if rng is not None else None
    return _cut(heart, pose_rng, frames, size, spacing, long_axis, level).masks()


def _spacing(frames: int, size: int, pixel_spacing: float | None, long_axis: bool) -> float:
    """Return the size of a pixel, mm."""
    if frames < 1 or size < 8 or (pixel_spacing is not None and not pixel_spacing > 0):
        raise ValueError(
            f"{frames} frames of {size} x {size} pixels of {pixel_spacing} mm are no cine: at least 1 frame "
            "of 8 pixels of positive size are needed."
        )
    usual = (LONG_AXIS_SPACING if long_axis else SHORT_AXIS_SPACING) * 64 / size
    return usual if pixel_spacing is None else pixel_spacing


def _cut(
    heart: Heart,
    rng: np.random.Generator | None,
    frames: int,
    size: int,
    spacing: float,
    long_axis: bool,
    level: float,
) -> Cut:
    """Return the heart cut by the plane of a view, in a pose drawn from a stream."""
    pose = still_pose(frames, long_axis) if rng is None else draw_pose(rng, frames, long_axis)
    if long_axis:
        return cut_long_axis(heart, pose, phases_of(frames), size, spacing)
    return cut_short_axis(heart, pose, phases_of(frames), size, spacing, level)


def _painted(heart: Heart, cut: Cut, background: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the heart painted over its background, layer by layer, shape (frames, size, size)."""
    frames = len(cut.lv)
    flow = 1 + 0.02 * np.sin(2 * np.pi * (phases_of(frames) + rng.uniform()))  # fresh blood is brighter
    blood = (heart.blood_contrast * flow).astype(np.float32)[:, None, None]
    layers: list[tuple[Pixels, Pixels | float]] = [
        (cut.fat, FAT),
        (cut.right_wall, 1.0),
        (cut.right, blood),
        (cut.atrial_walls, 1.0),
        (cut.atria, blood),
        (cut.epicardium, 1.0),
        (cut.lv, blood),
        (_PAPILLARY_SHARE * cut.papillary, 1.0),
    ]
    image = np.repeat(background[None], frames, axis=0)
    for share, value in layers:
        image += share * (value - image)
    return image
