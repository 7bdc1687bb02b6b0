"""How the shipped model is evaluated and calibrated: no session is both learned from and tested."""

import numpy as np
import pandas as pd
import pytest

import training
from common.errors import UserError
from learning.checkpoint import load_checkpoint
from studies import shipped_model
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.linear.fit import fit_modalities


def answers(intercept: float, slope: float, count: int = 4000) -> pd.DataFrame:
    """Return log-odds of which the truth is a line, both classes about alike, in five folds."""
    rng = np.random.default_rng(0)
    odds = rng.normal(-intercept / slope, 2, count)
    label = (rng.random(count) < 1 / (1 + np.exp(-(intercept + slope * odds)))).astype(int)
    metadata = {"recording": np.arange(count).astype(str), "session": np.arange(count) % 50, "label": label}
    return pd.DataFrame(
        metadata | {"seed": 0, "fold": np.arange(count) % 5, "input": "ecg", "log_odds": odds}
    )


def test_the_line_of_the_calibration_is_found():
    assert shipped_model.line_of(answers(-0.7, 0.6)) == pytest.approx((-0.7, 0.6), abs=0.12)


def test_a_line_is_kept_where_it_helps_other_sessions():
    wrong = answers(-1.5, 0.5)
    table = shipped_model.tabulate(shipped_model.calibrated_out_of_fold(wrong), 20)
    row = table.iloc[0]
    assert row["slope_before"] == pytest.approx(0.5, abs=0.1)
    assert row["intercept_after"] == pytest.approx(0, abs=0.1)
    assert row["slope_after"] == pytest.approx(1, abs=0.1)
    assert list(shipped_model.calibration(wrong, table)) == ["ecg"]
    assert shipped_model.calibration(wrong, table.assign(brier_after=row["brier_before"])) == {}


def test_the_classes_weigh_the_same():
    weights = shipped_model.balanced_weights(pd.Series([1, 1, 1, 0]))
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


@pytest.fixture(scope="module")
def final_fit(simulated_cache, tmp_path_factory):
    """Return the checkpoint of a final fit on the simulated cohort."""
    folder = tmp_path_factory.mktemp("final")
    phase_grid(simulated_cache, 1, progress=False)
    options = ["--model", "linear", "--folds", "none", "--cache", simulated_cache.path, "--threads", "1"]
    places = ["--checkpoint-dir", folder / "checkpoints", "--log-dir", folder / "runs"]
    return training.main([str(option) for option in [*options, *places]]) / "fold_all" / "best.pt"


def test_the_model_is_written_with_its_calibration_and_scores(
    simulated_cache, final_fit, tmp_path, monkeypatch, capsys
):
    learned: list[int] = []

    def spy(features, labels, *options):
        learned.append(len(labels))
        return fit_modalities(features, labels, *options)

    monkeypatch.setattr(shipped_model, "fit_modalities", spy)
    options = ["--checkpoint", final_fit, "--cache", simulated_cache.path, "--folds", "2", "--seeds", "1"]
    output = ["--draws", "20", "--output", tmp_path / "t.csv", "--weights", tmp_path / "w.pt"]
    table = shipped_model.main([str(option) for option in [*options, *output]])
    count = len(simulated_cache.table("recordings"))
    assert sum(learned) == count, "each of two folds is learned from the other"
    assert set(table["input"]) == {
        *("ecg+pcg annotated", "pcg annotated", "ecg", "ecg+pcg automatic", "pcg automatic"),
    }
    content = load_checkpoint(tmp_path / "w.pt")
    assert set(content["calibration"]) <= set(table["input"])
    assert len(content["trained_on"]["signals"]) == 2 * len(content["trained_on"]["recording"]) == 2 * count
    assert "progress" not in content


def test_a_fold_or_another_cache_is_refused(simulated_cache, final_fit, tmp_path):
    content = load_checkpoint(final_fit)
    for change, said in (
        ({"fold": 0}, "no linear model fitted on everything"),
        ({"cache": content["cache"] | {"identity": "0" * 64}}, "trained from another cache"),
    ):
        shipped_model.save_checkpoint(tmp_path / "other.pt", content | change)
        options = ["--checkpoint", tmp_path / "other.pt", "--cache", simulated_cache.path]
        with pytest.raises(UserError, match=said):
            shipped_model.main([str(option) for option in options])
