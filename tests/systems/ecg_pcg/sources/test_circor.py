"""CirCor's layout: one label and one person a patient, heart states from tables, what is left out by name."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import load_data
from common.errors import UserError
from datasets.cache import Cache
from datasets.sources import DataError
from systems.ecg_pcg.sources.circor import index_circor

RATE, SECONDS = 4000, 6


def write_patient(folder: Path, number: int, places=("AV", "MV"), **facts: str) -> None:
    """Write a patient as the database has them: sounds of noise, and beats of one second."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for place in places:
        name = f"{number}_{place}"
        sound = np.random.default_rng(number).integers(-9000, 9000, SECONDS * RATE).astype(np.int16)
        wavfile.write(folder / f"{name}.wav", RATE, sound)
        signal = f"{name}.wav 16+44 1 16 0 0 0 0 {place.partition('_')[0]}"
        (folder / f"{name}.hea").write_text(f"{name} 1 {RATE} {len(sound)}\n{signal}\n")
        starts = np.cumsum([0, *[0.1, 0.3, 0.1, 0.5] * 5])
        states = [1, 2, 3, 4] * 5
        spans = [f"{a:.2f}\t{b:.2f}\t{s}" for a, b, s in zip(starts, starts[1:], states, strict=False)]
        (folder / f"{name}.tsv").write_text("\n".join([*spans, f"{starts[-1]:.2f}\t6\t0", ""]))
        lines.append(f"{place.partition('_')[0]} {name}.hea {name}.wav {name}.tsv")
    known = {"Age": "Child", "Sex": "Female", "Murmur": "Absent", "Outcome": "Normal"} | facts
    comments = [f"#{name.replace('_', ' ')}: {value}" for name, value in known.items()]
    (folder / f"{number}.txt").write_text("\n".join([f"{number} {len(lines)} {RATE}", *lines, *comments, ""]))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "circor" / "training_data"
    write_patient(folder, 1001, Additional_ID="nan")
    write_patient(
        folder, 1002, ("AV", "PV_1", "PV_2"), Murmur="Present", Murmur_locations="AV", Outcome="Abnormal"
    )
    write_patient(folder, 1003, ("TV",), Murmur="Unknown", Outcome="Abnormal", Additional_ID="1001.0")
    return tmp_path / "circor"


def test_recordings_of_a_patient_share_label_person_and_session(root):
    index = index_circor(root, "outcome")
    table = index.recordings.set_index("recording")
    assert index.problems == []
    assert table["label"].to_dict() == {
        **{"1001_AV": 0, "1001_MV": 0, "1002_AV": 1, "1002_PV_1": 1, "1002_PV_2": 1, "1003_TV": 1}
    }
    assert table["person"].tolist() == ["1001+1003", "1001+1003", "1002", "1002", "1002", "1001+1003"]
    assert table["session"].tolist() == table["person"].tolist()
    assert table["site"].tolist() == ["AV", "MV", "AV", "PV", "PV", "TV"]
    assert (
        table.loc["1002_AV", "diagnosis"]
        == "outcome abnormal, murmur present, age child, sex female, heard at AV"
    )
    assert table.loc["1002_AV", "annotation"] == "training_data/1002_AV.tsv"
    assert set(table["needs"]) == {"pcg"}


def test_a_murmur_that_is_unknown_is_left_out_by_name(root):
    index = index_circor(root, "murmur")
    assert index.recordings["label"].tolist() == [0, 0, 1, 1, 1]
    ((where, what),) = [(problem.where, problem.what) for problem in index.problems]
    assert (where, what) == ("1003_TV", "The murmur of patient 1003 is Unknown.")
    assert index.choices == {"label": "murmur"}


def test_what_does_not_fit_is_left_out_and_the_rest_is_used(root):
    folder = root / "training_data"
    (folder / "1001_AV.wav").write_bytes((folder / "1001_AV.wav").read_bytes()[:9000])
    (folder / "1001_MV.tsv").unlink()
    (folder / "1002.txt").write_text("1002 4 4000\n")
    index = index_circor(root, "outcome")
    assert index.recordings["recording"].tolist() == ["1001_MV", "1003_TV"]
    said = {problem.where: problem.what for problem in index.problems}
    assert "cut short" in said["1001_AV"]
    assert "1001_MV.tsv are absent" in said["1001_MV"]
    assert "not the number of the patient and of as many recordings" in said["1002.txt"]
    assert said["1002_AV"] == "No text file of a patient names it."


def test_a_folder_without_patients_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no patient of CirCor"):
        index_circor(tmp_path, "outcome")


@pytest.mark.parametrize("inner", [False, True])
def test_it_becomes_a_cache_with_the_beats_of_its_tables(root, tmp_path, capsys, inner):
    places = ["--cache-dir", str(tmp_path / "cache"), "--jobs", "1"]
    path = load_data.main(["--raw-dir", str(root / "training_data" if inner else root), *places])
    shown = capsys.readouterr().out
    assert "Label: outcome of the patient (--label outcome or murmur chooses)." in shown
    assert "6 recordings kept (2 normal, 4 abnormal), 24 beats, 2 sessions, 2 persons; 0 left out." in shown
    samples = Cache(path).table("samples")
    assert samples["start"].tolist() == [0.0, 1.0, 2.0, 3.0] * 6
    assert np.allclose(samples["end"] - samples["start"], 1)
    other = load_data.main(["--raw-dir", str(root), "--label", "murmur", *places])
    assert other != path
    with pytest.raises((UserError, SystemExit)):
        load_data.main(["--raw-dir", str(root), "--label", "weather", *places])
