"""Figures of the stages that learn from ECG and cardiac MRI, in the style of `evaluation.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from evaluation.figures import (
    BLUE,
    GREY,
    INK,
    LEGEND,
    ORANGE,
    SHADES,
    VERMILLION,
    new_figure,
    set_text_sizes,
)
from systems.ecg_cmr.cine.measures import UNITS

_COLUMNS = 3
"""Panels side by side."""
_MOST_POINTS = 600
"""Patients drawn in a scatter plot; more would be one spot."""
_LIMITS = 1.96
"""Standard deviations between the mean difference and the limits of agreement."""


def retrieval_figure(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Draw how often the other half of a pair is among the first 1, 5 and 10, beside chance.

    Parameters
    ----------
    table : pandas.DataFrame
        From `systems.ecg_cmr.contrast.evaluate.retrieval_table`.
    watermark : str
        A warning to be printed on the figure.
    """
    pairs = int(table["pairs"].iloc[0])
    figure = new_figure("Retrieval", f"{pairs:,} unseen pairs · 95 % intervals", "", watermark, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, part) in zip(panels, table.groupby("direction", sort=False), strict=True):
        at = np.arange(len(part))
        axes.bar(at, part["recall"], 0.6, color=BLUE)
        ends = np.abs(part[["low", "high"]].to_numpy().T - part["recall"].to_numpy())
        axes.errorbar(at, part["recall"], ends, fmt="none", color=INK, capsize=4)
        axes.hlines(part["chance"], at - 0.4, at + 0.4, color=ORANGE, linewidth=2.5, label="chance")
        axes.set(xticks=at, xticklabels=[f"first {rank}" for rank in part["rank"]], ylim=(0, 1))
        axes.set_title(direction, loc="left", fontsize=12, color=INK)
        _plain(axes)
    panels[0].set_ylabel("recall")
    panels[0].legend(**LEGEND, loc="upper left")
    return figure


