import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from studies.sessions_needed import RECORDINGS, main, pairs_of_sessions


def test_pairs_of_sessions_make_up_the_auroc():
    scores = np.random.default_rng(0).standard_normal(7 * RECORDINGS)
    label = np.repeat([0, 0, 1, 1, 1, 1, 1], RECORDINGS)
    assert pairs_of_sessions(scores, 2).mean() == pytest.approx(roc_auc_score(label, scores))


def test_more_sessions_cover_the_truth_more_often(tmp_path):
    table = main(["--repetitions", "40", "--draws", "100", "--output", str(tmp_path / "table.csv")])
    few, many = (table[table["normal_sessions"] == count]["coverage"].mean() for count in (2, 20))
    assert few < many
    assert (tmp_path / "table.csv").is_file()
