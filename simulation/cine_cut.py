"""The heart cut by an imaging plane: which part of each pixel is cavity, muscle or wall.

Edges are soft over one pixel, so that areas are right to a fraction of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.heart import Heart
from simulation.heart_motion import la_volume_curve, outline
from simulation.patient import Floats

Pixels = NDArray[np.float32]

_SHORT_AXIS_ANGLES, _LONG_AXIS_ANGLES = 180, 72
_LONG_AXIS_LEVELS = 33
_CENTERS = {False: (15.0, 0.0), True: (10.0, -5.0)}
"""Millimetres to the right and up from the middle of the picture: axis of the LV in the short axis, and
middle of the heart in the long axis."""
_TILT = -18.0
"""Degrees by which the apex points to the right in the long axis (negative: clockwise)."""
_PAPILLARY = ((52.0, 0.60), (238.0, 0.60))
"""Papillary muscles: degrees, and place between the axis and the endocardium."""
_PAPILLARY_SIZE = 0.15
"""Their radius as a share of that of the cavity at end-diastole."""


@dataclass(frozen=True)
class _Pose:
    """How the heart lies in the picture.

    Attributes
    ----------
    center : tuple of float
        Millimetres to the right and up, beside `_CENTERS`.
    rotation : float
        Degrees, counterclockwise.
    stretch : float
        Factor on horizontal lengths, and divisor of vertical ones: an oblique cut.
    drift : numpy.ndarray, shape (frames, 2)
        Shift by breathing in each frame, mm to the right and up.
    slip : numpy.ndarray, shape (frames,)
        Shift across the plane in each frame, mm toward the apex.
    """

    center: tuple[float, float]
    rotation: float
    stretch: float
    drift: Floats
    slip: Floats


@dataclass(frozen=True)
class Cut:
    """Shares of pixels, 0 to 1, each of shape (frames, size, size); each layer includes those inside it.

    Attributes
    ----------
    lv, epicardium : numpy.ndarray
        Cavity of the left ventricle, and all within its epicardium.
    right, right_wall : numpy.ndarray
        All within the RV cavity's and the RV wall's outer border.
    fat : numpy.ndarray
        All within the fat around the heart.
    papillary : numpy.ndarray
        Papillary muscles, within the cavity.
    atria, atrial_walls : numpy.ndarray
        Zero in the short axis.
    reach : numpy.ndarray, shape (angles,)
        Outermost border at end-diastole from the origin, mm, by angle in the picture.
    origin : tuple of float
        Where the radii start, mm to the right and up from the middle of the picture.
    """

    lv: Pixels
    epicardium: Pixels
    right: Pixels
    right_wall: Pixels
    fat: Pixels
    papillary: Pixels
    atria: Pixels
    atrial_walls: Pixels
    reach: Floats
    origin: tuple[float, float]

    def masks(self) -> Pixels:
        """Return RV cavity, LV muscle and LV cavity, shape (3, frames, size, size)."""
        return np.stack([self.right - self.epicardium, self.epicardium - self.lv, self.lv])


def still_pose(frames: int, long_axis: bool) -> _Pose:
    """Return the pose that all others scatter around."""
    return _Pose((0.0, 0.0), _TILT if long_axis else 0.0, 1.0, np.zeros((frames, 2)), np.zeros(frames))


def draw_pose(rng: np.random.Generator, frames: int, long_axis: bool) -> _Pose:
    """Return a pose as planned and breathed: about 4 mm, 7 degrees, 3 %; 1 mm between frames."""
    away, turned, stretched = rng.normal(0, 4, 2), rng.normal(0, 7), rng.normal(0, 0.03)
    plane = rng.normal(0, 2.5)
    breath = np.cumsum(rng.normal(0, 0.35, frames))
    breath = breath - breath.mean() + rng.normal(0, 0.25, frames)
    drift = breath[:, None] * np.array([0.3, -0.9])
    still = still_pose(frames, long_axis)
    factor = float(np.exp(np.clip(stretched, -0.08, 0.08)))
    across, down = (float(value) for value in np.clip(away, -9, 9))
    turn = still.rotation + float(np.clip(turned, -18, 18))
    return _Pose((across, down), turn, factor, drift, np.clip(plane, -6, 6) + 0.6 * breath)


class _Rays:
    """Pixels as seen from an origin that may move: distance and direction, to be compared with radii."""

    def __init__(self, x: Pixels, y: Pixels, spacing: float, angles: int) -> None:
        self.spacing = spacing
        self.distance = np.sqrt(x**2 + y**2)
        place = np.arctan2(y, x) * np.float32(angles / (2 * np.pi)) % np.float32(angles)
        below = place.astype(np.intp)
        self.weight = place - below.astype(np.float32)
        rows = np.arange(len(x))[:, None, None] * angles
        self.below, self.above = below % angles + rows, (below + 1) % angles + rows

    def within(self, radii: Floats) -> Pixels:
        """Return the share of each pixel within a border; radii (frames, angles) in mm."""
        flat = radii.astype(np.float32).ravel()
        low = flat[self.below]
        border = low + self.weight * (flat[self.above] - low)
        return _share(border - self.distance, self.spacing)


def _share(inward: Pixels, spacing: float) -> Pixels:
    """Return the share of a pixel that lies inside, from its distance inward in mm."""
    share = inward * np.float32(1 / spacing)
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)


def _coordinates(
    pose: _Pose, origins: Floats, size: int, spacing: float, long_axis: bool
) -> tuple[Pixels, Pixels]:
    """Return how far each pixel is to the right of and above the heart's origin, in its own axes, mm."""
    line = (np.arange(size) - (size - 1) / 2) * spacing
    shift = np.array(_CENTERS[long_axis]) + pose.center + pose.drift
    across = (line[None, :] - shift[:, :1])[:, None, :] / pose.stretch
    upward = (-line[None, :] - shift[:, 1:])[:, :, None] * pose.stretch
    cos, sin = np.cos(np.radians(pose.rotation)), np.sin(np.radians(pose.rotation))
    x = (cos * across + sin * upward) - origins[:, 0, None, None]
    y = (cos * upward - sin * across) - origins[:, 1, None, None]
    return x.astype(np.float32), y.astype(np.float32)


