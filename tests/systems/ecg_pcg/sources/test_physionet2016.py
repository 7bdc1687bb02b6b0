"""The index of PhysioNet/CinC 2016: labels, sessions, persons and order, on made-up tables and real ones."""

import math

import pandas as pd
import pytest

from datasets.sources import DataError
from systems.ecg_pcg.prepare import infer_persons
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import INDEX_COLUMNS
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016

COLUMNS = (
    "Challenge record name,Original record name,Diagnosis,Subject ID,# Raw record,Transducer site on body"
)
APPENDIX = "annotations/Online_Appendix_training_set.csv"


def make_release(root, references, appendix=None, columns=COLUMNS):
    """Write tables of labels by set, and the appendix unless it is None."""
    for letter, text in references.items():
        folder = root / f"training-{letter}"
        folder.mkdir(parents=True)
        content = text if isinstance(text, bytes) else text.encode()
        (folder / "REFERENCE-SQI.csv").write_bytes(content)
    if appendix is not None:
        (root / "annotations").mkdir()
        (root / APPENDIX).write_text("\n".join([columns, *appendix]) + "\n", encoding="utf-8")
    return root


def column(index, name):
    """Return a column of the index as a dict by recording."""
    return dict(zip(index.recordings["recording"], index.recordings[name], strict=True))


def reported(index):
    return {problem.where: problem.what for problem in index.problems}


GOOD = "a0001,1,1\na0002,-1,1\na0003,-1,0\n"
GOOD_APPENDIX = [
    "a0001,C115S2,MVP  ,,,Left of apex ",
    "a0002,C7S0,Normal ,,,Apex when sit",
    "a0003,C115S10,Normal,,,Left of apex",
]


def test_labels_sessions_and_sites_are_read(tmp_path):
    index = index_physionet2016(make_release(tmp_path, {"a": GOOD}, GOOD_APPENDIX), ["a"])
    assert index.problems == []
    assert list(index.recordings.columns) == list(INDEX_COLUMNS)
    assert column(index, "label") == {"a0001": 1, "a0002": 0, "a0003": 0}
    assert column(index, "quality") == {"a0001": 1, "a0002": 1, "a0003": 0}
    assert column(index, "session") == {"a0001": "C115", "a0002": "C007", "a0003": "C115"}
    assert column(index, "position") == {"a0001": 2, "a0002": 0, "a0003": 10}
    assert column(index, "diagnosis") == {"a0001": "MVP", "a0002": "Normal", "a0003": "Normal"}
    assert column(index, "site")["a0001"] == "Left of apex"
    assert column(index, "header")["a0001"] == "training-a/a0001.hea"
    assert column(index, "needs")["a0001"] == "ecg+pcg"
    assert index.session_unit == {"training-a": "session"}
    assert index.files == [APPENDIX, "training-a/REFERENCE-SQI.csv"]


def test_byte_order_mark_and_dos_lines_do_no_harm(tmp_path):
    content = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n"
    index = index_physionet2016(make_release(tmp_path, {"a": content}, GOOD_APPENDIX), ["a"])
    assert index.problems == []
    assert column(index, "label") == {"a0001": 1, "a0002": 0, "a0003": 0}


def test_every_faulty_row_is_named_and_the_others_are_used(tmp_path):
    rows = ["a0001,1,1", "a0002,0,1", "a0003,,1", "a0004,1,2", "a0005", "../a0006,1,1", "", "a0001,-1,1"]
    rows += ["a0007, -1 , 1 ", "a0008,1", "a0009,1,1,extra"]
    index = index_physionet2016(make_release(tmp_path, {"a": "\n".join(rows)}, GOOD_APPENDIX), ["a"])
    assert column(index, "label") == {"a0001": 1, "a0007": 0, "a0008": 1, "a0009": 1}
    assert reported(index) == {
        "a0002": "The label '0' (REFERENCE-SQI.csv, line 2) is neither -1 nor 1.",
        "a0003": "The label '' (REFERENCE-SQI.csv, line 3) is neither -1 nor 1.",
        "a0004": "The quality '2' (REFERENCE-SQI.csv, line 4) is neither 0 nor 1.",
        "a0005": "The label '' (REFERENCE-SQI.csv, line 5) is neither -1 nor 1.",
        "REFERENCE-SQI.csv, line 6": "'../a0006' is no recording name.",
        "a0001": "Listed again at REFERENCE-SQI.csv, line 8; the first row is used.",
        APPENDIX: "It names no session for 3 recordings of training-a (a0007, a0008, a0009); "
        "each counts as a session of its own.",
    }
    assert [problem.where for problem in index.problems if not problem.left_out] == ["a0001", APPENDIX]


