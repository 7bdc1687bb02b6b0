"""Figures of predictions and of attention, 900 pixels wide, in colours that colour-blind readers tell apart.

Every function returns a matplotlib Figure of its own (no pyplot, no global state), which
`save_figure` writes and TensorBoard takes. `units` is a table of predictions or what
`evaluation.scores.aggregate` makes of it; `unit` is the word for one row of it in the title.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from common.files import replacing
from evaluation.calibration import calibration_bins, decision_curve, expected_calibration_error
from evaluation.scores import SEVERAL_FOLDS, binary_scores
from evaluation.statistics import Interval

WIDTH = 7.2
_LINE = 64
"""Letters of a title in one line of that width."""
RESOLUTION = 125
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
PURPLE, SKY, VERMILLION = "#CC79A7", "#56B4E9", "#D55E00"
_FOLD_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
INK, GREY = "#1A1A1A", "#767676"
SHADES = LinearSegmentedColormap.from_list("attention", ["#FFFFFF", "#FBE3B5", ORANGE, VERMILLION])
LEGEND: dict[str, Any] = {"fontsize": 11, "title_fontsize": 11, "alignment": "left", "framealpha": 0.9}


def roc_figure(
    units: pd.DataFrame,
    *,
    unit: str = "beats",
    protocol: str = "",
    watermark: str = "",
    interval: Interval | None = None,
) -> Figure:
    """Draw the ROC curve of each fold and of all pooled, with its area and, where given, its interval.

    Parameters
    ----------
    units : pandas.DataFrame
        Columns ``label``, ``probability`` and, for a curve a fold, ``fold``.
    unit, protocol, watermark : str
        Word for one row, protocol of the split, and a warning to be printed on the figure.
    interval : Interval, optional
        Of the pooled area.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = _square("Receiver operating characteristic", unit, protocol, watermark)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance  0.500")
    for name, rows, style in _curves(units):
        false, true, _ = roc_curve(rows["label"], rows["probability"])
        text = f"{name}  {roc_auc_score(rows['label'], rows['probability']):.3f}"
        if name == "pooled" and interval is not None and np.isfinite(interval.low):
            text += f"  [{interval.low:.3f}, {interval.high:.3f}]"
        axes.plot(false, true, label=text, **style)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    axes.legend(title="area under the curve", loc="lower right", **LEGEND)
    return figure


def precision_recall_figure(
    units: pd.DataFrame, *, unit: str = "beats", protocol: str = "", watermark: str = ""
) -> Figure:
    """Draw precision over recall for each fold and pooled, and the prevalence; arguments as `roc_figure`."""
    figure, axes = _square("Precision and recall", unit, protocol, watermark)
    prevalence = float(units["label"].mean())
    axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=":", label=f"prevalence  {prevalence:.3f}")
    for name, rows, style in _curves(units):
        precision, recall, _ = precision_recall_curve(rows["label"], rows["probability"])
        area = average_precision_score(rows["label"], rows["probability"])
        axes.step(recall, precision, where="post", label=f"{name}  {area:.3f}", **style)
    axes.set(xlabel="recall (sensitivity)", ylabel="precision")
    axes.legend(title="average precision", loc="lower left", **LEGEND)
    return figure