def _in_picture(pose: _Pose, origin: Floats, long_axis: bool) -> tuple[float, float]:
    """Return where a point of the heart lies in the picture, mm to the right and up."""
    cos, sin = np.cos(np.radians(pose.rotation)), np.sin(np.radians(pose.rotation))
    x, y = cos * origin[0] - sin * origin[1], sin * origin[0] + cos * origin[1]
    center = np.array(_CENTERS[long_axis]) + pose.center
    return float(x + center[0]), float(y + center[1])


def _turned(radii: Floats, rotation: float) -> Floats:
    """Return radii by angle in the picture instead of in the heart."""
    return np.roll(radii, round(rotation * len(radii) / 360))


def _fat_thickness(heart: Heart) -> float:
    """Return the thickness of the fat around the heart, mm: more of it in the heavy."""
    return float(np.clip(1.0 + 0.25 * (heart.drivers.bmi - 20), 1.0, 5.5))


# Short axis -----------------------------------------------------------------------------------------


def cut_short_axis(heart: Heart, pose: _Pose, phases: Floats, size: int, spacing: float, level: float) -> Cut:
    """Return the heart cut across, at a level of the long axis (the slice moves with it)."""
    levels = np.clip(level + pose.slip / heart.lv_length, 0.0, 2.0)[:, None]
    shape = outline(heart, phases, levels, _SHORT_AXIS_ANGLES)
    origins = np.zeros((len(phases), 2))
    x, y = _coordinates(pose, origins, size, spacing, False)
    rays = _Rays(x, y, spacing, _SHORT_AXIS_ANGLES)
    lv, epicardium = rays.within(shape.endocardium[:, 0]), rays.within(shape.epicardium[:, 0])
    right = np.maximum(rays.within(shape.right[:, 0]), epicardium)
    right_wall = np.maximum(rays.within(shape.right_wall[:, 0]), right)
    fat = rays.within(shape.right_wall[:, 0] + _fat_thickness(heart))
    nothing = np.zeros_like(lv)
    return Cut(
        lv,
        epicardium,
        right,
        right_wall,
        fat,
        _papillary(heart, shape.endocardium[:, 0], x, y, spacing) * lv,
        nothing,
        nothing,
        _turned(shape.right_wall[0, 0], pose.rotation) + _fat_thickness(heart),
        _in_picture(pose, origins[0], False),
    )


def _papillary(heart: Heart, endocardium: Floats, x: Pixels, y: Pixels, spacing: float) -> Pixels:
    """Return the share of each pixel that is papillary muscle."""
    size, share = np.float32(_PAPILLARY_SIZE * heart.lv_radius), np.zeros_like(x)
    for angle, place in _PAPILLARY:
        away = place * endocardium[:, round(angle / 360 * _SHORT_AXIS_ANGLES)]
        middle = away[:, None] * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        dx, dy = (part - middle[:, axis, None, None] for axis, part in enumerate((x, y)))
        share = np.maximum(share, _share((size - np.sqrt(dx**2 + dy**2)).astype(np.float32), spacing))
    return share


# Long axis ------------------------------------------------------------------------------------------


