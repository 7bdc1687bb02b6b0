"""ACDC: volumes by hand, groups as diseases, and what is missing or damaged."""

import nibabel
import numpy as np
import pytest

from datasets.sources import DataError
from systems.ecg_cmr.settings import PairSettings
from systems.ecg_cmr.sources.acdc import DISEASES, INDICATORS, index_acdc
from systems.ecg_cmr.sources.pair_modalities import prepare_pair

SPACING = (1.5, 1.25, 10.0)
VOXEL = 1.5 * 1.25 * 10 / 1000
BOXES = {"ED": {1: 16 * 10, 2: 12 * 10, 3: 20 * 10}, "ES": {1: 8 * 10, 2: 12 * 10, 3: 8 * 10}}
"""Voxels a slice of each label, in two slices of four."""


def labels(moment):
    """Return contours: rows of the right ventricle, then the muscle, then the left cavity."""
    found = np.zeros((100, 90, 4), np.uint8)
    for slice_number in (1, 2):
        row = 20
        for label, count in BOXES[moment].items():
            found[row : row + count // 10, 30:40, slice_number] = label
            row += count // 10
    return found


def patient(root, number, part="training", **entries):
    """Write a patient of twelve frames, end-diastole the third, end-systole the seventh."""
    folder = root / part / f"patient{number:03d}"
    folder.mkdir(parents=True)
    entries = {"ED": 3, "ES": 7, "Group": "DCM", "Height": 180.0, "NbFrame": 12, "Weight": 80.5} | entries
    lines = [f"{key}: {value}" for key, value in entries.items() if value is not None]
    (folder / "Info.cfg").write_text("\n".join(lines) + "\n")
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    cine = np.random.default_rng(number).integers(0, 20, (100, 90, 4, 12)).astype(np.int16)
    cine[40:60, 30:50] += 100 + 50 * np.cos(2 * np.pi * (np.arange(12) - 2) / 12).astype(np.int16)
    named = {"4d": cine, "frame03_gt": labels("ED"), "frame07_gt": labels("ES")}
    for name, data in named.items():
        image = nibabel.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / f"{folder.name}_{name}.nii.gz")
    return folder


def prepared(row, root, settings):
    return prepare_pair(row, root=root, settings=settings)


def reported(index, where):
    return " ".join(problem.what for problem in index.problems if problem.where == where)


