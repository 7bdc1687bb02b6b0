"""Figures of where networks look over the cardiac cycle, and of what the linear model listens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from evaluation.figures import BLUE, GREY, INK, VERMILLION, new_figure, set_text_sizes
from systems.ecg_pcg.explain.cycle import (
    STATES,
    WHOLE,
    CycleMeans,
    PhaseAxis,
)
from systems.ecg_pcg.features.spectral import BAND_EDGES, ECG_EDGES, FRAME, RATE, STATE_PARTS

ROOM = 0.2
"""Room for the legend above the curves, as a share of their height."""
SIGNALS = {"ecg": ("ECG", BLUE), "pcg": ("sound", VERMILLION)}
CLASSES = {0: ("normal", GREY), 1: ("abnormal", INK)}
LOOKS = {"attribution": "integrated gradients", "attention": "spatial attention"}
"""Quantities that are drawn, each with its name in the figure."""
DIVERGING = LinearSegmentedColormap.from_list("coefficient", [BLUE, "#FFFFFF", VERMILLION])
LEGEND_STYLE: dict[str, Any] = {"loc": "upper right", "ncols": 2, "frameon": False, "fontsize": 10}
LEGEND_STYLE |= {"handlelength": 1.2, "columnspacing": 1.0, "borderaxespad": 0.1}


@dataclass(frozen=True)
class Column:
    """A column of the figure: a run, its averages over the cycle, and its rows of the table."""

    heading: str
    means: CycleMeans
    table: pd.DataFrame

    def rows(self, quantity: str, signal: str) -> pd.DataFrame:
        """Return the table's rows of a quantity of a signal, by state."""
        chosen = (self.table["quantity"] == quantity) & (self.table["signal"] == signal)
        return self.table[chosen].set_index("state")


def cycle_figure(columns: Sequence[Column], watermark: str = "") -> Figure:
    """Draw waveforms by class, and where each run looks, over the cardiac cycle; a column a run."""
    quantities = [name for name in LOOKS if any(name in column.means.looks for column in columns)]
    heights = [1.0, 1.0, *[1.8] * len(quantities)]
    legend = "thick: mean of a state, 95 % interval"
    figure = tall_figure("Where networks look in a heartbeat", legend, watermark, 2.0 + 1.35 * sum(heights))
    panels = figure.subplots(
        len(heights), len(columns), sharex=True, sharey="row", height_ratios=heights, squeeze=False
    )
    for place, column in enumerate(columns):
        for axes in panels[:, place]:
            mark_states(axes, column.means.axis.marks)
        draw_waveforms(panels[:2, place], column.means)
        for axes, quantity in zip(panels[2:, place], quantities, strict=True):
            draw_look(axes, column, quantity)
        name_states(panels[0, place], column.means.axis.marks)
        panels[0, place].set_title(column.heading, fontsize=12, pad=20)
        panels[-1, place].set_xlabel("phase of the cardiac cycle")
    labels = ["ECG,\nmean z", "sound,\nmean |z|", *(f"{LOOKS[name]},\n1 is even" for name in quantities)]
    for row, label in zip(panels, labels, strict=True):
        row[0].set_ylabel(label, fontsize=11)
        low, high = row[0].get_ylim()
        low = 0.0 if label.startswith(LOOKS["attribution"]) else low
        row[0].set_ylim(low, high + ROOM * (high - low))
    figure.align_ylabels(panels[:, 0])
    return figure


def tall_figure(title: str, second_line: str, watermark: str, height: float) -> Figure:
    """Return an empty figure of a height in inches, its watermark as far from the top as in the others."""
    figure = new_figure(title, second_line, "", watermark)
    for text in figure.texts:
        if text.get_text() == watermark:
            text.set_y(1 - (1 - text.get_position()[1]) * figure.get_figheight() / height)
    figure.set_figheight(height)
    return figure


def draw_waveforms(panels: NDArray[Any], means: CycleMeans) -> None:
    """Draw the mean ECG and the mean absolute heart sound of each class, a panel each."""
    label = means.recordings["label"].to_numpy()
    for axes, name in zip(panels, SIGNALS, strict=True):
        for kind, (word, colour) in CLASSES.items():
            if (label == kind).any():
                curve = means.waveforms[name][label == kind].mean(axis=0)
                draw_curve(axes, means.axis, curve, color=colour, label=word, linewidth=1.6)
    panels[0].legend(**LEGEND_STYLE)