def confusion_figure(
    units: pd.DataFrame,
    *,
    unit: str = "beats",
    protocol: str = "",
    watermark: str = "",
    threshold: float | None = None,
) -> Figure:
    """Draw the four counts with their shares of the true class.

    Parameters
    ----------
    units : pandas.DataFrame
        Columns ``label``, ``probability`` and ``threshold``.
    unit, protocol, watermark : str
        As for `roc_figure`.
    threshold : float, optional
        One threshold for all; None: the column ``threshold``.
    """
    limit = units["threshold"] if threshold is None else threshold
    scores = binary_scores(units["label"], units["probability"], limit)
    counts = np.array([[scores["tn"], scores["fp"]], [scores["fn"], scores["tp"]]], dtype=int)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = "threshold from validation" if threshold is None else f"threshold {threshold:g}"
    figure, axes = _square("Confusion matrix", f"{unit} · {text}", protocol, watermark)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("share", ["#FFFFFF", BLUE]), vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        colour = "white" if shares[row, column] > 0.75 else INK
        share = f"{shares[row, column]:.1%} of the row"
        axes.text(
            column, row - 0.02, f"{counts[row, column]:,}", va="bottom", ha="center", color=colour, size=26
        )
        axes.text(column, row + 0.05, share, va="top", ha="center", color=colour, size=13)
    axes.set(xlabel="predicted", ylabel="true", xticks=[0, 1], yticks=[0, 1])
    axes.set(xticklabels=["normal", "abnormal"], yticklabels=["normal", "abnormal"])
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    axes.tick_params(length=0)
    axes.grid(False)
    return figure


def calibration_figure(
    units: pd.DataFrame, *, unit: str = "beats", protocol: str = "", watermark: str = "", bins: int = 10
) -> Figure:
    """Draw the share of abnormal over the probability, and how many there are; arguments as `roc_figure`."""
    figure = new_figure("Calibration", unit, protocol, watermark)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for panel in (axes, below):
        set_text_sizes(panel)
    table = calibration_bins(units["label"], units["probability"], bins).query("count > 0")
    error = expected_calibration_error(units["label"], units["probability"], bins)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfect")
    axes.plot(
        table["mean_probability"],
        table["share"],
        color=INK,
        marker="o",
        markersize=7,
        linewidth=2,
        label=f"pooled, expected calibration error {error:.3f}",
    )
    axes.set(ylabel=f"share of {unit} that are abnormal", ylim=(-0.03, 1.03))
    axes.legend(loc="upper left", **LEGEND)
    edges = np.linspace(0, 1, bins + 1)
    parts = [units.loc[units["label"] == label, "probability"].to_numpy() for label in (0, 1)]
    below.hist(parts, edges, stacked=True, color=[SKY, VERMILLION], label=["normal", "abnormal"], rwidth=0.9)
    below.set(xlabel="predicted probability of abnormal", ylabel=f"number of {unit}", xlim=(-0.03, 1.03))
    below.set_ylim(0, 1.45 * max(below.get_ylim()[1], 1))
    below.legend(loc="upper center", ncols=2, frameon=False, fontsize=10)
    return figure


def learning_curves_figure(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    kept: Mapping[str, int],
    *,
    watermark: str = "",
) -> Figure:
    """Draw loss and score of the training and the validation part over epochs, a colour a fold.

    Parameters
    ----------
    histories : mapping of str to sequence of mapping
        By the name of the fold, one mapping an epoch: ``train/loss``, ``val/loss`` and where there are any
        ``train/<score>`` and ``val/<score>``. The AUROC is drawn, or else the first score of all.
    kept : mapping of str to int
        By the name of the fold, the epoch (from 1) whose weights are evaluated: a dot.
    watermark : str
        A warning to be printed on the figure.
    """
    names = {name for rows in histories.values() for row in rows for name in row if name.startswith("val/")}
    scores = sorted(name.removeprefix("val/") for name in names - {"val/loss"})
    chosen = "auroc" if "auroc" in scores else scores[0] if scores else ""
    figure = _titled(
        3.4 * (1 + bool(chosen)) + 0.9,
        "Learning curves",
        "solid: train · dashed: validation · dot: kept",
        watermark,
    )
    panels = figure.subplots(1 + bool(chosen), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, ["loss", *([chosen] if chosen else [])], strict=True):
        for number, (fold, rows) in enumerate(histories.items()):
            colour = _FOLD_COLOURS[number % len(_FOLD_COLOURS)]
            _draw_history(axes, rows, name, kept.get(fold, 0), colour, fold.replace("_", " "))
        axes.set_ylabel("AUROC" if name == "auroc" else name.replace("_", " "))
        set_text_sizes(axes)
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="best", **LEGEND)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_history(
    axes: Axes, rows: Sequence[Mapping[str, float]], name: str, kept: int, colour: str, label: str
) -> None:
    """Draw one score of one fold over the epochs, of train and validation."""
    epochs = np.arange(1, len(rows) + 1)
    for part, line in (("train", "-"), ("val", "--")):
        values = np.array([row.get(f"{part}/{name}", np.nan) for row in rows], dtype=float)
        if not np.isfinite(values).any():
            continue
        said = label if line == "-" or not any(f"train/{name}" in row for row in rows) else None
        marker = "." if len(rows) == 1 else None
        axes.plot(epochs, values, color=colour, linestyle=line, linewidth=1.5, label=said, marker=marker)
        if 0 < kept <= len(rows):
            axes.scatter([kept], [values[kept - 1]], color=colour, s=30, zorder=3)


