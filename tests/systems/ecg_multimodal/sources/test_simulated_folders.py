"""Patient folders of simulated patients: causes of disease are known, and each shows in its view alone."""

import dataclasses
import json
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from datasets.sources import DataError
from simulation.causes import CAUSES, CauseSettings, Sign, simulate_views
from simulation.clinical import CLINICAL_COLUMNS, draw_clinical, rr_features
from simulation.heart_population import draw_heart
from systems.ecg_multimodal.sources import simulated as module
from systems.ecg_multimodal.sources.folders import index_patient_folders
from systems.ecg_multimodal.sources.simulated import write_patient_folders

PATIENTS = 200
SMALL: dict[str, Any] = {"patients": 6, "seed": 3}


def stand_in(signal_mv, sampling_rate):
    """Draw as the real thing does, but small: a picture whose rows are volts."""
    columns = np.asarray(signal_mv)[:: max(1, len(signal_mv) // 250)][:250]
    return np.clip(128 - 60 * np.tile(columns, (25, 1)), 0, 255).astype(np.uint8)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cohort():
    settings = CauseSettings(patients=PATIENTS, prevalences=(0.3, 0.3, 0.3), missing=0.0)
    return [simulate_views(settings, patient) for patient in range(PATIENTS)]


@pytest.fixture(scope="module")
def truth(cohort):
    return pd.DataFrame([views.truth for views in cohort])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "patients"
    return write_patient_folders(root, patients=40, seed=1, borderline=0.1, draw=stand_in)


# Causes ------------------------------------------------------------------------------------------


def oddness(lead, rate):
    """Return how uneven a rhythm is and how much its complexes differ: high in both kinds of paroxysm."""
    sos = signal.butter(2, [8, 30], "band", fs=rate, output="sos")
    energy = np.convolve(np.abs(signal.sosfiltfilt(sos, lead)), np.ones(rate // 12) / (rate // 12), "same")
    peaks = signal.find_peaks(energy, height=0.35 * np.percentile(energy, 98), distance=0.28 * rate)[0]
    intervals = np.diff(peaks)
    return np.std(intervals) / np.mean(intervals)


def auroc(scores, present):
    return roc_auc_score(present, scores)


def test_labels_are_the_union_of_the_causes(truth):
    union = truth[[f"cause_{cause}" for cause in CAUSES]].any(axis=1)
    assert (truth.abnormal == union).all()
    clear = truth[truth.label != "borderline"]
    assert (clear.label == clear.abnormal.map({0: "normal", 1: "abnormal"})).all()
    assert 0 < (truth.label == "borderline").mean() < 0.1
    assert ((truth.signal_sign != "absent") == truth.cause_signal).all()
    assert ((truth.image_sign != "absent") == truth.cause_image).all()


def test_causes_are_independent_and_as_frequent_as_asked_for(truth):
    causes = truth[[f"cause_{cause}" for cause in CAUSES]]
    np.testing.assert_allclose(causes.mean(), 0.3, atol=4 * np.sqrt(0.21 / PATIENTS))
    off_diagonal = causes.corr().to_numpy()[np.triu_indices(3, 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(PATIENTS)


def test_prevalences_follow_from_the_abnormal_share():
    shares = CauseSettings(patients=1, abnormal_share=0.4).prevalence()
    assert 1 - np.prod([1 - share for share in shares.values()]) == pytest.approx(0.4)
    assert len(set(shares.values())) == 1
    alone = CauseSettings(patients=1, causes=("signal",), abnormal_share=0.4).prevalence()
    assert alone == {"clinical": 0.0, "signal": pytest.approx(0.4), "image": 0.0}


@pytest.mark.parametrize(("view", "rate"), [("signal", 250), ("paper", 500)])
def test_a_paroxysm_shows_in_its_own_recording_alone(cohort, truth, view, rate):
    scores = [oddness(getattr(views, view), rate) for views in cohort]
    own, other = ("signal", "image") if view == "signal" else ("image", "signal")
    assert auroc(scores, truth[f"cause_{own}"]) > 0.9
    for cause in (other, "clinical"):
        rest = (truth[f"cause_{own}"] == 0).to_numpy()
        assert 0.3 < auroc(np.array(scores)[rest], truth[f"cause_{cause}"][rest]) < 0.7


def test_the_burden_shows_in_the_table_and_nothing_else_does(cohort, truth):
    table = pd.DataFrame([views.clinical for views in cohort])
    standard = (table - table.mean()) / table.std()
    scores = {
        cause: cross_val_predict(
            LogisticRegression(C=0.05), standard, truth[f"cause_{cause}"], cv=5, method="predict_proba"
        )[:, 1]
        for cause in CAUSES
    }
    assert auroc(scores["clinical"], truth.cause_clinical) > 0.93
    assert 0.3 < auroc(scores["signal"], truth.cause_signal) < 0.68
    assert 0.3 < auroc(scores["image"], truth.cause_image) < 0.68


def test_what_no_cause_touches_is_the_same_without_it():
    plain = CauseSettings(patients=1, prevalences=(0.0, 0.0, 0.0), missing=0.0)
    for cause, changed in zip(CAUSES, ("clinical", "signal", "paper"), strict=True):
        ill = dataclasses.replace(plain, prevalences=tuple(float(name == cause) for name in CAUSES))
        before, after = simulate_views(plain, 7), simulate_views(ill, 7)
        same = {
            "clinical": before.clinical == after.clinical,
            "signal": np.array_equal(before.signal, after.signal),
            "paper": np.array_equal(before.paper, after.paper),
        }
        assert same == {view: view != changed for view in same}


def test_the_other_signs_leave_their_trace():
    traces: dict[Sign, tuple[float, float]] = {
        "st depression": (0.05, 0.30),
        "late potentials": (0.012, 0.06),
    }
    for sign, (smallest, largest) in traces.items():
        plain = CauseSettings(patients=1, causes=("signal",), prevalences=(0.0,), signal_signs=(sign,))
        ill = dataclasses.replace(plain, prevalences=(1.0,))
        for patient in range(3):
            change = simulate_views(ill, patient).signal - simulate_views(plain, patient).signal
            assert smallest < np.abs(change).max() < largest


def test_neither_order_nor_company_changes_a_patient(cohort):
    settings = CauseSettings(patients=9999, prevalences=(0.3, 0.3, 0.3), missing=0.0)
    again = simulate_views(settings, 5)
    np.testing.assert_array_equal(again.signal, cohort[5].signal)
    np.testing.assert_array_equal(again.paper, cohort[5].paper)
    assert again.clinical == cohort[5].clinical
    assert again.truth == cohort[5].truth


def test_the_recordings_are_of_different_days(cohort):
    for views in cohort[:20]:
        assert len(views.paper) == 5000
        assert 2460 <= len(views.signal) <= 2500
        length = min(len(views.signal), 2460)
        assert abs(np.corrcoef(views.signal[:length], views.paper[::2][:length])[0, 1]) < 0.9
    assert len({len(views.signal) for views in cohort}) > 10


# Clinical values ---------------------------------------------------------------------------------


def test_rr_features_worked_by_hand():
    features = rr_features(np.array([0.8, 0.9, 0.8, 0.9]))
    assert features == {"mean_rr": 850.0, "sdnn": 57.7, "rmssd": 100.0, "pnn50": 100.0}
    assert rr_features(np.array([0.8, 0.84, 0.8]))["pnn50"] == 0.0


def test_clinical_values_are_those_of_the_heart():
    assert len(CLINICAL_COLUMNS) == 24
    hearts = [draw_heart(0, patient) for patient in range(400)]
    rows = pd.DataFrame([draw_clinical(heart, np.random.default_rng(n)) for n, heart in enumerate(hearts)])
    assert list(rows.columns) == list(CLINICAL_COLUMNS)
    assert not rows.isna().any(axis=None)
    drivers = [heart.drivers for heart in hearts]
    np.testing.assert_allclose(rows.age, [driver.age for driver in drivers], atol=0.5)
    assert (rows.sex == [int(driver.sex == "female") for driver in drivers]).all()
    np.testing.assert_allclose(rows.BMI, rows.weight / (rows.height / 100) ** 2, rtol=0.01)
    sinus = np.array([driver.rhythm == "sinus" and driver.ectopic_rate == 0 for driver in drivers])
    rates = np.array([driver.heart_rate for driver in drivers])
    np.testing.assert_allclose(60000 / rows.mean_rr[sinus], rates[sinus], rtol=0.02)
    deviations = np.array([1000 * driver.traits.variability for driver in drivers])
    np.testing.assert_allclose(rows.sdnn[sinus], deviations[sinus], rtol=0.3)
    assert np.corrcoef(rows.systolic_pressure, [heart.lv_mass for heart in hearts])[0, 1] > 0.05
    assert np.corrcoef(rows.systolic_pressure, rows.age)[0, 1] > 0.2
    assert (rows.diastolic_pressure < rows.systolic_pressure - 10).all()
    ill = np.array([heart.condition != "none" for heart in hearts])
    assert rows.history_heart_disease[ill].mean() > rows.history_heart_disease[~ill].mean() + 0.2


def test_missing_values_leave_the_others_as_they_are():
    heart = draw_heart(0, 1)
    full = draw_clinical(heart, np.random.default_rng(2))
    gaps = [draw_clinical(heart, np.random.default_rng(seed), missing=0.3) for seed in range(200)]
    assert np.mean([np.isnan(list(row.values())) for row in gaps]) == pytest.approx(0.3, abs=0.03)
    again = draw_clinical(heart, np.random.default_rng(2), missing=0.3)
    assert 0 < np.isnan(list(again.values())).sum() < 24
    assert all(np.isnan(value) or value == full[name] for name, value in again.items())
    with pytest.raises(ValueError, match=r"missing clinical values is 1\.5"):
        draw_clinical(heart, np.random.default_rng(2), missing=1.5)


def test_the_burden_touches_only_pressure_and_histories():
    touched = set()
    for patient in range(40):
        heart = draw_heart(0, patient)
        before, after = (
            draw_clinical(heart, np.random.default_rng(patient), burdened=ill) for ill in (False, True)
        )
        touched |= {name for name in before if before[name] != after[name]}
        assert after["systolic_pressure"] > before["systolic_pressure"]
    assert touched == {
        "systolic_pressure",
        "diastolic_pressure",
        "history_hypertension",
        "history_diabetes",
        "history_dyslipidemia",
        "family_hypertension",
        "family_diabetes",
    }


# Files -------------------------------------------------------------------------------------------


def test_files_are_in_the_layout_of_patient_folders(folder):
    truth = pd.read_csv(folder / "truth.csv")
    labels = pd.read_excel(folder / "labels.xlsx")
    clinical = pd.read_excel(folder / "clinical.xlsx")
    assert list(labels.columns) == ["index", "label"]
    assert list(clinical.columns) == ["IDX", *CLINICAL_COLUMNS]
    assert list(labels["index"]) == list(clinical.IDX) == list(truth.id) == list(range(1, 41))
    assert (labels.label == truth.label).all()
    assert set(labels.label) == {"normal", "abnormal", "borderline"}
    rows = [line.split(",") for line in (folder / "ecg_signals.csv").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == list(truth.id)
    assert len({len(row) for row in rows}) > 1
    assert (folder / "images" / "7" / "007ECG_lead2.jpg").is_file()
    assert len(list(folder.rglob("*.jpg"))) == 40
    assert "simulated" in (folder / "README.txt").read_text()
    assert json.loads((folder / "simulation.json").read_text())["settings"]["patients"] == 40


def test_the_reader_of_patient_folders_finds_nothing_to_complain_about(tmp_path):
    root = write_patient_folders(tmp_path / "cohort", **SMALL, borderline=0.0)
    index = index_patient_folders(root)
    assert index.problems == []
    assert index.simulated
    truth = pd.read_csv(root / "truth.csv").set_index("id")
    found = index.recordings.set_index("recording").label
    assert {int(name): int(label) for name, label in found.items()} == truth.abnormal.to_dict()


def test_files_hold_what_was_simulated(folder):
    settings = CauseSettings(patients=40, seed=1, borderline=0.1)
    views = simulate_views(settings, 4)
    row = (folder / "ecg_signals.csv").read_text().splitlines()[4].split(",")
    np.testing.assert_allclose(np.array(row[1:], float), views.signal, atol=6e-5)
    clinical = pd.read_excel(folder / "clinical.xlsx").iloc[4]
    for name, value in views.clinical.items():
        np.testing.assert_allclose(clinical[name], value)
    assert pd.read_excel(folder / "clinical.xlsx").isna().to_numpy().mean() == pytest.approx(0.1, abs=0.04)
    with Image.open(folder / "images" / "5" / "005ECG_lead2.jpg") as picture:
        drawn = np.asarray(picture).astype(float)
    assert np.abs(drawn - stand_in(views.paper, 500)).mean() < 3


def test_pictures_are_strips_of_2500_by_250_pixels(tmp_path):
    root = write_patient_folders(tmp_path / "cohort", patients=1, tables="csv")
    with Image.open(root / "images" / "1" / "001ECG_lead2.jpg") as picture:
        assert picture.size == (2500, 250)
        assert np.asarray(picture).std() > 5


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cohort_may_have_a_single_cause(tmp_path, cause):
    root = write_patient_folders(
        tmp_path / "cohort", patients=30, causes=(cause,), tables="csv", draw=stand_in
    )
    truth = pd.read_csv(root / "truth.csv")
    assert (truth.abnormal == truth[f"cause_{cause}"]).all()
    assert 0 < truth.abnormal.sum() < 30
    assert truth[[f"cause_{name}" for name in CAUSES if name != cause]].to_numpy().sum() == 0


def test_same_seed_same_files_whatever_the_number_of_jobs(tmp_path):
    first = write_patient_folders(tmp_path / "one", **SMALL, tables="csv", draw=stand_in)
    with joblib.parallel_config(backend="threading"):
        second = write_patient_folders(tmp_path / "two", **SMALL, tables="csv", draw=stand_in, jobs=2)
    assert content(first) == content(second)
    excel = write_patient_folders(tmp_path / "excel", **SMALL, draw=stand_in)
    for name in ("clinical", "labels"):
        pd.testing.assert_frame_equal(
            pd.read_excel(excel / f"{name}.xlsx"), pd.read_csv(first / f"{name}.csv"), check_dtype=False
        )


def test_another_seed_gives_other_files(tmp_path):
    first = content(write_patient_folders(tmp_path / "one", 3, seed=0, tables="csv", draw=stand_in))
    second = content(write_patient_folders(tmp_path / "two", 3, seed=1, tables="csv", draw=stand_in))
    assert set(first) == set(second)
    same = {name for name in first if first[name] == second[name]}
    assert same <= {"README.txt", "labels.csv"}


def test_an_interrupted_cohort_leaves_nothing_behind(tmp_path):
    def fail(*_):
        raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        write_patient_folders(tmp_path / "cohort", **SMALL, draw=fail)
    assert list(tmp_path.iterdir()) == []


def test_the_same_cohort_is_not_written_twice(tmp_path, monkeypatch):
    (tmp_path / "cohort").mkdir()
    root = write_patient_folders(tmp_path / "cohort", **SMALL, draw=stand_in)
    assert (root / "truth.csv").is_file()
    monkeypatch.setattr(module, "_write_files", lambda *_: pytest.fail("written again"))
    assert write_patient_folders(root, **SMALL, draw=stand_in) == root
    with pytest.raises(DataError, match="other settings"):
        write_patient_folders(root, patients=7, seed=3, draw=stand_in)


def test_other_content_is_never_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and holds no simulated patients"):
        write_patient_folders(tmp_path, **SMALL, draw=stand_in)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="is a file"):
        write_patient_folders(tmp_path / "notes.txt", **SMALL, draw=stand_in)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"causes": ()}, "causes is"),
        ({"causes": ("luck",)}, "causes is .*luck"),
        ({"causes": ("image", "image")}, "causes is"),
        ({"prevalences": {"image": 0.5}}, "prevalences names image"),
        ({"missing": 1.2}, "missing is 1.2"),
        ({"abnormal_share": -0.1}, "abnormal_share is -0.1"),
        ({"borderline": 2.0}, "borderline is 2.0"),
        ({"prevalences": dict.fromkeys(CAUSES, 1.5)}, "prevalences is"),
        ({"signal_signs": ("cough",)}, "signal_signs is .*cough"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"tables": "ods"}, "tables is 'ods'"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_patient_folders(tmp_path / "cohort", **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []
