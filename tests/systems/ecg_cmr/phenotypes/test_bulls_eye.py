"""Bull's eyes: each segment where the American Heart Association puts it, and the values that are drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Wedge

from systems.ecg_cmr.phenotypes.bulls_eye import (
    evaluated_bulls_eyes,
    predicted_bulls_eyes,
    segment_places,
    segments_of,
)

WALLS = {
    "anterior": (1, 7, 13),
    "inferior": (4, 10, 15),
    "septum": (14,),
    "lateral": (16,),
    "anteroseptal": (2, 8),
    "inferoseptal": (3, 9),
    "inferolateral": (5, 11),
    "anterolateral": (6, 12),
}
ANGLES = {"anterior": 90, "inferior": 270, "septum": 180, "lateral": 0, "anteroseptal": 150,
          "inferoseptal": 210, "inferolateral": 330, "anterolateral": 30}  # fmt: skip


@pytest.mark.parametrize("wall", WALLS)
def test_segments_lie_at_their_wall(wall):
    places = segment_places()
    assert len(places) == 16
    for number in WALLS[wall]:
        outer, inner, first, last = places[number - 1]
        assert ((first + last) / 2 - ANGLES[wall]) % 360 == pytest.approx(0)
        ring = 0 if number <= 6 else 1 if number <= 12 else 2
        assert (outer, inner) == [(1.0, 0.68), (0.68, 0.38), (0.38, 0.10)][ring]


def test_together_they_cover_the_disc_once():
    area = sum((last - first) / 360 * (outer**2 - inner**2) for outer, inner, first, last in segment_places())
    assert area == pytest.approx(1 - 0.1**2)


def values(family: str, start: float) -> dict[str, float]:
    return {f"{family}_{number}": start + number for number in range(1, 17)}


def test_the_values_of_a_patient_are_drawn_and_a_missing_segment_is_grey():
    known = values("wall_thickness", 5.0) | {"lv_edv": 100.0}
    del known["wall_thickness_4"]
    figure = predicted_bulls_eyes(known, title="p1")
    assert figure is not None
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts][:16]
    assert texts[:5] == ["6.0", "7.0", "8.0", "–", "10.0"]
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    assert wedges[3].get_facecolor()[:3] == pytest.approx((0xDD / 255,) * 3)
    assert predicted_bulls_eyes({"lv_edv": 100.0}, title="p1") is None


def test_means_are_over_those_of_whom_the_truth_is_known():
    names = list(values("radial_strain", 0))
    truth = pd.DataFrame(np.arange(16.0) + np.arange(4.0)[:, None], columns=names)
    predicted = truth + 1
    predicted.iloc[0] = 1000.0
    truth.iloc[0] = np.nan
    scores = pd.DataFrame({"indicator": names, "r": 1.0})
    figure = evaluated_bulls_eyes(truth, predicted, scores)["bulls_eye_radial_strain"]
    true, found, r = ([text.get_text() for text in axes.texts][:16] for axes in figure.axes[:3])
    assert (true[0], found[0], r[0]) == ("2.0", "3.0", "1.0")
    assert segments_of({"lv_edv": 1.0}, "radial_strain") is None
