"""evaluate.py --compare from the command line: single runs, several seeds, and what is absent."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import evaluate
from common.errors import UserError


def results(root, name, noise, seed):
    """Leave the recordings of a run: 40 of 10 sessions, label plus noise as score; return its AUROC."""
    label = np.arange(40) % 2
    score = label + noise * np.random.default_rng(seed).normal(size=40)
    table = pd.DataFrame(
        {
            "recording": [f"a{row:04d}" for row in range(40)],
            "session": [f"C{row // 4}" for row in range(40)],
            "person": [f"C{row // 4}P{row % 2}" for row in range(40)],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
        }
    )
    (root / name).mkdir(parents=True)
    table.to_csv(root / name / "recordings.csv", index=False)
    return roc_auc_score(label, score)


def compare(tmp_path, first, second):
    """Run the comparison and return the table that it wrote."""
    places = [str(tmp_path / "runs" / name) for name in (first, second)]
    evaluate.main(["--compare", *places, "--results-dir", str(tmp_path / "out"), "--bootstrap-draws", "100"])
    (path,) = (tmp_path / "out" / "comparisons").iterdir()
    return path.name, pd.read_csv(path).iloc[0]


def test_a_star_takes_all_seeds_and_scores_them_by_their_mean(tmp_path, capsys):
    better = [results(tmp_path / "runs", f"good-seed{seed}", 0.5, seed) for seed in range(3)]
    worse = [results(tmp_path / "runs", f"bad-seed{seed}", 4.0, seed + 9) for seed in range(2)]
    name, row = compare(tmp_path, "good-seed*", "bad-seed*")
    assert name == "good-seedall--bad-seedall.csv"
    assert row["first"] == pytest.approx(np.mean(better), abs=1e-5)
    assert row["second"] == pytest.approx(np.mean(worse), abs=1e-5)
    assert (row["seeds_first"], row["seeds_second"]) == (3, 2)
    assert row["low"] < row["difference"] < row["high"]
    assert "seeds 3 and 2 (mean of their AUROCs)" in capsys.readouterr().out


def test_one_run_with_itself_has_no_difference(tmp_path):
    results(tmp_path / "runs", "one", 1.0, 0)
    _, row = compare(tmp_path, "one", "one")
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


@pytest.mark.parametrize("absent", ["nowhere", "nowhere-seed*"])
def test_a_run_that_was_not_evaluated_is_named(tmp_path, absent):
    results(tmp_path / "runs", "one", 1.0, 0)
    with pytest.raises(UserError, match=r"There is no .*nowhere.*recordings\.csv: evaluate that run first"):
        compare(tmp_path, "one", absent)
