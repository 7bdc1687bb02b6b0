"""The figure of the prediction for one patient: the modalities, the weight of each, and the probability.

From top to bottom: the picture and the signal, shaded by attribution; the clinical values; the weight of each
modality; and what each adds to the log-odds, or the probability of each of several classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from evaluation.figures import BLUE, GREY, INK, set_text_sizes
from systems.base.predictor import DISCLAIMER, rounded_probability, sized_figure
from systems.ecg_multimodal.patient_panels import (
    MODALITY_COLORS,
    checked_signal,
    draw_image,
    draw_leads,
    draw_steps,
)

_OUTCOME = "abnormal"
_COLUMNS, _LONGEST_NAME = 3, 26
"""Clinical values in a row, and signs of their names."""


@dataclass(frozen=True)
class Steps:
    """Log-odds when nothing is known, and what each modality adds to them."""

    start: float
    added: Mapping[str, float]


def patient_prediction_figure(
    *,
    title: str,
    subtitle: str,
    image: ArrayLike | None = None,
    image_map: ArrayLike | None = None,
    signal: ArrayLike | None = None,
    signal_map: ArrayLike | None = None,
    sampling_rate: float = 100.0,
    leads: Sequence[str] = ("II",),
    clinical: Mapping[str, float | None] | None = None,
    weights: Mapping[str, float] | None = None,
    lacking: Sequence[str] = (),
    steps: Steps | None = None,
    classes: Mapping[str, float] | None = None,
    watermark: str = "",
) -> Figure:
    """Draw one patient.

    Parameters
    ----------
    title, subtitle : str
        Name of the patient, and the probability.
    image, image_map, signal, signal_map, sampling_rate, leads
        As for `systems.ecg_multimodal.explain.patient_figure`.
    clinical : mapping of str to float or None, optional
        Clinical values; None: missing.
    weights : mapping of str to float, optional
        Weight of each modality in the fusion, 0 to 1.
    lacking : sequence of str
        Modalities that the model reads, and that are not there.
    steps : Steps, optional
    classes : mapping of str to float, optional
        Probability of each class.
    watermark : str
        Warning on the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    panels: list[tuple[float, Any]] = []
    if image is not None:
        picture = np.asarray(image)
        height = 0.45 + 6.6 * picture.shape[0] / picture.shape[1]
        panels.append((height, lambda part: draw_image(part.subplots(), picture, image_map)))
    if signal is not None:
        traces, shade = checked_signal(signal, signal_map, leads)
        height = 0.9 + (0.9 if len(leads) == 1 else 0.46 * len(leads))
        panels.append((height, lambda part: draw_leads(part, traces, shade, sampling_rate, leads, _OUTCOME)))
    if clinical is not None:
        height = 0.45 + 0.24 * -(-len(clinical) // _COLUMNS)
        panels.append((height, lambda part: _draw_values(part.subplots(), clinical)))
    if weights is not None:
        panels.append((1.05, lambda part: _draw_weights(part.subplots(), weights, lacking)))
    if steps is not None:
        height = 1.0 + 0.36 * (len(steps.added) + 2)
        panels.append((height, lambda part: draw_steps(part.subplots(), steps.added, steps.start, _OUTCOME)))
    if classes is not None:
        panels.append((0.9 + 0.36 * len(classes), lambda part: _draw_classes(part.subplots(), classes)))
    heights = [height for height, _ in panels]
    figure = sized_figure(sum(heights) + 1.0, title, subtitle, watermark)
    # the last, empty part keeps room for the sentence at the foot
    parts = figure.subfigures(len(panels) + 1, 1, height_ratios=[*heights, 0.2], squeeze=False)[:, 0]
    for part, (_, draw) in zip(parts, panels, strict=False):
        draw(part)
    figure.text(0.02, 0.06 / sum(heights), DISCLAIMER, ha="left", va="bottom", fontsize=8.5, color=GREY)
    return figure


def _draw_values(axes: Axes, values: Mapping[str, float | None]) -> None:
    """Write the clinical values, some a line; a missing one is grey."""
    rows = -(-len(values) // _COLUMNS)
    axes.set(xlim=(0, _COLUMNS), ylim=(rows - 0.5, -0.5))
    axes.set_axis_off()
    axes.set_title("clinical values", loc="left", fontsize=12, color=INK)
    for index, (name, value) in enumerate(values.items()):
        column, row = index % _COLUMNS, index // _COLUMNS
        shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        text, color = ("missing", GREY) if value is None else (f"{value:.4g}", INK)
        style: dict[str, Any] = {"va": "center", "fontsize": 9.5}
        axes.text(column, row, shown.replace("_", " "), color=GREY, **style)
        axes.text(column + 0.9, row, text, color=color, ha="right", **style)


def _draw_weights(axes: Axes, weights: Mapping[str, float], lacking: Sequence[str]) -> None:
    """Draw the weight of each modality, side by side in one bar."""
    colors = dict(zip(("image", "signal", "clinical"), MODALITY_COLORS, strict=False))
    start = 0.0
    for modality, weight in weights.items():
        axes.barh(0, weight, left=start, height=0.7, color=colors[modality], label=f"{modality} {weight:.0%}")
        start += weight
    absent = f" · without {', '.join(lacking)}" if lacking else ""
    axes.set(xlim=(0, 1), ylim=(-0.4, 0.4), yticks=[], xticks=[])
    axes.set_title(f"weight of each modality{absent}", loc="left", fontsize=12, color=INK)
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=len(colors), frameon=False, fontsize=10.5)


def _draw_classes(axes: Axes, classes: Mapping[str, float]) -> None:
    """Draw the probability of each class as a bar."""
    for row, value in enumerate(classes.values()):
        axes.barh(row, value, height=0.62, color=BLUE)
        axes.annotate(
            rounded_probability(value), (value, row), (6, 0), textcoords="offset points", va="center"
        )
    axes.set(xlim=(0, 1.12), ylim=(len(classes) - 0.4, -0.6), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks(range(len(classes)), labels=list(classes))
    axes.set_xlabel("probability of each class")
    axes.spines[["top", "right"]].set_visible(False)
    set_text_sizes(axes)
