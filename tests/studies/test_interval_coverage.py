import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.statistics import Interval
from studies.interval_coverage import WHAT, Scenario, coverage, main


@pytest.mark.parametrize(("effect", "aurocs"), [(0.0, (0.9, 0.85)), (1.0, (0.7, 0.7)), (2.0, (0.9, 0.6))])
def test_the_true_auroc_is_that_of_very_many_sessions(effect, aurocs):
    random = np.random.default_rng(0)
    session = np.repeat(np.arange(60_000), 3)
    label = random.integers(0, 2, len(session))
    first, second = Scenario(effect, aurocs).scores(session, label, random)
    assert roc_auc_score(label, first) == pytest.approx(aurocs[0], abs=0.005)
    assert roc_auc_score(label, second) == pytest.approx(aurocs[1], abs=0.005)
    noise = np.stack([first, second]) - np.outer(Scenario(effect, aurocs).separations, label)
    assert noise.var() == pytest.approx(1 + effect**2, rel=0.02)
    assert np.corrcoef(noise)[0, 1] == pytest.approx(0.5, abs=0.02)


def test_coverage_of_an_example_worked_by_hand():
    ends = [(0.4, 0.6), (0.55, 0.7), (0.1, 0.45), (0.5, 0.9)]
    intervals = [Interval(0.5, low, high, 10, 0.0) for low, high in ends]
    found = coverage(intervals, 0.5)
    assert (found["coverage"], found["truth_below"], found["truth_above"]) == (0.5, 0.25, 0.25)
    assert found["mean_width"] == pytest.approx((0.2 + 0.15 + 0.35 + 0.4) / 4)
    assert found["standard_error"] == pytest.approx(0.25)
    assert found["mean_bias"] == 0


def test_the_study_runs_on_a_cache_and_writes_its_table(tmp_path, capsys):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "manifest.json").write_text(json.dumps({"format": 1}))
    session = np.repeat(np.arange(12), 5)
    rows = {"recording": np.arange(60), "session": [f"C{number}" for number in session], "label": session % 2}
    pd.DataFrame(rows).to_csv(cache / "recordings.csv", index=False)
    output = tmp_path / "made" / "coverage.csv"
    options = ["--cache", str(cache), "--repetitions", "3", "--draws", "20", "--output", str(output)]
    table = main(options)
    assert list(table["interval"].unique()) == list(WHAT)
    assert len(table) == 24
    assert pd.read_csv(output)["coverage"].tolist() == pytest.approx(table["coverage"].tolist(), abs=1e-4)
    assert "60 recordings of 12 sessions" in capsys.readouterr().out
    assert main(options).equals(table), "same seed, same table"
    assert not main([*options, "--seed", "1"]).equals(table)
