"""Figures of what each modality (image, signal, table) adds, in the style of `evaluation.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from evaluation.figures import (
    BLUE,
    GREY,
    INK,
    LEGEND,
    SKY,
    VERMILLION,
    new_figure,
)
from systems.ecg_multimodal.patient_panels import (
    MODALITY_COLORS,
    plain_axes,
)
from systems.ecg_multimodal.shapley import attribution

Array = NDArray[Any]
_CLASSES = {0: ("normal", SKY), 1: ("abnormal", VERMILLION)}


def contributions_figure(
    contributions: Mapping[str, ArrayLike],
    label: ArrayLike,
    *,
    title: str = "What each modality adds",
    unit: str = "patients",
    watermark: str = "",
) -> Figure:
    """Draw the contributions of each modality over all patients, and their attribution.

    Parameters
    ----------
    contributions : mapping of str to array_like, shape (N,)
        From `systems.ecg_multimodal.shapley.shapley_values`; NaN where a patient lacks the modality.
    label : array_like, shape (N,)
        0 normal, 1 abnormal.
    title, unit, watermark : str
        Title, word for one row, and a warning to be printed on the figure.
    """
    labels = np.asarray(label)
    tables = {modality: np.asarray(value, dtype=float) for modality, value in contributions.items()}
    if any(table.shape != labels.shape for table in tables.values()):
        raise ValueError(f"Every modality needs one contribution for each of {len(labels)} labels.")
    figure = new_figure(title, f"{len(labels):,} {unit}", "", watermark, 3.2 + 0.95 * len(tables))
    axes, below = figure.subplots(2, 1, height_ratios=[0.95 * len(tables) + 0.4, 1.5])
    axes.axvline(0, color=GREY, linewidth=1)
    for place, values in enumerate(tables.values()):
        for kind in _CLASSES:
            _draw_spread(axes, place - 0.19 + 0.38 * kind, values[labels == kind], kind)
    axes.set(xlabel="contribution in log-odds", yticks=range(len(tables)), yticklabels=list(tables))
    axes.set_ylim(len(tables) - 0.5, -0.5)
    handles = [axes.scatter([], [], color=colour, label=name) for name, colour in _CLASSES.values()]
    axes.legend(handles=handles, loc="best", **LEGEND)
    _draw_attribution(below, tables, labels)
    for panel in (axes, below):
        plain_axes(panel)
    return figure


def subsets_figure(
    table: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    shapley: pd.DataFrame | None = None,
    title: str = "AUROC by the modalities that are given",
    protocol: str = "",
    unit: str = "patients",
    watermark: str = "",
) -> Figure:
    """Draw the AUROC of every set of modalities with its interval, and what each modality adds to it.

    Parameters
    ----------
    table : pandas.DataFrame
        From `systems.ecg_multimodal.shapley.subset_scores`: modalities, value, low, high.
    references : pandas.DataFrame, optional
        The same columns; what the sets are to be compared with, such as the shortcuts.
    shapley : pandas.DataFrame, optional
        From `systems.ecg_multimodal.shapley.shapley_auroc`: drawn below.
    title, protocol, unit, watermark : str
        As for `evaluation.figures.roc_figure`.
    """
    rows = [(row, INK) for row in table.to_dict("records")]
    rows += [] if references is None else [(row, GREY) for row in references.to_dict("records")]
    heights = [0.34 * len(rows) + 0.7, *([] if shapley is None else [0.34 * len(shapley) + 0.7])]
    said = " · ".join([unit, *([f"protocol {protocol}"] if protocol else [])])
    figure = new_figure(title, said, "", watermark, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_forest(panels[0], rows, "views", 0.5, "{:.3f}")
    panels[0].set_xlabel("AUROC, 95 % interval")
    if references is not None and len(references):
        panels[0].axhline(len(table) - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    if shapley is not None:
        _draw_forest(panels[1], [(row, BLUE) for row in shapley.to_dict("records")], "view", 0.0, "{:+.3f}")
        panels[1].set_xlabel("part of AUROC − 0.5 (Shapley), 95 % interval")
    return figure


def _draw_spread(axes: Axes, place: float, values: Array, kind: int) -> None:
    """Draw the contributions of one modality to one class: a point each, and their quartiles."""
    values, colour = values[np.isfinite(values)], _CLASSES[kind][1]
    if not len(values):
        return
    spread = np.random.default_rng(0).uniform(-0.13, 0.13, len(values))
    strength = float(np.clip(60 / len(values), 0.12, 0.7))
    axes.scatter(values, place + spread, s=9, color=colour, alpha=strength, linewidths=0, rasterized=True)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([low, high], [place, place], color=INK, linewidth=2, solid_capstyle="butt")
    axes.scatter([middle], [place], color=colour, edgecolor=INK, s=48, zorder=3)


def _draw_attribution(axes: Axes, tables: Mapping[str, Array], labels: Array) -> None:
    """Draw the share of each modality in what moved the predictions: of each class, and of all."""
    chosen = {name: labels == kind for kind, (name, _) in _CLASSES.items()} | {"all": labels == labels}
    chosen = {name: rows for name, rows in chosen.items() if rows.any()}
    for row, rows in enumerate(chosen.values()):
        shares = attribution({modality: values[rows] for modality, values in tables.items()})
        start = 0.0
        for number, (modality, share) in enumerate(
            zip(shares["view"], shares["share"].fillna(0), strict=True)
        ):
            colour = MODALITY_COLORS[number % len(MODALITY_COLORS)]
            axes.barh(row, share, left=start, height=0.7, color=colour, label=modality if row == 0 else None)
            if share > 0.06:
                axes.text(
                    start + share / 2,
                    row,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=11,
                    color="white" if colour == BLUE else INK,
                )
            start += share
    axes.set(xlim=(0, 1), ylim=(len(chosen) - 0.5, -0.5), xlabel="share of the mean absolute contribution")
    axes.set_yticks(range(len(chosen)), labels=list(chosen))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(tables), frameon=False, fontsize=11)


def _draw_forest(
    axes: Axes, rows: Sequence[tuple[dict[str, Any], str]], name: str, neutral: float, form: str
) -> None:
    axes.axvline(neutral, color=GREY, linewidth=1, linestyle=":")
    for place, (row, colour) in enumerate(rows):
        said = form.format(row["value"]) if np.isfinite(row["value"]) else "n/a"
        if np.isfinite(row["low"]):
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            said += f" [{form.format(row['low'])}, {form.format(row['high'])}]"
        elif row.get("reason"):
            said += " (interval not estimable)"
        axes.scatter([row["value"]], [place], color=colour, s=45, zorder=3)
        axes.annotate(said, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=10.5)
    axes.set(ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), labels=[str(row[name]) for row, _ in rows])
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    plain_axes(axes)
