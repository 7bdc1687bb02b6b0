"""Volumes, ejection fraction, mass and wall thickness measured in a short-axis cine through the middle.

Contours   The left ventricle is found by classes of brightness and geometry; nothing is learned. Blood is
           brighter than muscle, and muscle brighter than lung (three classes, Otsu 1979). Among the bright
           blobs near what moves, the left ventricle is the one whose border is round and has muscle behind it
           in every direction. Its borders are then closed paths in polar coordinates (dynamic programming):
           the inner one encloses as much blood and as little muscle as it can, the outer one goes on from
           there through muscle up to the first blood, fat or lung. Papillary muscles so belong to the cavity.
           This holds for balanced steady-state cines, however the picture is turned.
Measures   One slice does not show a length, so a shape has to be assumed: half an ellipsoid whose cavity is
           `_SPHERICITY` times as wide as long at end-diastole, cut at half its length, and whose length
           shortens by `LONGITUDINAL_SHARE` of the ejection fraction (17 % at 60 %).

With areas A of the cavity, of its radius r at the base and its length L::

    r = sqrt(A / pi / (1 - MID_LEVEL ** 2))     L = 2 r / _SPHERICITY     volume = 2 / 3 pi r ** 2 L
    ejection fraction = (1 - q) / (1 - LONGITUDINAL_SHARE * q),   q = smallest area / largest area

The mass is that of the shell, 1.05 g/mL, whose cut has the area of the muscle. Muscle is not lost in a beat,
so the median over the frames is taken. The error of all this has to be reported beside whatever is measured
with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Pixels = NDArray[np.float32]

MEASURED = ("lv_edv", "lv_esv", "ejection_fraction", "lv_mass", "wall_thickness")
"""mL, mL, percent, g, mm: names as those of a simulated heart's indicators."""
UNITS = {"lv_edv": "mL", "lv_esv": "mL", "ejection_fraction": "%", "lv_mass": "g", "wall_thickness": "mm"}
MID_LEVEL = 0.5
_SPHERICITY = 0.5
LONGITUDINAL_SHARE = 0.28
MUSCLE_DENSITY = 1.05
_SEPTUM = 25.0
"""Degrees on both sides of the middle of the septum over which its thickness is taken."""
_DIASTOLE = (0, 1, -1)
"""Frames around end-diastole."""
ANGLES = 48
"""Directions, counterclockwise from the right."""
_STEP = 0.25
"""Distance of radii, pixels."""
_SMALLEST = 3.0
"""Mean radius of a cavity in pixels below which it cannot be measured."""
_NEAR = 0.38
"""Share of the picture's width around the middle of what moves in which the ventricle is looked for."""
_LARGEST_HOLE = 16
"""Pixels of a dark spot in a blob that is a papillary muscle."""
ENDOCARDIUM_DROP, EPICARDIUM_DROP = 0.5, 0.05
"""Pixels' worth of the wrong class after which a border is taken to lie behind."""
ENDOCARDIUM_LEAK, EPICARDIUM_LEAK = 0.15, 1.0
"""What each further pixel costs from there."""
_LEAST_WALL = 1.0
"""Pixels from the endocardium within which muscle does not end."""
BRIGHTER, DARKER = (0.28, 0.45), 0.35
"""Where muscle ends: this share of the way to blood (or fat), and to lung. Against the thin fat around the
heart, which fills no pixel, a rise by little tells the edge; against the right ventricle about half does."""
_THETA = np.arange(ANGLES) * (2 * np.pi / ANGLES)
_COS, _SIN = np.cos(_THETA), np.sin(_THETA)


def measure_cine(cine: ArrayLike, pixel_spacing: float) -> dict[str, float]:
    """Measure one cine; all values are NaN where no left ventricle is found.

    Parameters
    ----------
    cine : array_like, shape (frames, height, width)
        Brightness 0 to 1, from end-diastole on over one cycle.
    pixel_spacing : float
        Millimetres.
    """
    contours = find_contours(cine)
    return dict.fromkeys(MEASURED, np.nan) if contours is None else indicators_of(contours, pixel_spacing)