def test_volumes_and_mass_are_those_of_the_voxels(tmp_path):
    patient(tmp_path, 1)
    index = index_acdc(tmp_path)
    assert index.problems == []
    found = index.targets.loc[0]
    expected = {
        "lv_edv": 400 * VOXEL,
        "lv_esv": 160 * VOXEL,
        "stroke_volume": 240 * VOXEL,
        "ejection_fraction": 60.0,
        "lv_mass": 1.05 * 240 * VOXEL,
        "rv_edv": 320 * VOXEL,
        "rv_esv": 160 * VOXEL,
        "rv_ejection_fraction": 50.0,
        "height": 180.0,
        "weight": 80.5,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert index.indicators == INDICATORS
    assert (index.name, index.covariates, index.simulated) == ("acdc", ("height", "weight"), False)


def test_groups_are_diseases_and_parts_official_folds(tmp_path):
    for number, group in enumerate(("NOR", "MINF", "DCM", "HCM", "RV"), start=1):
        patient(tmp_path, number, Group=group)
    patient(tmp_path, 101, "testing", Group="NOR")
    index = index_acdc(tmp_path)
    assert index.recordings["diagnosis"].tolist() == ["NOR", "MINF", "DCM", "HCM", "RV", "NOR"]
    assert index.recordings["official_fold"].tolist() == [1, 1, 1, 1, 1, 10]
    np.testing.assert_array_equal(index.targets[list(DISEASES)], [[0] * 4, *np.eye(4).tolist(), [0] * 4])
    assert set(index.recordings["ecg"]) == {""}
    assert len(index.files) == 6 * 3


def test_the_cine_begins_at_end_diastole(tmp_path):
    patient(tmp_path, 1)
    index = index_acdc(tmp_path)
    assert index.recordings["first_frame"].tolist() == [2]
    settings = PairSettings(frames=12, percentiles=(0, 100))
    found = prepared(index.recordings.loc[0].to_dict(), root=tmp_path, settings=settings)
    assert found.ecg is None
    assert not found.lead_present.any()
    brightness = found.cmr[:, 28:36, 28:36].mean(axis=(1, 2))  # what beats lies in the middle
    assert np.argmax(brightness) == 0
    assert np.argmin(brightness) == 6
    assert (found.row["cmr_slices"], found.row["cmr_frames"]) == (4, 12)


def damage(folder, name):
    path = folder / f"{folder.name}_{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def test_damaged_patients_are_named_and_the_rest_is_used(tmp_path):
    folders = {number: patient(tmp_path, number) for number in range(1, 9)}
    damage(folders[1], "frame03_gt")
    (folders[2] / "patient002_frame07_gt.nii.gz").unlink()
    (folders[3] / "patient003_4d.nii.gz").unlink()
    (folders[4] / "Info.cfg").unlink()
    (folders[5] / "Info.cfg").write_text("ED: first\nES: 7\n")
    (folders[6] / "Info.cfg").write_text("ED: 3\nES: 7\nGroup: XYZ\nHeight: tall\nWeight: 900\n")
    damage(folders[7], "4d")
    index = index_acdc(tmp_path)
    kept = ["patient001", "patient002", "patient006", "patient007", "patient008"]
    assert index.recordings["recording"].tolist() == kept
    values = index.targets.set_index("recording")
    assert "frame03_gt.nii.gz cannot be read: it is damaged" in reported(index, "patient001")
    assert "It has no patient002_frame07_gt.nii.gz. It has no volumes." in reported(index, "patient002")
    assert values.loc[["patient001", "patient002"], "lv_edv"].isna().all()
    assert values.loc[["patient001", "patient002"], "disease_dilated"].eq(1).all()
    assert "has no patient003_4d.nii.gz" in reported(index, "patient003")
    assert "Info.cfg cannot be read" in reported(index, "patient004")
    assert "gives 'first' as frame ED" in reported(index, "patient005")
    assert "group 'XYZ' is none of NOR" in reported(index, "patient006")
    assert "weight 900 is not possible" in reported(index, "patient006")
    assert values.loc["patient006", list(DISEASES)].isna().all()
    assert np.isnan(values.loc["patient006", "height"])
    problem = prepared(
        index.recordings.set_index("recording", drop=False).loc["patient007"].to_dict(),
        root=tmp_path,
        settings=PairSettings(),
    )
    assert "cut short" in problem.what


def test_contours_without_a_structure_or_with_impossible_voxels_give_no_volumes(tmp_path):
    empty, thin = patient(tmp_path, 1), patient(tmp_path, 2)
    path = empty / "patient001_frame03_gt.nii.gz"
    nibabel.save(nibabel.Nifti1Image((labels("ED") == 3).astype(np.uint8) * 3, np.eye(4)), path)
    path = thin / "patient002_frame07_gt.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels("ES"), np.diag([1.5, 1.25, 90.0, 1.0])), path)
    index = index_acdc(tmp_path)
    assert "lack a structure" in reported(index, "patient001")
    assert "neither can be" in reported(index, "patient002")
    assert index.targets["lv_edv"].isna().all()


def test_contours_in_metres_with_an_axis_of_one_are_read_and_exchanged_moments_named(tmp_path):
    metres, exchanged = patient(tmp_path, 1), patient(tmp_path, 2, ED=7, ES=3)
    for moment, frame in (("ED", 3), ("ES", 7)):
        affine = np.diag([-SPACING[0] / 1000, -SPACING[1] / 1000, SPACING[2] / 1000, 1.0])
        image = nibabel.Nifti1Image(labels(moment)[..., None], affine)
        image.header.set_xyzt_units("meter")
        nibabel.save(image, metres / f"patient001_frame{frame:02d}_gt.nii.gz")
    index = index_acdc(tmp_path)
    assert index.targets["lv_edv"][0] == pytest.approx(400 * VOXEL, rel=1e-4)
    assert np.isnan(index.targets["lv_edv"][1])
    assert "are ED and ES exchanged in Info.cfg? It has no volumes." in reported(index, exchanged.name)


def test_what_is_no_acdc_is_reported(tmp_path):
    with pytest.raises(DataError, match="has no training/patient001"):
        index_acdc(tmp_path)
    (tmp_path / "training/patient001").mkdir(parents=True)
    with pytest.raises(DataError, match=r"No patient .* Info.cfg cannot be read"):
        index_acdc(tmp_path)
