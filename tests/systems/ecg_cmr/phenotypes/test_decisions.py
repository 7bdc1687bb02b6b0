"""Decisions of diseases and classes: values worked by hand, thresholds of folds, patients who come twice."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from evaluation.multilabel import multilabel_scores, multilabel_table
from evaluation.statistics import wilson_interval
from systems.ecg_cmr.phenotypes.decisions import (
    calibrations_table,
    class_figures,
    classes_table,
    decisions_table,
    disease_figures,
    disease_units,
)

NAME = "disease_x"


def checkpoint(fold: int, threshold: float | None, covariates=("age",)) -> Any:
    errors = {"age": {"diseases": {NAME: {"threshold": threshold}}}}
    return {"fold": fold, "inputs": {"covariates": list(covariates)}, "validation": {"errors": errors}}


def predictions() -> pd.DataFrame:
    """Return 50 patients: 20 found, 5 false alarms, 10 missed, 15 rightly not, and one who is not known."""
    counts = {(1.0, 0.30): 20, (0.0, 0.30): 5, (1.0, 0.1): 10, (0.0, 0.1): 15, (np.nan, 0.9): 1}
    rows = [pair for pair, count in counts.items() for _ in range(count)]
    table = pd.DataFrame(rows, columns=[f"true_{NAME}", NAME])
    return table.assign(session=[f"p{row}" for row in range(len(table))], fold=np.arange(len(table)) % 2)


def units(**changed: Any) -> dict[str, pd.DataFrame]:
    content = [checkpoint(0, 0.2), checkpoint(1, 0.2)]
    arguments: dict[str, Any] = {
        "checkpoints": content,
        "threshold": "validation",
        "external": False,
    } | changed
    return disease_units(predictions(), [NAME], **arguments)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("score")


def test_decisions_worked_by_hand_have_wilson_intervals():
    found = scores(decisions_table(units(), draws=200))
    expected = {
        "sensitivity": (20, 30),
        "specificity": (15, 20),
        "ppv": (20, 25),
        "npv": (15, 25),
        "accuracy": (35, 50),
    }
    for score, (right, cases) in expected.items():
        row = found.loc[score]
        assert (row["value"], row["n"]) == (pytest.approx(right / cases), cases)
        assert (row["low"], row["high"]) == pytest.approx(wilson_interval(right / cases, cases))
        assert row["interval"] == "Wilson"
    assert found.loc["kappa", "value"] == pytest.approx(0.4)
    assert found.loc["f1", "value"] == pytest.approx(40 / 55)
    assert found.loc["kappa", "low"] < 0.4 < found.loc["kappa", "high"]
    assert found["threshold"].tolist() == pytest.approx([0.2] * 7) and not found["reason"].any()


def test_each_fold_has_its_own_threshold_and_another_cache_their_mean():
    """Above .3 nobody of fold 1 counts as diseased; the mean of .2 and .38 finds everyone with .30."""
    content = [checkpoint(0, 0.2), checkpoint(1, 0.38)]
    table = predictions()
    first = table[(table["fold"] == 0) & (table[f"true_{NAME}"] == 1)]
    found = scores(decisions_table(units(checkpoints=content), draws=0))
    assert found.loc["sensitivity", "value"] == pytest.approx((first[NAME] == 0.3).sum() / 30)
    external = scores(decisions_table(units(checkpoints=content, external=True), draws=0))
    assert external.loc["sensitivity", "value"] == pytest.approx(20 / 30)
    assert external.loc["sensitivity", "threshold"] == pytest.approx(0.29)
    half = scores(decisions_table(units(threshold="half"), draws=0))
    assert half.loc["sensitivity", "value"] == 0 and np.isnan(half.loc["ppv", "value"])


def test_a_run_without_a_threshold_says_so_and_decides_nothing():
    content = [checkpoint(0, 0.2), checkpoint(1, None)]
    found = decisions_table(units(checkpoints=content), draws=0)
    assert found["value"].isna().all() and found["threshold"].isna().all()
    assert found["reason"].str.contains("no threshold of its validation part").all()
    old: Any = [{"fold": fold, "inputs": {"covariates": []}} for fold in (0, 1)]
    assert decisions_table(units(checkpoints=old), draws=0)["value"].isna().all()


def test_a_patient_with_ten_recordings_is_one_case_of_the_interval():
    table = predictions()
    many = pd.concat([table] * 10, ignore_index=True)
    content = [checkpoint(0, 0.2), checkpoint(1, 0.2)]
    once, often = (
        scores(decisions_table(disease_units(part, [NAME], content, "validation", False), draws=0))
        for part in (table, many)
    )
    assert often.loc["accuracy", "n"] == 500
    assert often.loc["accuracy", ["value", "low", "high"]].tolist() == pytest.approx(
        once.loc["accuracy", ["value", "low", "high"]].tolist()
    )


def test_calibration_is_of_those_diseases_that_some_have():
    found = units()
    found["disease_none"] = found[NAME].assign(label=0.0)
    table = calibrations_table(found, draws=0)
    assert set(table["disease"]) == {NAME}
    error = table.set_index("score").loc["expected calibration error", "value"]
    assert error == pytest.approx(25 / 50 * abs(0.3 - 20 / 25) + 25 / 50 * abs(0.1 - 10 / 25))


def test_curves_are_drawn_of_each_disease_and_the_point_is_the_decision():
    labels, values = predictions()[[f"true_{NAME}"]].to_numpy(), predictions()[[NAME]].to_numpy()
    table = multilabel_table(multilabel_scores(labels, values, predictions()["session"], [NAME], 50))
    figures = disease_figures(units(), table, watermark="simulated data")
    assert list(figures) == ["roc", "calibration_curves", "decision_curves"]
    point: Any = figures["roc"].axes[0].lines[-1]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((5 / 20, 20 / 30))
    model: Any = figures["decision_curves"].axes[0].lines[-1]
    benefit = dict(zip(np.round(model.get_xdata(), 2), model.get_ydata(), strict=True))
    assert benefit[0.2] == pytest.approx(20 / 50 - 5 / 50 * 0.25)


# Classes ----------------------------------------------------------------------------------------------

LABELS = {"class_kind": ("a", "b", "c")}


def class_predictions(count: int = 90) -> pd.DataFrame:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, count)
    logits = random.standard_normal((count, 3)) + 1.5 * np.eye(3)[truth]
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = pd.DataFrame(values, columns=[f"class_kind={label}" for label in LABELS["class_kind"]])
    text = np.array(LABELS["class_kind"])[truth].astype(object)
    text[0] = ""
    return table.assign(session=[f"p{row}" for row in range(count)], true_class_kind=text)


def test_scores_of_classes_are_those_of_scikit_learn():
    table = class_predictions()
    found = classes_table(table, LABELS, draws=100).set_index(["class", "score"])
    known = table.iloc[1:]
    columns = [f"class_kind={label}" for label in "abc"]
    truth = known["true_class_kind"]
    predicted = np.array(list("abc"))[known[columns].to_numpy().argmax(axis=1)]
    expected = {
        "accuracy": (truth == predicted).mean(),
        "balanced_accuracy": balanced_accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "kappa": cohen_kappa_score(truth, predicted),
        "macro_auroc": roc_auc_score(truth, known[columns], multi_class="ovr"),
    }
    assert {score: found.loc[("all", score), "value"] for score in expected} == pytest.approx(expected)
    assert found.loc[("b", "auroc"), "value"] == pytest.approx(
        roc_auc_score(truth == "b", known["class_kind=b"])
    )
    assert found.loc[("c", "sensitivity"), "value"] == pytest.approx(
        (predicted == truth)[truth == "c"].mean()
    )
    assert (found["low"] < found["value"]).all() and (found["value"] < found["high"]).all()
    assert found.loc[("all", "accuracy"), "n"] == 89, "one whose class is not known does not count"


def test_the_counts_are_drawn():
    figure = class_figures(class_predictions(), LABELS)["confusion_class_kind"]
    counts = [int(text.get_text().split("\n")[0]) for text in figure.axes[0].texts]
    assert sum(counts) == 89


def test_classes_that_are_known_of_nobody_are_said_and_not_scored():
    table = class_predictions().assign(true_class_kind="")
    found = classes_table(table, LABELS, draws=10)
    assert found["value"].isna().all() and found["reason"].tolist() == ["it is not known of anybody"]
