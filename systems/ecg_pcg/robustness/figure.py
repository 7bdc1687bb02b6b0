"""The figure of runs on corrupted recordings: AUROC over the level, a panel a kind and signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, WIDTH
from systems.ecg_pcg.robustness.corruptions import CLEAN, KINDS

PANELS = (
    (("white", "ecg"), ("white", "pcg"), ("white", "both")),
    (("muscle", "ecg"), ("rub", "pcg"), ("movement", "both")),
    (("mains-50", "ecg"), ("ambient", "pcg"), ("room", "both")),
    (("clipping", "ecg"), ("clipping", "pcg"), ("clipping", "both")),
    (("rate", "ecg"), ("rate", "pcg"), ("rate", "both")),
    (("wander", "ecg"), ("mains-60", "ecg"), ("shift", "ecg")),
)
"""Panels of the figure, a row of kinds that belong together."""
WHERE = {"ecg": "ECG", "pcg": "heart sound", "both": "both signals"}
COLORS = {"pacfnet": VERMILLION, "linear": BLUE}
OTHER_COLORS = (GREEN, PURPLE, SKY, ORANGE, GREY)


def is_certain(row: Mapping[str, Any]) -> bool:
    """Whether the interval of the change leaves out zero."""
    return bool(row["change_low"] > 0 or row["change_high"] < 0)


def stress_figure(table: pd.DataFrame, watermark: str = "") -> Figure:
    """Draw AUROC over the level, one panel a kind and signal, one line a model.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `systems.ecg_pcg.robustness.evaluate.robustness_row` with ``model`` and ``seeds``, the number
        of runs whose mean a row is.
    watermark : str
        Warning that belongs on the figure.
    """
    there = set(zip(table["kind"], table["signal"], strict=True))
    rows = [row for row in PANELS if there.intersection(row)]
    figure = Figure(figsize=(WIDTH + 1.3, 1.75 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(len(rows), 3, sharey=True, squeeze=False)
    colors = colors_of(table)
    lowest = min(0.45, table["auroc"].min() - 0.03)
    for row, names in zip(panels, rows, strict=True):
        for axes, name in zip(row, names, strict=True):
            if name in there:
                draw_panel(axes, table, *name, colors)
                axes.set_ylim(lowest, 1.0)
            else:
                axes.set_axis_off()
        row[0].set_ylabel("AUROC", fontsize=9)
    figure.suptitle("AUROC per recording under stress", x=0.02, ha="left", fontsize=13)
    if watermark:
        figure.text(0.98, 0.99, watermark, ha="right", va="top", fontsize=9, color=VERMILLION)
    seeds = table.groupby("model", sort=False)["seeds"].max()
    figure.legend(
        [Line2D([], [], color=colors[str(model)], linewidth=1.4) for model in seeds.index],
        [f"{model} (mean of {count} seeds)" if count > 1 else model for model, count in seeds.items()],
        loc="outside lower left",
        ncols=3,
        fontsize=9,
        frameon=False,
        title="dashed: clean signals · dotted: chance · filled: 95 % interval of the change leaves out 0",
        title_fontsize=8.5,
        alignment="left",
    )
    return figure


def colors_of(table: pd.DataFrame) -> dict[str, str]:
    """Return a color for each model."""
    others = [name for name in dict.fromkeys(table["model"]) if name not in COLORS]
    return COLORS | {name: OTHER_COLORS[position % len(OTHER_COLORS)] for position, name in enumerate(others)}


def draw_panel(axes: Axes, table: pd.DataFrame, kind: str, signal: str, colors: Mapping[str, str]) -> None:
    """Draw one panel: levels side by side, the clean signals first (for a shift: in the middle)."""
    levels = list(KINDS[kind].levels)
    position = int(np.searchsorted(levels, 0.0)) if kind == "shift" else 0
    names = [f"{level:g}" for level in levels]
    names.insert(position, CLEAN)
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    for model, rows in table.groupby("model", sort=False):
        color = colors[str(model)]
        clean = rows.loc[rows["kind"] == CLEAN, "auroc"].mean()
        points = rows[(rows["kind"] == kind) & (rows["signal"] == signal)].set_index("level")
        if points.empty:
            continue
        values = [points["auroc"].get(level, np.nan) for level in levels]
        face = [color if level in points.index and is_certain(points.loc[level]) else "w" for level in levels]
        values.insert(position, clean)
        face.insert(position, "w")
        axes.axhline(clean, color=color, linestyle="--", linewidth=0.7, alpha=0.7)
        axes.plot(names, values, color=color, linewidth=1.4)
        axes.scatter(names, values, s=16, c=face, edgecolors=color, linewidths=1, zorder=3)
    axes.tick_params(labelsize=8)
    axes.set_title(f"{kind} · {WHERE[signal]} ({KINDS[kind].unit})", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
