"""Figures of the stages: drawn from what they are given, with what they must say."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.figures import save_figure
from systems.ecg_cmr.contrast.evaluate import retrieval_table
from systems.ecg_cmr.figures import (
    cines_figure,
    indicators_figure,
    reconstruction_figure,
    relevance_figure,
    retrieval_figure,
)
from systems.ecg_cmr.phenotypes.evaluate import indicator_table

LEADS = ("I", "II", "V1")
RANDOM = np.random.default_rng(0)


def texts(figure: Any) -> str:
    """Return all that is written on a figure."""
    found = [text.get_text() for text in figure.texts] + [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join(found)


def test_retrieval_bars_are_as_high_as_the_recall(tmp_path):
    ecg = np.eye(20)
    table = retrieval_table(ecg, np.roll(ecg, 1, axis=0), np.arange(20), draws=20)
    figure: Any = retrieval_figure(table, watermark="simulated data")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx(table["recall"][:3].tolist())
    assert "simulated data" in texts(figure) and "20 unseen pairs" in texts(figure)
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_indicators_name_their_ceiling_where_there_is_one():
    truth = pd.DataFrame(RANDOM.normal(size=(30, 2)), columns=["lv_edv", "mass"])
    truth.loc[0, "mass"] = np.nan
    found = truth.fillna(0) + 0.1
    table = indicator_table(truth, found, list(range(30)), {"lv_edv": 0.6}, draws=20)
    figure: Any = indicators_figure(truth, found, table)
    assert "of 0.60" in figure.axes[0].get_title(loc="left")
    assert "of" not in figure.axes[1].get_title(loc="left")
    assert [len(axes.collections[0].get_offsets()) for axes in figure.axes[:2]] == [30, 29]
    assert not figure.axes[2].get_visible()


def test_relevance_is_drawn_behind_its_own_lead():
    relevance = np.zeros((3, 5))
    relevance[1, 4] = 1.0
    figure = relevance_figure(RANDOM.normal(size=(3, 500)), relevance, LEADS, 100.0)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert [image.sum() for image in shown] == [0, 1, 0] and shown[1][0, 4] == 1
    assert figure.axes[1].get_ylabel() == "II"
    with pytest.raises(ValueError, match="do not fit 3 leads"):
        relevance_figure(np.zeros((2, 500)), relevance, LEADS, 100.0)


def test_only_hidden_stretches_are_drawn_over_the_ecg():
    truth, mask = np.zeros((3, 100)), np.zeros((3, 100), dtype=bool)
    mask[0, 10:20], mask[0, 50:60], mask[2] = True, True, True
    figure: Any = reconstruction_figure(truth, truth + 1, mask, LEADS, 100.0)
    drawn = [[len(part) for part in axes.collections[0].get_segments()] for axes in figure.axes]
    assert drawn == [[10, 10], [], [100]]
    assert "40% hidden" in texts(figure)


def test_cines_are_strips_of_frames_in_order():
    cine = np.arange(16)[:, None, None] * np.ones((1, 8, 8)) / 16
    figure = cines_figure([("measured", cine), ("drawn", cine[::-1])], 4, title="Two cines")
    shown = [float(np.asarray(axes.images[0].get_array())[0, 0]) for axes in figure.axes]
    assert shown[:4] == [0, 4 / 16, 8 / 16, 12 / 16]
    assert shown[4] == 15 / 16
    assert figure.axes[4].get_ylabel() == "drawn"
