import numpy as np
import pandas as pd
import pytest
from matplotlib.legend import Legend

from evaluation.calibration import decision_curve, prevalence_table, shift_prior
from evaluation.figures import decision_curve_figure


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


@pytest.fixture
def units() -> pd.DataFrame:
    """Sensitivity 0.8, specificity 0.9 at threshold 0.5; prevalence 0.5."""
    label = np.repeat([1, 0], 50)
    probability = np.where(np.arange(100) < 40, 0.9, np.where(np.arange(100) < 50, 0.2, 0.1))
    probability[50:55] = 0.6
    return pd.DataFrame(
        {
            "session": [f"C{row % 10}" for row in range(100)],
            "label": label,
            "probability": probability,
            "threshold": 0.5,
        }
    )


def test_a_shift_of_the_prior_multiplies_the_odds():
    # 0.5 to 0.2 divides odds by four: 4 becomes 1, 1 becomes 1/4.
    assert shift_prior([0.8, 0.5], 0.5, 0.2).tolist() == pytest.approx([0.5, 0.2])
    assert shift_prior([0.0, 1.0], 0.5, 0.2).tolist() == [0, 1]
    assert shift_prior([0.3], 0.7, 0.7).tolist() == [0.3]
    there = shift_prior([0.1, 0.6], 0.7, 0.1)
    assert shift_prior(there, 0.1, 0.7).tolist() == pytest.approx([0.1, 0.6])
    for source, target in ((0.5, 0), (1, 0.5)):
        with pytest.raises(ValueError, match="--prevalence"):
            shift_prior([0.5], source, target)


def test_scores_at_the_prevalence_of_the_table_are_the_plain_ones(units):
    table = prevalence_table(units, 0.5, draws=0).set_index("score")["value"]
    assert table["sensitivity"] == pytest.approx(0.8)
    assert table["specificity"] == pytest.approx(0.9)
    assert table["accuracy"] == pytest.approx(0.85)
    assert table["ppv"] == pytest.approx(40 / 45)
    assert table["npv"] == pytest.approx(45 / 55)
    assert table["brier"] == pytest.approx(((units["probability"] - units["label"]) ** 2).mean())


def test_scores_at_another_prevalence_worked_by_hand(units):
    # At 0.2 odds are divided by four: 0.9 -> 9/13 stays above the threshold, 0.6 -> 3/11 falls below.
    table = prevalence_table(units, 0.2, draws=0).set_index("score")["value"]
    assert table["sensitivity"] == pytest.approx(0.8)
    assert table["specificity"] == pytest.approx(1.0)
    assert table["accuracy"] == pytest.approx(0.2 * 0.8 + 0.8)
    assert table["ppv"] == pytest.approx(1)
    assert table["npv"] == pytest.approx(0.8 / (0.8 + 0.2 * 0.2))
    high, mid = (9 / 13 - 1) ** 2, (3 / 11) ** 2
    low = (1 / 17 - 1) ** 2, (1 / 37) ** 2
    expected = 0.2 * (0.8 * high + 0.2 * low[0]) + 0.8 * (0.1 * mid + 0.9 * low[1])
    assert table["brier"] == pytest.approx(expected)


def test_predictive_values_follow_bayes_where_the_threshold_moves_along(units):
    # Learned for 0.2 already: nothing is shifted, only the classes are weighted.
    table = prevalence_table(units, 0.2, source=0.2, draws=0).set_index("score")["value"]
    assert table["ppv"] == pytest.approx(0.2 * 0.8 / (0.2 * 0.8 + 0.8 * 0.1))
    assert table["npv"] == pytest.approx(0.8 * 0.9 / (0.8 * 0.9 + 0.2 * 0.2))


def test_intervals_enclose_the_value_and_a_predictive_value_may_be_undefined(units):
    table = prevalence_table(units, 0.3, draws=200).set_index("score")
    inside = table[table["reason"] == ""]
    assert len(inside)
    assert (inside["low"] <= inside["value"]).all()
    assert (inside["value"] <= inside["high"]).all()
    assert table.loc["sensitivity", "reason"] == "every draw of sessions gives 0.800", (
        "all sessions are alike"
    )
    never = prevalence_table(units.assign(probability=0.1), 0.3, draws=50).set_index("score")
    assert np.isnan(never.loc["ppv", ["value", "low", "high"]].to_numpy(dtype=float)).all()


def test_the_net_benefit_of_an_example_worked_by_hand():
    curve = decision_curve([1, 1, 0, 0], [0.9, 0.3, 0.6, 0.1], [0.0, 0.2, 0.5])
    # At 0.2: 2 right, 1 wrong at 1/4; at 0.5: 1 right, 1 wrong at 1.
    assert curve["model"].tolist() == pytest.approx([0.5, 2 / 4 - 1 / 4 / 4, 0])
    assert curve["treat_all"].tolist() == pytest.approx([0.5, 0.5 - 0.5 / 4, 0])
    assert curve["treat_none"].tolist() == [0, 0, 0]


def test_the_net_benefit_at_another_prevalence_is_that_of_repeated_rows(units):
    repeated = pd.concat([units[units["label"] == 1], *[units[units["label"] == 0]] * 4])
    expected = decision_curve(repeated["label"], repeated["probability"])
    weighted = decision_curve(units["label"], units["probability"], prevalence=0.2)
    assert weighted.to_numpy() == pytest.approx(expected.to_numpy())
    assert len(weighted) == 99


@pytest.mark.parametrize(
    ("label", "thresholds", "message"),
    [([1, 1], [0.5], "one class"), ([0, 1], [1.0], "below 1"), ([0, 1], [-0.1], "at least 0")],
)
def test_what_has_no_decision_curve_is_refused(label, thresholds, message):
    with pytest.raises(ValueError, match=message):
        decision_curve(label, [0.2, 0.8], thresholds)


def test_the_figure_names_its_three_lines_unit_protocol_and_watermark(units):
    figure = decision_curve_figure(units, unit="recordings", protocol="session", watermark="simulated data")
    image = pixels(figure)
    assert image.shape[1] == 900
    assert (image < 128).any(axis=-1).mean() > 0.005
    (legend,) = [child for child in figure.axes[0].get_children() if isinstance(child, Legend)]
    texts = [*figure.texts, *legend.get_texts()]
    said = "\n".join([figure.get_suptitle(), *(text.get_text() for text in texts)])
    for word in ("50% abnormal", "protocol session", "simulated data", "treat all", "treat none", "model"):
        assert word in said
