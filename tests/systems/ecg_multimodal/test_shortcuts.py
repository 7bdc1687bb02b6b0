import ast
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedGroupKFold

from systems.ecg_multimodal.evaluate import SHORTCUTS, shortcut_predictions


def cohort(seed: int = 0, count: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    """Patients whose label follows their age, and who are weighed more often when they are well."""
    random = np.random.default_rng(seed)
    age, sex = random.normal(55, 15, count), random.integers(0, 2, count).astype(float)
    label = (random.random(count) < 1 / (1 + np.exp(-(age - 55) / 8))).astype(float)
    weight = np.where(random.random(count) < 0.2 + 0.5 * label, np.nan, random.normal(75, 10, count))
    height = np.where(random.random(count) < 0.5, np.nan, random.normal(170, 8, count))
    return pd.DataFrame({"age": age, "sex": sex, "height": height, "weight": weight}), label


def five_folds(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(KFold(5, shuffle=True, random_state=0).split(np.arange(count)))


def test_each_shortcut_finds_what_it_looks_at_and_nothing_else():
    clinical, label = cohort(count=2000)
    found = shortcut_predictions(clinical, label, five_folds(len(label)))
    assert list(found) == list(SHORTCUTS) == ["missingness", "age_sex"]
    areas = {name: roc_auc_score(label, value) for name, value in found.items()}
    # Missing weight: 70 % of the ill, 20 % of the well.
    assert areas["missingness"] == pytest.approx(0.75, abs=0.03)
    assert areas["age_sex"] == pytest.approx(roc_auc_score(label, clinical["age"]), abs=0.01)
    filled = shortcut_predictions(clinical.fillna(70.0), label, five_folds(len(label)))
    assert roc_auc_score(label, filled["missingness"]) < 0.55
    scrambled = clinical.assign(height=1e3 * label, weight=-label)
    again = shortcut_predictions(scrambled, label, five_folds(len(label)))
    np.testing.assert_array_equal(again["age_sex"], found["age_sex"])
    assert roc_auc_score(label, again["missingness"]) < 0.55


def test_a_column_that_gives_the_label_away_in_the_test_part_alone_is_not_learned():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 600).astype(float)
    train, test = np.arange(400), np.arange(400, 600)
    age = random.normal(50, 10, 600)
    age[test] = 50 + 20 * label[test]
    given = np.where(label == 1, np.nan, 1.0)
    given[train] = np.where(random.random(400) < 0.5, np.nan, 1.0)
    clinical = pd.DataFrame({"age": age, "sex": random.integers(0, 2, 600), "weight": given})
    found = shortcut_predictions(clinical, label, [(train, test)])
    for name, value in found.items():
        assert np.isnan(value[train]).all(), "rows that no fold tests"
        assert 0.35 < value[test].mean() < 0.65, name
        assert value[test].std() < 0.1, f"{name} has learned nothing, and says so"


@pytest.mark.parametrize("name", SHORTCUTS)
def test_predictions_depend_on_no_label_and_no_other_patient_of_the_test_part(name):
    clinical, label = cohort()
    folds = five_folds(len(label))
    train, test = folds[2]
    before = shortcut_predictions(clinical, label, [(train, test)])[name]
    flipped = label.copy()
    flipped[test] = 1 - flipped[test]
    np.testing.assert_array_equal(before, shortcut_predictions(clinical, flipped, [(train, test)])[name])
    kept, others = test[0], test[1:]
    changed = clinical.copy()
    changed.loc[others, "age"] = 1e6
    changed.loc[others[::2], ["age", "weight"]] = np.nan
    after = shortcut_predictions(changed, label, [(train, test)])[name]
    assert after[kept] == before[kept]
    learned = label.copy()
    learned[train] = 1 - learned[train]
    moved = shortcut_predictions(clinical, learned, [(train, test)])[name]
    np.testing.assert_allclose(moved[test], 1 - before[test], atol=1e-3)


def test_a_missing_age_is_the_median_age_of_train():
    clinical, label = cohort()
    train, test = five_folds(len(label))[0]
    clinical.loc[test, "sex"] = 1.0
    clinical.loc[test[0], "age"] = np.nan
    clinical.loc[test[1], "age"] = clinical.loc[train, "age"].median()
    clinical.loc[test[2:], "age"] = 1e4
    found = shortcut_predictions(clinical, label, [(train, test)])["age_sex"]
    assert found[test[0]] == pytest.approx(found[test[1]], abs=1e-12)
    assert found[test[2]] > found[test[1]] + 0.1


def test_the_fit_is_a_logistic_regression_of_standardized_columns():
    clinical, label = cohort()
    train, test = five_folds(len(label))[0]
    values = clinical[["age", "sex"]].to_numpy()
    scaled = (values - values[train].mean(axis=0)) / values[train].std(axis=0)
    expected = LogisticRegression().fit(scaled[train], label[train]).predict_proba(scaled[test])[:, 1]
    found = shortcut_predictions(clinical, label, [(train, test)])["age_sex"][test]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_several_labels_some_unknown_are_predicted_one_by_one():
    clinical, label = cohort()
    folds = five_folds(len(label))
    second = np.where(clinical["sex"] == 1, label, np.nan)
    constant = np.where(np.arange(len(label)) < 300, 1.0, np.nan)
    found = shortcut_predictions(
        clinical, np.column_stack([label, second, constant, np.full(len(label), np.nan)]), folds
    )
    single = shortcut_predictions(clinical, label, folds)
    for name in SHORTCUTS:
        assert found[name].shape == (400, 4)
        np.testing.assert_array_equal(found[name][:, 0], single[name])
        assert np.isfinite(found[name][:, 1]).all(), "rows of unknown label are predicted too"
        assert (found[name][:, 2] == 1).all(), "one label in train: its share"
        assert np.isnan(found[name][:, 3]).all(), "nothing to learn from"


def test_columns_that_are_missing_throughout_do_no_harm():
    clinical, label = cohort()
    clinical["height"], clinical["sex"] = np.nan, np.nan
    found = shortcut_predictions(clinical, label, five_folds(len(label)))
    assert all(np.isfinite(value).all() for value in found.values())
    assert roc_auc_score(label, found["age_sex"]) > 0.7
    clinical["age"] = np.nan
    unknown = shortcut_predictions(clinical, label, five_folds(len(label)))["age_sex"]
    assert np.ptp(unknown) < 0.1, "nothing is known of anybody: the share of the train part"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, y, f: (c, y, [(f[0][0], f[0][0][:3])]), "own test rows"),
        (lambda c, y, f: (c, y, [f[0], f[0]]), "tested more than once"),
        (lambda c, y, f: (c, y, []), "no folds"),
        (lambda c, y, f: (c, y, [(f[0][0], np.array([400]))]), "table of 400"),
        (lambda c, y, f: (c, y, [(f[0][0], np.array([-1]))]), "table of 400"),
        (lambda c, y, f: (c.iloc[1:], y, f), "399 patients"),
        (lambda c, y, f: (c, y + 1, f), "Labels must be"),
        (lambda c, y, f: (c.drop(columns="sex"), y, f), "no column sex"),
        (lambda c, y, f: (c.assign(sex="male"), y, f), "must hold numbers"),
    ],
)
def test_folds_and_tables_that_cannot_be_trusted_are_refused(change, message):
    clinical, label = cohort()
    with pytest.raises(ValueError, match=message):
        shortcut_predictions(*change(clinical, label, five_folds(len(label))))


