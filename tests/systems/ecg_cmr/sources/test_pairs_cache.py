"""The cache of pairs: rows of all arrays and tables belong together, and nothing is made twice."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.cache import Cache
from datasets.ptbxl import index_ptbxl
from datasets.sources import DataError
from systems.ecg_cmr.prepare import PairCache
from systems.ecg_cmr.settings import PairSettings
from systems.ecg_cmr.sources.pair_modalities import prepare_pair
from systems.ecg_cmr.sources.pairs import ecg_only, index_pairs
from systems.ecg_cmr.sources.simulated import write_pairs

SETTINGS = PairSettings()
WITH_LONG_AXIS = PairSettings(long_axis=True)
NORMAL = "{'NORM': 100.0}"


def make(index, folder, settings=SETTINGS, **options):
    """Build a cache on one core and open it."""
    return Cache(PairCache(index, settings).build(folder, **({"jobs": 1, "progress": False} | options)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return six simulated patients: 0 lacks the ECG, 1 the cine, 2 the long axis, 3 one volume."""
    root = write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 6, seed=1)
    table = pd.read_csv(root / "pairs.csv", dtype=str, keep_default_na=False)
    table.loc[0, "ecg"] = table.loc[1, "cmr"] = table.loc[2, "long_axis"] = table.loc[3, "lv_edv"] = ""
    table.to_csv(root / "pairs.csv", index=False)
    return root


@pytest.fixture(scope="module")
def cached(written, tmp_path_factory):
    """Return the cache of these patients; not to be changed."""
    return make(index_pairs(written), tmp_path_factory.mktemp("cache"), WITH_LONG_AXIS)


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "pairs")


# What is in it --------------------------------------------------------------------------------------


def test_arrays_and_tables_have_a_row_for_each_patient(cached):
    samples = cached.table("samples")
    assert list(samples.columns) == [
        *["sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end"],
        *["has_ecg", "has_cmr", "has_long_axis", "official_fold"],
    ]
    assert samples["recording"].tolist() == [f"v0000{number}" for number in range(6)]
    assert samples["session"].tolist() == samples["person"].tolist() == samples["recording"].tolist()
    np.testing.assert_array_equal(samples["sample"], np.arange(6))
    assert samples["has_ecg"].tolist() == [0, 1, 1, 1, 1, 1]
    assert samples["has_cmr"].tolist() == [1, 0, 1, 1, 1, 1]
    assert samples["has_long_axis"].tolist() == [1, 1, 0, 1, 1, 1]
    assert samples["end"].tolist() == [0, 10, 10, 10, 10, 10]
    shapes = {"ecg": (12, 2500), "lead_present": (12,), "cmr": (16, 64, 64), "long_axis": (16, 64, 64)}
    for name, shape in shapes.items():
        array = cached.array(name)
        assert array.shape == (6, *shape)
        assert array.dtype == (np.float32 if name == "ecg" else np.uint8)
        there = np.asarray(array).reshape(6, -1).any(axis=1)
        view = "has_ecg" if name == "lead_present" else f"has_{name}"
        np.testing.assert_array_equal(there, samples[view] == 1)
    assert (cached.array("cmr")[2].min(), cached.array("cmr")[2].max()) == (0, 255)


def test_each_row_is_that_of_its_patient(cached, written):
    index = index_pairs(written)
    for number in (2, 5):
        row = index.recordings.loc[number].to_dict()
        found: Any = prepare_pair(row, root=written, settings=WITH_LONG_AXIS)
        np.testing.assert_array_equal(cached.array("ecg")[number], found.ecg)
        np.testing.assert_array_equal(cached.array("cmr")[number], found.cmr)


def test_targets_come_back_with_what_is_missing(cached, written):
    targets = cached.table("targets", missing=("",))
    named = cached.manifest["targets"]
    assert list(targets.columns) == [
        "recording",
        *named["indicators"],
        *named["diseases"],
        *named["covariates"],
    ]
    assert (len(named["indicators"]), len(named["diseases"])) == (14, 5)
    assert named["covariates"] == ["age", "sex", "height", "weight"]
    assert np.isnan(targets["lv_edv"][3])
    assert targets.drop(columns="lv_edv").notna().all().all()
    table = pd.read_csv(written / "pairs.csv")
    np.testing.assert_allclose(targets["ejection_fraction"], table["ejection_fraction"])
    assert set(targets.dtypes.iloc[1:].map(str)) == {"float64"}


