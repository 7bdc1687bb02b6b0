import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from scipy.special import expit

from systems.ecg_multimodal.explain import patient_figure
from systems.ecg_multimodal.figures import contributions_figure, subsets_figure
from systems.ecg_multimodal.shapley import coalitions, shapley_auroc, shapley_values, subset_scores

PHI = {"image": 0.4, "signal": 1.9, "clinical": -0.7}
EMPTY = -0.4
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def words(figure) -> str:
    texts = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        texts += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")]
        texts += [label.get_text() for label in [*axes.get_yticklabels(), *axes.get_xticklabels()]]
        texts += [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    return "\n".join(texts)


def bars(axes) -> list[tuple[float, float]]:
    """Return left end and width of every bar."""
    patches: list[Any] = list(axes.patches)
    return [(bar.get_x(), bar.get_width()) for bar in patches]


def picture() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {"image": random.random((25, 250)), "image_map": np.eye(25, 250)}


def trace(leads: int = 1) -> dict[str, Any]:
    wave = np.sin(np.linspace(0, 30, 300)) * np.arange(1, leads + 1)[:, None]
    return {"signal": wave, "signal_map": np.linspace(-1, 1, 300) * np.ones((leads, 1))}


def cohort(seed: int = 0, count: int = 120):
    random = np.random.default_rng(seed)
    label = np.arange(count) % 2
    said = {view: place * (label - 0.5) + random.standard_normal(count) for place, view in enumerate(PHI)}
    values = {part: np.sum([said[view] for view in part], axis=0) for part in coalitions(PHI)}
    return label, values


@pytest.mark.parametrize(
    ("views", "leads"),
    [
        ({**picture(), **trace()}, ("II",)),
        ({**picture(), **trace(12)}, LEADS),
        (picture(), ("II",)),
        ({"image": np.random.default_rng(0).random((64, 640, 3))}, ("II",)),
        ({"signal": trace()["signal"]}, ("II",)),
        ({}, ("II",)),
        ({**picture(), "image_map": np.zeros((25, 250))}, ("II",)),
        ({"signal": np.zeros((1, 50)), "signal_map": np.zeros((1, 50))}, ("II",)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_one_patient_is_drawn_from_whatever_views_there_are(views, leads):
    figure = patient_figure(PHI, EMPTY, **views, leads=leads, title="Patient 7", watermark="simulated data")
    image = pixels(figure)
    assert image.shape[1] == 900
    assert image.std() > 0
    text = words(figure)
    said = ("Patient 7", "simulated data", "+0.40", "+1.90", "-0.70", f"{expit(EMPTY):.3f}")
    assert all(word in text for word in said)
    assert f"probability of abnormal {expit(1.2):.3f}" in text
    assert ("Grad-CAM" in text) == ("image_map" in views)
    assert ("integrated gradients" in text) == ("signal_map" in views)
    assert all(lead in text for lead in leads) or "signal" not in views


def test_bars_lead_from_the_prevalence_to_the_prediction_past_views_that_are_not_there():
    figure = patient_figure({**PHI, "signal": np.nan}, EMPTY, outcome="MI")
    assert bars(figure.axes[0]) == [pytest.approx((-0.4, 0.4)), pytest.approx((0.0, -0.7))]
    text = words(figure)
    assert all(word in text for word in ("nothing known", "no signal", "all together"))
    assert f"probability of MI {expit(-0.7):.3f}" in text
    above = figure.axes[1]
    assert figure.axes[0].get_xlim() == above.get_xlim()
    ticks = dict(
        zip(above.get_xticks(), (label.get_text() for label in above.get_xticklabels()), strict=True)
    )
    assert ticks[0] == "0.5"
    assert all(expit(place) == pytest.approx(float(said)) for place, said in ticks.items())


def test_the_signal_is_coloured_by_the_sign_of_its_attribution_and_the_image_shaded_by_its_map():
    figure = patient_figure(PHI, EMPTY, **picture(), **trace(), sampling_rate=100)
    lines = next(
        part for axes in figure.axes for part in axes.collections if isinstance(part, LineCollection)
    )
    values = np.asarray(lines.get_array())
    assert (values[:140] < 0).all()
    assert (values[160:] > 0).all()
    low, high = lines.get_clim()
    assert low == -high
    red, _, blue, _ = lines.to_rgba(np.array([low, high])).T
    assert blue[0] > red[0]
    assert red[1] > blue[1]
    overlay = figure.axes[0].images[1]
    np.testing.assert_array_equal(np.asarray(overlay.get_array()) > 0, np.eye(25, 250) > 0)
    assert (np.asarray(overlay.get_alpha())[np.eye(25, 250) == 0] == 0).all()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"signal": np.zeros((2, 10))}, "a name a lead"),
        ({"signal": np.zeros(10)}, "a name a lead"),
        ({"signal": np.zeros((1, 10)), "signal_map": np.zeros((1, 9))}, "attribution has shape"),
        ({"image": np.zeros((4, 40)), "image_map": np.zeros((4, 39))}, "map of the image"),
    ],
)
def test_maps_that_do_not_fit_are_refused(views, message):
    with pytest.raises(ValueError, match=message):
        patient_figure(PHI, EMPTY, **views)