def ptbxl_normal(folder: Path) -> pd.DataFrame:
    """Return the records that are NORM alone (label 0) or of other superclasses alone (label 1)."""
    table = pd.read_csv(folder / "ptbxl_database.csv")
    statements = pd.read_csv(folder / "scp_statements.csv", index_col=0)["diagnostic_class"].dropna()
    kinds = table["scp_codes"].map(
        lambda text: frozenset(statements[code] for code in ast.literal_eval(text) if code in statements)
    )
    mixed = kinds.map(lambda kind: "NORM" in kind and len(kind) > 1)
    table["label"] = kinds.map(lambda kind: float("NORM" not in kind))
    return table[(kinds.map(len) > 0) & ~mixed].reset_index(drop=True)


def test_shortcuts_on_ptbxl():
    place = os.environ.get("PTBXL_DIR")
    if not place or not (Path(place) / "ptbxl_database.csv").is_file():
        pytest.skip("PTBXL_DIR names no PTB-XL: no real records here")
    table = ptbxl_normal(Path(place))
    split = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    folds = list(split.split(table, table["label"], table["patient_id"]))
    clinical = table[["age", "sex", "height", "weight"]]
    found = shortcut_predictions(clinical, table["label"].to_numpy(), folds)
    areas = {name: roc_auc_score(table["label"], value) for name, value in found.items()}
    if len(table) == 481:  # the subset of 500 records
        assert areas["missingness"] == pytest.approx(0.69, abs=0.02)
        assert areas["age_sex"] == pytest.approx(0.79, abs=0.02)
    assert all(area > 0.6 for area in areas.values())