def measure_cines(cines: Iterable[ArrayLike], pixel_spacing: float) -> pd.DataFrame:
    """Measure cines, one row each; columns are `MEASURED`."""
    rows = [measure_cine(cine, pixel_spacing) for cine in cines]
    return pd.DataFrame(rows, columns=list(MEASURED), dtype=float)


def indicators_of(contours: Contours, pixel_spacing: float) -> dict[str, float]:
    """Return what the borders of a left ventricle imply, in mL, percent, g and mm."""
    inner, outer = contours.endocardium * pixel_spacing, contours.epicardium * pixel_spacing
    square = ndimage.convolve1d((inner**2).mean(axis=1), [0.25, 0.5, 0.25], mode="wrap")
    left = square / square.max()
    shortening = 1 - LONGITUDINAL_SHARE * ejected(left)
    radius = np.sqrt(square / (1 - MID_LEVEL**2))
    length = 2 * radius.max() / _SPHERICITY * shortening
    fraction = float(ejected(left.min()))
    volume = float(2 / 3 * np.pi * (radius**2 * length).max() / 1000)
    muscle = (outer**2 - inner**2).mean(axis=1)
    mass = np.median([shell_mass(*frame) for frame in zip(radius, length, muscle, strict=True)])
    return {
        "lv_edv": volume,
        "lv_esv": volume * (1 - fraction),
        "ejection_fraction": 100 * fraction,
        "lv_mass": float(mass),
        "wall_thickness": _septal_thickness(contours, pixel_spacing),
    }


def ejected(left: ArrayLike) -> Array:
    """Return the share of the volume that is gone when this share of the mid-level area is left.

    With the length L (1 - k f) at an ejected share f, ``1 - f = left * (1 - k f)``.
    """
    left = np.asarray(left, float)
    return np.asarray((1 - left) / (1 - LONGITUDINAL_SHARE * left))


def shell_mass(radius: float, length: float, muscle: float) -> float:
    """Return the mass, g, of the shell around half an ellipsoid whose cut at mid-level shows this muscle.

    Parameters
    ----------
    radius, length : float
        Of the cavity, mm.
    muscle : float
        Area of muscle over pi, square mm.
    """
    walls = np.linspace(0.0, 40.0, 801)
    level = MID_LEVEL * length / (length + walls)
    cut = (radius + walls) ** 2 * (1 - level**2) - radius**2 * (1 - MID_LEVEL**2)
    wall = float(np.interp(muscle, cut, walls))
    shell = (radius + wall) ** 2 * (length + wall) - radius**2 * length
    return float(2 / 3 * np.pi * shell * MUSCLE_DENSITY / 1000)


def _septal_thickness(contours: Contours, pixel_spacing: float) -> float:
    """Return the thickness of the septum around end-diastole, mm."""
    angles = np.arange(ANGLES) * (360 / ANGLES)
    away = np.abs((angles - contours.septum + 180) % 360 - 180)
    wall = (contours.epicardium - contours.endocardium)[list(_DIASTOLE)]
    return float(np.median(wall[:, away <= _SEPTUM]) * pixel_spacing)


# Contours --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contours:
    """Borders of the left ventricle, pixels.

    Attributes
    ----------
    endocardium, epicardium : numpy.ndarray, shape (frames, ANGLES)
        Distance from the center; counterclockwise from the right.
    center : numpy.ndarray, shape (frames, 2)
        Row and column.
    septum : float
        Direction of the right ventricle, degrees; 180 is the left of the picture.
    """

    endocardium: Array
    epicardium: Array
    center: Array
    septum: float