def test_the_manifest_says_what_was_done_and_what_an_ecg_can_know(cached):
    manifest = cached.manifest
    assert manifest["settings"] == json.loads(json.dumps(dataclasses.asdict(WITH_LONG_AXIS)))
    assert manifest["ceilings"]["ejection_fraction"] == 0.30
    assert manifest["ceilings"]["blood_contrast"] == 0
    assert set(manifest["ceilings"]) == set(manifest["targets"]["indicators"])
    assert manifest["counts"] == {
        **{"recordings": 6, "sessions": 6, "persons": 6, "skipped": 2, "pairs": 4},
        **{"has_ecg": 5, "has_cmr": 5, "has_long_axis": 5},
    }
    assert manifest["leads"][6] == "V1"
    assert cached.simulated
    assert len(manifest["warnings"]) == 2
    assert {"pairs.csv", "ecg/v00003.dat", "cmr/v00003_sa.nii.gz"} <= set(manifest["source_files"])
    recordings = cached.table("recordings")
    assert recordings["cmr_frames"].tolist() == [24, 0, 24, 24, 24, 24]
    assert recordings["signal_sha256"][0] == ""


def test_settings_set_the_sizes(root, tmp_path):
    settings = PairSettings(ecg_rate=100.0, seconds=5.0, frames=8, size=32, pixel_spacing=4.4)
    cache = make(index_pairs(root), tmp_path / "cache", settings)
    assert cache.array("ecg").shape == (6, 12, 500)
    assert cache.array("cmr").shape == (6, 8, 32, 32)
    assert not (cache.path / "long_axis.npy").exists()
    assert not cache.table("samples")["has_long_axis"].any()
    assert not any("_la" in name for name in cache.manifest["source_files"])


def test_ptbxl_becomes_a_cache_of_ecgs(make_ptbxl, tmp_path):
    rows = [{"scp_codes": NORMAL, "strat_fold": 9}, {"scp_codes": "{'IMI': 1.0}", "patient_id": "8.0"}]
    cache = make(ecg_only(index_ptbxl(make_ptbxl(rows))), tmp_path / "cache")
    assert cache.path.name.startswith("ptbxl-ecg-")
    samples = cache.table("samples")
    assert samples["has_ecg"].tolist() == [1, 1]
    assert samples["has_cmr"].tolist() == [0, 0]
    assert samples["session"].tolist() == ["ptbxl-7", "ptbxl-8"]
    assert samples["official_fold"].tolist() == [9, 1]
    assert cache.array("cmr").shape == (2, 16, 64, 64)
    assert cache.array("lead_present").all()
    assert cache.table("targets", missing=("",))["disease_MI"].tolist() == [0, 1]


def test_a_real_part_of_ptbxl_can_be_prepared(ptbxl_dir, tmp_path):
    index = ecg_only(index_ptbxl(ptbxl_dir))
    few = dataclasses.replace(
        index, recordings=index.recordings.iloc[:8], targets=index.targets.iloc[:8], problems=[]
    )
    cache = make(few, tmp_path / "cache")
    assert np.abs(cache.array("ecg")).max(axis=(1, 2)).min() > 0.2


# The same, and not the same -------------------------------------------------------------------------


def test_the_same_again_computes_nothing(cached, written, monkeypatch):
    monkeypatch.setattr("datasets.cache.in_parallel", None)  # not callable: any use would fail
    assert make(index_pairs(written), cached.path.parent, WITH_LONG_AXIS).path == cached.path


@pytest.mark.parametrize(
    "changes",
    [{"ecg_rate": 500.0}, {"frames": 20}, {"size": 48}, {"pixel_spacing": 2.0}, {"center": "image"}],
)
def test_other_settings_get_another_folder(written, changes):
    index = index_pairs(written)
    others = dataclasses.replace(SETTINGS, **changes)
    assert PairCache(index, SETTINGS).identified[0] != PairCache(index, others).identified[0]


@pytest.mark.parametrize("name", ["pairs.csv", "ecg/v00002.dat", "ecg/v00002.hea", "cmr/v00002_sa.nii.gz"])
def test_a_changed_file_gets_another_folder(root, name):
    before = PairCache(index_pairs(root), SETTINGS).identified[0]
    with (root / name).open("ab") as file:
        file.write(b"\n")
    assert PairCache(index_pairs(root), SETTINGS).identified[0] != before