def indicators_figure(
    truth: pd.DataFrame,
    predicted: pd.DataFrame,
    table: pd.DataFrame,
    *,
    units: Mapping[str, str] | None = None,
    watermark: str = "",
) -> Figure:
    """Draw prediction against truth of every indicator, with its scores and what is possible at best.

    Parameters
    ----------
    truth, predicted : pandas.DataFrame
        One column an indicator; NaN in ``truth`` where not known.
    table : pandas.DataFrame
        From `systems.ecg_cmr.phenotypes.evaluate.indicator_table`.
    units : mapping of str to str, optional
        Unit of each indicator, where it is known.
    watermark : str
    """
    lines = -(-len(table) // _COLUMNS)
    at_best = " · R² of what is possible at best" if table["r2_ceiling"].notna().any() else ""
    subject = f"{len(truth):,} unseen patients{at_best}"
    figure = new_figure("Indicators: predicted and true", subject, "", watermark, 2.5 * lines + 1.2)
    _label_all(figure, "true value", "predicted value")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes, row in zip(panels, table.to_dict("records"), strict=False):
        _draw_scatter(axes, truth[row["indicator"]], predicted[row["indicator"]])
        possible = f" of {row['r2_ceiling']:.2f}" if np.isfinite(row["r2_ceiling"]) else ""
        unit = (units or {}).get(row["indicator"], "")
        name = f"{row['indicator'].replace('_', ' ')}{f' ({unit})' * bool(unit)}"
        said = f"{name}\nr {row['r']:.2f}, R² {row['r2']:.2f}{possible}"
        axes.set_title(said, loc="left", fontsize=10, color=INK)
    for axes in panels[len(table) :]:
        axes.set_visible(False)
    return figure


def _draw_scatter(axes: Axes, truth: pd.Series, predicted: pd.Series) -> None:
    """Draw some patients, and the line on which prediction and truth are equal."""
    known = np.flatnonzero(truth.notna())[:_MOST_POINTS]
    x, y = truth.to_numpy()[known], predicted.to_numpy()[known]
    axes.scatter(x, y, s=9, color=BLUE, alpha=0.35, linewidths=0)
    if len(known):
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
    _plain(axes)
    axes.tick_params(labelsize=9)


def relevance_figure(
    ecg: ArrayLike,
    relevance: ArrayLike,
    leads: Sequence[str],
    sampling_rate: float,
    *,
    title: str = "One patient",
    watermark: str = "",
) -> Figure:
    """Draw an ECG, its background the darker the more a stretch of a lead counted (attention rollout).

    Parameters
    ----------
    ecg : array_like, shape (leads, T)
        Millivolts.
    relevance : array_like, shape (leads, times)
        From `models.ecg_cmr.rollout.lead_relevance`; T is a multiple of times.
    leads : sequence of str
        Name of each lead.
    sampling_rate : float
        Hertz.
    title, watermark : str
    """
    traces, shares = np.asarray(ecg, dtype=float), np.asarray(relevance, dtype=float)
    if len(traces) != len(leads) or len(shares) != len(leads):
        raise ValueError(f"{traces.shape} and {shares.shape} do not fit {len(leads)} leads.")
    said = "darker: raised it more (gradient-weighted attention rollout)"
    figure = new_figure(title, said, "", watermark, 0.62 * len(leads) + 1.3)
    figure.texts[0].set_fontsize(12)
    panels = figure.subplots(len(leads), 1, sharex=True, squeeze=False)[:, 0]
    seconds = traces.shape[1] / sampling_rate
    lowest, highest = (
        (float(end(shares[shares > 0])) for end in (np.min, np.max)) if shares.any() else (0.0, 1.0)
    )
    time = np.arange(traces.shape[1]) / sampling_rate
    for axes, trace, share, name in zip(panels, traces, shares, leads, strict=True):
        low, high = _limits(trace)
        extent = (0, seconds, low, high)
        axes.imshow(share[None], cmap=SHADES, vmin=lowest, vmax=highest, extent=extent, aspect="auto")
        axes.plot(time, trace, color=INK, linewidth=0.8)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        axes.set(yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("time in s, each lead on its own scale")
    set_text_sizes(panels[-1])
    return figure


def reconstruction_figure(
    truth: ArrayLike,
    found: ArrayLike,
    mask: ArrayLike,
    leads: Sequence[str],
    sampling_rate: float,
    *,
    watermark: str = "",
) -> Figure:
    """Draw an ECG, and its reconstruction over the stretches that were hidden.

    Parameters
    ----------
    truth, found : array_like, shape (leads, T)
    mask : array_like of bool, shape (leads, T)
        What was hidden.
    leads : sequence of str
    sampling_rate : float
        Hertz.
    watermark : str
    """
    traces, guess, hidden = np.asarray(truth), np.asarray(found), np.asarray(mask, dtype=bool)
    time = np.arange(traces.shape[1]) / sampling_rate
    said = f"{hidden.mean():.0%} hidden · black: measured, orange: put in its place"
    figure = new_figure("An ECG, reconstructed", said, "", watermark, 0.62 * len(leads) + 1.3)
    panels = figure.subplots(len(leads), 1, sharex=True, squeeze=False)[:, 0]
    for axes, trace, other, gone, name in zip(panels, traces, guess, hidden, leads, strict=True):
        axes.plot(time, trace, color=INK, linewidth=0.7, alpha=0.8)
        axes.add_collection(_stretches(time, other, gone))
        axes.set_ylim(*_limits(trace))
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        axes.set(yticks=[], xlim=(0, time[-1]))
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("time in s")
    set_text_sizes(panels[-1])
    return figure


def cines_figure(
    rows: Sequence[tuple[str, ArrayLike]], frames: int = 8, *, title: str, watermark: str = ""
) -> Figure:
    """Draw cines as strips of frames, a row each.

    Parameters
    ----------
    rows : sequence of (str, array_like of shape (frames, H, W))
        Name of each row and its cine, 0 to 1.
    frames : int
        Frames shown of each, evenly over the cycle.
    title, watermark : str
    """
    figure = new_figure(title, "one cycle, from left to right", "", watermark, 1.05 * len(rows) + 1.0)
    panels = figure.subplots(len(rows), frames, squeeze=False)
    for line, (name, cine) in zip(panels, rows, strict=True):
        content = np.asarray(cine, dtype=float)
        chosen = np.linspace(0, len(content), frames, endpoint=False).astype(int)
        for axes, frame in zip(line, content[chosen], strict=True):
            axes.imshow(frame, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=10.5)
    return figure


def _stretches(time: NDArray[Any], trace: NDArray[Any], hidden: NDArray[np.bool_]) -> LineCollection:
    """Return the hidden stretches of a trace as lines."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden, [False]]).astype(int)))
    parts = [
        np.stack([time[start:end], trace[start:end]], axis=1)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]
    return LineCollection(parts, colors=ORANGE, linewidths=1.4)


def _limits(trace: NDArray[Any]) -> tuple[float, float]:
    """Return the lower and upper end of an axis for a trace, also of a flat one."""
    low, high = float(np.nanmin(trace)), float(np.nanmax(trace))
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


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
    return Agreement(bias, bias - _LIMITS * deviation, bias + _LIMITS * deviation)


def bland_altman_figure(
    truth: pd.DataFrame, found: pd.DataFrame, *, title: str, subject: str, watermark: str = ""
) -> Figure:
    """Draw the difference of two measurements over their mean, a panel a column of both tables."""
    lines = -(-truth.shape[1] // _COLUMNS)
    figure = new_figure(title, subject, "", watermark, 2.7 * lines + 1)
    _label_all(figure, "mean of found and true", "found minus true")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, truth, strict=False):
        one, two = truth[name].to_numpy(float), found[name].to_numpy(float)
        axes.scatter((one + two) / 2, two - one, s=9, color=BLUE, alpha=0.35, linewidths=0)
        found_limits = agreement(one, two)
        axes.axhline(found_limits.bias, color=VERMILLION, linewidth=1.2)
        for end in (found_limits.low, found_limits.high):
            axes.axhline(end, color=GREY, linewidth=1.2, linestyle="--")
        unit = UNITS.get(str(name), "")
        said = f"bias {found_limits.bias:+.1f} [{found_limits.low:.1f}, {found_limits.high:.1f}]"
        axes.set_title(
            f"{str(name).replace('_', ' ')}{f' ({unit})' * bool(unit)}\n{said}",
            loc="left",
            fontsize=10,
            color=INK,
        )
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
    chosen: str = "",
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
    chosen : str
        How the patients were chosen, for the second line.
    watermark : str
    """
    figure = new_figure(
        "A beating heart, generated from an ECG",
        " · ".join(
            ["one cycle, from left to right", *([chosen] if chosen else []), "generated, not measured"]
        ),
        "",
        watermark,
        3.1 * len(patients) + 0.9,
    )
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


def _label_all(figure: Figure, below: str, beside: str) -> None:
    """Label the axes of all panels together."""
    figure.supxlabel(below, fontsize=12, color=INK)
    figure.supylabel(beside, fontsize=12, color=INK)


def _plain(axes: Axes) -> None:
    set_text_sizes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
