"""One's own pairs: what is read, and that every fault is named in one run while the rest is used."""

import csv
import json

import nibabel
import numpy as np
import pytest

from datasets.ptbxl import index_ptbxl
from datasets.sources import DataError, MissingModality, Problem
from simulation.physiology import CEILINGS
from systems.ecg_cmr.prepare import PairCache
from systems.ecg_cmr.settings import PairSettings
from systems.ecg_cmr.sources.cmr_files import read_cine
from systems.ecg_cmr.sources.pair_modalities import prepare_pair, read_leads
from systems.ecg_cmr.sources.pairs import ecg_only, index_pairs
from systems.ecg_cmr.sources.simulated import write_pairs
from systems.ecg_multimodal.sources.folders import index_patient_folders

SETTINGS = PairSettings(long_axis=True)
INDICATORS = ("lv_edv", "lv_mass", "wall_thickness", "la_volume", "ejection_fraction", "rv_edv",
              "blood_contrast", "lv_esv", "stroke_volume", "rv_esv", "rv_ejection_fraction",
              "longitudinal_strain", "circumferential_strain", "radial_strain")  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder of five simulated patients; not to be changed."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 5, seed=3)


@pytest.fixture
def root(written, tmp_path):
    """Return a folder of its own for each test, its files linked as long as nobody changes them."""
    copy = tmp_path / "pairs"
    for path in sorted(written.rglob("*")):
        place = copy / path.relative_to(written)
        if path.is_dir():
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return copy