def interval_figure(
    table: pd.DataFrame,
    *,
    title: str,
    label: str,
    chance: float,
    unit: str = "recordings",
    protocol: str = "",
    watermark: str = "",
) -> Figure:
    """Draw values with their intervals, one a line, the last one, which sums them up, in another colour.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``name``, ``value``, ``low`` and ``high`` (nan: no interval), from top to bottom.
    title, label : str
        Of the figure, and of its axis from 0 to 1.
    chance : float
        Value of a guess: a dotted line.
    unit, protocol, watermark : str
        As for `roc_figure`.
    """
    figure = new_figure(title, unit, protocol, watermark, height=1.6 + 0.5 * len(table))
    axes = figure.subplots()
    places = np.arange(len(table))
    colours = [BLUE] * (len(table) - 1) + [VERMILLION]
    axes.axvline(chance, color=GREY, linewidth=1, linestyle=":")
    axes.hlines(places, table["low"], table["high"], color=colours, linewidth=2.4)
    axes.scatter(table["value"], places, color=colours, s=60, zorder=3)
    for place, row in zip(places, table.to_dict("records"), strict=True):
        if np.isfinite(row["value"]):
            axes.text(
                row["value"], place - 0.16, f"{row['value']:.3f}", ha="center", va="bottom", fontsize=11
            )
    axes.set(
        yticks=places, yticklabels=table["name"], ylim=(len(table) - 0.5, -0.7), xlim=(0, 1), xlabel=label
    )
    set_text_sizes(axes)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def beat_attention_figure(
    time_axis: ArrayLike,
    ecg: ArrayLike | None,
    pcg: ArrayLike | None,
    maps: Mapping[str, Any],
    *,
    title: str = "",
    time_label: str = "phase of the cardiac cycle",
    watermark: str = "",
) -> Figure:
    """Draw the ECG and PCG of one beat over a shade that shows where a model attends.

    Parameters
    ----------
    time_axis : array_like, shape (T,)
        Time or phase of each point.
    ecg, pcg : array_like, shape (T,), or None
        The signals; a missing one is left out.
    maps : mapping of str to array_like, shape (T',), or a list of them
        Attention of ``ecg`` and ``pcg`` over time, of any length each, one or one a level. The shade
        is the mean over levels; where there are several, each has a row below. One scale serves all.
    title, time_label, watermark : str
        Title, unit of the time axis, and a warning to be printed on the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    signals = {name: signal for name, signal in (("ecg", ecg), ("pcg", pcg)) if signal is not None}
    unknown = set(maps) - set(signals)
    if unknown or not signals:
        raise ValueError(f"Attention was given for {sorted(maps)}, signals for {sorted(signals)}.")
    time = np.asarray(time_axis, dtype=float)
    levels = {name: _levels(values, len(time)) for name, values in maps.items()}
    low = min((table.min() for table in levels.values()), default=0)
    scale = {"cmap": SHADES, "vmin": low, "vmax": max((table.max() for table in levels.values()), default=1)}
    legend = "shade: mean attention of all levels" if levels else ""
    figure = _titled(2.9 * len(signals) + 0.8, title or "Attention over one beat", legend, watermark)
    rows = [(name, levels.get(name), True) for name in signals]
    rows += [(name, table, False) for name, table in levels.items() if len(table) > 1]
    rows.sort(key=lambda row: row[0])
    ratios = [4 if of_signal else 0.35 * len(levels[name]) for name, _, of_signal in rows]
    panels = figure.subplots(len(rows), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, (name, table, of_signal) in zip(panels, rows, strict=True):
        if of_signal:
            _draw_signal(axes, time, np.asarray(signals[name], dtype=float), table, scale)
            axes.set_ylabel(name.upper())
        elif table is not None:
            _draw_levels(axes, time, table, scale)
    panels[-1].set(xlabel=time_label, xlim=(time[0], time[-1]))
    images = [image for axes in panels for image in axes.images]
    if images:
        figure.colorbar(images[0], ax=list(panels), label="attention", fraction=0.035, pad=0.02)
    return figure


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG, laid out once; ``savefig`` would do so twice."""
    figure.set_dpi(RESOLUTION)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG: all of it, or nothing."""
    content = png_of(figure)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def _titled(height: float, title: str, second_line: str, watermark: str) -> Figure:
    figure = Figure(
        figsize=(WIDTH, height), dpi=RESOLUTION, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    )
    FigureCanvasAgg(figure)
    lines = _fitted(title, second_line or " ", watermark)
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=14, color=INK)
    if watermark:
        box = {"boxstyle": "round,pad=0.3", "facecolor": "#B22222", "edgecolor": "none"}
        style: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold", "color": "white", "bbox": box}
        figure.text(0.98, 1 - 0.06 / height, watermark, ha="right", va="top", **style)
    return figure


def _fitted(title: str, second_line: str, watermark: str) -> list[str]:
    """Return title and second line, broken where they would leave the figure or run into the watermark."""
    beside = _LINE - round(1.05 * len(watermark)) - (2 if watermark else 0)
    first, *rest = textwrap.wrap(title, beside) or [" "]
    return [first, *textwrap.wrap(" ".join(rest), _LINE), *(textwrap.wrap(second_line, _LINE) or [" "])]


def new_figure(title: str, unit: str, protocol: str, watermark: str, height: float = 7.2) -> Figure:
    """Return an empty figure (height in inches) with its title, what it is of, and any warning."""
    return _titled(
        height, title, " · ".join([unit, *([f"protocol {protocol}"] if protocol else [])]), watermark
    )


def robust_limits(values: ArrayLike, sampling_rate: float) -> tuple[float, float]:
    """Return the ends of an axis for a signal that may hold a step, such as of an electrode.

    The extremes of pieces of a second and a half are looked at: the 10th and 90th percentile of them, and
    half of the range beyond, but no more than the signal has. Heart beats are inside, a step may not be.

    Parameters
    ----------
    values : array_like, shape (n,)
        NaN in gaps.
    sampling_rate : float
        Hertz.
    """
    signal = np.asarray(values, dtype=float)
    pieces = np.array_split(signal, max(1, int(len(signal) / (1.5 * sampling_rate))))
    ends = [(piece.min(), piece.max()) for part in pieces if len(piece := part[np.isfinite(part)])]
    if not ends:
        return -1.0, 1.0
    lowest, highest = np.array(ends).T
    low, high = float(np.quantile(lowest, 0.1)), float(np.quantile(highest, 0.9))
    margin = (high - low) / 2 or 0.5
    low, high = max(low - margin, float(lowest.min())), min(high + margin, float(highest.max()))
    return low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)


def set_text_sizes(axes: Axes) -> None:
    """Give the labels and ticks of axes the sizes that all figures have."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(12)
    axes.tick_params(labelsize=11)