def draw_look(axes: Axes, column: Column, quantity: str) -> None:
    """Draw a quantity of each signal over the cycle, and its mean in each state with the interval."""
    axis, maps = column.means.axis, column.means.looks.get(quantity, {})
    if not maps:
        axes.text(0.5, 0.5, f"no {LOOKS[quantity]}", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.axhline(1, color="#BDBDBD", linewidth=1)
    even = column.means.time.mean(axis=0) / len(maps)
    for number, (name, shares) in enumerate(maps.items()):
        word, colour = SIGNALS[name]
        draw_curve(axes, axis, np.nanmean(shares, axis=0) / even, color=colour, linewidth=1.1, alpha=0.6)
        rows = column.rows(quantity, name)
        text = f"{word} {rows.loc[WHOLE, 'share']:.0%} of all"
        rows = rows.loc[list(STATES)]
        draw_levels(axes, axis.marks, rows["enrichment"], color=colour, linewidth=2.6, label=text)
        middle = (axis.marks[:-1] + axis.marks[1:]) / 2 + 0.02 * (number - (len(maps) - 1) / 2)
        axes.vlines(middle, rows["enrichment_low"], rows["enrichment_high"], color=colour, linewidth=1.6)
    if quantity == "attribution":
        draw_amplitude(axes, column)
    axes.legend(**LEGEND_STYLE)


def draw_amplitude(axes: Axes, column: Column) -> None:
    """Draw the mean amplitude in each state: what attribution owes to the loudness of the signal alone."""
    style: dict[str, Any] = {"linewidth": 1.8, "linestyle": (0, (1.0, 1.2))}
    for name in column.means.looks["amplitude"]:
        levels = column.rows("amplitude", name).loc[list(STATES), "enrichment"]
        draw_levels(axes, column.means.axis.marks, levels, color=SIGNALS[name][1], **style)
    axes.plot([], [], color=INK, label="amplitude", **style)


def draw_levels(axes: Axes, marks: NDArray[np.float64], levels: pd.Series, **style: Any) -> None:
    """Draw one value of each state as a line across it."""
    axes.hlines(levels, marks[:-1], marks[1:], **style)


def draw_curve(axes: Axes, axis: PhaseAxis, curve: NDArray[np.float64], **style: Any) -> None:
    """Draw values of the parts of the cycle at their middles."""
    axes.plot((axis.edges[:-1] + axis.edges[1:]) / 2, curve, **style)


def mark_states(axes: Axes, marks: NDArray[np.float64]) -> None:
    """Shade both heart sounds and draw the onsets."""
    for start in (0, 2):
        axes.axvspan(marks[start], marks[start + 1], color="#EDEDED", zorder=0, linewidth=0)
    for mark in marks[1:-1]:
        axes.axvline(mark, color="#C4C4C4", linewidth=0.8, zorder=0.5)
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    set_text_sizes(axes)


def name_states(axes: Axes, marks: NDArray[np.float64]) -> None:
    """Write the names of the states above the axes."""
    place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    for name, start, end in zip(STATES, marks[:-1], marks[1:], strict=True):
        axes.annotate(name, ((start + end) / 2, 1), (0, 3), ha="center", fontsize=11, color=INK, **place)


def linear_figure(
    coefficients: Mapping[str, NDArray[np.float64]],
    shares: NDArray[np.float64],
    above: str,
    watermark: str = "",
) -> Figure:
    """Draw the coefficients of the linear model: heart sound by phase and frequency, ECG by frequency.

    Parameters
    ----------
    coefficients : mapping of str to numpy.ndarray
        From `systems.ecg_pcg.explain.attribution.linear_coefficients`; of the percentiles of the heart sound
        the mean is drawn.
    shares : numpy.ndarray, shape (4,)
        Share of the cycle of each heart state.
    above, watermark : str
        Which run it is, and a warning to be printed on the figure.
    """
    second = "orange: louder is more abnormal"
    figure = tall_figure("What the linear model listens to", second, watermark, 7.6)
    draw = {"pcg": lambda axes, values: draw_sound(axes, values, shares), "ecg": draw_ecg}
    shown = [name for name in draw if name in coefficients]
    panels = figure.subplots(len(shown), 1, height_ratios=[2.4, 1][: len(shown)], squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        set_text_sizes(axes)
        draw[name](axes, coefficients[name])
    panels[0].set_title(above, fontsize=12, pad=20)
    return figure


def draw_sound(axes: Axes, values: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
    """Draw the coefficients of the heart sound, (percentiles, cells, bands): the mean over percentiles."""
    axis = PhaseAxis(shares, np.array(list(STATE_PARTS.values())))
    mean, bands = values.mean(axis=0), np.array(BAND_EDGES) * RATE / FRAME
    most = np.abs(mean).max()
    mesh = axes.pcolormesh(axis.edges, bands, mean.T, cmap=DIVERGING, vmin=-most, vmax=most)
    for mark in axis.marks[1:-1]:
        axes.axvline(mark, color=INK, linewidth=0.9)
    name_states(axes, axis.marks)
    axes.set(xlabel="phase of the cardiac cycle", ylabel="sound, Hz", yscale="log")
    label_hertz(axes.yaxis, (25, 50, 100, 200, 400, 800))
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("log-odds of abnormal per\nstandard deviation of log power", fontsize=11)


def draw_ecg(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw the coefficients of the ECG bands (13,)."""
    colours = [VERMILLION if value > 0 else BLUE for value in values]
    axes.bar(ECG_EDGES[:-1], values, np.diff(ECG_EDGES), align="edge", color=colours, edgecolor="white")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="ECG, Hz", ylabel="log-odds per\nstandard deviation", xscale="log")
    axes.set_xlim(ECG_EDGES[0], ECG_EDGES[-1])
    label_hertz(axes.xaxis, (1, 2, 5, 10, 20, 50))
    axes.spines[["top", "right"]].set_visible(False)


def label_hertz(axis: Axis, ticks: Sequence[int]) -> None:
    """Write plain numbers on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
