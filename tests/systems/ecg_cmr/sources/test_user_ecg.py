"""Twelve-lead ECGs of a user in every format: found in folders, read alike in learning and predicting."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datasets.ecg import LEADS
from datasets.sources import DataError
from systems.ecg_cmr.sources.pair_modalities import PreparedPair, prepare_pair, read_leads
from systems.ecg_cmr.sources.pairs import index_pairs
from systems.ecg_cmr.sources.simulated import write_pairs
from systems.ecg_cmr.sources.user_ecg import examine_leads, find_ecgs, open_ecg
from tests.datasets.test_channel_files import aecg, write_edf
from tests.systems.ecg_cmr.sources.test_pairs import SETTINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return one simulated ECG as a WFDB record, which the table names, and in each other format."""
    root = write_pairs(tmp_path_factory.mktemp("pairs"), 1, seed=3)
    (header,) = (root / "ecg").glob("*.hea")
    ecg = read_leads(header, root)
    rate, counts = int(ecg.sampling_rate), np.round(ecg.samples * 1000).astype(int)
    write_edf(
        root / "ecg/b.edf",
        {f"ECG {lead}": ("uV", rate, row) for lead, row in zip(LEADS, counts, strict=True)},
    )
    (root / "ecg/c.xml").write_text(aecg(counts, (f"{1 / rate}", "s"), ("1", "uV")))
    savemat(root / "ecg/d.mat", {"ecg": counts / 1000})
    np.save(root / "ecg/e.npy", counts / 1000)
    for name in "de":
        (root / f"ecg/{name}.json").write_text(json.dumps({"sampling_rate": rate}))
    return root


def test_a_folder_gives_ecgs_of_every_format_and_all_are_the_same(folder):
    found = find_ecgs([folder / "ecg"])
    assert [place.name for place in found] == ["b", "c", "d", "e", "v00000"]
    (header, *others) = [
        open_ecg(place.path) for place in sorted(found, key=lambda place: place.path.suffix != ".hea")
    ]
    for other in others:
        assert other.sampling_rate == header.sampling_rate
        length = other.samples.shape[1]  # EDF holds whole seconds
        assert np.abs(other.samples - header.samples[:, :length]).max() < 0.001


@pytest.mark.parametrize("name", ["b.edf", "c.xml", "d.mat", "e.npy"])
def test_a_table_of_pairs_names_any_of_them(folder, name):
    table = (folder / "pairs.csv").read_text()
    try:
        row = table.splitlines()[1].split(",")
        header = next(cell for cell in row if cell.startswith("ecg/"))
        (folder / "pairs.csv").write_text(table.replace(header, f"ecg/{name}"))
        (own,) = index_pairs(folder).recordings.to_dict("records")
        assert own["ecg"] == f"ecg/{name}"
        pair = prepare_pair(own, root=folder, settings=SETTINGS)
        assert isinstance(pair, PreparedPair)
        assert pair.lead_present.all()
    finally:
        (folder / "pairs.csv").write_text(table)


def test_what_is_doubtful_about_a_file_is_named_in_both_ways(folder, tmp_path):
    (tmp_path / "a.xml").write_text((folder / "ecg/c.xml").read_text().replace('"0.002"', '"0.0021"', 1))
    ecg = open_ecg(tmp_path / "a.xml")
    assert "rounded to" in ecg.warnings[0]
    assert ecg.warnings[0] in [warning.text for warning in examine_leads(ecg)[1]]


def test_a_folder_without_ecgs_and_a_file_that_is_none(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no ECG: no WFDB header \(.hea\) and none of .edf, .bdf, .dcm"
    ):
        find_ecgs([tmp_path])
    with pytest.raises(DataError, match=r"There is no ECG .*a.edf: name a WFDB record, .edf"):
        open_ecg(tmp_path / "a.edf")