def table_of(root):
    with (root / "pairs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save(root, rows):
    with (root / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def change(root, number, **cells):
    rows = table_of(root)
    rows[number] |= cells
    save(root, rows)


def reported(problems, where):
    """Return what is said about one patient or file."""
    return " ".join(problem.what for problem in problems if problem.where == where)


def prepared(row, root, settings=SETTINGS):
    return prepare_pair(row, root=root, settings=settings)


def run(path):
    return nibabel.load(path)


# What is read ---------------------------------------------------------------------------------------


def test_a_good_table_is_read_without_complaint(root):
    index = index_pairs(root)
    assert index.problems == []
    table = index.recordings
    assert table["recording"].tolist() == [f"v0000{number}" for number in range(5)]
    assert table["person"].tolist() == table["recording"].tolist()
    assert set(table["label"]) == {0}
    assert table["ecg"][2] == "ecg/v00002.hea"
    assert table["cine"][2] == "cmr/v00002_sa.nii.gz"
    assert table["long_axis"][2] == "cmr/v00002_la.nii.gz"
    assert (table["first_frame"] == 0).all()
    assert index.indicators == INDICATORS
    assert index.diseases == (
        *("disease_dilated", "disease_hypertrophic", "disease_restrictive", "disease_infarction"),
        "disease_pulmonary_hypertension",
    )
    assert index.covariates == ("age", "sex", "height", "weight")
    assert list(index.targets.columns) == [
        "recording",
        *index.indicators,
        *index.diseases,
        *index.covariates,
    ]
    assert (index.name, index.files, index.simulated) == ("pairs", ["pairs.csv"], True)
    assert index.ceilings["ejection_fraction"] == CEILINGS["ejection_fraction"]
    assert PairCache(index, SETTINGS).check_files(jobs=1) == []


def test_columns_of_covariates_have_many_names_and_others_keep_theirs(root):
    rows = table_of(root)
    names = {
        "age": "Age (years)",
        "sex": "Gender",
        "height": "Height_cm",
        "disease_dilated": "Disease_Dilated",
    }
    renamed = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    for row in renamed:
        row["Gender"] = "F" if row["Gender"] == "1.0" else "male"
        row["T1 (ms)"] = "1000"
    save(root, renamed)
    index = index_pairs(root)
    assert index.covariates == ("age", "sex", "height", "weight")
    assert index.indicators == INDICATORS and index.others == ("T1 (ms)",)
    assert "disease_dilated" in index.diseases
    assert index.targets["sex"].tolist() == [float(row["sex"]) for row in rows]


def test_a_covariate_in_another_unit_is_another_column(root):
    before, rows = index_pairs(root).choices, table_of(root)
    save(root, [{key.replace("height", "height (in)"): value for key, value in row.items()} for row in rows])
    index = index_pairs(root)
    assert index.covariates == ("age", "sex", "weight") and index.others == ("height (in)",)
    assert index.choices == before | {"units": "stated"}


def test_without_the_mark_of_a_simulation_patients_are_real(root):
    (root / "simulation.json").unlink()
    index = index_pairs(root)
    assert not index.simulated
    assert index.ceilings == {}


def test_arrays_give_what_files_give(root, tmp_path):
    arrays = write_pairs(tmp_path / "arrays", 2, seed=3, kind="npy")
    index, other = index_pairs(root), index_pairs(arrays)
    assert other.problems == []
    for number in range(2):
        one, two = (
            prepared(found.recordings.loc[number].to_dict(), root=found.root, settings=SETTINGS)
            for found in (index, other)
        )
        np.testing.assert_allclose(one.ecg, two.ecg, atol=0.002)
        for view in ("cmr", "long_axis"):
            assert np.abs(getattr(one, view).astype(int) - getattr(two, view)).max() <= 2
        assert one.lead_present.all()
        assert two.row["ecg_rate"] == 500


def test_what_the_table_says_of_frames_is_kept(root):
    change(root, 1, diagnosis="none", patient="7")
    rows = [row | {"ed_frame": "1", "official_fold": "9"} for row in table_of(root)]
    rows[1] |= {"ed_frame": "4", "official_fold": "11"}
    save(root, rows)
    index = index_pairs(root)
    named = index.recordings.set_index("recording")
    assert named.loc["7", "first_frame"] == 3
    assert named["official_fold"].tolist() == [0, 9, 9, 9, 9]
    assert "official_fold 11 is not possible" in reported(index.problems, "7")
    pairs = [
        prepared(dict(row) | {"first_frame": first}, root=root, settings=SETTINGS)
        for row in [index.recordings.iloc[0]]
        for first in (0, 3)
    ]
    # frame 3 of 24 is a phase of one eighth: two of sixteen frames later
    np.testing.assert_array_equal(np.roll(pairs[0].cmr, -2, axis=0), pairs[1].cmr)


# What goes wrong ------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_named_in_one_table_and_the_rest_is_used(root):
    """A pair without ECG, a damaged ECG, a cine cut short, one with NaN, a missing one, a wrong number."""
    (root / "ecg/v00000.hea").unlink()
    (root / "ecg/v00001.dat").write_bytes(b"half")
    content = (root / "cmr/v00002_sa.nii.gz").read_bytes()
    (root / "cmr/v00002_sa.nii.gz").write_bytes(content[: len(content) // 2])
    image = run(root / "cmr/v00003_sa.nii.gz")
    data = image.get_fdata().astype(np.float32)
    data[40, 40, 0, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(data, image.affine), root / "cmr/v00003_sa.nii.gz")
    change(root, 4, cmr="cmr/nothing.nii.gz", lv_edv="large")
    index = index_pairs(root)
    problems = PairCache(index, SETTINGS).check_files(jobs=1)
    assert [problem.where for problem in problems if not problem.left_out] == ["v00004"]  # the number
    views = [problem.where for problem in problems if isinstance(problem, MissingModality)]
    assert sorted(views) == [f"v0000{number}" for number in range(5)]
    assert "'ecg/v00000.hea' does not exist. It is used without ECG." in reported(problems, "v00000")
    assert "v00001" in reported(problems, "v00001")
    assert "used without ECG" in reported(problems, "v00001")
    assert "v00002_sa.nii.gz cannot be read: it is damaged or cut short" in reported(problems, "v00002")
    assert "v00003_sa.nii.gz holds 1 values that are no numbers" in reported(problems, "v00003")
    assert "'cmr/nothing.nii.gz' does not exist. It is used without cine." in reported(problems, "v00004")
    assert "lv_edv 'large' is no number" in reported(problems, "v00004")
    assert len(problems) == 6
    assert index.recordings["recording"].tolist() == [f"v0000{number}" for number in range(5)]
    assert np.isnan(index.targets["lv_edv"][4])
    found = [prepared(row, root=root, settings=SETTINGS) for row in index.recordings.to_dict("records")]
    assert [item.ecg is not None for item in found] == [False, False, True, True, True]
    assert [item.cmr is not None for item in found] == [True, True, False, False, False]
    assert all(item.long_axis is not None for item in found)


def test_a_patient_of_whom_nothing_is_left_is_left_out(root):
    change(root, 0, ecg="", cmr="-")
    change(root, 1, ecg="ecg/none", cmr="cmr/none.nii")
    index = index_pairs(root)
    assert index.recordings["recording"].tolist() == ["v00002", "v00003", "v00004"]
    assert "It has no ECG. It has no cine. Nothing of it can be used." in reported(index.problems, "v00000")
    assert "'ecg/none' does not exist" in reported(index.problems, "v00001")
    assert [problem.left_out for problem in index.problems] == [True, True]
    (root / "ecg/v00002.dat").write_bytes(b"")
    (root / "cmr/v00002_sa.nii.gz").write_bytes(b"")
    problem = prepared(index.recordings.loc[0].to_dict(), root=root, settings=SETTINGS)
    assert isinstance(problem, Problem)
    assert problem.what.startswith("Neither ECG nor cine can be used. ")


def test_patients_listed_twice_are_left_out_and_named(root):
    rows = table_of(root)
    save(root, [*rows, rows[1]])
    index = index_pairs(root)
    assert "v00001" not in set(index.recordings["recording"])
    assert "occurs 2 times in pairs.csv (rows 3, 7)" in reported(index.problems, "v00001")


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({"disease_dilated": "2"}, "disease_dilated is 2, neither 0 nor 1"),
        ({"sex": "3"}, "sex 3 is not possible"),
        ({"age": "250"}, "age 250 is not possible"),
        ({"weight": "heavy"}, "weight 'heavy' is no number"),
        ({"ecg": "../ecg/v00000.hea"}, "outside the folder"),
        ({"cmr": "/tmp/cine.nii.gz"}, "outside the folder"),
        ({"cmr": "pairs.csv"}, "neither NIfTI"),
        ({"ecg": ""}, "It has no ECG. It is used without ECG."),
        ({"long_axis": "cmr/no.nii"}, "used without long axis"),
    ],
)
def test_one_wrong_cell_is_named_and_the_patient_kept(root, cells, sentence):
    change(root, 3, **cells)
    index = index_pairs(root)
    assert sentence in reported(index.problems, "v00003")
    assert len(index.problems) == 1
    assert len(index.recordings) == 5
    for name in set(cells) - {"ecg", "cmr", "long_axis"}:
        assert np.isnan(index.targets[name][3])


def test_a_link_out_of_the_folder_is_not_followed(root, tmp_path):
    (tmp_path / "elsewhere.nii.gz").write_bytes((root / "cmr/v00000_sa.nii.gz").read_bytes())
    (root / "cmr/v00000_sa.nii.gz").unlink()
    (root / "cmr/v00000_sa.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    assert "outside the folder" in reported(index_pairs(root).problems, "v00000")


def test_columns_without_numbers_or_twice_are_not_used(root):
    rows = [row | {"hospital": "north", "Gender": "0", "label": "1"} for row in table_of(root)]
    save(root, rows)
    index = index_pairs(root)
    assert index.indicators == INDICATORS
    assert "'hospital' holds no number" in reported(index.problems, "pairs.csv")
    assert "'Gender' repeats 'sex'" in reported(index.problems, "pairs.csv")
    assert len(index.problems) == 2


def test_a_class_called_none_counts_as_not_known_and_is_named(root):
    severity = ("none", "mild", "severe")
    rows = [row | {"class_severity": severity[number % 3]} for number, row in enumerate(table_of(root))]
    save(root, rows)
    index = index_pairs(root)
    count = sum(row["class_severity"] == "none" for row in rows)
    assert f"{count} cells of the column 'class_severity' say none" in reported(index.problems, "pairs.csv")
    assert np.isnan(index.targets["class_severity"]).sum() == count


def test_without_a_table_or_its_columns_nothing_is_indexed(root, tmp_path):
    rows = [{key: value for key, value in row.items() if key not in ("ecg", "cmr")} for row in table_of(root)]
    save(root, rows)
    with pytest.raises(DataError, match="neither a column ecg nor a column cmr"):
        index_pairs(root)
    with pytest.raises(DataError, match=r"has no pairs\.csv with the columns"):
        index_pairs(tmp_path / "nowhere")


def test_a_table_without_any_number_is_enough(root):
    save(root, [{key: row[key] for key in ("patient", "ecg", "cmr")} for row in table_of(root)])
    index = index_pairs(root)
    assert (index.indicators, index.diseases, index.covariates) == ((), (), ())
    assert list(index.targets.columns) == ["recording"]


# Unusual cines --------------------------------------------------------------------------------------


def test_unusual_cines_come_out_as_the_usual_one(root):
    """Turned, mirrored, in a stack of slices, with twice the frames: the same picture, and named."""
    path = root / "cmr/v00001_sa.nii.gz"
    row = index_pairs(root).recordings.loc[1].to_dict()
    usual = prepared(row, root=root, settings=SETTINGS).cmr
    image = run(path)
    data = np.asarray(image.dataobj)
    stacked = np.concatenate([np.zeros_like(data), data, np.zeros_like(data)], axis=2)
    twice = nibabel.Nifti1Image(np.repeat(stacked, 2, axis=3), image.affine)
    turned = twice.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
    nibabel.save(turned, path)
    found = prepared(row, root=root, settings=SETTINGS)
    phases = np.abs(found.cmr.astype(int) - usual).mean(axis=(1, 2))
    assert phases[0] < 1  # the percentiles of brightness differ a little
    assert phases.mean() < 6
    assert found.row["cmr_slices"] == 3
    assert found.row["cmr_frames"] == 48
    assert "axis, the shortest, is taken for that of the slices" in reported(found.problems, "v00001")


def test_another_spacing_shows_the_same_heart(root):
    path = root / "cmr/v00001_sa.nii.gz"
    row = index_pairs(root).recordings.loc[1].to_dict()
    usual = prepared(row, root=root, settings=SETTINGS).cmr.astype(float)
    cine = read_cine(path)
    coarse = cine.frames[:, :, ::2].transpose(2, 1, 0)[:, :, None]
    affine = run(path).affine @ np.diag([2.0, 1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(coarse, affine), path)
    found = prepared(row, root=root, settings=SETTINGS)
    assert "not square" in reported(found.problems, "v00001")
    assert np.corrcoef(found.cmr.ravel(), usual.ravel())[0, 1] > 0.95


def test_an_end_diastole_behind_the_last_frame_is_reported(root):
    row = index_pairs(root).recordings.loc[0].to_dict() | {"first_frame": 24}
    found = prepared(row, root=root, settings=SETTINGS)
    assert found.cmr is None
    assert "end-diastole is frame 25, and there are 24" in reported(found.problems, "v00000")


# ECGs -----------------------------------------------------------------------------------------------


def ecg_array(root, samples, sidecar=None):
    path = root / "ecg/own.npy"
    np.save(path, samples)
    if sidecar is not None:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


def waves(leads=12, points=2000):
    time = np.arange(points) / 400
    return np.sin(2 * np.pi * 1.5 * time)[None] * (np.arange(leads)[:, None] + 1) / 10


def test_leads_are_put_in_order_and_those_lacking_are_absent(root):
    path = ecg_array(root, waves(3), {"sampling_rate": 400, "leads": ["v2", "I", "Vx"]})
    ecg = read_leads(path, root)
    assert ecg.sampling_rate == 400
    np.testing.assert_allclose(ecg.samples[7], waves(3)[0])
    np.testing.assert_allclose(ecg.samples[0], waves(3)[1])
    assert np.isnan(ecg.samples[1]).all()
    row = index_pairs(root).recordings.loc[0].to_dict() | {"ecg": "ecg/own.npy"}
    found = prepared(row, root=root, settings=SETTINGS)
    assert found.lead_present.tolist() == [number in (0, 7) for number in range(12)]
    assert found.row["absent_leads"] == "II III aVR aVL aVF V1 V3 V4 V5 V6"
    assert found.row["end"] == 5
    assert found.ecg.shape == (12, 2500)
    assert (found.ecg[1] == 0).all()
    peaks = [found.ecg[number, :1250].max() for number in (0, 7)]
    np.testing.assert_allclose(peaks, [0.2, 0.1], rtol=0.02)


def test_a_wfdb_record_may_lack_leads(root):
    header = root / "ecg/v00000.hea"
    header.write_text(header.read_text().replace(" aVF\n", " other\n").replace(" V6\n", " v6\n"))
    ecg = read_leads(header, root)
    assert np.isnan(ecg.samples[5]).all()
    assert np.isfinite(ecg.samples[[0, 4, 6, 11]]).all()


def test_a_gap_and_a_flat_lead_are_no_fault(root):
    samples = waves()
    samples[3] = 0.7
    samples[4, 100:200] = np.nan
    samples[5, 7] = np.inf
    ecg_array(root, samples)
    row = index_pairs(root).recordings.loc[0].to_dict() | {"ecg": "ecg/own.npy", "ecg_rate": 400.0}
    found = prepared(row, root=root, settings=SETTINGS)
    assert found.lead_present.tolist() == [number != 3 for number in range(12)]
    assert np.isfinite(found.ecg).all()


@pytest.mark.parametrize(
    ("samples", "rate", "sidecar", "sentence"),
    [
        (waves(), 0.0, None, "sampling rate of own.npy is not known: add the column ecg_rate"),
        (waves(), 7.0, None, "rate of own.npy is 7 Hz"),
        (waves().T, 400.0, None, "has 2000 rows, and 12 leads are expected"),
        (waves(points=100), 400.0, None, "lasts 0.25 s"),
        (1000 * waves(), 400.0, None, "its values are not in millivolts"),
        (np.full((12, 2000), np.nan), 400.0, None, "holds no signal"),
        (np.zeros((12, 2000)), 400.0, None, "holds no signal"),
        (waves()[0], 400.0, None, "is no array of shape"),
        (waves(2), 400.0, {"leads": ["x", "y"]}, "None of the leads x, y"),
        (waves(), 400.0, ["not", "a", "table"], "own.json cannot be read"),
    ],
)
def test_what_is_no_ecg_is_reported(root, samples, rate, sidecar, sentence):
    with pytest.raises(DataError, match=sentence):
        read_leads(ecg_array(root, samples, sidecar), root, rate)


# Other sources --------------------------------------------------------------------------------------


def test_ptbxl_is_a_source_of_patients_without_cine(make_ptbxl):
    rows = [
        {"scp_codes": "{'NORM': 100.0}", "strat_fold": 9},
        {"scp_codes": "{'IMI': 80.0, 'LVH': 20.0}", "patient_id": "8.0", "strat_fold": 3},
    ]
    index = ecg_only(index_ptbxl(make_ptbxl(rows)))
    assert index.name == "ptbxl-ecg"
    assert index.recordings["person"].tolist() == ["ptbxl-7", "ptbxl-8"]
    assert index.recordings["ecg"].tolist() == ["records100/00001_lr.hea", "records100/00002_lr.hea"]
    assert index.recordings["official_fold"].tolist() == [9, 3]
    assert set(index.recordings["cine"]) == {""}
    assert index.indicators == ()
    assert index.diseases == ("disease_MI", "disease_STTC", "disease_CD", "disease_HYP")
    assert index.targets["disease_MI"].tolist() == [0, 1]
    assert index.targets["disease_HYP"].tolist() == [0, 1]
    assert index.targets["age"].tolist() == [50, 50]
    found = prepared(index.recordings.loc[0].to_dict(), root=index.root, settings=SETTINGS)
    assert found.ecg.shape == (12, 2500)
    assert found.cmr is None
    assert found.problems == []


def test_a_table_of_signals_is_no_such_source(make_patients):
    with pytest.raises(DataError, match="no WFDB records"):
        ecg_only(index_patient_folders(make_patients()))


def test_decimal_commas_are_read_and_what_may_be_thousands_is_named(root):
    rows = table_of(root)
    plain = index_pairs(root)
    commas = [
        {name: cell if "/" in cell else cell.replace(".", ",") for name, cell in row.items()} for row in rows
    ]
    save(root, commas)
    index = index_pairs(root)
    assert index.problems == plain.problems
    assert index.targets.equals(plain.targets)
    save(root, [row | {"bnp": "3,250"} for row in rows])
    index = index_pairs(root)
    assert "'bnp' holds no number that is sure ('3,250' may be 3.25 or 3250" in reported(
        index.problems, "pairs.csv"
    )
    assert "bnp" not in index.indicators


def test_patients_that_may_be_one_are_named_and_in_one_part(root):
    change(root, 0, patient="p7")
    change(root, 1, patient="P7")
    change(root, 2, patient="007.0")
    index = index_pairs(root)
    table = index.recordings.set_index("recording")
    assert table.loc[["p7", "P7", "7"], "person"].tolist() == ["P7+p7", "P7+p7", "7"]
    assert "The patients P7 and p7 may be one" in reported(index.problems, "P7, p7")


def test_an_index_before_the_patients_is_none(root):
    rows = table_of(root)
    plain = index_pairs(root).recordings
    save(root, [{"": str(number)} | row for number, row in enumerate(rows)])
    assert index_pairs(root).recordings.equals(plain)
    save(
        root,
        [
            {"": str(number)} | {k: v for k, v in row.items() if k != "patient"}
            for number, row in enumerate(rows)
        ],
    )
    with pytest.raises(DataError, match="without a name only counts rows"):
        index_pairs(root)
