"""Patients of one's own without labels: read as with them; what cannot be used is kept with its reason."""

import numpy as np
import pandas as pd
import pytest

from datasets.ecg import Ecg
from datasets.patients import UNLABELLED
from datasets.sources import DataError
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.folders import index_patient_folders
from systems.ecg_multimodal.sources.modalities import PreparedPatient, prepare_patient
from systems.ecg_multimodal.sources.user_patients import (
    check_leads,
    examine_ecg,
    open_patients,
    read_user_patient,
)

VIEWS = ModalitySettings()
LEADS = ("I", "II", "V1")


def beating(leads: int = 3, seconds: float = 10.0, rate: float = 250.0, cycle: float = 0.8) -> Ecg:
    """Return a signal with a spike a cycle in each lead."""
    time = np.arange(round(seconds * rate)) / rate
    spike = np.exp(-(((time % cycle) - cycle / 2) ** 2) / (2 * 0.02**2))
    noise = np.random.default_rng(0).normal(0, 0.005, (leads, len(time)))
    return Ecg(np.tile(spike, (leads, 1)) + noise, rate)


def test_without_labels_everyone_is_read_as_with_them(make_patients):
    root = make_patients()
    labelled = index_patient_folders(root)
    (root / "labels.csv").unlink()
    index = open_patients(root, 250.0)
    assert index.problems == []
    assert set(index.recordings["label"]) == {UNLABELLED}
    same = index.recordings.drop(columns="label")
    pd.testing.assert_frame_equal(same, labelled.recordings.drop(columns="label"))
    pd.testing.assert_frame_equal(index.clinical, labelled.clinical)
    about = {"root": root, "leads": index.leads, "signal_rate": 250.0, "drawn": False}
    for row in labelled.recordings.to_dict("records"):
        made, own = (
            prepare_patient(row, settings=VIEWS, **about),
            read_user_patient(index, row["recording"], VIEWS),
        )
        assert isinstance(made, PreparedPatient)
        np.testing.assert_array_equal(own.signal, made.signal)
        np.testing.assert_array_equal(own.image, made.image)
        assert made.row["signal_sha256"] in own.content
        assert own.given == ["image", "signal", "clinical"]
        assert own.unusable == {}


def test_labels_that_are_there_are_not_read(make_patients):
    root = make_patients()
    (root / "labels.csv").write_text("index,label\n1,what\n1,normal\n77,normal\n")
    index = open_patients(root, 250.0)
    assert index.recordings["recording"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert index.problems == []


def test_each_view_that_cannot_be_used_is_kept_with_its_reason(make_patients):
    root = make_patients()
    (root / "images/1/001ECG_lead2.jpg").write_bytes(b"")
    signals = (root / "ecg_signals.csv").read_text().splitlines()
    signals[1] = "2,high," + signals[1].split(",", 2)[2]
    (root / "ecg_signals.csv").write_text("\n".join(signals))
    with (root / "clinical.csv").open("a") as file:
        file.write("3,1,1,1,1,1,1,1\n")
    index = open_patients(root, 250.0)
    found = {name: read_user_patient(index, name, VIEWS).unusable for name in "1234"}
    assert found["1"].keys() == {"image"}
    assert found["1"]["image"].startswith("The picture 001ECG_lead2.jpg cannot be read")
    assert found["1"]["image"].endswith("replace it.")
    assert found["2"].keys() == {"signal"}
    assert "'high' in column 2 is no number" in found["2"]["signal"]
    assert found["3"].keys() == {"clinical"}
    assert "occurs 2 times" in found["3"]["clinical"]
    assert found["4"] == {}


def test_a_beating_heart_raises_no_warning():
    assert examine_ecg(beating(), LEADS, 10.0) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda samples: samples[2].fill(np.nan), "Lead V1 of its signal holds nothing"),
        (lambda samples: samples[:2].fill(0.3), "Leads I, II hold nothing"),
        (
            lambda samples: samples[0, :500].fill(np.nan),
            "Of lead I of its signal 20% of the samples are missing",
        ),
    ],
)
def test_a_lead_that_holds_nothing_is_named(change, said):
    ecg = beating()
    change(ecg.samples)
    with pytest.raises(DataError, match=said):
        check_leads(ecg, LEADS)


def test_short_and_large_signals_are_warned_of():
    ecg = beating(seconds=6.0)
    found = examine_ecg(Ecg(15 * ecg.samples, ecg.sampling_rate), LEADS, 10.0)
    assert {warning.code for warning in found} == {"unit", "short"}
    for factor, unit in ((1e3, "microvolts"), (1e-3, "volts")):
        with pytest.raises(DataError, match=f"not in millivolts, but seem to be {unit}"):
            examine_ecg(Ecg(factor * ecg.samples, ecg.sampling_rate), LEADS, 10.0)


def test_a_folder_without_patients_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no patients"):
        open_patients(tmp_path, 250.0)