def test_the_long_axis_counts_where_it_is_read(root):
    index = index_pairs(root)
    before = [PairCache(index, settings).identified[0] for settings in (SETTINGS, WITH_LONG_AXIS)]
    (root / "cmr/v00001_la.nii.gz").write_bytes(b"other")
    after = [PairCache(index, settings).identified[0] for settings in (SETTINGS, WITH_LONG_AXIS)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_what_lies_beside_an_array_counts(tmp_path):
    root = write_pairs(tmp_path / "arrays", 1, kind="npy", long_axis=False)
    before = PairCache(index_pairs(root), SETTINGS).identified[0]
    (root / "ecg/v00000.json").write_text(json.dumps({"sampling_rate": 400}))
    assert PairCache(index_pairs(root), SETTINGS).identified[0] != before


def test_the_number_of_processes_changes_no_byte(cached, written, tmp_path):
    two = make(index_pairs(written), tmp_path, WITH_LONG_AXIS, jobs=2)
    assert names(two.path) == names(cached.path)
    for name in names(two.path):
        if name != "manifest.json":
            assert (two.path / name).read_bytes() == (cached.path / name).read_bytes(), name


# The same content twice -----------------------------------------------------------------------------


def test_the_same_files_under_two_names_stay_together(root, tmp_path):
    for ending in (".hea", ".dat"):
        shutil.copy(root / f"ecg/v00002{ending}", root / f"ecg/v00004{ending}")
    header = root / "ecg/v00004.hea"
    header.write_text(header.read_text().replace("v00002", "v00004"))
    shutil.copy(root / "cmr/v00003_sa.nii.gz", root / "cmr/v00005_sa.nii.gz")
    cache = make(index_pairs(root), tmp_path / "cache")
    sessions = cache.table("samples")["session"]
    assert sessions[2] == sessions[4] == "v00002+v00004"
    assert sessions[3] == sessions[5] == "v00003+v00005"
    assert sessions.nunique() == 4
    assert any(
        "v00002: Its signal is the same as that of v00004" in text for text in cache.manifest["warnings"]
    )


# What goes wrong ------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named_and_the_rest_is_used(root, tmp_path):
    (root / "cmr/v00000_sa.nii.gz").write_bytes(b"?")  # without an ECG anyway
    (root / "cmr/v00004_sa.nii.gz").write_bytes(b"?")
    cache = make(index_pairs(root), tmp_path / "cache")
    samples = cache.table("samples")
    assert samples["recording"].tolist() == ["v00001", "v00002", "v00003", "v00004", "v00005"]
    assert samples["has_cmr"].tolist() == [0, 1, 1, 0, 1]
    reasons = cache.table("skipped").set_index("recording")["reason"]
    assert sorted(reasons.index) == ["v00000", "v00001", "v00004"]
    assert reasons["v00000"].startswith("Neither ECG nor cine can be used.")
    assert "v00000_sa.nii.gz cannot be read" in reasons["v00000"]
    assert reasons["v00001"] == "It has no cine. It is used without cine."
    assert "v00004_sa.nii.gz cannot be read" in reasons["v00004"]
    assert "It is used without cine." in reasons["v00004"]
    assert not any("v00004_sa" in text for text in cache.manifest["warnings"])
    assert cache.manifest["counts"]["skipped"] == 3
    assert len(cache.array("ecg")) == len(cache.array("cmr")) == len(cache.table("targets")) == 5


def test_strict_stops_at_what_would_be_left_out_and_leaves_nothing(root, tmp_path):
    (root / "cmr/v00000_sa.nii.gz").write_bytes(b"?")
    with pytest.raises(DataError, match=r"v00000: Neither ECG nor cine.*stopped by --strict"):
        make(index_pairs(root), tmp_path / "cache", strict=True)
    assert names(tmp_path / "cache") == []


def test_strict_minds_a_damaged_view_and_no_empty_cell(root, tmp_path):
    index = index_pairs(root)  # two cells of it are empty
    assert make(index, tmp_path / "cache", strict=True).path == make(index, tmp_path / "cache").path
    assert make(index, tmp_path / "cache", strict=True).manifest["counts"]["skipped"] == 2
    (root / "cmr/v00004_sa.nii.gz").write_bytes(b"?")
    with pytest.raises(DataError, match=r"v00004: .*used without cine.*stopped by --strict"):
        make(index_pairs(root), tmp_path / "cache", strict=True)
    make(index_pairs(root), tmp_path / "cache")
    with pytest.raises(DataError, match=r"v00004: .*used without cine.*stopped by --strict"):
        make(index_pairs(root), tmp_path / "cache", strict=True)
    (root / "cmr/v00004_sa.nii.gz").unlink()
    with pytest.raises(DataError, match=r"v00004: .*does not exist.*stopped by --strict"):
        make(index_pairs(root), tmp_path / "cache", strict=True)


def test_nothing_usable_is_an_error_and_leaves_nothing(root, tmp_path):
    index = index_pairs(root)
    shutil.rmtree(root / "ecg")
    shutil.rmtree(root / "cmr")
    with pytest.raises(DataError, match=r"No patient .* v00000: Neither ECG nor cine can be used"):
        make(index, tmp_path / "cache")
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ecg_rate": 0.0}, "hold no sample"),
        ({"seconds": -1.0}, "hold no sample"),
        ({"size": 8}, "too small: use 2 frames and 16 pixels"),
        ({"frames": 1}, "too small"),
        ({"pixel_spacing": 0.0}, "must be positive"),
        ({"percentiles": (99.0, 1.0)}, "0 to 100, rising"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_done(written, tmp_path, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        make(index_pairs(written), tmp_path / "cache", dataclasses.replace(SETTINGS, **changes))
    assert not (tmp_path / "cache").exists()
