"""The figure of the prediction for one patient: what was given, the weight of each modality, the notice."""

import numpy as np
import pytest

from systems.base.predictor import DISCLAIMER
from systems.ecg_multimodal.prediction_figure import Steps, patient_prediction_figure


def words(figure) -> str:
    """Return all that is written on a figure, in one line."""
    figure.canvas.draw()
    found = figure.findobj(lambda item: hasattr(item, "get_text"))
    return " ".join(item.get_text().replace("\n", " ") for item in found if item.get_visible())


def test_all_that_is_given_is_drawn():
    rng = np.random.default_rng(0)
    figure = patient_prediction_figure(
        title="7",
        subtitle="probability of abnormal 0.19",
        image=rng.random((34, 340)),
        image_map=rng.random((34, 340)),
        signal=rng.normal(size=(1, 500)),
        signal_map=rng.normal(size=(1, 500)),
        sampling_rate=50.0,
        clinical={"age": 83.0, "history_stroke": None},
        weights={"image": 0.25, "signal": 0.35, "clinical": 0.4},
        steps=Steps(0.0, {"image": -1.0, "signal": -2.0, "clinical": 0.5}),
        watermark="trained on simulated data",
    )
    said = words(figure)
    for part in ("image 25%", "signal 35%", "clinical 40%", "age 83", "history stroke missing", DISCLAIMER):
        assert part in said
    for part in ("nothing known", "-2.00", "+0.50", "0.076", "trained on simulated data", "Grad-CAM"):
        assert part in said  # 0.076 = expit(-2.5)


def test_what_is_absent_leaves_no_panel():
    values = {"age": 50.0}
    figure = patient_prediction_figure(
        title="7", subtitle="", clinical=values, weights={"clinical": 1.0}, lacking=["image", "signal"]
    )
    said = words(figure)
    assert "without image, signal" in said
    for part in ("Grad-CAM", "time in s", "log-odds"):
        assert part not in said
    assert DISCLAIMER in said


def test_several_classes_have_a_bar_each():
    figure = patient_prediction_figure(title="7", subtitle="", classes={"NORM": 0.58, "MI": 0.999})
    said = words(figure)
    for part in ("NORM", "0.58", "MI", "above 0.99"):
        assert part in said


def test_an_attribution_of_another_size_is_refused():
    with pytest.raises(ValueError, match="attribution has shape"):
        patient_prediction_figure(title="", subtitle="", signal=np.zeros((1, 9)), signal_map=np.zeros((1, 8)))