def find_contours(cine: ArrayLike) -> Contours | None:
    """Return the borders of the left ventricle in a cine; None where there is nothing like one.

    Parameters
    ----------
    cine : array_like, shape (frames, height, width)
        Brightness, 0 to 1; the first frame is end-diastole.
    """
    frames = np.asarray(cine, np.float32)
    if frames.ndim != 3 or min(frames.shape[1:]) < 16:
        raise ValueError(
            f"A cine must have shape (frames, height, width), 16 pixels or more: {frames.shape}."
        )
    found = _locate(frames)
    if found is None:
        return None
    center, radii, levels = found
    centers = np.repeat(center[None], len(frames), axis=0)
    polar = _polar(frames, centers)
    endocardium, levels = _inner(polar, _blood_of(polar, radii, levels), limit=None)
    centers = centers + _shift(endocardium)
    first = endocardium[[0, 1, -1]].max(axis=0)
    limit = ndimage.maximum_filter1d(first, 7, mode="wrap") + 2
    polar = _polar(frames, centers)
    endocardium, levels = _inner(polar, levels, limit)
    if endocardium.mean() < _SMALLEST:
        return None
    lung = float(np.percentile(frames, 10))
    rise = np.full(ANGLES, BRIGHTER[1])
    epicardium = _outer(polar, endocardium, levels, lung, rise)
    behind = _blood_behind(polar, epicardium, levels)
    rise[behind < behind.max() / 2] = BRIGHTER[0]
    epicardium = _outer(polar, endocardium, levels, lung, rise)
    septum = float(np.degrees(np.arctan2((behind * _SIN).sum(), (behind * _COS).sum())) % 360)
    return Contours(endocardium, epicardium, centers, septum)


def otsu(values: ArrayLike, bins: int = 64) -> tuple[float, float]:
    """Return the two thresholds that part values into three classes most unlike each other (Otsu 1979)."""
    counts, edges = np.histogram(np.asarray(values, float), bins)
    middles = (edges[1:] + edges[:-1]) / 2
    mass, moment = (np.concatenate([[0.0], np.cumsum(part)]) for part in (counts, counts * middles))

    def between(start: NDArray[np.intp] | int, end: NDArray[np.intp] | int) -> Array:
        share = np.asarray(mass[end] - mass[start])
        square = np.asarray(moment[end] - moment[start]) ** 2
        return np.divide(square, share, out=np.zeros_like(square), where=share > 0)

    first, second = np.triu_indices(bins + 1, 1)
    best = int((between(0, first) + between(first, second) + between(second, bins)).argmax())
    return float(edges[first[best]]), float(edges[second[best]])


def _locate(frames: Pixels) -> tuple[Array, Array, tuple[float, float]] | None:
    """Return the middle of the ventricle, its radii at end-diastole, and the levels of blood and muscle."""
    height, width = frames.shape[1:]
    first = ndimage.gaussian_filter(frames[[0, 1, -1]].mean(axis=0), 0.4)
    motion = ndimage.gaussian_filter(frames.std(axis=0), 2.0)
    weight = np.maximum(motion - 0.25 * motion.max(), 0) ** 2
    if weight.sum() <= 0:
        return None
    rows, columns = np.indices((height, width))
    middle = [(weight * axis).sum() / weight.sum() for axis in (rows, columns)]
    away = np.hypot(rows - middle[0], columns - middle[1])
    low, high = otsu(first[away < _NEAR * width])
    if not high > low:
        return None
    best: tuple[float, Array, Array] | None = None
    for center in _blobs(first > high, away < _NEAR * width):
        badness, middle_of, radii = _score_blob(first, motion, center, low, high)
        if best is None or badness < best[0]:
            best = badness, middle_of, radii
    if best is None:
        return None
    return best[1], best[2], (high + (high - low) / 2, (low + high) / 2)


def _blobs(bright: NDArray[np.bool_], near: NDArray[np.bool_]) -> list[Array]:
    """Return the middles of bright blobs: where one is farthest from whatever is dark."""
    holes, _ = ndimage.label(~bright)
    filled = bright | (np.bincount(holes.ravel()) < _LARGEST_HOLE)[holes]
    depth = ndimage.distance_transform_edt(filled)
    peaks = (depth == ndimage.maximum_filter(depth, 7)) & (depth >= 2.5) & near
    return [peak.astype(float) for peak in np.argwhere(peaks)]


