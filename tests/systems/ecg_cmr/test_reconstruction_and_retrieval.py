"""Scores of reconstructions, of retrieval and of indicators, against hand-worked numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import r2_score

from systems.ecg_cmr.contrast.evaluate import retrieval_table, true_ranks
from systems.ecg_cmr.mae.task import masked_correlation, masked_error
from systems.ecg_cmr.phenotypes.evaluate import compare_indicator, indicator_table

GENERATOR = np.random.default_rng(0)


# Reconstruction -------------------------------------------------------------------------------------


def test_correlation_and_error_are_of_the_hidden_part_alone():
    truth = torch.tensor([[1.0, 2.0, 3.0, 100.0], [1.0, 2.0, 3.0, 4.0]])
    found = torch.tensor([[2.0, 4.0, 6.0, -5.0], [3.0, 2.0, 1.0, 4.0]])
    mask = torch.tensor([[True, True, True, False]] * 2)
    assert masked_correlation(truth, found, mask).tolist() == pytest.approx([1.0, -1.0])
    assert masked_error(truth, found, mask).tolist() == pytest.approx([(1 + 4 + 9) / 3, 8 / 3])


def test_a_constant_correlates_with_nothing_and_nothing_hidden_is_not_scored():
    truth, constant = torch.randn(2, 3, 5), torch.ones(2, 3, 5)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[1] = False
    value = masked_correlation(truth, constant, mask)
    assert value[0] == 0
    assert value[1].isnan()


# Retrieval ------------------------------------------------------------------------------------------


def test_ranks_of_a_hand_worked_gallery():
    queries = np.eye(3)
    gallery = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    assert true_ranks(queries, gallery).tolist() == [1, 3, 3]


def test_embeddings_that_are_all_alike_find_nothing():
    same = np.ones((20, 4)) / 2
    assert (true_ranks(same, same) == 20).all()


def test_any_pair_of_the_same_patient_counts():
    queries, gallery = np.eye(3), np.eye(3)[[1, 0, 2]]
    assert true_ranks(queries, gallery).tolist() == [3, 3, 1]
    assert true_ranks(queries, gallery, ["p", "p", "q"]).tolist() == [1, 1, 1]


def test_recall_beside_chance():
    ecg = np.eye(40)
    table = retrieval_table(ecg, ecg, [f"p{row}" for row in range(40)], draws=50)
    assert (table["recall"] == 1).all()
    assert (table["reason"] == "every draw of patients gives 1.000").all()
    assert table["chance"].tolist() == pytest.approx([1 / 40, 5 / 40, 10 / 40] * 2)
    one, two = GENERATOR.normal(size=(2, 40, 8))
    found = retrieval_table(one, two, np.arange(40), draws=200)
    inside = found[found["reason"] == ""]
    assert len(inside) >= 4
    assert (inside["low"] <= inside["recall"]).all()
    assert abs(found["recall"] - found["chance"]).max() < 0.25


# Indicators -----------------------------------------------------------------------------------------


def patients(count=200):
    truth = GENERATOR.normal(60, 10, count)
    return truth, truth + GENERATOR.normal(0, 8, count), [f"p{row}" for row in range(count)]


def test_scores_of_indicators_are_those_of_scipy_and_sklearn():
    truth, predicted, names = patients()
    truth[::5] = np.nan
    known = ~np.isnan(truth)
    table = indicator_table(
        pd.DataFrame({"ef": truth}), pd.DataFrame({"ef": predicted}), names, {"ef": 0.3}, draws=200
    ).iloc[0]
    assert table["patients"] == known.sum()
    assert table["r"] == pytest.approx(stats.pearsonr(truth[known], predicted[known]).statistic)
    assert table["r2"] == pytest.approx(r2_score(truth[known], predicted[known]))
    assert table["mae"] == pytest.approx(np.abs(truth[known] - predicted[known]).mean())
    assert table["r2_ceiling"] == 0.3
    assert table["r_low"] < table["r"] < table["r_high"]


def test_an_indicator_of_nobody_has_no_score():
    nothing = pd.DataFrame({"ef": [np.nan] * 4})
    table = indicator_table(nothing, nothing.fillna(0), list("abcd"), draws=10)
    assert table[["r", "r2", "mae"]].isna().all(axis=None)


def test_a_better_prediction_is_found_better_and_itself_no_different():
    truth, predicted, names = patients()
    worse = truth + GENERATOR.normal(0, 30, len(truth))
    better = compare_indicator(truth, predicted, worse, names, draws=200)
    assert better["low"] > 0
    same = compare_indicator(truth, predicted, predicted, names, draws=50)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
