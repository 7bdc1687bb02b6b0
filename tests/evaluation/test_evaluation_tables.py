import numpy as np
import pandas as pd
import pytest

from evaluation.tables import Caption, markdown_of, number_text, p_text, shown_table, text_table


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        (0.0, "", "< 0.001"),
        (1 / 2001, "", "< 0.001"),
        (0.001, "", "0.001"),
        (0.0496, "", "0.050"),
        (np.nan, "", "n/a"),
        (np.nan, "few", "not estimable"),
    ],
)
def test_a_p_value_is_never_zero(value, reason, text):
    assert p_text(value, reason) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (0.0, "0.000"),
        (0.00012, "0.0001"),
        (12345.678, "12345.7"),
        (7, "7"),
        (True, "yes"),
        (np.nan, "n/a"),
        (None, "n/a"),
        ("", "n/a"),
        ("word", "word"),
    ],
)
def test_numbers_as_text(value, text):
    assert number_text(value) == text


def test_ends_are_one_cell_and_reasons_stand_below_once():
    table = pd.DataFrame(
        {
            "group": ["all", "few", "fewer"],
            "n_normal": [9, 1, 1],
            "value": [0.8, 0.9, 1.0],
            "low": [0.7, np.nan, np.nan],
            "high": [0.9, np.nan, np.nan],
            "p_value": [0.0, np.nan, np.nan],
            "reason": ["", "one session", "one session"],
            "stamp": "simulated data",
        }
    )
    shown = shown_table(table, {"value": "AUROC"})
    assert shown.heads == ["group", "normal", "AUROC", "95 % interval", "p"]
    assert shown.rows[0] == ["all", "9", "0.800", "[0.700, 0.900]", "< 0.001"]
    assert shown.rows[1] == ["few", "1", "0.900", "not estimable", "not estimable"]
    assert shown.notes == ["Not estimable: one session."]
    assert text_table(table).endswith("Not estimable: one session.")
    assert shown.words == [True, False, False, False, False]
    text = markdown_of(table, Caption("What it is.", heads={"value": "AUROC"}))
    assert text.startswith("What it is.\n\n| group |")
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {6}


def test_words_stand_at_the_left_and_numbers_at_the_right():
    table = pd.DataFrame({"n": [7, 12], "found by": ["CMR", "both axes"], "r": [0.5, 1234.5]})
    assert text_table(table).splitlines() == [
        "n   found by        r",
        "7   CMR         0.500",
        "12  both axes  1234.5",
    ]


def test_counts_beside_what_is_not_known_are_whole_numbers():
    shown = shown_table(pd.DataFrame({"n": [12.0, np.nan], "r": [1.0, 0.0], "m": [2.5, 3.0]}))
    assert shown.rows == [["12", "1.000", "2.500"], ["n/a", "0.000", "3.000"]]


def test_ends_of_several_scores_stand_beside_them():
    table = pd.DataFrame({"r": [0.5], "mae": [2.25], "r_low": [0.1], "r_high": [0.9], "mae_low": [np.nan]})
    shown = shown_table(table.assign(mae_high=np.nan))
    assert shown.heads == ["r", "95 % interval", "mean absolute error", "95 % interval"]
    assert shown.rows == [["0.500", "[0.100, 0.900]", "2.250", "n/a"]]
