"""Values of the sixteen segments of the left ventricle as bull's eyes (Cerqueira et al. 2002).

The outer ring is the base, the inner one the apex. Anterior is at the top, the septum on the left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from numpy.typing import NDArray

from evaluation.figures import BLUE, GREY, INK, SKY, new_figure
from systems.ecg_cmr.indicators import SEGMENTS, unit_of

FAMILIES = ("wall_thickness", "circumferential_strain", "radial_strain")
"""Indicators that are known of each segment."""
_RINGS = ((1.0, 0.68, 6, 60.0), (0.68, 0.38, 6, 60.0), (0.38, 0.10, 4, 45.0))
"""Outer and inner radius, segments, and where the first begins (degrees from the right); base first."""
_SHADES = LinearSegmentedColormap.from_list("segments", ["#F4F9FD", SKY, BLUE, "#003D66"])
_WALLS = {"anterior": (0, 1.1), "septum": (-1.12, 0), "inferior": (0, -1.1), "lateral": (1.12, 0)}


def segment_places() -> list[tuple[float, float, float, float]]:
    """Return outer and inner radius, and first and last angle (degrees, counterclockwise) of each segment."""
    return [
        (outer, inner, first + number * 360 / count, first + (number + 1) * 360 / count)
        for outer, inner, count, first in _RINGS
        for number in range(count)
    ]


def segments_of(values: Mapping[str, float], family: str) -> NDArray[np.float64] | None:
    """Return the values of the sixteen segments, NaN where one is not there; None where all are not."""
    names = [f"{family}_{number}" for number in range(1, SEGMENTS + 1)]
    if not any(name in values for name in names):
        return None
    return np.array([values.get(name, np.nan) for name in names], dtype=float)


def bulls_eyes(
    discs: Mapping[str, tuple[NDArray[np.float64], str, tuple[float, float] | None]],
    *,
    title: str,
    subject: str = "",
    watermark: str = "",
) -> Figure:
    """Draw a bull's eye for each set of values.

    Parameters
    ----------
    discs : mapping of str to tuple
        By heading: values of the segments (16,), their unit, and the ends of the scale (None: of the values).
    title, subject, watermark : str
        What it is, of whom, and a warning to be printed on the figure.
    """
    figure = new_figure(title, subject, "", watermark, 3.7)
    panels = figure.subplots(1, len(discs), squeeze=False)[0]
    for axes, (head, (values, unit, ends)) in zip(panels, discs.items(), strict=True):
        known = values[np.isfinite(values)]
        low, high = ends or ((known.min(), known.max()) if len(known) else (0.0, 1.0))
        scale = Normalize(low, high if high > low else low + 1)
        _draw(axes, values, scale)
        axes.set_title(f"{head}{f' ({unit})' * bool(unit)}", fontsize=10.5, color=INK, pad=14)
        bar = figure.colorbar(
            ScalarMappable(scale, _SHADES), ax=axes, location="bottom", shrink=0.75, pad=0.08
        )
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
    return figure


def _draw(axes: Axes, values: NDArray[np.float64], scale: Normalize) -> None:
    """Draw one bull's eye; a segment without a value is grey."""
    for value, (outer, inner, first, last) in zip(values, segment_places(), strict=True):
        known = np.isfinite(value)
        colour = _SHADES(scale(value)) if known else "#DDDDDD"
        axes.add_patch(
            Wedge(
                (0, 0),
                outer,
                first,
                last,
                width=outer - inner,
                facecolor=colour,
                edgecolor="white",
                linewidth=1.5,
            )
        )
        angle, radius = np.radians((first + last) / 2), (outer + inner) / 2
        dark = known and scale(value) > 0.55
        text = _text(value) if known else "–"
        place = (radius * np.cos(angle), radius * np.sin(angle))
        axes.text(*place, text, ha="center", va="center", fontsize=7.5, color="white" if dark else INK)
    for wall, place in _WALLS.items():
        turn = 90 * (wall in ("septum", "lateral"))
        axes.text(*place, wall, ha="center", va="center", rotation=turn, fontsize=7.5, color=GREY)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    axes.axis("off")


def _text(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def evaluated_bulls_eyes(
    truth: pd.DataFrame, predicted: pd.DataFrame, scores: pd.DataFrame, *, watermark: str = ""
) -> dict[str, Figure]:
    """Draw of each family the mean true value, the mean prediction and r of the segments.

    Parameters
    ----------
    truth, predicted : pandas.DataFrame
        One column an indicator; NaN in ``truth`` where not known. Means are over those of whom it is known.
    scores : pandas.DataFrame
        From `systems.ecg_cmr.phenotypes.evaluate.indicator_table`.
    watermark : str
    """
    correlation = scores.set_index("indicator")["r"].to_dict()
    figures = {}
    for family in FAMILIES:
        true = segments_of(truth.mean().to_dict(), family)
        found = segments_of(predicted.where(truth.notna()).mean().to_dict(), family)
        if true is None or found is None:
            continue
        both, unit = np.concatenate([true, found]), unit_of(family) or ""
        ends = (float(np.nanmin(both)), float(np.nanmax(both))) if np.isfinite(both).any() else None
        r = segments_of(correlation, family)
        assert r is not None
        figures[f"bulls_eye_{family}"] = bulls_eyes(
            {
                "mean of the true": (true, unit, ends),
                "mean of the predicted": (found, unit, ends),
                "r": (r, "", (0.0, 1.0)),
            },
            title=f"{family.replace('_', ' ').capitalize()} by segment",
            subject=f"{len(truth):,} unseen recordings",
            watermark=watermark,
        )
    return figures


def predicted_bulls_eyes(values: Mapping[str, float], *, title: str, watermark: str = "") -> Figure | None:
    """Draw the predicted segments of one patient, a bull's eye a family; None where there is none."""
    discs = {
        family.replace("_", " "): (found, unit_of(family) or "", None)
        for family in FAMILIES
        if (found := segments_of(values, family)) is not None
    }
    if not discs:
        return None
    return bulls_eyes(discs, title=title, subject="predicted, by segment", watermark=watermark)
