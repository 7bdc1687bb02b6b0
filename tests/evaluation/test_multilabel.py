import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.calibration import expected_calibration_error
from evaluation.multilabel import format_multilabel, multilabel_scores, multilabel_table
from evaluation.statistics import cluster_bootstrap

NAMES = ["NORM", "MI", "STTC"]
SEPARATION = np.array([2.0, 1.0, 0.5])


def simulated(seed: int = 0, patients: int = 80, rows: int = 3):
    """Labels that a patient keeps, and scores that resemble each other within a patient."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), rows)
    labels = (random.random((patients, 3)) < [0.5, 0.4, 0.3])[group].astype(float)
    score = SEPARATION * (labels - 0.5) + random.standard_normal((patients, 3))[group]
    return labels, 1 / (1 + np.exp(-score - 0.3 * random.standard_normal(score.shape))), group


def test_without_unknown_labels_the_scores_are_those_of_sklearn():
    labels, probabilities, group = simulated()
    found = multilabel_scores(labels, probabilities, group, NAMES, draws=0)
    for k, name in enumerate(NAMES):
        part = found["classes"][name]
        assert part["auroc"] == pytest.approx(roc_auc_score(labels[:, k], probabilities[:, k]))
        assert part["auprc"] == pytest.approx(average_precision_score(labels[:, k], probabilities[:, k]))
        assert part["prevalence"] == pytest.approx(labels[:, k].mean())
        assert (part["n"], part["positives"]) == (240, labels[:, k].sum())
    macro = found["macro"]
    assert macro["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    assert macro["auprc"] == pytest.approx(average_precision_score(labels, probabilities, average="macro"))
    errors = [expected_calibration_error(labels[:, k], probabilities[:, k]) for k in range(3)]
    assert macro["expected_calibration_error"] == pytest.approx(np.mean(errors))
    assert macro["brier"] == pytest.approx(np.mean((labels - probabilities) ** 2))
    assert macro["intervals"]["auroc"]["low"] is None
    assert found["notes"] == []


def test_samples_whose_label_is_not_known_do_not_count_and_need_no_probability():
    labels, probabilities, group = simulated()
    unknown = np.random.default_rng(1).random(labels.shape) < 0.3
    holed = multilabel_scores(
        np.where(unknown, np.nan, labels), np.where(unknown, np.nan, probabilities), group, NAMES, draws=30
    )
    for k, name in enumerate(NAMES):
        known = ~unknown[:, k]
        expected = roc_auc_score(labels[known, k], probabilities[known, k])
        assert holed["classes"][name]["auroc"] == pytest.approx(expected)
        assert holed["classes"][name]["n"] == known.sum()
        assert holed["classes"][name]["prevalence"] == pytest.approx(labels[known, k].mean())
    aurocs = [part["auroc"] for part in holed["classes"].values()]
    assert holed["macro"]["auroc"] == pytest.approx(np.mean(aurocs))


def test_a_class_that_cannot_be_ranked_has_no_scores_a_note_and_no_part_in_the_mean():
    labels, probabilities, group = simulated()
    labels[:, 1], labels[:5, 2] = 0, np.nan
    wide = np.column_stack([labels, np.full(len(labels), np.nan)])
    chance = np.column_stack([probabilities, probabilities[:, 0]])
    found = multilabel_scores(wide, chance, group, [*NAMES, "HYP"], draws=20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in ("MI", "HYP"):
        part = found["classes"][name]
        assert (part["auroc"], part["auprc"], part["brier"]) == (None, None, None)
        assert part["intervals"] == {}
    assert found["classes"]["MI"]["prevalence"] == 0
    assert (found["classes"]["HYP"]["n"], found["classes"]["HYP"]["prevalence"]) == (0, None)
    assert "MI: every known label is 0" in found["notes"][0]
    assert "HYP: no label is known" in found["notes"][1]
    assert "2 of 4 classes" in found["notes"][2]
    both = [found["classes"][name]["auroc"] for name in ("NORM", "STTC")]
    assert found["macro"]["auroc"] == pytest.approx(np.mean(both))
    assert found["macro"]["classes"] == 2
    nothing = multilabel_scores(np.zeros((4, 1)), np.full((4, 1), 0.5), range(4), ["MI"], draws=20)
    assert nothing["macro"] == dict.fromkeys(("auroc", "auprc", "brier", "expected_calibration_error")) | {
        "classes": 0,
        "intervals": {},
    }


def test_intervals_are_those_of_the_shared_bootstrap_seeded_and_of_whole_patients():
    labels, probabilities, group = simulated()
    first, again = (multilabel_scores(labels, probabilities, group, NAMES, 150, 3) for _ in range(2))
    assert first == again
    assert first["bootstrap"] == {"draws": 150, "seed": 3, "cluster": "group"}
    other = multilabel_scores(labels, probabilities, group, NAMES, 150, 4)
    rows = multilabel_scores(labels, probabilities, np.arange(len(group)), NAMES, 150, 3)
    units = pd.DataFrame({"label": labels[:, 1], "probability": probabilities[:, 1], "group": group})
    expected = cluster_bootstrap(units, "auprc", "group", draws=150, seed=3)
    found = first["classes"]["MI"]["intervals"]["auprc"]
    assert (found["low"], found["high"], found["clusters"]) == (expected.low, expected.high, 80)
    for name in ("auroc", "auprc"):
        wide, narrow = (scores["macro"]["intervals"][name] for scores in (first, rows))
        assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])
        assert wide["low"] < first["macro"][name] < wide["high"]
        assert wide["low"] != other["macro"]["intervals"][name]["low"]


def test_the_mean_of_one_class_has_the_interval_of_the_class():
    labels, probabilities, group = simulated()
    labels[::4, 0] = np.nan
    found = multilabel_scores(labels[:, :1], probabilities[:, :1], group, NAMES[:1], 100)
    own, macro = found["classes"]["NORM"]["intervals"]["auroc"], found["macro"]["intervals"]["auroc"]
    assert (macro["low"], macro["high"]) == pytest.approx((own["low"], own["high"]))


def test_draws_that_lack_a_rare_label_are_drawn_again():
    labels, probabilities, group = simulated(patients=30)
    labels[:, 2] = np.isin(group, [4, 5, 6, 7, 8])
    found = multilabel_scores(labels, probabilities, group, NAMES, 200)
    share = (1 - 5 / 30) ** 30
    assert found["macro"]["intervals"]["auroc"]["redrawn"] == pytest.approx(share, abs=0.08)
    assert found["macro"]["intervals"]["auroc"]["draws"] == 200
    assert found["macro"]["intervals"]["auroc"]["low"] is not None


def test_macro_intervals_cover_the_truth():
    labels, probabilities, _ = simulated(seed=10**6, patients=100_000, rows=1)
    truth = roc_auc_score(labels, probabilities, average="macro")
    hits = []
    for seed in range(50):
        labels, probabilities, group = simulated(seed, patients=60, rows=2)
        scores = multilabel_scores(labels, probabilities, group, NAMES, draws=100, seed=seed)
        found = scores["macro"]["intervals"]["auroc"]
        hits.append(found["low"] <= truth <= found["high"])
    assert 0.86 <= np.mean(hits) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, p, g, n: (y[:, :2], p, g, n), "must both be"),
        (lambda y, p, g, n: (y[:0], p[:0], g[:0], n), "must both be"),
        (lambda y, p, g, n: (y, p, g[:-1], n), "needs a group"),
        (lambda y, p, g, n: (y, p, np.where(g == 0, np.nan, g), n), "needs a group"),
        (lambda y, p, g, n: (y, p, g, n[:2]), "different names"),
        (lambda y, p, g, n: (y, p, g, ["a", "a", "b"]), "different names"),
        (lambda y, p, g, n: (y + 1, p, g, n), "Labels must be 0 or 1"),
        (lambda y, p, g, n: (y, 5 * p, g, n), "are these logits"),
        (lambda y, p, g, n: (y, np.where(p > 0.9, np.nan, p), g, n), "NaN"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        labels, probabilities, group, names = change(*simulated(), NAMES)
        multilabel_scores(labels, probabilities, group, names, draws=0)


def test_the_table_has_a_row_a_class_and_one_of_means():
    labels, probabilities, group = simulated()
    labels[:, 1] = 1
    found = multilabel_scores(labels, probabilities, group, NAMES, draws=50)
    table = multilabel_table(found).set_index("class")
    assert table.index.tolist() == [*NAMES, "macro"]
    assert table.loc["NORM", "auroc_low"] == found["classes"]["NORM"]["intervals"]["auroc"]["low"]
    assert table.loc["macro", "auprc"] == found["macro"]["auprc"]
    assert np.isnan(table.loc["MI", "auroc"])
    text = format_multilabel(found)
    assert "240 samples of 80 patients" in text
    assert f"{found['macro']['auroc']:.3f}" in text
    assert "No scores of MI: every known label is 1." in text
    assert "50 draws of whole patients" in text
    rows = [line for line in text.splitlines() if line.startswith(tuple(NAMES))]
    assert len(rows) == 3
    assert "n/a" in rows[1]
    assert "nan" not in text


def test_the_mean_has_no_interval_where_a_class_has_none():
    """A has more positive samples than B, but of three patients."""
    patient = np.arange(60)
    patient[:20] %= 3
    labels = np.stack([np.arange(60) < 20, np.arange(60) >= 50], axis=1)
    probability = np.random.default_rng(0).random((60, 2))
    found = multilabel_scores(labels, probability, patient, ["A", "B"], draws=50)
    reason = "all samples with A come from 3 patients, 5 are needed"
    assert found["classes"]["A"]["intervals"]["auroc"]["reason"] == reason
    assert found["classes"]["B"]["intervals"]["auroc"]["low"] is not None
    assert (found["macro"]["intervals"]["auroc"]["low"], found["macro"]["intervals"]["auroc"]["reason"]) == (
        None,
        reason,
    )