def cut_long_axis(heart: Heart, pose: _Pose, phases: Floats, size: int, spacing: float) -> Cut:
    """Return the heart cut along its axis, through septum and lateral wall; the apex stays where it is."""
    reach = heart.lv_length + heart.mean_wall
    levels = np.sin(np.linspace(0, np.pi / 2, _LONG_AXIS_LEVELS))
    first = outline(heart, phases, levels[:1], _LONG_AXIS_ANGLES)
    levels = levels * (1 + first.wall / first.length)[:, None]
    shape = outline(heart, phases, levels, _LONG_AXIS_ANGLES)
    heights = levels * shape.length[:, None]
    inside = np.minimum(heights, shape.length[:, None])
    tables = [
        _around(pair, height)
        for pair, height in (
            (shape.endocardium[:, :, [0, _LONG_AXIS_ANGLES // 2]], inside),
            (shape.epicardium[:, :, [0, _LONG_AXIS_ANGLES // 2]], heights),
            (shape.right[:, :, [0, _LONG_AXIS_ANGLES // 2]], heights),
            (shape.right_wall[:, :, [0, _LONG_AXIS_ANGLES // 2]], heights),
        )
    ]
    atria = np.cbrt(0.75 * 1000 / np.pi * _atrial_volumes(heart, phases))
    base = 0.5 * (1.85 * atria.max() - reach) + heart.lv_length - shape.length
    origins = np.stack([np.zeros_like(base), base], axis=1)
    x, y = _coordinates(pose, origins, size, spacing, True)
    rays, above = _Rays(x, y, spacing, _LONG_AXIS_ANGLES), _share(y, spacing)
    lv, epicardium, right, right_wall = (rays.within(table) * above for table in tables)
    outer = tables[3] + _fat_thickness(heart)
    below = np.arange(_LONG_AXIS_ANGLES) > _LONG_AXIS_ANGLES / 2
    outer[:, below] = 2 * atria.max()
    rooms, walls = _atria(shape.endocardium, shape.right, shape.epicardium, atria, x, y, spacing)
    return Cut(
        lv,
        epicardium,
        np.maximum(right, epicardium),
        np.maximum(right_wall, epicardium),
        rays.within(tables[3] + _fat_thickness(heart)) * above,
        np.zeros_like(lv),
        rooms * (1 - above),
        walls * (1 - above),
        _turned(outer[0], pose.rotation),
        _in_picture(pose, origins[0], True),
    )


def _around(sides: Floats, heights: Floats) -> Floats:
    """Return radii by angle, shape (frames, angles), of a border given by its two sides above the base.

    Parameters
    ----------
    sides : numpy.ndarray, shape (frames, levels, 2)
        Distance of the lateral and of the septal side from the axis, mm.
    heights : numpy.ndarray, shape (frames, levels)
        Millimetres above the base.
    """
    x = np.concatenate([sides[:, :, 0], -sides[:, ::-1, 1]], axis=1)
    y = np.concatenate([heights, heights[:, ::-1]], axis=1)
    angles, radii = np.degrees(np.arctan2(y, x)), np.hypot(x, y)
    requested = np.arange(_LONG_AXIS_ANGLES) * (360 / _LONG_AXIS_ANGLES)
    return np.stack([np.interp(requested, *frame, period=360) for frame in zip(angles, radii, strict=True)])


def _atrial_volumes(heart: Heart, phases: Floats) -> Floats:
    """Return the volumes of the left and the right atrium, mL, shape (2, frames)."""
    left = la_volume_curve(heart, phases)
    strained = heart.drivers.severity * (heart.condition == "pulmonary hypertension")
    return np.stack([left, left * 0.9 + 45 * strained])


def _atria(
    endocardium: Floats,
    right: Floats,
    epicardium: Floats,
    radii: Floats,
    x: Pixels,
    y: Pixels,
    spacing: float,
) -> tuple[Pixels, Pixels]:
    """Return the shares of the atria, and of the atria with their walls, below the base."""
    half = _LONG_AXIS_ANGLES // 2
    septum = -0.5 * (endocardium[:, 0, half] + epicardium[:, 0, half])
    middles = (0.12 * radii[0], -0.5 * (right[:, 0, half] + epicardium[:, 0, half]))
    rooms, walls = np.zeros_like(x), np.zeros_like(x)
    for middle, radius, side in zip(middles, radii, (1, -1), strict=True):
        away = np.hypot(x - middle[:, None, None], y + 0.85 * radius[:, None, None])
        beside = side * (x - septum[:, None, None])
        inward = (radius[:, None, None] - away).astype(np.float32)
        rooms = np.maximum(rooms, _share(np.minimum(inward, beside - 1.5).astype(np.float32), spacing))
        walls = np.maximum(walls, _share(inward + np.float32(2.5), spacing))
    return rooms, walls