@pytest.mark.filterwarnings("error")
def test_contributions_of_all_patients_show_both_classes_and_shares():
    label, values = cohort()
    there = {"clinical": np.arange(len(label)) % 3 > 0}
    figure = contributions_figure(shapley_values(values, 0.0, there), label, watermark="simulated data")
    assert pixels(figure).shape[1] == 900
    text = words(figure)
    assert all(word in text for word in (*PHI, "normal", "abnormal", "all", "120 patients", "simulated data"))
    ends = [start + width for start, width in bars(figure.axes[1])]
    assert sum(end == pytest.approx(1) for end in ends) == 3, "the shares of each class, and of all, sum to 1"


def test_quartiles_are_those_of_each_class_normal_above_abnormal():
    label = np.repeat([0, 1], 5)
    figure = contributions_figure({"image": np.array([-5.0, -4, -3, -2, -1, 2, 4, 6, 8, 10])}, label)
    drawn = [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).mean())
        for line in figure.axes[0].lines
    ]
    (normal, above), (abnormal, below) = drawn[-2:]
    assert (normal, abnormal) == ([-4, -2], [4, 8])
    assert above < below, "the axis points down"


def test_shares_in_the_figure_are_those_of_the_contributions():
    label = np.array([0, 0, 1, 1])
    contributions = {"image": np.array([1.0, -1, 3, 3]), "signal": np.array([3.0, 3, np.nan, 2])}
    figure = contributions_figure(contributions, label)
    widths = [width for _, width in bars(figure.axes[1])]
    assert widths == pytest.approx([0.25, 0.75, 0.75, 0.25, 0.5, 0.5])


@pytest.mark.filterwarnings("error")
def test_contributions_of_one_class_or_of_nothing_are_drawn_without_complaint():
    ones = np.ones(10, dtype=int)
    nothing = {"image": np.zeros(10), "signal": np.full(10, np.nan)}
    assert pixels(contributions_figure(nothing, ones)).std() > 0
    with pytest.raises(ValueError, match="each of 10 labels"):
        contributions_figure({"image": np.zeros(9)}, ones)


@pytest.mark.filterwarnings("error")
def test_the_score_of_every_set_of_views_has_a_row_with_its_interval():
    label, values = cohort()
    group = np.arange(len(label)) // 2
    table = subset_scores(label, values, group, 0.0, draws=60)
    parts = shapley_auroc(label, values, group, 0.0, draws=60)
    shortcut = pd.DataFrame([{"views": "age and sex", "value": 0.79, "low": np.nan, "high": np.nan}])
    figure = subsets_figure(
        table, references=shortcut, shapley=parts, protocol="patient", watermark="simulated data"
    )
    assert pixels(figure).shape[1] == 900
    text = words(figure)
    assert all(row["views"] in text for row in table.to_dict("records"))
    last = table.iloc[-1]
    assert f"{last['value']:.3f} [{last['low']:.3f}, {last['high']:.3f}]" in text
    assert f"{parts['value'][1]:+.3f} [" in text
    assert all(word in text for word in ("age and sex", "0.790", "protocol patient", "simulated data", "sum"))
    lines = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert [last["low"], last["high"]] in lines
    assert len(subsets_figure(table).axes) == 1


def test_figures_leave_no_global_state():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    patient_figure(PHI, EMPTY).savefig(io.BytesIO())
    assert pyplot.get_fignums() == before