def _score_blob(
    first: Pixels, motion: Pixels, center: Array, low: float, high: float
) -> tuple[float, Array, Array]:
    """Return the badness of a blob as a left ventricle, its middle, and its radii by direction."""
    like = np.clip((first - high) / (high - low), -0.5, 0.5)
    for _ in range(2):
        score, stop = _gain(_polar(like[None], center[None]), ENDOCARDIUM_DROP, ENDOCARDIUM_LEAK, 2.0)
        radii = _radii(score.shape[2])
        reachable = np.where(radii <= radii[stop][..., None], score, -np.inf)
        border = ndimage.median_filter(radii[reachable.argmax(axis=2)], (1, 9), mode="wrap")
        center = center + _shift(border)[0]
    border = border[0]
    values = _polar(np.stack([first, motion]).astype(np.float32), np.stack([center, center]))
    radii = _radii(values.shape[2])
    behind = (radii > border[:, None] + 0.75) & (radii < border[:, None] + 2)
    muscle = ((values[0] > low) & (values[0] <= high))[behind].mean() if behind.any() else 0.0
    at = np.clip(((border + 1) / _STEP).astype(int), 0, len(radii) - 1)
    moving = values[1][np.arange(ANGLES), at].mean() / motion.max()
    badness = border.std() / border.mean() - 0.5 * muscle + max(0.0, 0.45 - moving)
    return float(badness + (border.mean() < _SMALLEST)), center, border


def _radii(count: int) -> Array:
    return np.asarray((np.arange(count) + 0.5) * _STEP, np.float64)


def _polar(frames: Pixels, centers: Array) -> Pixels:
    """Return frames by direction and radius, (frames, ANGLES, radii), bilinear."""
    height, width = frames.shape[1:]
    radii = _radii(int(_NEAR * width / _STEP))
    y = np.clip(centers[:, :1, None] - _SIN[:, None] * radii, 0, height - 1.001)
    x = np.clip(centers[:, 1:, None] + _COS[:, None] * radii, 0, width - 1.001)
    row, column = y.astype(np.intp), x.astype(np.intp)
    down, right = (y - row).astype(np.float32), (x - column).astype(np.float32)
    index = (np.arange(len(frames))[:, None, None] * height + row) * width + column
    flat = frames.reshape(-1)
    upper = flat[index] * (1 - right) + flat[index + 1] * right
    lower = flat[index + width] * (1 - right) + flat[index + width + 1] * right
    return upper * (1 - down) + lower * down


def _shift(border: Array) -> Array:
    """Return how far the centroid lies from the center, rows and columns, shape (frames, 2)."""
    area = 1.5 * (border**2).sum(axis=1)
    cubic = border**3
    return np.stack([-(cubic * _SIN).sum(axis=1) / area, (cubic * _COS).sum(axis=1) / area], axis=1)


def _blood_of(polar: Pixels, radii: Array, levels: tuple[float, float]) -> tuple[float, float]:
    """Return the levels with that of blood taken from inside the cavity of the first frame."""
    inside = polar[0][_radii(polar.shape[2]) < radii[:, None] - 1.5]
    return (float(np.percentile(inside, 60)) if inside.size else levels[0]), levels[1]


def _gain(like: Pixels, drop: float, leak: float, start: float = 0.0) -> tuple[Array, NDArray[np.intp]]:
    """Return how good a border at each radius would be, and where each direction is taken to end.

    Parameters
    ----------
    like : numpy.ndarray, shape (frames, ANGLES, radii)
        0.5 where it is surely inside, -0.5 where it is surely not.
    drop : float
        Loss, after the best so far, from which what lies behind is another structure.
    leak : float
        Loss a pixel from there on, whatever lies there.
    start : float
        Radius below which nothing ends.
    """
    radii = _radii(like.shape[2])
    total = np.cumsum(like, axis=2, dtype=np.float64) * _STEP
    lost = (np.maximum.accumulate(total, axis=2) - total > drop) & (radii > start)
    ended = np.maximum.accumulate(lost, axis=2)
    stop = np.where(lost.any(axis=2), lost.argmax(axis=2), like.shape[2] - 1)
    there = np.take_along_axis(total, stop[..., None], axis=2)
    return np.where(ended, there - leak * (radii - radii[stop][..., None]), total), stop


