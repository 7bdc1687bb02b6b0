"""The figure of the prediction for one recording: its signals, its beats, and what the model makes of them.

From top to bottom: all of the recording, with the probability of each beat where the model reads beats; four
seconds of it with heart beats marked; and what weighed. 900 pixels wide, as all figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from datasets.signal_quality import NAMES
from evaluation.figures import BLUE, GREY, INK, ORANGE, SHADES, SKY, VERMILLION, robust_limits, set_text_sizes
from systems.base.predictor import DISCLAIMER, rounded_probability, sized_figure, thin

Array = NDArray[Any]
_SCALES = "each signal on its own scale"
_CLOSE_UP = 4.0
"""Length of the part that is drawn large, seconds."""
_PANEL = {"signal": 1.15, "probability": 1.35, "attention": 1.3, "contributions": 3.3}
"""Heights, inches."""
_SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, SKY, "#FFFFFF", ORANGE, VERMILLION])


@dataclass(frozen=True)
class Trace:
    """A continuous signal: samples (n,), gaps as NaN, and its sampling rate in hertz."""

    samples: Array
    sampling_rate: float


@dataclass(frozen=True)
class Contributions:
    """What the log-odds of a linear model are made of.

    Attributes
    ----------
    parts : mapping of str to float
        Log-odds by name; they add up to those of the recording.
    grid : numpy.ndarray, shape (cells, bands), or None
        Part of each cell of the cardiac cycle and each band of frequency.
    cells : mapping of str to int
        Cells of each heart state, in order.
    band_edges : numpy.ndarray, shape (bands + 1,)
        Hertz.
    """

    parts: Mapping[str, float]
    grid: Array | None = None
    cells: Mapping[str, int] = field(default_factory=dict)
    band_edges: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class MeanAttention:
    """Where a network looks: mean beat and mean attention of each signal over the cycle, (points,) each."""

    beats: Mapping[str, Array]
    attention: Mapping[str, Array]


def recording_figure(
    traces: Mapping[str, Trace],
    spans: Array,
    *,
    title: str,
    subtitle: str = "",
    watermark: str = "",
    beat_label: str = "",
    beat_probability: Array | None = None,
    probability: float = float("nan"),
    contributions: Contributions | None = None,
    mean_attention: MeanAttention | None = None,
) -> Figure:
    """Draw one recording.

    Parameters
    ----------
    traces : mapping of str to Trace
        ``ecg``, ``pcg`` or both.
    spans : numpy.ndarray, shape (beats, 2)
        Start and end of each beat, seconds.
    title, subtitle, watermark : str
        Title, second line, and a warning to be printed on the figure.
    beat_label : str
        What the marks of beats are, for the legend.
    beat_probability : numpy.ndarray, shape (beats,), optional
        Probability of abnormal of each beat.
    probability : float
        That of the recording.
    contributions : Contributions, optional
    mean_attention : MeanAttention, optional

    Returns
    -------
    matplotlib.figure.Figure
    """
    if not traces or set(traces) - set(NAMES):
        raise ValueError(f"A recording has traces named ecg, pcg or both, not {sorted(traces)}.")
    if beat_probability is not None and len(beat_probability) != len(spans):
        raise ValueError(f"{len(beat_probability)} probabilities were given for {len(spans)} beats.")
    whole = len(traces) * _PANEL["signal"] + (0 if beat_probability is None else _PANEL["probability"]) + 0.35
    heights = [whole, len(traces) * _PANEL["signal"] + 0.6]
    heights += [] if mean_attention is None else [len(mean_attention.beats) * _PANEL["attention"] + 0.6]
    heights += [] if contributions is None else [_PANEL["contributions"]]
    figure = sized_figure(sum(heights) + 1.0, title, subtitle, watermark)
    # the last, empty part keeps room for the sentence at the foot
    parts = list(figure.subfigures(len(heights) + 1, 1, height_ratios=[*heights, 0.15], squeeze=False)[:, 0])
    shown = _close_up(traces, spans)
    _draw_whole(parts.pop(0), traces, spans, shown, beat_probability, probability)
    _draw_close_up(parts.pop(0), traces, spans, shown, beat_label)
    if mean_attention is not None:
        _draw_attention(parts.pop(0), mean_attention)
    if contributions is not None:
        _draw_contributions(parts.pop(0), contributions)
    figure.text(0.02, 0.06 / sum(heights), DISCLAIMER, ha="left", va="bottom", fontsize=8.5, color=GREY)
    return figure


def _close_up(traces: Mapping[str, Trace], spans: Array) -> tuple[float, float]:
    """Return the seconds that are drawn large: from the beat in the middle on."""
    duration = min(len(trace.samples) / trace.sampling_rate for trace in traces.values())
    start = max(0.0, (duration - _CLOSE_UP) / 2)
    if len(spans):
        starts = np.asarray(spans)[:, 0]
        start = float(starts[np.abs(starts - start).argmin()]) - 0.1
    start = max(0.0, min(start, duration - _CLOSE_UP))
    return start, min(start + _CLOSE_UP, duration)


def _draw_whole(
    part: SubFigure,
    traces: Mapping[str, Trace],
    spans: Array,
    shown: tuple[float, float],
    beat_probability: Array | None,
    probability: float,
) -> None:
    """Draw all of the recording, and below it the probability of each beat."""
    ratios = [_PANEL["signal"]] * len(traces) + ([] if beat_probability is None else [_PANEL["probability"]])
    panels = part.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, modality in zip(panels, _ordered(traces), strict=False):
        trace = traces[modality]
        times, values = thin(trace.samples, trace.sampling_rate)
        axes.axvspan(*shown, color="#E8EEF4", linewidth=0)
        axes.plot(times, values, color=INK, linewidth=0.5)
        _scale(axes, trace)
        _plain(axes, NAMES[modality])
        axes.yaxis.set_major_locator(NullLocator())
    if beat_probability is not None:
        _draw_beats(panels[-1], np.asarray(spans), np.asarray(beat_probability), probability)
    duration = max(len(trace.samples) / trace.sampling_rate for trace in traces.values())
    panels[-1].set(xlim=(0, duration), xlabel=f"time in seconds, {_SCALES}")


def _scale(axes: Axes, trace: Trace) -> None:
    """Set the ends of the axis of a signal, and say where it leaves them."""
    low, high = robust_limits(trace.samples, trace.sampling_rate)
    axes.set_ylim(low, high)
    if np.nanmax(trace.samples, initial=low) > high or np.nanmin(trace.samples, initial=high) < low:
        style: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": GREY}
        axes.text(0.995, 1.0, "cut: the signal leaves the axis", transform=axes.transAxes, **style)


def _draw_beats(axes: Axes, spans: Array, values: Array, probability: float) -> None:
    low, high = np.percentile(values, [10, 90])
    axes.axhspan(low, high, color="#DDDDDD", linewidth=0, label="10th to 90th percentile of the beats")
    axes.hlines(values, spans[:, 0], spans[:, 1], color=BLUE, linewidth=3)
    axes.axhline(
        probability, color=VERMILLION, linewidth=1.2, label=f"mean {rounded_probability(probability)}"
    )
    axes.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
    _plain(axes, "each beat")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9, borderpad=0)


def _draw_close_up(
    part: SubFigure, traces: Mapping[str, Trace], spans: Array, shown: tuple[float, float], beat_label: str
) -> None:
    """Draw some seconds of the signals with the starts of beats marked."""
    panels = part.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
    starts = np.asarray(spans).reshape(-1, 2)[:, 0]
    inside = starts[(starts >= shown[0]) & (starts <= shown[1])]
    for axes, modality in zip(panels, _ordered(traces), strict=True):
        trace = traces[modality]
        first, last = (round(edge * trace.sampling_rate) for edge in shown)
        times = np.arange(first, last) / trace.sampling_rate
        for number, start in enumerate(inside):
            label = beat_label if number == 0 and axes is panels[0] and beat_label else None
            axes.axvline(start, color=VERMILLION, linewidth=1.1, linestyle="--", label=label)
        axes.plot(times, trace.samples[first : first + len(times)][: len(times)], color=INK, linewidth=0.8)
        _scale(axes, Trace(trace.samples[first:last], trace.sampling_rate))
        _plain(axes, NAMES[modality])
        axes.yaxis.set_major_locator(NullLocator())
    if len(inside) and beat_label:
        panels[0].legend(
            loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, borderpad=0, handlelength=1.5
        )
    panels[-1].set(xlim=shown, xlabel=f"time in seconds (the shaded part above), {_SCALES}")


def _draw_attention(part: SubFigure, mean_attention: MeanAttention) -> None:
    """Draw the mean beat over a shade that shows where a network attends."""
    modalities = _ordered(mean_attention.beats)
    panels = part.subplots(len(modalities), 1, sharex=True, squeeze=False)[:, 0]
    maps = np.concatenate([np.asarray(mean_attention.attention[modality]) for modality in modalities])
    for axes, modality in zip(panels, modalities, strict=True):
        beat = np.asarray(mean_attention.beats[modality])
        margin = 0.1 * float(np.ptp(beat)) + 1e-9
        low, high = float(beat.min()) - margin, float(beat.max()) + margin
        row = np.asarray(mean_attention.attention[modality])[None]
        style: dict[str, Any] = {"cmap": SHADES, "vmin": maps.min(), "vmax": maps.max()}
        image = axes.imshow(row, extent=(0, 1, low, high), aspect="auto", interpolation="nearest", **style)
        axes.plot(np.arange(len(beat)) / len(beat), beat, color=INK, linewidth=1.2)
        axes.set_ylim(low, high)
        _plain(axes, NAMES[modality])
        axes.yaxis.set_major_locator(NullLocator())
    panels[-1].set(xlim=(0, 1), xlabel="phase of the cardiac cycle, mean of all beats")
    part.colorbar(image, ax=list(panels), label="mean attention", fraction=0.035, pad=0.02)


def _draw_contributions(part: SubFigure, contributions: Contributions) -> None:
    """Draw the parts of the log-odds, and over phase and frequency those of the heart sound."""
    if contributions.grid is None:
        _draw_parts(part.subplots(), contributions.parts)
        return
    axes, beside = part.subplots(1, 2, width_ratios=[2.4, 1])
    grid = np.asarray(contributions.grid)
    limit = float(np.abs(grid).max()) or 1.0
    image = axes.pcolormesh(
        np.arange(len(grid) + 1), contributions.band_edges, grid.T, cmap=_SIGNED, vmin=-limit, vmax=limit
    )
    edges = np.concatenate([[0], np.cumsum(list(contributions.cells.values()))])
    for edge in edges[1:-1]:
        axes.axvline(edge, color=INK, linewidth=0.8)
    axes.set_yscale("log")
    ticks = [hertz for hertz in (25, 50, 100, 200, 400, 800) if hertz < contributions.band_edges[-1]]
    axes.set_yticks(ticks, [str(hertz) for hertz in ticks])
    axes.set_xticks((edges[:-1] + edges[1:]) / 2, list(contributions.cells))
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_minor_locator(NullLocator())
    _plain(axes, "frequency in Hz")
    axes.set_xlabel("heart sound: part of the log-odds")
    part.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    _draw_parts(beside, contributions.parts)


def _draw_parts(axes: Axes, parts: Mapping[str, float]) -> None:
    rows = {**parts, "sum": float(sum(parts.values()))} if len(parts) > 1 else dict(parts)
    values = np.array(list(rows.values()))
    axes.barh(range(len(rows)), values, color=[VERMILLION if value > 0 else BLUE for value in values])
    axes.axvline(0, color=GREY, linewidth=1)
    for index, value in enumerate(values):
        side = -1 if value >= 0 else 1  # beyond zero, where no bar is
        style: dict[str, Any] = {"ha": "right" if side < 0 else "left", "va": "center", "fontsize": 9.5}
        axes.annotate(f"{value:+.2f}", (0, index), (5 * side, 0), textcoords="offset points", **style)
    reach = 1.15 * max(float(np.abs(values).max()), 0.1)
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6))
    axes.set(xlim=(-reach, reach), xlabel="log-odds")
    _plain(axes, "")


def _ordered(parts: Mapping[str, Any]) -> list[str]:
    return [modality for modality in NAMES if modality in parts]


def _plain(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    set_text_sizes(axes)
    axes.tick_params(labelsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
