"""What is around the heart in a cine: lung, chest wall with its fat, liver, aorta, back; coil and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulation.cine_cut import Cut
from simulation.heart import Heart
from simulation.patient import Floats

Pixels = NDArray[np.float32]

# Brightness, where muscle is 1.
LUNG, _LIVER, _SPLEEN, _SKELETAL, _BONE, FAT = 0.22, 1.35, 0.9, 0.85, 1.15, 2.5
_DIRECTIONS = {False: (122.0, 262.0), True: (80.0, 268.0)}
"""Where the chest wall is, and where the liver (short axis) or the back (long axis), degrees."""
_AORTA = {False: (318.0, 20.0), True: (300.0, 6.0)}
"""Direction of the descending aorta from the heart, and its distance from it, mm."""


def draw_background(
    heart: Heart, cut: Cut, rng: np.random.Generator, size: int, spacing: float, long_axis: bool
) -> Pixels:
    """Return what is around a heart, shape (size, size), brightness where muscle is 1.

    Organs lie where the heart at its largest leaves room; fat is thicker in the heavy.
    """
    jitter, gaps, radius = rng.normal(size=2), rng.uniform(2, 7, 2), rng.uniform(10, 13)
    texture = _texture(rng, size)
    line = ((np.arange(size) - (size - 1) / 2) * spacing).astype(np.float32)
    x, y = line[None, :], -line[:, None]
    image = np.full((size, size), LUNG, np.float32)
    chest, below = (angle + 6 * shift for angle, shift in zip(_DIRECTIONS[long_axis], jitter, strict=True))
    along, across = _towards(x, y, below)
    edge = along - _reach(cut, below) - gaps[0]
    if long_axis:
        _paint(image, edge - 6, _SKELETAL, spacing)
        _paint(image, 22 - np.hypot(across, edge - 32), _BONE, spacing)
    else:
        dome = edge - across**2 / 180  # the diaphragm
        _paint(image, dome, _LIVER, spacing)
        _paint(image, np.minimum(dome - 2, across - 25), _SPLEEN, spacing)
    edge = _towards(x, y, chest)[0] - _reach(cut, chest) - gaps[1]
    _paint(image, edge, _SKELETAL, spacing)
    _paint(image, edge - 11, FAT, spacing)
    _paint(image, edge - 11 - np.clip(1.6 * (heart.drivers.bmi - 17), 4, 40), 0.04, spacing)
    angle, distance = _AORTA[long_axis]
    (ax, ay), away = _unit(angle), _reach(cut, angle) + distance
    disc = radius - np.hypot(x - ax * away, y - ay * away)
    _paint(image, disc + 1.5, 1.0, spacing)
    _paint(image, disc, 0.96 * heart.blood_contrast, spacing)
    return image * (1 + 0.10 * texture)


def _unit(angle: float) -> tuple[float, float]:
    """Return a direction, to the right and up."""
    return float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))


def _towards(x: Pixels, y: Pixels, angle: float) -> tuple[Floats, Floats]:
    """Return how far each pixel lies in a direction, and how far to the left of it, mm."""
    cos, sin = _unit(angle)
    return cos * x + sin * y, cos * y - sin * x


def _reach(cut: Cut, angle: float) -> float:
    """Return how far the heart reaches from the middle of the picture in a direction, mm."""
    angles = np.arange(len(cut.reach)) * (360 / len(cut.reach))
    cos, sin = _unit(angle)
    farthest = (cut.reach * np.cos(np.radians(angles - angle))).max()
    return float(farthest + cut.origin[0] * cos + cut.origin[1] * sin)


def _paint(image: Pixels, inward: Floats, value: float, spacing: float) -> None:
    """Paint what lies inside an edge, given the distance inward in mm, with a soft edge, in place."""
    share = np.clip(inward / spacing + 0.5, 0, 1).astype(np.float32)
    image += share * (np.float32(value) - image)


def _texture(rng: np.random.Generator, size: int) -> Pixels:
    """Return smooth noise of unit variance, fine and coarse, shape (size, size)."""
    noise = rng.standard_normal((2, size, size), dtype=np.float32)
    parts = [ndimage.gaussian_filter(part, width) for part, width in zip(noise, (0.8, 3.0), strict=True)]
    return np.asarray(sum(part / part.std() for part in parts) / np.sqrt(2), np.float32)


def coil_sensitivity(rng: np.random.Generator, size: int) -> Pixels:
    """Return a bias field of mean about 1, shape (size, size): brightest toward the chest."""
    angle, slope, bend = rng.normal(115, 15), rng.uniform(0.05, 0.22), rng.normal(0, 0.06, 2)
    line = np.linspace(-1, 1, size)
    x, y = line[None, :], -line[:, None]
    cos, sin = _unit(angle)
    exponent = slope * (cos * x + sin * y) + bend[0] * (x**2 + y**2 - 2 / 3) + bend[1] * x * y
    return np.exp(exponent).astype(np.float32)


def rician(image: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Return the magnitude of a picture with Gaussian noise in both of its parts."""
    noise = np.float32(deviation) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + noise[0], noise[1])
