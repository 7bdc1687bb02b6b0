"""The figure of one ECG: its twelve leads, and what a model predicts that a cardiac MRI would show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from evaluation.figures import BLUE, GREY, INK, ORANGE, set_text_sizes
from systems.base.predictor import DISCLAIMER, sized_figure, thin

_LEAD_HEIGHT, _ROW_HEIGHT, _HEAD = 0.62, 0.235, 0.75
"""Inches."""
_LEFT = 3.6
"""Deviations from the mean that are drawn to both sides."""
_COLUMNS = {"name": 0.015, "predicted": 0.40, "interval": 0.60}
"""Where the columns of the table begin (name) or end, as shares of the width."""
_AXIS = (0.64, 0.36)
"""Beginning and width of the panel beside the table."""
_INTERVAL = "90 % interval: from the errors on the validation part, so for patients like those of training"
_WEAK = "grey: on validation not shown to be better than the mean, or than chance"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name, text, interval : str
        What it is, what is predicted, and the text of the third column.
    value, low, high : float or None
        Of an indicator: prediction and interval, in deviations of the training patients from their mean. Of a
        disease: probability, and ``low`` the share of the training patients who had it.
    better : bool
        Whether validation showed the prediction to be better than none.
    """

    name: str
    text: str
    interval: str
    value: float
    low: float | None
    high: float | None
    better: bool


def phenotypes_figure(
    ecg: NDArray[Any],
    sampling_rate: float,
    leads: Sequence[str],
    indicators: Sequence[Row],
    diseases: Sequence[Row],
    *,
    title: str,
    watermark: str = "",
) -> Figure:
    """Draw an ECG and what is predicted from it.

    Parameters
    ----------
    ecg : numpy.ndarray, shape (12, T)
        Millivolts, NaN where missing; what the model read of it.
    sampling_rate : float
        Hertz.
    leads : sequence of str
    indicators, diseases : sequence of Row
    title, watermark : str
        Name of the ECG, and a warning to be printed on the figure.
    """
    tables = [rows for rows in (indicators, diseases) if rows]
    heights = [_LEAD_HEIGHT * 6 + 0.5, *(_HEAD + _ROW_HEIGHT * len(rows) for rows in tables)]
    figure = sized_figure(sum(heights) + 1.3, title, "predicted from a twelve-lead ECG", watermark)
    parts = list(figure.subfigures(len(heights) + 1, 1, height_ratios=[*heights, 0.45], squeeze=False)[:, 0])
    _draw_leads(parts.pop(0), ecg, sampling_rate, leads)
    if indicators:
        _draw_indicators(parts.pop(0), indicators)
    if diseases:
        _draw_diseases(parts.pop(0), diseases)
    weak = not all(row.better for rows in tables for row in rows)
    foot = [*([_INTERVAL] if indicators else []), *([_WEAK] if weak else []), DISCLAIMER]
    figure.text(0.02, 0.06 / sum(heights), "\n".join(foot), ha="left", va="bottom", fontsize=8.5, color=GREY)
    return figure


def _draw_leads(part: SubFigure, ecg: NDArray[Any], sampling_rate: float, leads: Sequence[str]) -> None:
    """Draw the leads in two columns, all on one scale."""
    panels = part.subplots(6, 2, sharex=True, sharey=True, gridspec_kw={"hspace": 0, "wspace": 0.02})
    low, high = (
        float(np.nanpercentile(ecg - np.nanmedian(ecg, axis=1)[:, None], end)) for end in (0.05, 99.95)
    )
    margin = 0.1 * (high - low) + 1e-9
    for axes, trace, name in zip(panels.T.ravel(), ecg, leads, strict=True):
        times, values = thin(trace - np.nanmedian(trace), sampling_rate)
        axes.plot(times, values, color=INK, linewidth=0.6)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10.5)
        axes.set(yticks=[], ylim=(low - margin, high + margin), xlim=(0, ecg.shape[1] / sampling_rate))
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", length=0, labelsize=9.5)
    for axes in panels[-1]:
        axes.spines["bottom"].set_visible(True)
        axes.set_xlabel("time in seconds", fontsize=10.5)
    corner = panels[0, 1]
    # a share of the width, and millivolts
    beside: dict[str, Any] = {"transform": corner.get_yaxis_transform(), "clip_on": False}
    corner.plot([1.01, 1.01], [low, low + 1], color=BLUE, linewidth=2, **beside)
    corner.text(1.02, low, "1 mV", rotation=90, ha="left", va="bottom", fontsize=9, color=BLUE, **beside)


def _table(part: SubFigure, rows: Sequence[Row], heads: tuple[str, str, str]) -> Axes:
    """Write three columns of text, and return the axes beside them, a unit a row."""
    words = part.subplots()
    words.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -1.2))
    words.axis("off")
    style: dict[str, Any] = {"fontsize": 10, "va": "center"}
    lines = [(-0.9, heads, GREY)]
    lines += [
        (index, (row.name, row.text, row.interval), INK if row.better else GREY)
        for index, row in enumerate(rows)
    ]
    for y, texts, color in lines:
        for (column, x), text in zip(_COLUMNS.items(), texts, strict=True):
            words.text(x, y, text, ha="left" if column == "name" else "right", color=color, **style)
    axes = words.inset_axes((_AXIS[0], 0, _AXIS[1], 1))
    axes.set(ylim=words.get_ylim(), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.patch.set_alpha(0)
    set_text_sizes(axes)
    axes.tick_params(labelsize=9.5)
    return axes


def _draw_indicators(part: SubFigure, rows: Sequence[Row]) -> None:
    axes = _table(part, rows, ("indicator", "predicted", "90 % interval"))
    axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
    for index, row in enumerate(rows):
        color = BLUE if row.better else GREY
        if row.low is not None and row.high is not None:
            axes.plot(np.clip([row.low, row.high], -_LEFT, _LEFT), [index, index], color=color, linewidth=2)
        axes.plot([np.clip(row.value, -_LEFT, _LEFT)], [index], "o", color=color, markersize=5)
    axes.set(xlim=(-_LEFT, _LEFT), xticks=[-3, -2, -1, 0, 1, 2, 3])
    axes.set_xlabel("deviations from the mean of the training patients", fontsize=9)


def _draw_diseases(part: SubFigure, rows: Sequence[Row]) -> None:
    axes = _table(part, rows, ("disease", "probability", "in training"))
    for index, row in enumerate(rows):
        axes.barh(index, row.value, 0.6, color=BLUE if row.better else GREY)
        if row.low is not None:
            label = "share of the training patients" if index == 0 else None
            axes.plot(
                [row.low, row.low], [index - 0.42, index + 0.42], color=ORANGE, linewidth=2.5, label=label
            )
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    axes.set_xlabel("probability (orange: share of the training patients)", fontsize=9)
