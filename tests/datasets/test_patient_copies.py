"""The same content twice: kept together, and never on both sides of the official split."""

from pathlib import Path

import pandas as pd
import pytest

from datasets.patients import PATIENT_COLUMNS, PatientIndex, index_tables, keep_together, leave_out_copies
from datasets.sources import Problem


def index_of(folds, contents, persons=None):
    """Return an index of records with official folds, and digests of their signal files."""
    rows = [
        {
            "recording": str(number),
            "person": str(persons[number] if persons else number),
            "label": 0,
            "diagnosis": "",
            "official_fold": fold,
            "signal": f"records/{number}.hea",
            "image": "",
        }
        for number, fold in enumerate(folds)
    ]
    table, clinical = index_tables(
        PATIENT_COLUMNS, rows, {str(n): {"age": 50.0 + n} for n in range(len(folds))}, ["age"]
    )
    checksums = {f"records/{number}.dat": content for number, content in enumerate(contents)}
    checksums |= {f"records/{number}.hea": "same header" for number in range(len(folds))}
    return PatientIndex("ptbxl", Path(), table, clinical=clinical, drawn=True), checksums


@pytest.mark.parametrize(
    ("folds", "contents", "kept"),
    [
        ([1, 2, 9, 10], "abcd", ["0", "1", "2", "3"]),
        ([1, 2, 9, 10], "aacd", ["0", "1", "2", "3"]),  # both in train
        ([1, 2, 9, 10], "abca", ["1", "2", "3"]),
        ([10, 2, 9, 1], "abaa", ["0", "1"]),
        ([9, 9, 1, 8], "aabb", ["0", "1", "2", "3"]),
        ([9, 9, 1, 8], "aaba", ["0", "1", "2"]),
        ([0, 0, 0, 0], "aaaa", ["0", "1", "2", "3"]),
    ],
)
def test_of_copies_on_two_sides_of_the_official_split_that_for_test_stays(folds, contents, kept):
    index, checksums = index_of(folds, contents)
    left = leave_out_copies(index, checksums, "signal", "clinical")
    assert left.recordings["recording"].tolist() == left.clinical["recording"].tolist() == kept
    assert left.clinical["age"].tolist() == [50.0 + int(name) for name in kept]
    assert [problem.where for problem in left.problems] == sorted({"0", "1", "2", "3"} - set(kept))
    assert len(index.recordings) == 4


def test_the_reason_names_the_copy_and_the_folds():
    index, checksums = index_of([1, 10], "aa")
    problem = leave_out_copies(index, checksums, "signal", "clinical").problems[0]
    assert problem.what == "Its signal is that of 1, in official fold 10, and its own is 1."
    assert problem.left_out


def test_recordings_without_a_known_file_are_left_alone():
    index, _ = index_of([1, 10], "aa")
    assert leave_out_copies(index, {}, "signal", "clinical") is index


def together(persons, signals, images):
    table = pd.DataFrame(
        {
            "recording": [f"r{number}" for number in range(len(persons))],
            "person": persons,
            "signal_sha256": signals,
            "image_sha256": images,
        }
    )
    warnings: list[Problem] = []
    return keep_together(table, warnings).tolist(), [(problem.where, problem.what) for problem in warnings]


def test_without_copies_a_session_is_a_person():
    assert together(["p", "q", "p"], ["a", "b", "c"], ["", "", ""]) == (["p", "q", "p"], [])


def test_persons_who_share_a_signal_or_a_picture_are_one_session():
    sessions, warnings = together(["p", "q", "r", "s", "p"], ["a", "a", "", "", "b"], ["", "", "x", "", "x"])
    assert sessions == ["p+q+r", "p+q+r", "p+q+r", "s", "p+q+r"]
    assert warnings == [
        ("r0", "Its signal is the same as that of r1 (another patient)."),
        ("r2", "Its picture is the same as that of r4 (another patient)."),
    ]


def test_a_copy_of_the_same_patient_is_named_and_changes_nothing():
    sessions, warnings = together(["p", "p"], ["a", "a"], ["", ""])
    assert sessions == ["p", "p"]
    assert warnings == [("r0", "Its signal is the same as that of r1 (the same patient).")]
