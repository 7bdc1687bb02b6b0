"""Text and size that figures of single recordings share."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.figures import new_figure

DISCLAIMER = "Research software, not a medical device: nothing here is a diagnosis."
HIGHEST_SAID = 0.99
"""Highest probability that is said in figures: no model of a few hundred recordings can be surer."""
DRAWN_POINTS = 4000
"""Points to which a long signal is thinned, the lowest and the highest of each stretch kept."""
LONGEST_TITLE, LONGEST_BESIDE_STAMP = 60, 34
"""Signs of a title, alone and beside a warning; of a longer one the end is shown."""
Array = NDArray[Any]


def rounded_probability(probability: float) -> str:
    """Return a probability with no more digits than a model can be sure of."""
    if probability > HIGHEST_SAID:
        return f"above {HIGHEST_SAID}"
    return f"below {1 - HIGHEST_SAID:.2f}" if probability < 1 - HIGHEST_SAID else f"{probability:.2f}"


def thin(samples: Array, sampling_rate: float, points: int = DRAWN_POINTS) -> tuple[Array, Array]:
    """Return times (seconds) and values of at most so many points that look like the whole signal.

    Each stretch of samples gives its lowest and its highest value, so no peak is lost.
    """
    step = int(np.ceil(2 * len(samples) / points))
    if step <= 2:
        return np.arange(len(samples)) / sampling_rate, samples
    count = len(samples) // step
    rows = samples[: count * step].reshape(count, step)
    gaps = np.isnan(rows)
    low, high = np.where(gaps, np.inf, rows).min(axis=1), np.where(gaps, -np.inf, rows).max(axis=1)
    values = np.stack([low, high], axis=1).ravel()
    times = (np.repeat(np.arange(count), 2) + np.tile([0.25, 0.75], count)) * step / sampling_rate
    return times, np.where(np.isfinite(values), values, np.nan)


def sized_figure(height: float, title: str, subtitle: str, watermark: str) -> Figure:
    """Return an empty figure of a height in inches; of a long title the end is shown."""
    longest = LONGEST_BESIDE_STAMP if watermark else LONGEST_TITLE
    shown = title if len(title) <= longest else f"…{title[1 - longest :]}"
    figure = new_figure(shown, subtitle, "", watermark)
    figure.set_figheight(height)
    for text in figure.texts[-1:] if watermark else []:
        text.set_y(1 - 0.06 / height)  # beside the title, as the second line is as wide as the figure
    return figure
