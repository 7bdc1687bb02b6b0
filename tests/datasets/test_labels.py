"""Tables of labels that cannot be trusted are refused (test_cohort.py reads the good ones)."""

import pytest

from datasets.sources import DataError
from systems.ecg_pcg.sources.cohort import read_labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("recording,label\nr1,-1\nr2,0\nr3,1\n", r"ambiguous: both -1 \(row 2\) and 0 \(row 3\)"),
        ("recording,label\nr1,-1.0\nr2,0\n", "ambiguous"),
        ("recording,session\nr1,s1\n", "lacks label; its columns are: recording, session"),
        ("", "lacks label, recording; its columns are: none"),
        ("recording,label,label\nr1,0,1\n", "has label twice"),
        ("recording,label\nKöln,1\n".encode("latin-1"), "CSV UTF-8"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, labels, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    with pytest.raises(DataError, match=message):
        read_labels(path)


def test_a_folder_without_table_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv does not exist.*docs/data\.md"):
        read_labels(tmp_path / "labels.csv")
