"""Columns of one's own through the scripts: covariates, classes, segments, balance, and one ECG."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import evaluate
import load_data
import predict
import training
from common.errors import UserError
from config import EvaluationSettings
from learning.checkpoint import load_checkpoint
from systems.base.evaluation_run import EvaluationRun
from systems.ecg_cmr.sources.simulated import write_pairs

SMALL = ["--frames", "2", "--size", "16", "--pixel-spacing", "8", "--seconds", "2", "--ecg-rate", "100"]
TINY = ["--preset", "small", "--width", "16", "--depth", "1", "--heads", "2", "--patch-seconds", "0.4"]
TINY += ["--epochs", "2", "--batch-size", "8", "--precision", "float32", "--device", "cpu", "--threads", "1"]
COVARIATES = ["age", "bmi", "smoking"]
KINDS = ("dilated", "hypertrophic", "other")


class Workspace:
    """Simulated patients with columns of one's own, and a run that learned from them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = write_pairs(root / "raw", patients=40, long_axis=False)
        table, random = pd.read_csv(self.raw / "pairs.csv"), np.random.default_rng(0)
        table["bmi"] = random.normal(26, 3, len(table)).round(1)
        table["smoking"] = np.where(random.random(len(table)) < 0.3, "yes", "no")
        table["T1 (ms)"] = random.normal(1000, 40, len(table)).round(1)
        table["class_kind"] = [KINDS[row % 3] for row in range(len(table))]
        for number in range(1, 17):
            table[f"wall_thickness_{number}"] = (table["wall_thickness"] + number / 10).round(2)
        table.loc[[1, 2], ["bmi", "class_kind", "wall_thickness_3"]] = np.nan
        table.to_csv(self.raw / "pairs.csv", index=False)
        self.table = table.set_index("patient")
        self.places = ["--cache-dir", str(root / "cache")]
        load_data.main(["ecg-phenotypes", "--raw-dir", str(self.raw), "--jobs", "1", *SMALL, *self.places])

    def train(self, name: str, *options: str) -> Path:
        places = ["--checkpoint-dir", str(self.root / "checkpoints"), "--log-dir", str(self.root / "runs")]
        return training.main(["ecg-phenotypes", *TINY, *self.places, *places, "--run-name", name, *options])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def run(workspace) -> Path:
    options = ["--covariates", *COVARIATES, "--class-balance", "--validation-share", "0.4"]
    return workspace.train("own", *options)


@pytest.fixture(scope="module")
def results(workspace, run) -> Path:
    places = ["--results-dir", str(workspace.root / "results"), "--bootstrap-draws", "20", "--threads", "1"]
    evaluate.main(["--checkpoint", str(run), *workspace.places, *places])
    return workspace.root / "results" / run.name


def test_load_data_and_training_name_what_they_do_not_use(workspace, capsys):
    workspace.train("told", "--epochs", "1", "--targets", "known", "T1 (ms)")
    said = capsys.readouterr().out
    assert "Columns that are neither learned nor an input: bmi, smoking." in said
    inputs = load_checkpoint(workspace.root / "checkpoints/told/fold_0/best.pt")["inputs"]
    assert "T1 (ms)" in inputs["indicators"] and "bmi" not in inputs["indicators"]
    assert inputs["covariates"] == ["age", "sex", "height", "weight"]


def test_a_misspelt_column_is_refused(workspace):
    with pytest.raises(UserError, match=r"no column 'smokin'\. Perhaps you meant smoking"):
        workspace.train("misspelt", "--covariates", "smokin")


def test_covariates_are_scaled_by_the_training_patients(workspace, run):
    content = load_checkpoint(run / "fold_0" / "best.pt")
    assert content["inputs"]["covariates"] == COVARIATES
    parts = pd.read_csv(run / "splits.csv").set_index("recording")["fold_0"]
    known = workspace.table.loc[parts.index[parts == "train"], "bmi"]
    assert content["model"]["covariate_mean"][1].item() == pytest.approx(known.mean(), rel=1e-5)
    assert content["model"]["covariate_deviation"][1].item() == pytest.approx(known.std(ddof=0), rel=1e-5)


def test_classes_decisions_and_bulls_eyes_are_written(results):
    classes = pd.read_csv(results / "classes.csv")
    assert set(classes["class"]) == {"all", *KINDS}
    accuracy = classes[classes["score"] == "accuracy"].iloc[0]
    table = pd.read_csv(results / "predictions.csv", dtype={"true_class_kind": str})
    known = table[table["true_class_kind"].isin(KINDS)]
    values = known[[f"class_kind={label}" for label in KINDS]]
    found = values.idxmax(axis=1).str.removeprefix("class_kind=")
    assert accuracy["value"] == pytest.approx((found == known["true_class_kind"]).mean(), rel=1e-4)
    assert values.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    decisions = pd.read_csv(results / "decisions.csv")
    assert set(decisions["score"]) >= {"sensitivity", "ppv", "kappa"}
    for name in ("bulls_eye_wall_thickness", "confusion_class_kind"):
        assert (results / "figures" / f"{name}.png").stat().st_size > 1000


def test_one_ecg_gets_the_same_and_is_told_what_is_missing(workspace, run, results, tmp_path):
    answers = pd.read_csv(results / "predictions.csv").set_index("recording")
    name = next(name for name in answers.index if workspace.table.loc[name].notna().all())
    row = workspace.table.loc[name]
    arguments = ["--ecg", workspace.raw / "ecg" / name, "--checkpoint", run, "--threads", 1]
    given = ["--age", row["age"], "--covariates", f"bmi={row['bmi']}", f"smoking={row['smoking']}"]
    (one,) = predict.main([str(word) for word in (*arguments, *given, "--out", tmp_path)])
    found = {key: part["value"] for key, part in one["indicators"].items()}
    found |= {key: part["probability"] for key, part in one["diseases"].items()}
    parts = one["classes"]["class_kind"]["probabilities"]
    found |= {f"class_kind={label}": part["probability"] for label, part in parts.items()}
    assert found == pytest.approx(answers.loc[name, list(found)].astype(float).to_dict(), rel=1e-3)
    assert one["indicators"]["lv_edv"]["low"] is not None
    assert list(tmp_path.glob("*_bulls_eye.png"))
    table = ["--patient-table", workspace.raw / "pairs.csv"]
    (other,) = predict.main([str(word) for word in (*arguments, *table)])
    assert other["indicators"]["lv_edv"]["value"] == pytest.approx(found["lv_edv"], rel=1e-6)
    (alone,) = predict.main([str(word) for word in arguments])
    said = " ".join(warning["text"] for warning in alone["warnings"])
    assert "learned with age, bmi, smoking, which are not given" in said


def test_what_the_run_does_not_take_of_a_person_is_refused(workspace, run):
    ecg = workspace.raw / "ecg" / workspace.table.index[0]
    with pytest.raises(UserError, match="trained without sex: leave --sex away"):
        predict.main(["--ecg", str(ecg), "--checkpoint", str(run), "--sex", "male", "--threads", "1"])


def test_what_is_evaluated_is_explained_without_dropout(workspace, run):
    content = load_checkpoint(run / "fold_0" / "best.pt")
    assert not EvaluationRun([content], Mock(), EvaluationSettings(device="cpu")).model(content).training