def _closed_path(score: Array, slope: int = 2, cost: float = 0.05) -> NDArray[np.intp]:
    """Return the best closed path through (frames, ANGLES, radii): a radius a direction, changing slowly.

    The circle is gone round twice, and the half turns on both sides of the seam are left out.
    """
    count, angles, radii = score.shape
    moves = np.arange(-slope, slope + 1)
    before = np.arange(radii)[:, None] + moves
    allowed, before = (before >= 0) & (before < radii), np.clip(before, 0, radii - 1)
    best = score[:, 0].copy()
    came = np.zeros((2 * angles, count, radii), np.intp)
    for turn in range(1, 2 * angles):
        options = np.where(allowed, best[:, before] - cost * np.abs(moves), -np.inf)
        choice = options.argmax(axis=2)
        came[turn] = before[np.arange(radii), choice]
        best = np.take_along_axis(options, choice[..., None], axis=2)[..., 0] + score[:, turn % angles]
    path = np.empty((2 * angles, count), np.intp)
    path[-1] = best.argmax(axis=1)
    for turn in range(2 * angles - 1, 0, -1):
        path[turn - 1] = came[turn, np.arange(count), path[turn]]
    half = angles // 2
    return np.roll(path[half : half + angles], half, axis=0).T


def _inner(
    polar: Pixels, levels: tuple[float, float], limit: Array | None
) -> tuple[Array, tuple[float, float]]:
    """Return the endocardium in every frame, and the levels of blood and muscle on both sides of it."""
    blood, muscle = levels
    radii = _radii(polar.shape[2])
    like = np.clip((polar - (blood + muscle) / 2) / (blood - muscle), -0.5, 0.5)
    score, _ = _gain(like, ENDOCARDIUM_DROP, ENDOCARDIUM_LEAK, 2.0)
    if limit is not None:
        score = score - 10 * np.maximum(radii - limit[:, None], 0)
    border = radii[_closed_path(score)] + _STEP / 2
    ring = (radii > border[..., None] + 0.9) & (radii < border[..., None] + 2.2)
    inside = radii < border[..., None] - 1.5
    found = [
        float(np.percentile(polar[part], share)) if part.any() else level
        for part, share, level in ((inside, 65, blood), (ring, 40, muscle))
    ]
    return border, (found[0], found[1]) if found[0] > found[1] else levels


def _outer(polar: Pixels, endocardium: Array, levels: tuple[float, float], lung: float, rise: Array) -> Array:
    """Return the epicardium in every frame: where muscle ends, going outward from the endocardium.

    It does where brightness has risen by a share ``rise`` (ANGLES,) of the way to blood, or fallen.
    """
    blood, muscle = levels
    radii = _radii(polar.shape[2])
    dark = max(muscle - lung, 1e-3)
    smooth = ndimage.uniform_filter1d(polar, 5, axis=1, mode="wrap")
    below_blood = (muscle + rise[:, None] * (blood - muscle) - smooth) / (blood - muscle)
    above_lung = (smooth - muscle + DARKER * dark) / dark
    beyond = radii - endocardium[..., None]
    like = np.clip(np.minimum(below_blood, above_lung), -0.5, 0.5) * (beyond > 0)
    like = np.where(beyond < _LEAST_WALL, np.maximum(like, 0), like)  # pixels of the border are half blood
    score, _ = _gain(like, EPICARDIUM_DROP, EPICARDIUM_LEAK)
    score = np.where(beyond > 0, score, 5 * beyond)
    return np.maximum(radii[_closed_path(score)] + _STEP / 2, endocardium)


def _blood_behind(polar: Pixels, epicardium: Array, levels: tuple[float, float]) -> Array:
    """Return how much blood there is behind the muscle in each direction, 0 to 1: the right ventricle."""
    radii = _radii(polar.shape[2])
    behind = (radii > epicardium[..., None] + 1) & (radii < epicardium[..., None] + 5)
    bright = np.clip((polar - levels[1]) / (levels[0] - levels[1]), 0, 1)
    return np.asarray(((bright * behind).sum(axis=2) / np.maximum(behind.sum(axis=2), 1)).mean(axis=0))
