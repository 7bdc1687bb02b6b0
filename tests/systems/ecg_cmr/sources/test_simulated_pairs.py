"""simulated pairs: ECG and cine of the same heart, in memory and as files, and what each of them can tell."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from datasets.cache import Cache
from datasets.sources import DataError
from simulation.heart_population import IMPLIED_CEILINGS, draw_heart
from simulation.physiology import CEILINGS
from systems.ecg_cmr.prepare import PairCache
from systems.ecg_cmr.settings import PairSettings, PairSimulationSettings
from systems.ecg_cmr.sources.pairs import index_pairs
from systems.ecg_cmr.sources.simulated import (
    disease_columns,
    draw_pair,
    simulated_index,
    targets_of,
    write_pairs,
)

SETTINGS = PairSettings()
COHORT = PairSimulationSettings(patients=24, seed=2)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Return the cache of a cohort of 24; not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    return Cache(PairCache(simulated_index(COHORT), SETTINGS, COHORT).build(folder, jobs=1, progress=False))


def drawn(row, settings=SETTINGS, simulation=COHORT):
    return draw_pair(row, settings=settings, simulation=simulation)


def row_of(number):
    return simulated_index(dataclasses.replace(COHORT, patients=number + 1)).recordings.loc[number].to_dict()


def test_a_cohort_is_drawn_into_a_cache(cached):
    samples = cached.table("samples")
    assert cached.path.name.startswith("simulated-pairs-")
    assert cached.simulated
    assert len(samples) == samples["person"].nunique() == 24
    assert samples[["has_ecg", "has_cmr"]].to_numpy().all()
    assert cached.array("ecg").shape == (24, 12, 2500)
    assert cached.array("cmr").shape == (24, 16, 64, 64)
    assert cached.array("lead_present").all()
    assert np.abs(cached.array("ecg")).max(axis=2).min() > 0.05
    assert cached.manifest["ceilings"] == CEILINGS | IMPLIED_CEILINGS
    assert cached.manifest["source_files"] == {}
    assert cached.manifest["warnings"] == []


def test_targets_are_those_of_the_hearts(cached):
    targets = cached.table("targets", missing=("",))
    recordings = cached.table("recordings")
    for number in (0, 11, 23):
        heart = draw_heart(2, number)
        for name, value in heart.indicators().items():
            assert targets[name][number] == pytest.approx(value)
        assert targets["sex"][number] == (heart.drivers.sex == "female")
        assert targets[list(disease_columns())].loc[number].sum() == (heart.condition != "none")
        assert recordings["pattern"][number] == heart.drivers.pattern
        assert recordings["scar"][number] == (heart.scar is not None)
        assert cached.table("samples")["diagnosis"][number] == heart.condition


def test_the_three_infarctions_are_one_disease():
    assert disease_columns() == (
        *("disease_dilated", "disease_hypertrophic", "disease_restrictive", "disease_infarction"),
        "disease_pulmonary_hypertension",
    )
    found = targets_of(draw_heart(0, 0, condition="lateral infarction"))
    assert found["disease_infarction"] == 1
    assert sum(found[name] for name in disease_columns()) == 1


def test_what_a_patient_gives_depends_neither_on_the_order_nor_on_the_others(cached):
    for number in (3, 20):
        found = drawn(row_of(number), settings=SETTINGS, simulation=COHORT)
        np.testing.assert_array_equal(found.ecg, cached.array("ecg")[number])
        np.testing.assert_array_equal(found.cmr, cached.array("cmr")[number])


def test_the_number_of_processes_changes_no_byte(cached, tmp_path):
    two = Cache(PairCache(simulated_index(COHORT), SETTINGS, COHORT).build(tmp_path, jobs=2, progress=False))
    assert two.path.name == cached.path.name
    for name in ("ecg.npy", "cmr.npy", "samples.csv", "targets.csv", "recordings.csv"):
        assert (two.path / name).read_bytes() == (cached.path / name).read_bytes(), name


@pytest.mark.parametrize("changes", [{"seed": 3}, {"patients": 23}, {"ecg_noise": 0.5}])
def test_another_cohort_gets_another_folder(changes):
    name = simulated_index(COHORT).choices
    assert simulated_index(dataclasses.replace(COHORT, **changes)).choices != name


def test_another_seed_draws_other_patients():
    row = row_of(0)
    one, other = (
        drawn(row, settings=SETTINGS, simulation=dataclasses.replace(COHORT, seed=seed)) for seed in (2, 3)
    )
    assert np.abs(one.ecg - other.ecg).max() > 0.1
    assert np.abs(one.cmr.astype(int) - other.cmr).mean() > 5


def test_the_long_axis_comes_when_asked_for():
    found = drawn(row_of(1), settings=PairSettings(long_axis=True), simulation=COHORT)
    assert found.long_axis.shape == (16, 64, 64)
    assert np.abs(found.long_axis.astype(int) - found.cmr).mean() > 10
    assert drawn(row_of(1), settings=SETTINGS, simulation=COHORT).long_axis is None


def test_the_ecg_of_the_heart_is_that_of_its_rhythm(cached):
    """Peaks of lead II as often as the heart beats: the ECG belongs to the patient of its row."""
    rates = cached.table("recordings")["heart_rate"]
    rhythm = cached.table("recordings")["rhythm"]
    found = []
    for lead in cached.array("ecg")[:, 1]:
        slope = np.abs(np.diff(lead))
        spectrum = np.correlate(slope - slope.mean(), slope - slope.mean(), "full")[len(slope) - 1 :]
        low, high = 110, 380  # 39 to 136 beats a minute
        found.append(60 * 250 / (low + np.argmax(spectrum[low:high])))
    steady = (rhythm == "sinus").to_numpy()
    assert np.median(np.abs(np.array(found) - rates)[steady]) < 5


def test_the_image_of_the_heart_is_that_of_its_volume(cached):
    """What moves in the picture belongs to the heart of its row."""
    cine = cached.array("cmr").astype(float)
    moving = cine.std(axis=1).sum(axis=(1, 2))
    stroke = cached.table("targets", missing=("",))["stroke_volume"]
    assert np.corrcoef(moving, stroke)[0, 1] > 0.5


@pytest.mark.parametrize(("patients", "noise"), [(0, 1.0), (5, -1.0)])
def test_a_cohort_that_cannot_be_is_refused(patients, noise):
    with pytest.raises(DataError, match="cannot be"):
        simulated_index(PairSimulationSettings(patients=patients, ecg_noise=noise))


# As files -------------------------------------------------------------------------------------------


def test_files_are_of_the_same_patients(tmp_path):
    root = write_pairs(tmp_path / "pairs", 2, seed=2, long_axis=False)
    assert sorted(path.name for path in root.iterdir()) == [
        *["README.txt", "cmr", "ecg", "pairs.csv", "simulation.json", "truth.csv"]
    ]
    index = index_pairs(root)
    heart = draw_heart(2, 1)
    assert index.targets["lv_edv"][1] == pytest.approx(heart.lv_edv, rel=1e-4)
    assert index.recordings["diagnosis"][1] == heart.condition
    assert pd.read_csv(root / "truth.csv")["pattern"][1] == heart.drivers.pattern
    assert json.loads((root / "simulation.json").read_text())["ceilings"] == CEILINGS | IMPLIED_CEILINGS


def test_files_are_the_same_each_time_and_by_any_number_of_processes(tmp_path):
    roots = [
        write_pairs(tmp_path / str(jobs), 2, seed=4, missing=0.3, jobs=jobs, kind="npy") for jobs in (1, 2)
    ]
    for path in roots[0].rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (roots[1] / path.relative_to(roots[0])).read_bytes(), path


def test_cells_are_missing_as_often_as_asked(tmp_path):
    root = write_pairs(tmp_path / "pairs", 6, missing=0.4, kind="npy", long_axis=False)
    index = index_pairs(root)
    values = index.targets[[*index.indicators, *index.covariates]]
    assert 0.25 < values.isna().to_numpy().mean() < 0.55
    assert index.targets[list(index.diseases)].notna().to_numpy().all()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_pairs(tmp_path, 1)
    with pytest.raises(ValueError, match="cannot be written"):
        write_pairs(tmp_path / "new", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]