def test_without_the_appendix_a_recording_is_its_own_session_and_that_is_reported(tmp_path):
    index = index_physionet2016(make_release(tmp_path, {"a": GOOD}), ["a"])
    assert column(index, "session") == {"a0001": "a0001", "a0002": "a0002", "a0003": "a0003"}
    assert index.session_unit == {"training-a": "recording"}
    assert [problem.left_out for problem in index.problems] == [False]
    assert "no recording has a session" in reported(index)[APPENDIX]
    assert "a recording counts as a session" in index.problems[0].remedy


def test_a_recording_the_appendix_does_not_know_is_its_own_session(tmp_path):
    index = index_physionet2016(make_release(tmp_path, {"a": GOOD}, GOOD_APPENDIX[:1]), ["a"])
    assert column(index, "session") == {"a0001": "C115", "a0002": "a0002", "a0003": "a0003"}
    assert math.isnan(column(index, "position")["a0002"])


def test_an_appendix_without_its_columns_is_refused(tmp_path):
    columns = COLUMNS.replace("Diagnosis", "Disease").replace("Subject ID", "Who")
    with pytest.raises(DataError, match="lacks the columns Diagnosis, Subject ID"):
        index_physionet2016(make_release(tmp_path, {"a": GOOD}, GOOD_APPENDIX, columns), ["a"])


def test_a_name_ending_in_b_comes_right_after_its_twin(tmp_path):
    originals = ["C16S1", "C16S0b", "C16S10", "C16S0", "C16S2"]
    reference = "".join(f"a000{number},1,1\n" for number in range(5))
    sites = ["apex", "base", "neck", "apex", "base"]
    appendix = [
        f"a000{row},{name},MVP,,,{site}"
        for row, (name, site) in enumerate(zip(originals, sites, strict=True))
    ]
    table = index_physionet2016(make_release(tmp_path, {"a": reference}, appendix), ["a"]).recordings
    by_position = table.sort_values("position")["recording"].tolist()
    assert by_position == ["a0003", "a0001", "a0000", "a0004", "a0002"]
    # sites in order: apex, base | apex, base, neck
    persons = dict(zip(table["recording"], infer_persons(table), strict=True))
    assert {persons["a0003"], persons["a0001"]} == {"C016P1"}
    assert {persons["a0000"], persons["a0004"], persons["a0002"]} == {"C016P2"}


def test_named_persons_are_kept_and_unknown_places_fall_back_to_the_session():
    table = pd.DataFrame(
        [
            ("r1", "s1", 0.0, "Anna", "apex"),
            ("r2", "s1", 1.0, "", "apex"),
            ("r3", "s1", 2.0, "", "apex"),
            ("r4", "s2", math.nan, "", "apex"),
            ("r5", "s3", 0.0, "", ""),
        ],
        columns=["recording", "session", "position", "person", "site"],
    )
    assert infer_persons(table).tolist() == ["Anna", "s1P1", "s1P2", "s2", "s3"]


PCG_ONLY = {
    "b": "b0001,-1,1\nb0002,1,1\nb0003,1,1\n",
    "c": "c0001,1,1\n",
    "e": "e00001,-1,1\ne00002,1,1\ne00003,-1,1\n",
    "f": "f0001,-1,1\n",
}
PCG_APPENDIX = [
    "b0001,x,Normal,12,,",
    "b0002,x,CAD,13,,",
    "b0003,x,CAD,12,,",
    "c0001,x,MR,99,,",
    "e00001,x,Normal,,7,",
    "e00002,x,CAD,,7,",
    "e00003,x,Normal,,7,",
    "f0001,C3S1,Normal,5,5,",
]


def test_sets_without_ecg_are_grouped_by_what_the_appendix_knows(tmp_path):
    index = index_physionet2016(make_release(tmp_path, PCG_ONLY, PCG_APPENDIX), list(PCG_ONLY))
    assert column(index, "session") == {
        "b0001": "B12",
        "b0002": "B13",
        "b0003": "B12",
        "c0001": "c0001",
        "e00001": "E7 Normal",
        "e00002": "E7 CAD",
        "e00003": "E7 Normal",
        "f0001": "f0001",
    }
    assert set(column(index, "needs").values()) == {"pcg"}
    assert index.recordings["position"].isna().all()
    assert index.session_unit == {
        "training-b": "person",
        "training-c": "recording",
        "training-e": "raw recording",
        "training-f": "recording",
    }


def test_only_the_sets_asked_for_are_read(tmp_path):
    root = make_release(tmp_path, PCG_ONLY, PCG_APPENDIX)
    assert list(column(index_physionet2016(root, ["c"]), "database").values()) == ["training-c"]


def test_a_set_or_table_that_is_not_there_is_named_with_the_remedy(tmp_path):
    root = make_release(tmp_path, {"a": GOOD})
    with pytest.raises(DataError, match=r"no folder training-b .*--download --sets b --raw-dir"):
        index_physionet2016(root, ["a", "b"])
    updated = root / "annotations" / "updated" / "training-b"
    updated.mkdir(parents=True)
    (updated / "REFERENCE_withSQI.csv").write_text("b0001,1,1\n")
    with pytest.raises(DataError, match="no folder training-b"):
        index_physionet2016(root, ["b"])
    (root / "training-d").mkdir()
    with pytest.raises(DataError, match=r"training-d has no table of labels: .*REFERENCE\.csv"):
        index_physionet2016(root, ["d"])


