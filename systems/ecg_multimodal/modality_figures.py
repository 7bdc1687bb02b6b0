"""Figures of what each view of a patient (image, signal, table) says, in the style of `evaluation.figures`.

Every function returns a matplotlib Figure of its own, 900 pixels wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

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
    checked_signal,
    draw_image,
    draw_leads,
    draw_steps,
    plain_axes,
)
from systems.ecg_multimodal.shapley import shapley_shares

Array = NDArray[Any]
CLASSES = {0: ("normal", SKY), 1: ("abnormal", VERMILLION)}


def patient_figure(
    contributions: Mapping[str, float],
    empty: float,
    *,
    image: ArrayLike | None = None,
    image_map: ArrayLike | None = None,
    signal: ArrayLike | None = None,
    signal_map: ArrayLike | None = None,
    sampling_rate: float = 100.0,
    leads: Sequence[str] = ("II",),
    title: str = "One patient",
    outcome: str = "abnormal",
    watermark: str = "",
) -> Figure:
    """Draw what a model saw of one patient, where it looked, and what each view added.

    Parameters
    ----------
    contributions : mapping of str to float
        Shapley value of each view, in log-odds (`systems.ecg_multimodal.shapley.shapley_values`); NaN: not
        there.
    empty : float
        Log-odds before anything is known: of the training prevalence, or 0 where classes weigh the same.
    image : array_like, shape (H, W) or (H, W, 3), optional
        Picture as it is to be shown.
    image_map : array_like, shape (H, W), optional
        From `systems.ecg_multimodal.attribution.grad_cam`.
    signal, signal_map : array_like, shape (leads, T), optional
        ECG in millivolts, and what each point added
        (`systems.ecg_multimodal.attribution.integrated_gradients_signal`).
    sampling_rate : float
        Of the signal, in hertz.
    leads : sequence of str
        Name of each row of the signal; one is drawn large, twelve small.
    title, outcome, watermark : str
        Title, name of label 1, and a warning to be printed on the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    traces = None if signal is None else checked_signal(signal, signal_map, leads)
    picture = None if image is None else np.asarray(image)
    heights = [] if picture is None else [0.45 + 6.6 * picture.shape[0] / picture.shape[1]]
    heights += [] if traces is None else [0.9 + (0.9 if len(leads) == 1 else 0.46 * len(leads))]
    heights += [1.0 + 0.36 * (len(contributions) + 2)]
    final = empty + float(np.nansum(list(contributions.values())))
    figure = new_figure(
        title, f"probability of {outcome} {expit(final):.3f}", "", watermark, sum(heights) + 0.8
    )
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if picture is not None:
        draw_image(parts.pop(0).subplots(), picture, image_map)
    if traces is not None:
        draw_leads(parts.pop(0), *traces, sampling_rate, leads, outcome)
    draw_steps(parts.pop(0).subplots(), contributions, empty, outcome)
    return figure


def contributions_figure(
    contributions: Mapping[str, ArrayLike],
    label: ArrayLike,
    *,
    title: str = "What each view adds",
    unit: str = "patients",
    watermark: str = "",
) -> Figure:
    """Draw the contributions of each view over all patients, and the shares of the views.

    Parameters
    ----------
    contributions : mapping of str to array_like, shape (N,)
        From `systems.ecg_multimodal.shapley.shapley_values`; NaN where a patient lacks the view.
    label : array_like, shape (N,)
        0 normal, 1 abnormal.
    title, unit, watermark : str
        Title, word for one row, and a warning to be printed on the figure.
    """
    labels = np.asarray(label)
    tables = {view: np.asarray(value, dtype=float) for view, value in contributions.items()}
    if any(table.shape != labels.shape for table in tables.values()):
        raise ValueError(f"Every view needs one contribution for each of {len(labels)} labels.")
    figure = new_figure(title, f"{len(labels):,} {unit}", "", watermark, 3.2 + 0.95 * len(tables))
    axes, below = figure.subplots(2, 1, height_ratios=[0.95 * len(tables) + 0.4, 1.5])
    axes.axvline(0, color=GREY, linewidth=1)
    for place, values in enumerate(tables.values()):
        for kind in CLASSES:
            _draw_spread(axes, place - 0.19 + 0.38 * kind, values[labels == kind], kind)
    axes.set(xlabel="contribution in log-odds", yticks=range(len(tables)), yticklabels=list(tables))
    axes.set_ylim(len(tables) - 0.5, -0.5)
    handles = [axes.scatter([], [], color=colour, label=name) for name, colour in CLASSES.values()]
    axes.legend(handles=handles, loc="best", **LEGEND)
    _draw_shares(below, tables, labels)
    for panel in (axes, below):
        plain_axes(panel)
    return figure


