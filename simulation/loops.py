"""The loops of the heart's dipole over one beat: P, QRS, ST and T, as the drivers of an ECG shape them.

The dipole is a sum of Gaussians in time, each along a direction of its own: the three-dimensional form
(Sameni et al., EURASIP J. Adv. Signal Process. 2007, 043407) of the idea of McSharry et al. (IEEE
Trans. Biomed. Eng. 50 (2003) 289). The numbers are our own. Components: x to the left, y to the feet,
z to the back, millivolts as a Frank lead would see them.

What shows where: LV mass in the voltage, LV volume in the width of QRS and its axis, wall thickness in
the first (septal) vector, RV volume in the axis and the last vector, left atrium in the second half
of P, ejection fraction in T and QT. The patterns of disease come on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulation.heart import Drivers
from simulation.patient import Floats

Rows = list[tuple[float, float, tuple[float, float, float]]]

# Center and width as shares of the QRS duration, direction and size: septum, anterior wall, the large
# walls, the back, the base.
_NORMAL_QRS: Rows = [
    (0.17, 0.060, (-0.13, -0.04, -0.19)),
    (0.30, 0.070, (0.16, 0.06, -0.24)),
    (0.46, 0.085, (1.12, 0.62, 0.36)),
    (0.60, 0.085, (0.05, 0.10, 0.52)),
    (0.77, 0.080, (-0.16, -0.08, 0.30)),
]
_LEFT_BLOCK_QRS: Rows = [
    (0.18, 0.085, (0.30, 0.18, 0.22)),
    (0.38, 0.085, (0.92, 0.38, 0.80)),
    (0.55, 0.075, (0.55, 0.14, 0.75)),
    (0.70, 0.085, (0.92, 0.22, 0.72)),
    (0.86, 0.070, (0.25, 0.02, 0.30)),
]
_ECTOPIC_QRS: Rows = [
    (0.28, 0.13, (0.35, 0.70, 0.30)),
    (0.50, 0.14, (0.95, 1.25, 1.10)),
    (0.72, 0.12, (0.10, 0.25, 0.70)),
]
_ECTOPIC_DURATION = 0.155
# Center and width as shares of the QT interval, and share of the T vector: T rises slowly, falls fast.
_T_SHAPE = ((0.64, 0.115, 0.45), (0.755, 0.080, 0.75))
_ST_SHAPE = (0.40, 0.095)
_NORMAL_T = np.array([0.27, 0.135, -0.20])
_LEFT_BLOCK_T = np.array([-0.30, -0.05, -0.42])
_ECTOPIC_T = np.array([-0.35, -0.42, -0.45])


@dataclass(frozen=True)
class Waves:
    """Gaussians in time: centers and widths of shape (waves,), vectors in millivolts of shape (waves, 3)."""

    centers: Floats
    widths: Floats
    vectors: Floats


@dataclass(frozen=True)
class Loops:
    """One beat. Times of P and QRS in seconds from the onset of QRS, those of T as shares of the QT interval.

    Attributes
    ----------
    p, qrs, t : Waves
        T holds the ST segment too.
    qrs_duration : float
        Seconds.
    """

    p: Waves
    qrs: Waves
    t: Waves
    qrs_duration: float


@dataclass(frozen=True)
class _Shape:
    """A beat while patterns are worked into it: QRS rows by share of duration, ST and T vectors.

    The gain is that of the person's voltages; what a pattern adds to QRS is scaled by it.
    """

    gain: float
    duration: float
    qrs: Rows
    st: Floats
    t: Floats
    p_right: float = 1.0
    p_left: float = 1.0


def _scaled(rows: Rows, factor: float) -> Rows:
    """Return rows with all vectors scaled."""
    return [(center, width, (factor * x, factor * y, factor * z)) for center, width, (x, y, z) in rows]


def _dilated(shape: _Shape, severity: float) -> _Shape:
    """Left bundle branch block, incomplete where mild; T against QRS."""
    block = 0.30 + 1.4 * (severity - 0.5)
    return replace(
        shape,
        duration=shape.duration * (1 + 0.58 * block),
        qrs=_scaled(shape.qrs, 1 - block) + _scaled(_LEFT_BLOCK_QRS, block * shape.gain),
        st=shape.st + block * np.array([-0.06, -0.01, -0.12]),
        t=(1 - block) * shape.t + block * _LEFT_BLOCK_T,
        p_left=1.2,
    )


def _hypertrophic(shape: _Shape, severity: float) -> _Shape:
    """Septal Q waves, high voltage, strain: ST depressed and T inverted in the lateral leads."""
    septum = _scaled(shape.qrs[:1], 1.25)
    return replace(
        shape,
        duration=1.06 * shape.duration,
        qrs=_scaled(septum + shape.qrs[1:], 1 + 0.22 * severity),
        st=shape.st + severity * np.array([-0.11, -0.05, 0.05]),
        t=(1 - severity) * shape.t + severity * np.array([-0.34, -0.10, -0.10]),
        p_left=1.25,
    )


def _restrictive(shape: _Shape, severity: float) -> _Shape:
    """Low voltage, large P, no R in the first chest leads."""
    necrosis: Rows = [(0.22, 0.08, (-0.04, 0.0, 0.42 * severity))]
    return replace(
        shape,
        qrs=_scaled(shape.qrs + _scaled(necrosis, shape.gain), 1 - 0.55 * severity),
        t=shape.t * (1 - 0.7 * severity),
        p_right=1 + 0.5 * severity,
        p_left=1 + 0.6 * severity,
    )


def _anterior(shape: _Shape, severity: float) -> _Shape:
    """Q in V1 to V4, ST slightly raised, T inverted there."""
    necrosis: Rows = [
        (0.19, 0.080, (-0.05, 0.0, 0.62)),
        (0.33, 0.075, (-0.25, 0.0, 0.62)),
        (0.46, 0.075, (-0.46, 0.0, 0.42)),
    ]
    return replace(
        shape,
        qrs=shape.qrs + _scaled(necrosis, severity * shape.gain),
        st=shape.st + severity * np.array([0.02, 0.0, -0.11]),
        t=(1 - severity) * shape.t + severity * np.array([-0.06, 0.10, 0.26]),
    )


def _inferior(shape: _Shape, severity: float) -> _Shape:
    """Q and inverted T in II, III and aVF."""
    necrosis: Rows = [(0.21, 0.085, (0.05, -0.62, 0.0)), (0.37, 0.075, (0.05, -0.52, 0.0))]
    return replace(
        shape,
        qrs=shape.qrs + _scaled(necrosis, severity * shape.gain),
        st=shape.st + severity * np.array([-0.01, 0.06, 0.02]),
        t=(1 - severity) * shape.t + severity * np.array([0.24, -0.17, -0.20]),
    )


def _lateral(shape: _Shape, severity: float) -> _Shape:
    """Q and inverted T in I, aVL, V5 and V6."""
    necrosis: Rows = [(0.21, 0.085, (-0.62, 0.10, 0.0)), (0.37, 0.080, (-0.72, 0.08, -0.10))]
    return replace(
        shape,
        qrs=shape.qrs + _scaled(necrosis, severity * shape.gain),
        st=shape.st + severity * np.array([0.06, 0.0, 0.0]),
        t=(1 - severity) * shape.t + severity * np.array([-0.22, 0.12, -0.14]),
    )


def _right_ventricular(shape: _Shape, severity: float) -> _Shape:
    """Right axis, tall R in V1, deep S in V5 and V6, T inverted in V1 to V3, pointed P."""
    right: Rows = [(0.50, 0.105, (-1.05, 0.22, -0.78)), (0.72, 0.095, (-0.62, 0.05, -0.36))]
    return replace(
        shape,
        qrs=_scaled(shape.qrs, 1 - 0.25 * severity) + _scaled(right, severity * shape.gain),
        st=shape.st + severity * np.array([0.0, -0.02, 0.05]),
        t=(1 - severity) * shape.t + severity * np.array([0.14, 0.02, 0.24]),
        p_right=1 + 1.0 * severity,
    )


_PATTERNS: dict[str, Callable[[_Shape, float], _Shape]] = {
    "dilated": _dilated,
    "hypertrophic": _hypertrophic,
    "restrictive": _restrictive,
    "anterior infarction": _anterior,
    "inferior infarction": _inferior,
    "lateral infarction": _lateral,
    "pulmonary hypertension": _right_ventricular,
}


def _right_block(shape: _Shape) -> _Shape:
    """Right bundle branch block: a late, slow vector to the right and to the front."""
    late: Rows = [(0.70, 0.085, (-0.30, 0.02, -0.42)), (0.84, 0.075, (-0.42, 0.04, -0.50))]
    early = [(0.76 * center, 0.76 * width, vector) for center, width, vector in shape.qrs]
    return replace(
        shape,
        duration=shape.duration / 0.76,
        qrs=early + _scaled(late, shape.gain),
        t=shape.t + np.array([0.02, 0.0, 0.16]),
    )


def _normal(drivers: Drivers) -> _Shape:
    """Return the beat of a heart without any pattern."""
    gain = drivers.traits.voltage * np.exp(0.20 * drivers.lv_bulk - 0.012 * (drivers.bmi - 26.5))
    septum = float(np.exp(0.25 * np.clip(drivers.septum, -2.5, 3.0)))
    right = np.clip(drivers.rv_size, -2.5, 3.0) * np.array([-0.05, 0.0, -0.04])
    rows = _scaled(_NORMAL_QRS[:1], septum) + _NORMAL_QRS[1:]
    rows = [*_scaled(rows, gain), (0.70, 0.09, (right[0], right[1], right[2]))]
    t = _NORMAL_T * drivers.traits.t_gain * np.exp(0.20 * np.clip(drivers.pump, -2.5, 2.5))
    width = 1 + 0.045 * np.clip(drivers.lv_size, -2.5, 3.0)
    return _Shape(float(gain), 0.094 * drivers.traits.width * width, rows, np.array([0.02, 0.012, -0.015]), t)


def beat_loops(drivers: Drivers) -> Loops:
    """Return the loops of a conducted beat."""
    shape = _normal(drivers)
    if drivers.pattern in _PATTERNS:
        shape = _PATTERNS[drivers.pattern](shape, drivers.severity)
    if drivers.right_block:
        shape = _right_block(shape)
    if drivers.flat_t:
        shape = replace(shape, t=0.2 * shape.t)
    traits = drivers.traits
    axis = traits.axis + 5 * np.clip(drivers.rv_size, -3, 3) - 5 * np.clip(drivers.lv_size, -3, 3)
    turned = _rotation(axis, traits.turn)
    centers, widths, vectors = (np.array(column) for column in zip(*shape.qrs, strict=True))
    qrs = Waves(centers * shape.duration, widths * shape.duration, vectors @ turned.T)
    t_turned = _rotation(0.5 * axis, 0.5 * traits.turn + traits.t_axis)
    return Loops(_p_waves(drivers, shape), qrs, _t_waves(shape.st, t_turned @ shape.t), shape.duration)


def _p_waves(drivers: Drivers, shape: _Shape) -> Waves:
    """Return the P wave: right atrium, then left atrium, which is late and points back when large."""
    atrium = np.clip(drivers.atrium, -2.5, 3.5)
    first = -drivers.traits.pr_interval + 0.034
    right = shape.p_right * np.array([0.025, 0.075, -0.035])
    left = shape.p_left * (np.array([0.050, 0.050, 0.022]) + atrium * np.array([0.006, 0.003, 0.012]))
    return Waves(
        centers=np.array([first, first + 0.034 + 0.004 * atrium]),
        widths=np.array([0.0155, 0.0165 + 0.001 * atrium]),
        vectors=drivers.traits.p_gain * np.stack([right, left]),
    )


def _t_waves(st: Floats, t: Floats) -> Waves:
    """Return ST and T, in shares of the QT interval."""
    centers, widths, shares = (np.array(column) for column in zip(*_T_SHAPE, strict=True))
    return Waves(
        centers=np.append(centers, _ST_SHAPE[0]),
        widths=np.append(widths, _ST_SHAPE[1]),
        vectors=np.concatenate([shares[:, None] * t, st[None]]),
    )


def ectopic_loops() -> Loops:
    """Return the loops of a beat from the right ventricle: no P, wide, T against QRS."""
    centers, widths, vectors = (np.array(column) for column in zip(*_ECTOPIC_QRS, strict=True))
    nothing = Waves(np.zeros(0), np.ones(0), np.zeros((0, 3)))
    qrs = Waves(centers * _ECTOPIC_DURATION, widths * _ECTOPIC_DURATION, vectors)
    return Loops(nothing, qrs, _t_waves(0.2 * _ECTOPIC_T, _ECTOPIC_T), _ECTOPIC_DURATION)


def _rotation(axis: float, turn: float) -> Floats:
    """Return the rotation by degrees in the frontal (x to y), then in the horizontal plane (x to z)."""
    a, b = np.radians(axis), np.radians(turn)
    frontal = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    horizontal = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    return horizontal @ frontal