def test_tables_of_labels_are_looked_up_in_order(tmp_path):
    root = make_release(tmp_path, {"a": "a0001,1,0\n"})
    folder, updated = root / "training-a", root / "annotations" / "updated" / "training-a"
    updated.mkdir(parents=True)
    (folder / "REFERENCE.csv").write_text("a0001,-1\na0002,1\n")
    (updated / "REFERENCE_withSQI.csv").write_text("a0001,1,1\n")
    assert column(index_physionet2016(root, ["a"]), "quality") == {"a0001": 0}
    (folder / "REFERENCE-SQI.csv").unlink()
    assert column(index_physionet2016(root, ["a"]), "quality") == {"a0001": 1}
    (updated / "REFERENCE_withSQI.csv").unlink()
    assert column(index_physionet2016(root, ["a"]), "label") == {"a0001": 0, "a0002": 1}


@pytest.mark.parametrize(
    ("onsets", "annotation"),
    [
        ("hand-corrected", "annotations/hand_corrected/training-a_StateAns/a0001_StateAns.mat"),
        ("springer", "annotations/springer_alg/training-a-Aut/a0001_StateAns0.mat"),
        ("ecg", ""),
    ],
)
def test_onsets_are_looked_up_where_the_settings_say(simulated_raw, onsets, annotation):
    index = index_physionet2016(simulated_raw, ["a"], PreparationSettings(onsets=onsets))
    assert column(index, "annotation")["a0001"] == annotation


def test_a_recording_without_annotation_file_names_none(tmp_path):
    index = index_physionet2016(make_release(tmp_path, {"a": GOOD}, GOOD_APPENDIX), ["a"])
    assert set(column(index, "annotation").values()) == {""}


def test_a_simulated_cohort_has_the_persons_it_was_made_from(simulated_raw):
    table = index_physionet2016(simulated_raw, ["a"]).recordings
    truth = pd.read_csv(simulated_raw / "ground_truth.csv", dtype=str)
    pairs = set(zip(infer_persons(table), truth.sort_values("recording")["person"], strict=True))
    assert len(pairs) == len({inferred for inferred, _ in pairs}) == len({true for _, true in pairs}) == 16


def test_training_a_as_published(real_data):
    index = index_physionet2016(real_data, ["a"])
    table = index.recordings
    assert index.problems == []
    assert len(table) == 409
    assert (table["annotation"] != "").all()
    assert table["diagnosis"].value_counts().to_dict() == {
        "MVP": 134,
        "Benign": 118,
        "Normal": 117,
        "MPC": 23,
        "AD": 17,
    }
    kept = table[(table["quality"] == 1) & ~table["recording"].isin(["a0041", "a0117", "a0220", "a0233"])]
    assert len(kept) == 388
    assert kept["label"].sum() == 272
    assert kept["session"].nunique() == 58
    assert infer_persons(kept).nunique() == 122
    normal = kept[kept["label"] == 0]
    assert normal["session"].nunique() == 13
    assert (normal["session"] == "C115").sum() == 52


def test_a_subject_or_raw_recording_is_one_however_the_number_is_written(tmp_path):
    references = {letter: "".join(f"{letter}000{k},1,1\n" for k in range(1, 5)) for letter in "be"}
    appendix = [f"b000{k},,CAD,{subject},," for k, subject in enumerate(["7", "007", "7.0", "8"], start=1)]
    appendix += [
        f"e000{k},,Normal,,{raw}," for k, raw in enumerate(["12", "12.0", "\u00a012", "13"], start=1)
    ]
    index = index_physionet2016(make_release(tmp_path, references, appendix), ["b", "e"])
    sessions = column(index, "session")
    assert [sessions[f"b000{k}"] for k in range(1, 5)] == ["B7", "B7", "B7", "B8"]
    assert [sessions[f"e000{k}"] for k in range(1, 5)] == ["E12 Normal"] * 3 + ["E13 Normal"]


def test_tables_that_a_spreadsheet_saved_again_say_the_same(tmp_path):
    plain = index_physionet2016(make_release(tmp_path / "plain", {"a": GOOD}, GOOD_APPENDIX), ["a"])
    root = make_release(tmp_path / "saved", {"a": GOOD.replace(",", ";")}, GOOD_APPENDIX)
    text = (root / APPENDIX).read_text().replace(",", "\t")
    (root / APPENDIX).write_bytes(text.encode("utf-16"))
    saved = index_physionet2016(root, ["a"])
    assert saved.problems == []
    assert saved.recordings.equals(plain.recordings)
