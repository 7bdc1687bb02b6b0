"""The fit is scikit-learn's, learned on the training rows alone, and survives as tensors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.errors import UserError
from models.linear import PhaseGridLinear
from systems.ecg_pcg.linear.fit import (
    INVERSE_PENALTY,
    fit_linear,
    fit_modalities,
    out_of_fold_log_odds,
    present,
)

COUNT, PCG, ECG = 120, 40, 5


@pytest.fixture
def labels():
    return (np.arange(COUNT) % 3 > 0).astype(int)


@pytest.fixture
def features(labels):
    random = np.random.default_rng(0)
    signals = {"pcg": random.normal(3.0, 2.0, (COUNT, PCG)), "ecg": random.normal(-5.0, 0.1, (COUNT, ECG))}
    return {name: (values + 0.4 * labels[:, None]).astype(np.float32) for name, values in signals.items()}


@pytest.fixture
def sessions():
    return np.repeat([f"C{number}" for number in range(COUNT // 5)], 5)


def reference(values, labels, inverse_penalty):
    regression = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=2000)
    return make_pipeline(StandardScaler(), regression).fit(values.astype(np.float64), labels)


def fitted(features, labels):
    model = PhaseGridLinear(PCG, ECG)
    fit_linear(model, features, labels)
    return model


def apply(model, features):
    tensors = [torch.from_numpy(features[name]) for name in ("pcg", "ecg")]
    has = [torch.from_numpy(present(features[name])) for name in ("pcg", "ecg")]
    with torch.no_grad():
        return model(*tensors, *has).numpy()


def test_stored_tensors_predict_as_the_pipeline(features, labels, tmp_path):
    torch.save(fitted(features, labels).state_dict(), tmp_path / "linear.pt")
    model = PhaseGridLinear(PCG, ECG)
    model.load_state_dict(torch.load(tmp_path / "linear.pt", weights_only=True))
    expected = sum(
        reference(features[name], labels, strength).decision_function(features[name].astype(np.float64))
        for name, strength in (("pcg", 0.01), ("ecg", 0.1))
    )
    np.testing.assert_allclose(apply(model, features), expected, rtol=1e-10, atol=1e-12)


def test_the_same_rows_give_the_same_tensors(features, labels):
    one, other = (fitted(features, labels).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    fewer = fitted({name: values[:90] for name, values in features.items()}, labels[:90]).state_dict()
    assert not torch.equal(one["pcg.weight"], fewer["pcg.weight"])


def test_a_refit_forgets_what_was_fitted_before(features, labels):
    model = fitted(features, labels)
    fit_linear(model, features | {"ecg": np.full((COUNT, ECG), np.nan)}, labels)
    assert (bool(model.pcg.fitted), bool(model.ecg.fitted)) == (True, False)


def test_each_modality_is_fitted_on_the_recordings_that_have_it(features, labels):
    features["ecg"][::4] = np.nan
    model, here = fitted(features, labels), present(features["ecg"])
    np.testing.assert_allclose(model.ecg.mean.numpy(), features["ecg"][here].mean(axis=0), rtol=1e-5)
    alone = reference(features["ecg"][here], labels[here], 0.1)
    np.testing.assert_allclose(model.ecg.weight.detach(), alone[-1].coef_[0])
    pcg_only = apply(model, features | {"ecg": np.full_like(features["ecg"], np.nan)})
    np.testing.assert_array_equal(apply(model, features)[~here], pcg_only[~here])


def test_the_scaler_is_fitted_on_the_training_rows_only(features, labels):
    train = np.arange(COUNT) < 90
    features["pcg"][~train] += 50.0
    rows = {name: values[train] for name, values in features.items()}
    model = fitted(rows, labels[train])
    np.testing.assert_allclose(model.pcg.mean.numpy(), features["pcg"][train].mean(axis=0), rtol=1e-5)
    leaky = fitted(features, labels)
    assert not np.allclose(apply(model, features), apply(leaky, features), atol=0.1)


def test_out_of_fold_scalers_are_fitted_on_their_training_folds_only(features, labels, sessions):
    values = features["pcg"].astype(np.float64)
    values[sessions == sessions[0]] *= 30.0
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    options = {"groups": sessions, "cv": splitter, "method": "decision_function"}
    honest = cross_val_predict(make_pipeline(StandardScaler(), regression), values, labels, **options)
    leaky = cross_val_predict(regression, StandardScaler().fit_transform(values), labels, **options)
    found = out_of_fold_log_odds({"pcg": values}, labels, sessions, seed=0)
    np.testing.assert_allclose(found, honest, rtol=1e-10, atol=1e-12)
    assert np.abs(found - leaky).max() > 0.5


def test_a_recording_has_no_part_in_its_own_prediction(features, labels, sessions):
    before = out_of_fold_log_odds(features, labels, sessions, seed=1)
    swapped = labels.copy()
    swapped[:2] = labels[[1, 0]]  # of one session; folds and class counts stay
    assert swapped[0] != labels[0]
    after = out_of_fold_log_odds(features, swapped, sessions, seed=1)
    own = sessions == sessions[0]
    np.testing.assert_array_equal(before[own], after[own])
    assert not np.array_equal(before, after)


def test_folds_follow_the_seed_and_the_sum_is_of_both(features, labels, sessions):
    sums = [out_of_fold_log_odds(features, labels, sessions, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(sums[0], sums[1])
    assert not np.array_equal(sums[0], sums[2])
    parts = [out_of_fold_log_odds({name: features[name]}, labels, sessions) for name in features]
    np.testing.assert_allclose(sums[0], parts[0] + parts[1])
    assert roc_auc_score(labels, sums[0]) > 0.8


def test_the_penalty_can_be_chosen(features, labels, sessions):
    usual, same, weaker = (
        out_of_fold_log_odds(features, labels, sessions, inverse_penalty=chosen)
        for chosen in (INVERSE_PENALTY, {"pcg": 0.01, "ecg": 0.1}, {"pcg": 1.0, "ecg": 1.0})
    )
    np.testing.assert_array_equal(usual, same)
    assert weaker.std() > usual.std()


def test_what_has_no_modality_has_no_log_odds(features, labels, sessions):
    for values in features.values():
        values[7] = np.nan
    log_odds = out_of_fold_log_odds(features, labels, sessions)
    assert np.flatnonzero(np.isnan(log_odds)).tolist() == [7]


def test_the_probe_recognizes_conditions_that_go_with_the_label(labels, sessions):
    random = np.random.default_rng(1)
    probe = {"pcg": random.normal(size=(COUNT, 34)), "ecg": random.normal(size=(COUNT, 5))}
    assert roc_auc_score(labels, out_of_fold_log_odds(probe, labels, sessions)) < 0.7
    probe["ecg"][:, 2] += 3.0 * labels
    assert roc_auc_score(labels, out_of_fold_log_odds(probe, labels, sessions)) > 0.9


def test_one_class_or_too_few_sessions_are_refused(features, labels, sessions):
    with pytest.raises(UserError, match="both classes"):
        fit_modalities(features, np.ones(COUNT, dtype=int))
    with pytest.raises(UserError, match="24 sessions cannot be split into 25 folds"):
        out_of_fold_log_odds(features, labels, sessions, folds=25)


@pytest.mark.parametrize("normal", [2, 4])
def test_a_class_smaller_than_the_folds_is_one_sentence(features, labels, recwarn, normal):
    rows = np.concatenate([np.flatnonzero(labels == 0)[:normal], np.flatnonzero(labels == 1)[:4]])
    few = {name: values[rows] for name, values in features.items()}
    with pytest.raises(UserError, match=r"recordings cannot be split into 5 folds with both classes\."):
        out_of_fold_log_odds(few, labels[rows], np.arange(len(rows)))
    assert not recwarn.list
