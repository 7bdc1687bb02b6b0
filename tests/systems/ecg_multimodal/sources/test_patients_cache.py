"""The cache of patients: rows of all arrays and tables belong together, and nothing is made twice."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from datasets.cache import Cache, CacheWriter, find_cache
from datasets.ecg import prepare_signal, read_ecg
from datasets.patients import SUPERCLASSES
from datasets.ptbxl import index_ptbxl
from datasets.sources import DataError
from systems.ecg_multimodal import prepare as cache_module
from systems.ecg_multimodal.prepare import PatientCache
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.folders import index_patient_folders

SETTINGS = ModalitySettings()
NORMAL, INFARCT = "{'NORM': 100.0}", "{'IMI': 100.0, 'LVH': 15.0}"


def make(index, folder, settings=SETTINGS, **options):
    """Build a cache on one core and open it."""
    return Cache(PatientCache(index, settings).build(folder, **({"jobs": 1, "progress": False} | options)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def patients(make_patients):
    """Return an index of six patients: 1 without picture, 2 without signal, 3 without clinical values."""
    root = make_patients()
    shutil.rmtree(root / "images/1")
    signals = (root / "ecg_signals.csv").read_text().splitlines(keepends=True)
    (root / "ecg_signals.csv").write_text("".join(signals[:1] + signals[2:]))
    clinical = (root / "clinical.csv").read_text().splitlines(keepends=True)
    clinical[4] = "4,,1,170.5,,120,80,0\n"
    (root / "clinical.csv").write_text("".join(clinical[:3] + clinical[4:]))
    return index_patient_folders(root)


# What is in it --------------------------------------------------------------------------------------


def test_arrays_and_tables_have_a_row_for_each_patient(patients, tmp_path):
    cache = make(patients, tmp_path / "cache")
    samples, signals, images = cache.table("samples"), cache.array("signals"), cache.array("images")
    assert samples["recording"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert (signals.shape, signals.dtype) == ((6, 1, 1000), np.float32)
    assert (images.shape, images.dtype) == ((6, 64, 640), np.uint8)
    assert isinstance(signals, np.memmap)
    assert isinstance(images, np.memmap)
    np.testing.assert_array_equal(samples["has_image"], [0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(samples["has_signal"], [1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(samples["has_clinical"], [1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(images.any(axis=(1, 2)), samples["has_image"] == 1)
    np.testing.assert_array_equal(signals.any(axis=(1, 2)), samples["has_signal"] == 1)
    heights = signals[:, 0].max(axis=1)  # patient k has spikes of 0.5 + k / 10 mV
    np.testing.assert_allclose(heights[[0, 2, 3, 4, 5]], [0.6, 0.8, 0.9, 1.0, 1.1], atol=0.02)
    assert list(samples.columns) == [
        *["sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end"],
        *["official_fold", "has_image", "has_signal", "has_clinical"],
    ]
    np.testing.assert_array_equal(samples["sample"], np.arange(6))
    np.testing.assert_array_equal(samples["end"], [9.904, 0, 9.904, 9.904, 9.904, 9.904])


def test_missing_clinical_values_come_back_as_missing(patients, tmp_path):
    clinical = make(patients, tmp_path / "cache").table("clinical", missing=("",))
    assert clinical["recording"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert set(clinical.dtypes.iloc[1:].map(str)) == {"float64"}
    assert clinical.isna().sum(axis=1).tolist() == [0, 0, 7, 2, 0, 0]
    pd.testing.assert_frame_equal(clinical, patients.clinical)


def test_recordings_say_where_each_view_came_from_and_what_is_wrong_with_it(patients, tmp_path):
    cache = make(patients, tmp_path / "cache")
    recordings = cache.table("recordings")
    assert recordings["image"].iloc[1] == "images/2/002ECG_lead2.jpg"
    assert recordings["ecg_rate"].tolist() == [250, 0, 250, 250, 250, 250]
    assert recordings["sha256"].nunique() == 6
    assert recordings["sha256"].str.len().eq(64).all()
    assert (recordings["sha256"][1], recordings["signal_sha256"][1]) == (recordings["image_sha256"][1], "")
    manifest = cache.manifest
    assert manifest["counts"] == {
        **{"recordings": 6, "sessions": 6, "persons": 6, "abnormal_recordings": 3, "skipped": 0},
        **{"has_image": 5, "has_signal": 5, "has_clinical": 5},
    }
    assert manifest["views"]["clinical"] == list(patients.clinical.columns[1:])
    assert manifest["session_unit"] == {"patients": "person"}
    assert len(manifest["warnings"]) == 3
    assert manifest["settings"] == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    assert {"labels.csv", "images/2/002ECG_lead2.jpg"} <= set(manifest["source_files"])


def test_superclasses_reach_the_samples(make_ptbxl, tmp_path):
    rows = [{"scp_codes": NORMAL, "strat_fold": 9}, {"scp_codes": INFARCT, "patient_id": "8.0"}]
    root = make_ptbxl(rows)
    cache = make(index_ptbxl(root), tmp_path / "cache")
    samples = cache.table("samples")
    assert samples[list(SUPERCLASSES)].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1]]
    assert samples["official_fold"].tolist() == [9, 1]
    assert samples["session"].tolist() == ["7", "8"]
    ecg = read_ecg(root / "records100/00002_lr.hea", root, ("V6", "I"))
    np.testing.assert_array_equal(
        cache.array("signals")[1][[11, 0]], prepare_signal(ecg.samples, 100.0, 100.0, 10.0)
    )
    assert cache.array("images").any(axis=(1, 2)).all()
    assert cache.manifest["views"]["drawn"]


def test_names_of_digits_stay_text(make_patients, tmp_path):
    root = make_patients()
    cache = make(index_patient_folders(root), tmp_path / "cache")
    for name in ("samples", "recordings", "clinical"):
        assert cache.table(name)["recording"].tolist() == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("changes", "signals", "images"),
    [
        ({"signal_rate": 50.0, "seconds": 4.0}, (200,), (64, 640)),
        ({"image_width": 320}, (1000,), (32, 320)),
        ({"sheet": True, "image_width": 400}, (1000,), (160, 400)),
    ],
)
def test_settings_set_the_sizes(make_ptbxl, tmp_path, changes, signals, images):
    index = index_ptbxl(make_ptbxl([{"scp_codes": NORMAL}]))
    cache = make(index, tmp_path / "cache", dataclasses.replace(SETTINGS, **changes))
    assert cache.array("signals").shape == (1, 12, *signals)
    assert cache.array("images").shape == (1, *images)


# The same, and not the same -------------------------------------------------------------------------


def test_the_same_again_computes_nothing(patients, tmp_path, monkeypatch):
    first = make(patients, tmp_path / "cache")
    times = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    monkeypatch.setattr("datasets.cache.in_parallel", None)  # not callable: any use would fail
    again = make(patients, tmp_path / "cache")
    assert again.path == first.path
    assert {path.name: path.stat().st_mtime_ns for path in again.path.iterdir()} == times
    assert find_cache(None, tmp_path / "cache", first.identity).path == first.path


@pytest.mark.parametrize(
    "changes",
    [
        {"signal_rate": 50.0},
        {"seconds": 5.0},
        {"image_width": 320},
        {"sheet": True},
        {"noise": 0.1},
        {"text": "x"},
    ],
)
def test_other_settings_get_another_folder(patients, changes):
    others = dataclasses.replace(SETTINGS, **changes)
    assert PatientCache(patients, SETTINGS).identified[0] != PatientCache(patients, others).identified[0]


@pytest.mark.parametrize(
    "name", ["labels.csv", "clinical.csv", "ecg_signals.csv", "images/4/004ECG_lead2.jpg"]
)
def test_a_changed_file_gets_another_folder(patients, name):
    before = PatientCache(patients, SETTINGS).identified[0]
    with (patients.root / name).open("ab") as file:
        file.write(b"\n")
    assert PatientCache(index_patient_folders(patients.root), SETTINGS).identified[0] != before


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "records100/00001_lr.dat", "records100/00001_lr.hea"])
def test_a_changed_record_gets_another_folder(make_ptbxl, name):
    root = make_ptbxl([{"scp_codes": NORMAL}])
    before = PatientCache(index_ptbxl(root), SETTINGS).identified[0]
    content = (root / name).read_bytes()
    (root / name).write_bytes(content.replace(b"70.0", b"71.0") if name.endswith("csv") else content + b"\n")
    assert PatientCache(index_ptbxl(root), SETTINGS).identified[0] != before


def test_choices_count_and_the_place_and_other_files_do_not(make_patients, tmp_path):
    root = make_patients()
    before = PatientCache(index_patient_folders(root), SETTINGS).identified[0]
    (root / "notes.txt").write_text("nothing")
    moved = shutil.copytree(root, tmp_path / "moved")
    assert PatientCache(index_patient_folders(moved), SETTINGS).identified[0] == before
    assert PatientCache(index_patient_folders(root, 500.0), SETTINGS).identified[0] != before


def test_the_number_of_processes_changes_no_byte(patients, tmp_path):
    one, two = (make(patients, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert names(one.path) == names(two.path)
    for name in names(one.path):
        if name != "manifest.json":
            assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name


# The same content twice -----------------------------------------------------------------------------


def copy_record(root, source, target):
    shutil.copy(root / f"records100/0000{source}_lr.dat", root / f"records100/0000{target}_lr.dat")


def test_copies_of_a_signal_share_a_session_and_are_named(make_ptbxl, tmp_path):
    rows = [{"scp_codes": NORMAL, "patient_id": f"{number}.0"} for number in range(1, 4)]
    root = make_ptbxl(rows)
    copy_record(root, 1, 3)
    cache = make(index_ptbxl(root), tmp_path / "cache")
    assert cache.table("samples")["session"].tolist() == ["1+3", "2", "1+3"]
    assert cache.table("samples")["person"].tolist() == ["1", "2", "3"]
    assert cache.manifest["warnings"] == ["1: Its signal is the same as that of 3 (another patient)."]
    assert cache.manifest["counts"]["sessions"] == 2


def test_a_copy_of_a_test_record_is_not_trained_on(make_ptbxl, tmp_path):
    folds = {1: 5, 2: 5, 3: 10}
    rows = [
        {"scp_codes": NORMAL, "patient_id": f"{number}.0", "strat_fold": fold}
        for number, fold in folds.items()
    ]
    root = make_ptbxl(rows)
    copy_record(root, 1, 3)
    cache = make(index_ptbxl(root), tmp_path / "cache")
    assert cache.table("samples")["recording"].tolist() == ["2", "3"]
    assert cache.table("samples")["session"].tolist() == ["2", "3"]
    assert cache.table("skipped")["recording"].tolist() == ["1"]
    again = make(index_ptbxl(root), tmp_path / "cache")
    assert again.path == cache.path


# What goes wrong ------------------------------------------------------------------------------------


def test_what_is_spoilt_meanwhile_is_named_and_the_rest_is_used(patients, tmp_path):
    for name in ("2/002", "4/004"):
        (patients.root / f"images/{name}ECG_lead2.jpg").write_bytes(b"?")
    # 2 has no signal and, without its clinical values, nothing is left of it
    values = patients.clinical.astype({"recording": str})
    values.iloc[1, 1:] = np.nan
    cache = make(dataclasses.replace(patients, clinical=values), tmp_path / "cache")
    assert cache.table("samples")["recording"].tolist() == ["1", "3", "4", "5", "6"]
    skipped = cache.table("skipped")
    assert skipped["recording"].tolist() == ["2"]
    assert (
        "None of its views can be used. The picture 002ECG_lead2.jpg cannot be read" in skipped["reason"][0]
    )
    assert sum("004ECG_lead2.jpg cannot be read" in warning for warning in cache.manifest["warnings"]) == 1
    assert len(cache.array("images")) == len(cache.array("signals")) == len(cache.table("clinical")) == 5


def test_a_record_that_cannot_be_read_is_left_out_where_all_comes_from_it(make_ptbxl, tmp_path):
    root = make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": INFARCT}, {"scp_codes": "{}"}])
    (root / "records100/00001_lr.dat").write_bytes(b"half")
    index = index_ptbxl(root)
    cache = make(index, tmp_path / "cache")
    assert cache.table("samples")["recording"].tolist() == ["2"]
    assert sorted(cache.table("skipped")["recording"]) == ["1", "3"]
    assert set(cache.table("skipped")["remedy"]) >= {"Mend or remove the recording, then prepare again."}


def test_strict_stops_at_what_would_be_left_out(make_ptbxl, tmp_path):
    root = make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": "{}"}])
    with pytest.raises(DataError, match=r"2: It has no diagnostic superclass.*stopped by --strict"):
        make(index_ptbxl(root), tmp_path / "cache", strict=True)
    good = make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": NORMAL}], tmp_path / "good")
    (good / "records100/00002_lr.dat").write_bytes(b"half")
    with pytest.raises(DataError, match=r"2: .*stopped by --strict"):
        make(index_ptbxl(good), tmp_path / "cache", strict=True)
    assert not (tmp_path / "cache").exists() or names(tmp_path / "cache") == []


def test_strict_lets_missing_views_pass(patients, tmp_path):
    assert make(patients, tmp_path / "cache", strict=True).manifest["counts"]["recordings"] == 6


def test_nothing_usable_is_an_error_and_leaves_nothing(make_ptbxl, tmp_path):
    root = make_ptbxl([{"scp_codes": NORMAL}])
    (root / "records100/00001_lr.dat").write_bytes(b"half")
    with pytest.raises(DataError, match=r"No patient .* 1: The signal file 00001_lr.dat is cut short"):
        make(index_ptbxl(root), tmp_path / "cache")
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("home", "where"),
    [(cache_module, "prepare_patient"), (CacheWriter, "_manifest"), (PatientCache, "_tables")],
)
def test_a_failure_half_way_leaves_nothing_and_the_next_attempt_works(
    patients, tmp_path, monkeypatch, home, where
):
    original = getattr(home, where)
    calls = []

    def failing(*arguments, **options):
        calls.append(where)
        if where != "prepare_patient" or len(calls) == 4:
            assert len(names(tmp_path / "cache")) == 1  # an unfinished folder
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(home, where, failing)
    with pytest.raises(KeyboardInterrupt):
        make(patients, tmp_path / "cache")
    assert names(tmp_path / "cache") == []
    monkeypatch.undo()
    assert len(make(patients, tmp_path / "cache").table("samples")) == 6


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"signal_rate": 0.0}, "hold no sample"),
        ({"seconds": -1.0}, "hold no sample"),
        ({"image_width": 100}, "too small: use 160"),
        ({"shadow": 2.0}, "The shadow is 2.0"),
        ({"noise": -0.1}, "the noise -0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_done(patients, tmp_path, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        make(patients, tmp_path / "cache", dataclasses.replace(SETTINGS, **changes))
    assert not (tmp_path / "cache").exists()


def test_an_array_or_table_of_another_task_is_reported(patients, tmp_path):
    cache = make(patients, tmp_path / "cache")
    with pytest.raises(DataError, match=r"has no beats_ecg\.npy: it was prepared for another task"):
        cache.beats("ecg")
    with pytest.raises(DataError, match=r"has no events\.csv"):
        cache.table("events")


# Real records ---------------------------------------------------------------------------------------


def test_ten_real_records_are_prepared_as_they_are(ptbxl_dir, tmp_path):
    index = index_ptbxl(ptbxl_dir, 500)
    few = dataclasses.replace(index, recordings=index.recordings.iloc[:10], clinical=index.clinical.iloc[:10])
    cache = make(few, tmp_path)
    signals, images = cache.array("signals"), cache.array("images")
    assert signals.shape == (10, 12, 1000)
    # Einthoven: II = I + III, to the precision of the files, before and after resampling
    np.testing.assert_allclose(signals[:, 1], signals[:, 0] + signals[:, 2], atol=0.01)
    assert (np.ptp(signals, axis=2) > 0.1).all()
    assert ((images > 60).any(axis=1).mean(axis=1) > 0.95).all()  # a trace in nearly every column
    assert (np.median(images.reshape(10, -1), axis=1) == 0).all()
