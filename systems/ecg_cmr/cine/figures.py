"""Figures of generated cines beside true ones, and of what is measured in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from evaluation.figures import BLUE, GREY, INK, VERMILLION, new_figure, set_text_sizes
from systems.ecg_cmr.cine.measures import UNITS

COLUMNS = 3
LIMITS = 1.96
"""Standard deviations between the mean difference and the limits of agreement."""
GENERATED = "generated, not measured"
"""What is written on every generated picture."""


@dataclass(frozen=True)
class Agreement:
    """Differences of two measurements of the same thing (Bland and Altman, Lancet 327, 1986)."""

    bias: float
    """Mean of found minus true."""
    low: float
    """Lower limit of agreement: bias minus 1.96 standard deviations of the differences."""
    high: float
    """Upper limit."""


def agreement(truth: ArrayLike, found: ArrayLike) -> Agreement:
    """Return bias and limits of agreement where both are known."""
    difference = np.asarray(found, float) - np.asarray(truth, float)
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return Agreement(np.nan, np.nan, np.nan)
    bias, deviation = float(difference.mean()), float(difference.std(ddof=1))
    return Agreement(bias, bias - LIMITS * deviation, bias + LIMITS * deviation)


def bland_altman_figure(
    truth: pd.DataFrame, found: pd.DataFrame, *, title: str, subject: str, watermark: str = ""
) -> Figure:
    """Draw the difference of two measurements over their mean, a panel a column of both tables."""
    lines = -(-truth.shape[1] // COLUMNS)
    figure = new_figure(title, subject, "", watermark, 2.7 * lines + 1)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, truth, strict=False):
        one, two = truth[name].to_numpy(float), found[name].to_numpy(float)
        axes.scatter((one + two) / 2, two - one, s=9, color=BLUE, alpha=0.35, linewidths=0)
        found_limits = agreement(one, two)
        for value, colour in (
            (found_limits.bias, VERMILLION),
            (found_limits.low, GREY),
            (found_limits.high, GREY),
        ):
            axes.axhline(value, color=colour, linewidth=1.2, linestyle="-" if colour != GREY else "--")
        unit = UNITS.get(str(name), "")
        said = f"{found_limits.bias:+.1f} [{found_limits.low:.1f}, {found_limits.high:.1f}] {unit}"
        axes.set_title(f"{str(name).replace('_', ' ')}\n{said}", loc="left", fontsize=10, color=INK)
        set_text_sizes(axes)
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[truth.shape[1] :]:
        axes.set_visible(False)
    return figure


def story_figure(
    patients: Sequence[Mapping[str, object]],
    sampling_rate: float,
    *,
    frames: int = 8,
    seconds: float = 3.0,
    watermark: str = "",
) -> Figure:
    """Draw for each patient an ECG lead, the true cine and a generated one, as strips.

    Parameters
    ----------
    patients : sequence of mapping
        ``name`` (str), ``ecg`` (T,) in millivolts, ``true`` and ``generated`` (frames, H, W) 0 to 1, and
        ``said``: text for the row of each, by ``true`` and ``generated``.
    sampling_rate : float
        Hertz.
    frames : int
        Frames shown, evenly over the cycle.
    seconds : float
        Of the ECG shown.
    watermark : str
    """
    figure = new_figure(
        "A beating heart drawn from an ECG", f"one cycle, from left to right · {GENERATED}", "", watermark,
        3.1 * len(patients) + 0.9,
    )  # fmt: skip
    panels = figure.subplots(3 * len(patients), 1, height_ratios=[0.9, 1, 1] * len(patients), squeeze=False)
    for lines, patient in zip(panels.reshape(-1, 3), patients, strict=True):
        trace = np.asarray(patient["ecg"], float)[: int(seconds * sampling_rate)]
        lines[0].plot(np.arange(len(trace)) / sampling_rate, trace, color=INK, linewidth=0.9)
        lines[0].set(xticks=[], yticks=[], xlim=(0, len(trace) / sampling_rate))
        title = f"{patient['name']}: ECG, lead II, {seconds:g} s"
        lines[0].set_title(title, loc="left", fontsize=10, color=INK)
        lines[0].spines[["top", "right", "left", "bottom"]].set_visible(False)
        said = patient["said"]
        assert isinstance(said, Mapping)
        for axes, kind in zip(lines[1:], ("true", "generated"), strict=True):
            axes.imshow(strip_of(np.asarray(patient[kind], float), frames), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_ylabel(f"{kind}\n{said[kind]}", fontsize=9)
    return figure


def strip_of(cine: NDArray[Any], frames: int) -> NDArray[Any]:
    """Return some frames of a cine (frames, H, W), evenly over the cycle, side by side: (H, frames * W)."""
    chosen = np.linspace(0, len(cine), min(frames, len(cine)), endpoint=False).astype(int)
    return np.concatenate(list(cine[chosen]), axis=1)