def subsets_figure(
    table: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    credits: pd.DataFrame | None = None,
    title: str = "AUROC by the views that are given",
    protocol: str = "",
    unit: str = "patients",
    watermark: str = "",
) -> Figure:
    """Draw the AUROC of every set of views with its interval, and what each view adds to it.

    Parameters
    ----------
    table : pandas.DataFrame
        From `systems.ecg_multimodal.shapley.subset_scores`: views, value, low, high.
    references : pandas.DataFrame, optional
        The same columns; what the sets are to be compared with, such as the shortcuts.
    credits : pandas.DataFrame, optional
        From `systems.ecg_multimodal.shapley.score_contributions`: drawn below.
    title, protocol, unit, watermark : str
        As for `evaluation.figures.roc_figure`.
    """
    rows = [(row, INK) for row in table.to_dict("records")]
    rows += [] if references is None else [(row, GREY) for row in references.to_dict("records")]
    heights = [0.34 * len(rows) + 0.7, *([] if credits is None else [0.34 * len(credits) + 0.7])]
    said = " · ".join([unit, *([f"protocol {protocol}"] if protocol else [])])
    figure = new_figure(title, said, "", watermark, sum(heights) + 0.8)
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_forest(panels[0], rows, "views", 0.5, "{:.3f}")
    panels[0].set_xlabel("AUROC, 95 % interval")
    if references is not None and len(references):
        panels[0].axhline(len(table) - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    if credits is not None:
        _draw_forest(panels[1], [(row, BLUE) for row in credits.to_dict("records")], "view", 0.0, "{:+.3f}")
        panels[1].set_xlabel("part of AUROC − 0.5 (Shapley), 95 % interval")
    return figure


def _draw_spread(axes: Axes, place: float, values: Array, kind: int) -> None:
    """Draw the contributions of one view to one class: a point each, and their quartiles."""
    values, colour = values[np.isfinite(values)], CLASSES[kind][1]
    if not len(values):
        return
    spread = np.random.default_rng(0).uniform(-0.13, 0.13, len(values))
    strength = float(np.clip(60 / len(values), 0.12, 0.7))
    axes.scatter(values, place + spread, s=9, color=colour, alpha=strength, linewidths=0, rasterized=True)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([low, high], [place, place], color=INK, linewidth=2, solid_capstyle="butt")
    axes.scatter([middle], [place], color=colour, edgecolor=INK, s=48, zorder=3)


def _draw_shares(axes: Axes, tables: Mapping[str, Array], labels: Array) -> None:
    """Draw the share of each view in what moved the predictions: of each class, and of all."""
    chosen = {name: labels == kind for kind, (name, _) in CLASSES.items()} | {"all": labels == labels}
    chosen = {name: rows for name, rows in chosen.items() if rows.any()}
    for row, rows in enumerate(chosen.values()):
        shares = shapley_shares({view: values[rows] for view, values in tables.items()})
        start = 0.0
        for number, (view, share) in enumerate(zip(shares["view"], shares["share"].fillna(0), strict=True)):
            colour = MODALITY_COLORS[number % len(MODALITY_COLORS)]
            axes.barh(row, share, left=start, height=0.7, color=colour, label=view if row == 0 else None)
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
        axes.scatter([row["value"]], [place], color=colour, s=45, zorder=3)
        axes.annotate(said, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=10.5)
    axes.set(ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), labels=[str(row[name]) for row, _ in rows])
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    plain_axes(axes)
