"""Made-up files in the layouts of EchoNext and of MIMIC-IV-ECG with MIMIC-IV-ECHO."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from common.errors import UserError
from datasets.cache import Cache
from datasets.ecg import LEADS
from datasets.sources import DataError
from load_data import main
from systems.ecg_cmr.samples import read_pairs
from systems.ecg_cmr.sources.echonext import METADATA, index_echonext
from systems.ecg_cmr.sources.mimic_echo import index_mimic

SMALL = ["--frames", "2", "--size", "16", "--jobs", "1"]


def waves(seed: int, points: int, rate: float) -> np.ndarray:
    """Return twelve leads with a beat a second, shape (points, 12)."""
    random = np.random.default_rng(seed)
    beat = np.exp(-(((np.arange(points) / rate) % 1 - 0.5) ** 2) / 0.0008)
    return beat[:, None] * random.uniform(0.5, 1.5, 12) + random.normal(0, 0.03, (points, 12))


# EchoNext -----------------------------------------------------------------------------------------------

ECGS = [
    # patient, ECG, split, age, sex, LVEF flag and value, wall flag, septum, AS flag and value, composite
    ("777001", "900001", "train", 61, "Male", 1, 38, 0, 1.1, 0, "none", 1),
    ("777001", "900002", "train", 62, "Male", 0, 55, 0, np.nan, 0, np.nan, 0),
    ("777002", "900003", "train", 90, "Female", 0, 0, 1, 1.4, 0, "none", 1),
    ("777003", "900004", "val", 45, "Female", 0, 60, 0, 0.9, 0, "mild", 0),
    ("777003", "900005", "no_split", 44, "Female", 1, 30, 0, 0.9, 0, "mild", 1),
    ("777004", "900006", "test", 130, "Male", 0, np.nan, 0, 0.8, 1, "severe", 1),
]
COLUMNS = ["patient_key", "ecg_key", "split", "age_at_ecg", "sex", "lvef_lte_45_flag", "lvef_value",
           "lvwt_gte_13_flag", "ivs_measurement", "aortic_stenosis_moderate_or_greater_flag",
           "aortic_stenosis_value", "shd_moderate_or_greater_flag"]  # fmt: skip


@pytest.fixture
def echonext(tmp_path) -> Path:
    root = tmp_path / "echonext"
    root.mkdir()
    table = pd.DataFrame(ECGS, columns=COLUMNS)
    table.to_csv(root / METADATA, index=False)
    for split in ("train", "val", "test", "no_split"):
        rows = np.flatnonzero(table["split"] == split)
        signals = np.stack([waves(int(row), 2500, 250) for row in rows])[:, None]
        np.save(root / f"EchoNext_{split}_waveforms.npy", signals)
    return root


def test_unmeasured_findings_are_missing_and_earlier_ecgs_of_tested_patients_dropped(echonext):
    index = index_echonext(echonext)
    assert len(index.recordings) == 5 and index.ecg_unit == "z-score" and index.restricted
    assert any("1 ECG of no_split are earlier ones" in problem.what for problem in index.problems)
    by_file = index.recordings.merge(index.targets, on="recording").set_index("ecg")
    train = by_file.loc[[f"EchoNext_train_waveforms.npy#{row}" for row in range(3)]]
    nan = np.nan
    np.testing.assert_array_equal(train["ejection_fraction"], [38, 55, nan])  # 0 is no value
    np.testing.assert_allclose(train["septal_thickness"], [11, nan, 14])  # cm to mm
    np.testing.assert_array_equal(train["disease_lvef_lte_45"], [1, 0, nan])
    np.testing.assert_array_equal(train["disease_lvwt_gte_13"], [0, nan, 1])
    np.testing.assert_array_equal(train["disease_aortic_stenosis_moderate_or_greater"], [0, nan, 0])
    np.testing.assert_array_equal(train["disease_shd_moderate_or_greater"], [1, nan, 1])
    np.testing.assert_array_equal(train["sex"], [0, 0, 1])
    tested = by_file.loc["EchoNext_test_waveforms.npy#0"]
    assert np.isnan(tested["age"]) and tested["disease_aortic_stenosis_moderate_or_greater"] == 1
    assert np.isnan(tested["disease_lvef_lte_45"]) and tested["official_fold"] == 10
    assert train["person"].nunique() == 2 and set(train["person"]).isdisjoint({tested["person"]})


def test_no_key_is_in_the_cache_and_the_signal_is_that_of_its_row(echonext, tmp_path):
    path = main(
        ["ecg-phenotypes", "--raw-dir", str(echonext), *SMALL, "--cache-dir", str(tmp_path / "cache")]
    )
    cache = Cache(path)
    text = "".join(file.read_text() for file in (*path.glob("*.csv"), path / "manifest.json"))
    assert "77700" not in text and "90000" not in text
    table = cache.table("recordings").set_index("signal")
    row = table.index.get_loc("EchoNext_train_waveforms.npy#1")
    expected = np.load(echonext / "EchoNext_train_waveforms.npy")[1, 0].T
    np.testing.assert_allclose(cache.array("ecg")[row], expected, atol=1e-4)
    samples = read_pairs(cache, ("ecg",), torch.device("cpu"))
    inputs = samples.describe_inputs()
    assert inputs["ecg_unit"] == "z-score" and samples.with_inputs(inputs)
    with pytest.raises(UserError, match="trained with ECGs in mV, and these are in z-score"):
        samples.with_inputs({name: value for name, value in inputs.items() if name != "ecg_unit"})


def test_without_the_value_a_finding_of_zero_says_nothing(echonext):
    table = pd.read_csv(echonext / METADATA).drop(columns=["lvef_value"])
    table.to_csv(echonext / METADATA, index=False)
    index = index_echonext(echonext)
    known = index.targets["disease_lvef_lte_45"].dropna()
    assert known.tolist() == [1.0] and "ejection_fraction" not in index.indicators
    assert any("no column lvef_value" in problem.what for problem in index.problems)


def test_files_that_do_not_fit_are_refused(echonext):
    np.save(echonext / "EchoNext_val_waveforms.npy", np.zeros((2, 1, 2500, 12)))
    with pytest.raises(DataError, match=r"shape \(2, 1, 2500, 12\), and .* lists 1 ECGs"):
        index_echonext(echonext)
    (echonext / "EchoNext_val_waveforms.npy").unlink()
    with pytest.raises(DataError, match=r"has no EchoNext_val_waveforms\.npy"):
        index_echonext(echonext)
    (echonext / METADATA).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column patient_key"):
        index_echonext(echonext)


# MIMIC --------------------------------------------------------------------------------------------------

RECORDS = [
    ("10000032", "40000001", "2180-07-23 08:44:00"),
    ("10000032", "40000002", "2180-09-23 08:44:00"),  # two months from any echocardiography
    ("10000048", "40000003", "2190-01-01 10:00:00"),
    ("10000055", "40000004", "2190-01-01 10:00:00"),  # never had one
]
MEASURED = [
    ("10000032", "2180-07-20 10:00:00", "lvef", "55", "%"),
    ("10000032", "2180-07-20 10:00:00", "tapse", "1.9", "cm"),
    ("10000032", "2180-07-24 10:00:00", "lvef", "35", "%"),
    ("10000032", "2180-07-24 10:00:00", "av_pk_vel", "1.2", "m/s"),
    ("10000048", "2190-01-01 12:00:00", "lvef", "0", "%"),
    ("10000048", "2190-01-01 12:00:00", "rv_function", "normal", ""),
    ("10000048", "2190-01-01 12:00:00", "av_pk_vel", "2.5", "m/s"),
]


@pytest.fixture
def mimic(tmp_path) -> Path:
    root = tmp_path / "files"
    ecgs, echos, people = root / "mimic-iv-ecg" / "1.0", root / "mimic-iv-echo" / "0.1", root / "hosp"
    for folder in (ecgs, echos, people):
        folder.mkdir(parents=True)
    rows = []
    for number, (subject, study, time) in enumerate(RECORDS):
        folder = ecgs / "files" / f"p{subject[:4]}" / f"p{subject}" / f"s{study}"
        folder.mkdir(parents=True)
        more = {"fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [0] * 12, "sig_name": list(LEADS)}
        signal = waves(number, 5000, 500)
        wfdb.wrsamp(study, 500, ["mV"] * 12, p_signal=signal, write_dir=str(folder), **more)
        path = (folder / study).relative_to(ecgs).as_posix()
        rows.append(
            {"subject_id": subject, "study_id": study, "file_name": study, "ecg_time": time, "path": path}
        )
    pd.DataFrame(rows).to_csv(ecgs / "record_list.csv", index=False)
    names = ["subject_id", "measurement_datetime", "measurement", "result", "unit"]
    found = pd.DataFrame(MEASURED, columns=names).assign(measurement_id=1, test_type="tte")
    found.to_csv(echos / "structured-measurement.csv.gz", index=False)
    people_rows = [("10000032", "F", 52, 2180), ("10000048", "M", 70, 2185)]
    table = pd.DataFrame(people_rows, columns=["subject_id", "gender", "anchor_age", "anchor_year"])
    table.to_csv(people / "patients.csv.gz", index=False)
    return root


def test_each_ecg_has_the_nearest_echocardiography_and_what_is_not_possible_is_missing(mimic):
    index = index_mimic(mimic, 30.0)
    table = index.recordings.merge(index.targets, on="recording")
    table["study"] = table["ecg"].str.extract(r"(\d+)\.hea")
    table = table.set_index("study")
    assert sorted(table.index) == ["40000001", "40000003"]
    first, second = table.loc["40000001"], table.loc["40000003"]
    assert first["ejection_fraction"] == 35, "a day later is nearer than three days before"
    assert np.isnan(second["ejection_fraction"]), "0 % is no ejection fraction"
    assert second["av_pk_vel (m/s)"] == 2.5 and index.others == ("av_pk_vel (m/s)",)
    assert (first["age"], first["sex"]) == (52, 1) and (second["age"], second["sex"]) == (75, 0)
    texts = " ".join(problem.what for problem in index.problems)
    assert "2 ECGs have no echocardiography within 30 days" in texts and "1 value of lvef (%)" in texts
    assert index.choices == {"echo_days": "30"}


def test_more_days_join_more_ecgs_of_one_person(mimic):
    index = index_mimic(mimic, 90.0)
    assert len(index.recordings) == 3 and index.recordings["person"].nunique() == 2


def test_centimetres_become_millimetres(mimic):
    """Of the earlier examination, when only that is near enough."""
    path = next(mimic.glob("*/*/record_list.csv"))
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "ecg_time"] = "2180-07-20 09:00:00"
    table.to_csv(path, index=False)
    index = index_mimic(mimic, 1.0)
    assert index.targets["tapse"].dropna().tolist() == [19.0]


def test_no_number_of_a_subject_leaves_the_cache_but_in_paths(mimic, tmp_path):
    options = ["--raw-dir", str(mimic), "--source", "mimic-echo", "--echo-days", "90", *SMALL]
    path = main(["ecg-phenotypes", *options, "--cache-dir", str(tmp_path / "cache")])
    cache = Cache(path)
    assert "10000032" not in (path / "samples.csv").read_text() + (path / "targets.csv").read_text()
    assert cache.manifest["restricted"] and "ecg_unit" not in cache.manifest
    assert cache.manifest["targets"]["indicators"] == ["ejection_fraction"]
    assert cache.manifest["targets"]["others"] == ["av_pk_vel (m/s)"]
    assert cache.table("samples")["session"].nunique() == 2


def test_a_folder_without_one_of_the_two_is_refused(mimic):
    next(mimic.glob("*/*/structured-measurement.csv.gz")).unlink()
    with pytest.raises(DataError, match=r"has no structured-measurement\.csv"):
        index_mimic(mimic, 30.0)