def _square(title: str, unit: str, protocol: str, watermark: str) -> tuple[Figure, Axes]:
    figure = new_figure(title, unit, protocol, watermark)
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    set_text_sizes(axes)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curves(units: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Give name, rows and line style of each fold with both classes, then of all pooled."""
    folds = sorted(set(units["fold"]) - {SEVERAL_FOLDS}) if "fold" in units else []
    for number, fold in enumerate(folds if len(folds) > 1 else []):
        rows = units[units["fold"] == fold]
        if rows["label"].nunique() == 2:
            colour = _FOLD_COLOURS[number % len(_FOLD_COLOURS)]
            style = ("-", "--", "-.")[number // len(_FOLD_COLOURS) % 3]
            yield f"fold {fold}", rows, {"color": colour, "linewidth": 1.3, "linestyle": style}
    if units["label"].nunique() == 2:
        yield "pooled", units, {"color": INK, "linewidth": 2.6}


def _levels(values: Any, points: int) -> NDArray[np.float64]:
    """Bring one map, or one a level, to `points` points by repetition: (levels, points)."""
    rows = [np.asarray(row, dtype=float) for row in (values if np.ndim(values[0]) else [values])]
    if any(row.ndim != 1 or not len(row) for row in rows):
        raise ValueError(
            f"An attention map is one row of values, not of shape {[row.shape for row in rows]}."
        )
    return np.stack([row[np.arange(points) * len(row) // points] for row in rows])


def _draw_signal(
    axes: Axes, time: NDArray[Any], signal: NDArray[Any], levels: NDArray[Any] | None, scale: dict[str, Any]
) -> None:
    margin = 0.08 * float(np.ptp(signal)) + 1e-9
    low, high = float(signal.min()) - margin, float(signal.max()) + margin
    if levels is not None:
        extent = (time[0], time[-1], low, high)
        axes.imshow(levels.mean(axis=0)[None], extent=extent, aspect="auto", interpolation="nearest", **scale)
    axes.plot(time, signal, color=INK, linewidth=1.1)
    axes.set_ylim(low, high)


def _draw_levels(axes: Axes, time: NDArray[Any], levels: NDArray[Any], scale: dict[str, Any]) -> None:
    extent = (time[0], time[-1], len(levels) + 0.5, 0.5)
    axes.imshow(levels, extent=extent, aspect="auto", interpolation="nearest", **scale)
    axes.set(yticks=range(1, len(levels) + 1), ylabel="level")
    axes.tick_params(length=0)


def decision_curve_figure(
    units: pd.DataFrame,
    *,
    unit: str = "recordings",
    protocol: str = "",
    watermark: str = "",
    prevalence: float | None = None,
) -> Figure:
    """Draw the net benefit over the threshold beside that of treating all and none.

    Parameters
    ----------
    units : pandas.DataFrame
        Columns ``label`` and ``probability`` (shifted, where `prevalence` is given).
    unit, protocol, watermark : str
        As for `evaluation.figures.roc_figure`.
    prevalence : float, optional
        As for `decision_curve`.
    """
    curve = decision_curve(units["label"], units["probability"], prevalence=prevalence)
    share = float(units["label"].mean()) if prevalence is None else prevalence
    figure = new_figure(f"Decision curve · {share:.0%} abnormal", unit, protocol, watermark)
    axes = figure.subplots()
    axes.plot(curve["threshold"], curve["treat_all"], color=BLUE, linewidth=1.6, label="treat all")
    axes.plot(curve["threshold"], curve["treat_none"], color=GREY, linewidth=1.6, label="treat none")
    axes.plot(curve["threshold"], curve["model"], color=INK, linewidth=2.6, label="act on the model")
    set_text_sizes(axes)
    axes.set(xlabel="probability from which one acts", ylabel=f"net benefit, right alarms among all {unit}")
    axes.set(xlim=(0, 1), ylim=(-0.15 * share, 1.1 * share))
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", **LEGEND)
    return figure
