"""Panels of figures of one patient: the picture of the ECG, its leads, and what each modality adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import expit

from evaluation.calibration import log_odds
from evaluation.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SHADES,
    SKY,
    VERMILLION,
    robust_limits,
    set_text_sizes,
)

Array = NDArray[Any]
MODALITY_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
_SIGNS = LinearSegmentedColormap.from_list("signs", [BLUE, SKY, "#B4B4B4", ORANGE, VERMILLION])
_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
_FINE_TICKS = tuple(part / 10 for part in range(1, 10))
_SMOOTHING = 0.04
"""Width, in seconds, of the mean over time of an attribution that is shown: it hops from point to point."""


def plain_axes(axes: Axes) -> None:
    """Leave the left and the lower spine, with the sizes of text that all figures have."""
    set_text_sizes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def checked_signal(
    signal: ArrayLike, signal_map: ArrayLike | None, leads: Sequence[str]
) -> tuple[Array, Array | None]:
    """Return a signal (leads, n) and the map over it, of one shape, or say what does not fit."""
    traces = np.asarray(signal, dtype=float)
    if traces.ndim != 2 or len(traces) != len(leads):
        raise ValueError(f"A signal (leads, T) needs a name a lead: {traces.shape} for {', '.join(leads)}.")
    if signal_map is None:
        return traces, None
    found = np.asarray(signal_map, dtype=float)
    if found.shape != traces.shape:
        raise ValueError(f"The attribution has shape {found.shape}, the signal {traces.shape}.")
    return traces, found


def draw_image(axes: Axes, image: Array, image_map: ArrayLike | None) -> None:
    """Draw the picture of an ECG, under its attribution, if there is a map."""
    axes.imshow(image, cmap="gray", aspect="equal", interpolation="antialiased")
    text = "image"
    if image_map is not None:
        shade = np.asarray(image_map, dtype=float)
        if shade.shape != image.shape[:2]:
            raise ValueError(f"The map of the image has shape {shade.shape}, the image {image.shape[:2]}.")
        strength = shade / shade.max() if shade.max() > 0 else np.zeros_like(shade)
        axes.imshow(strength, cmap=SHADES, vmin=0, vmax=1, alpha=0.65 * strength, aspect="equal")
        text += f" · shade: Grad-CAM, 0 to {max(shade.max(), 0):.2g}"
    axes.set(xticks=[], yticks=[])
    axes.set_title(text, loc="left", fontsize=12, color=INK)


def draw_leads(
    part: Any,
    traces: Array,
    signal_map: Array | None,
    sampling_rate: float,
    leads: Sequence[str],
    outcome: str,
) -> None:
    """Draw the leads below each other, colored by their attribution, if there is a map."""
    panels = part.subplots(len(leads), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    time = np.arange(traces.shape[1]) / sampling_rate
    shown = np.zeros_like(traces)
    if signal_map is not None:
        shown = uniform_filter1d(signal_map, max(1, round(_SMOOTHING * sampling_rate)), axis=1)
    # A few points may stand out so far that everything else would be grey.
    limit = float(np.quantile(np.abs(shown), 0.995)) or float(np.abs(shown).max()) or 1.0
    for axes, trace, values, name in zip(panels, traces, shown, leads, strict=True):
        lines = _colored(axes, time, trace, values if signal_map is not None else None, limit)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        axes.spines[["top", "right", *(["bottom"] if axes is not panels[-1] else [])]].set_visible(False)
        axes.tick_params(labelsize=10, bottom=axes is panels[-1])
    ends = np.array([robust_limits(trace, sampling_rate) for trace in traces])
    panels[-1].set_ylim(ends[:, 0].min(), ends[:, 1].max())  # shared by all leads
    panels[-1].set(xlim=(0, traces.shape[1] / sampling_rate), xlabel="time in s, ECG in mV")
    if signal_map is not None:
        bar = part.colorbar(lines, ax=list(panels), fraction=0.03, pad=0.01, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels([f"against\n{outcome}", "0", f"for\n{outcome}"], fontsize=9.5)
    panels[0].set_title(
        "signal" + (" · color: integrated gradients" if signal_map is not None else ""),
        loc="left",
        fontsize=12,
        color=INK,
    )


def _colored(axes: Axes, time: Array, trace: Array, values: Array | None, limit: float) -> LineCollection:
    """Draw one lead, in ink or colored by its attribution."""
    points = np.stack([time, trace], axis=1)
    segments = np.stack([points[:-1], points[1:]], axis=1)
    lines = LineCollection(list(segments), cmap=_SIGNS, linewidths=1.0, capstyle="round")
    if values is None:
        lines.set_color(INK)
    else:
        between = (values[:-1] + values[1:]) / 2
        lines.set_array(between)
        lines.set_clim(-limit, limit)
        lines.set_linewidth((1.0 + 1.8 * np.minimum(np.abs(between) / limit, 1)).tolist())
    axes.add_collection(lines)
    axes.autoscale_view()
    return lines


def draw_steps(axes: Axes, contributions: Mapping[str, float], empty: float, outcome: str) -> None:
    """Draw the log-odds when nothing is known, what each modality adds, and their sum."""
    start, ends = empty, [empty]
    for row, (modality, value) in enumerate(contributions.items(), start=1):
        if np.isfinite(value):
            axes.barh(row, value, left=start, height=0.62, color=VERMILLION if value > 0 else BLUE)
            axes.plot([start, start], [row - 1, row + 0.31], color=GREY, linewidth=0.8)
            start += value
            ends.append(start)
        text = f"{value:+.2f}" if np.isfinite(value) else f"no {modality}"
        _beside(axes, max(ends[-2:]) if np.isfinite(value) else start, row, text)
    last = len(contributions) + 1
    axes.plot([start, start], [last - 1, last], color=GREY, linewidth=0.8)
    axes.scatter([empty, start], [0, last], color=INK, zorder=3, s=45)
    _beside(axes, empty, 0, f"{expit(empty):.3f}")
    _beside(axes, start, last, f"{expit(start):.3f}", fontweight="bold")
    room = 0.12 * (max(ends) - min(ends)) + 0.3
    axes.set(xlim=(min(ends) - room, max(ends) + 2 * room), ylim=(last + 0.6, -0.6))
    axes.set_yticks(range(last + 1), labels=["nothing known", *contributions, "all together"])
    axes.set_xlabel(f"log-odds of {outcome}")
    plain_axes(axes)
    _probability_axis(axes, outcome)


def _beside(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.annotate(text, (x, y), (8, 0), textcoords="offset points", va="center", fontsize=11, **style)


def _probability_axis(axes: Axes, outcome: str) -> None:
    above = axes.twiny()
    low, high = axes.get_xlim()
    chosen = _FINE_TICKS if high - low < 4 else _TICKS
    ticks = [value for value in chosen if low <= log_odds(value) <= high]
    above.set(xlim=(low, high), xlabel=f"probability of {outcome}")
    above.set_xticks(log_odds(ticks), labels=[f"{value:g}" for value in ticks])
    above.spines["right"].set_visible(False)
    set_text_sizes(above)
