"""One's own cohort: what is read, what is recognized, and that every mismatch is named."""

import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sources import DataError
from systems.ecg_pcg.sources.beats_of_recording import INDEX_COLUMNS
from systems.ecg_pcg.sources.cohort import _keep_persons_apart, find_channels, index_cohort
from tests.datasets.test_channel_files import write_edf


def write_record(root: Path, name: str, channels=("ECG", "PCG"), rate=1000, file_name="") -> Path:
    """Write a record of two seconds; `file_name` is what its header calls the signal file."""
    header = root / f"{name}.hea"
    header.parent.mkdir(parents=True, exist_ok=True)
    own = f"{header.stem}.dat"
    lines = [f"{header.stem} {len(channels)} {rate} {2 * rate}"]
    lines += [f"{file_name or own} 16 1000/mV 16 0 0 0 0 {channel}" for channel in channels]
    header.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (header.parent / own).write_bytes(np.zeros(2 * rate * len(channels), dtype="<i2").tobytes())
    return header


def make_cohort(root: Path, labels: str | bytes, records=("r1", "r2", "r3", "r4")) -> Path:
    for name in records:
        write_record(root, name)
    (root / "labels.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    return root


GOOD = (
    "recording,session,person,label\nr1,s1,p1,normal\nr2,s1,p2,abnormal\nr3,s2,p3,normal\nr4,s3,p4,abnormal\n"
)


def reported(index, where: str) -> str:
    """Return what is said about one recording or file."""
    return " ".join(f"{p.what} {p.remedy}" for p in index.problems if p.where == where)


def test_a_good_cohort_is_read_without_complaint(tmp_path):
    index = index_cohort(make_cohort(tmp_path, GOOD))
    table = index.recordings
    assert index.problems == []
    assert (index.name, index.session_unit) == ("cohort", {"cohort": "session"})
    assert list(table.columns) == list(INDEX_COLUMNS)
    assert table["recording"].tolist() == ["r1", "r2", "r3", "r4"]
    assert table["label"].tolist() == [0, 1, 0, 1]
    assert table["session"].tolist() == ["s1", "s1", "s2", "s3"]
    assert table["person"].tolist() == ["p1", "p2", "p3", "p4"]
    assert set(table["needs"]) == {"any"}
    assert set(table["quality"]) == {1}
    assert table["position"].isna().all()
    assert index.files == ["labels.csv"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace(",", " , ").encode(),
        lambda text: text.replace("label\n", "Label \n").replace("recording", " Recording").encode(),
        lambda text: text.replace("normal", "NORMAL").encode(),
        lambda text: text.replace("\n", ",,\n").replace("label,,", "label,note,").encode(),
        lambda text: (text.replace("\n", "\n\n") + ",,,\n").encode(),
        lambda text: text.replace("abnormal", "1").replace("normal", "-1").encode(),
        lambda text: text.replace("abnormal", "1").replace("normal", "\N{MINUS SIGN}1").encode(),
        lambda text: text.replace("abnormal", "1.0").replace("normal", "0.0").encode(),
        lambda text: text.replace("r1,", ".\\r1.hea,").encode(),
    ],
)
def test_the_table_is_read_however_it_was_saved(tmp_path, change):
    plain = index_cohort(make_cohort(tmp_path, GOOD))
    (tmp_path / "labels.csv").write_bytes(change(GOOD))
    changed = index_cohort(tmp_path)
    assert changed.problems == []
    assert changed.recordings.equals(plain.recordings)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_and_subfolders_are_found_in_either_unicode_form(tmp_path, forms):
    composed = unicodedata.normalize("NFC", "Köln/rené")
    header = write_record(tmp_path, unicodedata.normalize(forms[0], composed), file_name="x.dat")
    header.with_suffix(".dat").rename(header.parent / "x.dat")
    labels = unicodedata.normalize(forms[1], f"recording,person,label\n{composed},Zoë,1\n")
    (tmp_path / "labels.csv").write_text(labels, encoding="utf-8")
    index = index_cohort(tmp_path)
    assert index.problems == []
    assert index.recordings.loc[0, ["recording", "person"]].tolist() == [composed, "Zo\u00eb"]
    assert (tmp_path / index.recordings.loc[0, "header"]).is_file()


def test_optional_columns_and_annotations_reach_the_index(tmp_path):
    columns = "recording,person,label,diagnosis,site,quality,annotation"
    labels = f"{columns}\nr1,p,1,AS,Apex,unsure,\nsub/r2,q,0,,,1,onsets/x.mat\n"
    make_cohort(tmp_path, labels, ["r1", "sub/r2"])
    (tmp_path / "onsets").mkdir()
    for name in ("r1_StateAns.mat", "onsets/x.mat", "sub/r2_StateAns.mat"):
        (tmp_path / name).touch()
    index = index_cohort(tmp_path)
    first, second = index.recordings.to_dict("records")
    assert index.problems == []
    assert (first["diagnosis"], first["site"], first["quality"]) == ("AS", "Apex", 0)
    assert (first["annotation"], second["annotation"]) == ("r1_StateAns.mat", "onsets/x.mat")
    assert (second["header"], second["quality"]) == ("sub/r2.hea", 1)


def test_the_database_of_each_recording_is_read_and_what_is_doubtful_is_named(tmp_path):
    rows = ["r1,p1,0,Mayo", "r2,p2,1,mayo", "r3,p3,0,", "r4,p4,1,007"]
    index = index_cohort(make_cohort(tmp_path, "\n".join(["recording,person,label,database", *rows])))
    assert index.recordings["database"].tolist() == ["Mayo", "mayo", "", "007"]
    assert "databases Mayo and mayo may be one" in reported(index, "Mayo, mayo")
    assert "names no database" in reported(index, "r3")
    assert len(index.problems) == 2
    assert index.choices == {"database": "column"}, "a cache of before, which ignored the column, is another"


def test_without_a_database_column_all_are_of_one(tmp_path):
    index = index_cohort(make_cohort(tmp_path, GOOD))
    assert set(index.recordings["database"]) == {"cohort"}
    assert index.choices == {}


def test_without_session_and_person_each_recording_stands_alone_and_the_user_is_warned(tmp_path):
    index = index_cohort(make_cohort(tmp_path, "recording,label\nr1,0\nr2,1\n", ["r1", "r2"]))
    assert index.session_unit == {"cohort": "recording"}
    assert index.recordings["session"].tolist() == ["r1", "r2"]
    assert "shared between train and test" in reported(index, "labels.csv")


def test_columns_under_another_name_are_shown_where_persons_are_not_named(tmp_path):
    labels = "Recording,Patient,Label,site\nr1,7,0,Apex\nr2,7,1,Apex\n"
    index = index_cohort(make_cohort(tmp_path, labels, ["r1", "r2"]))
    (problem,) = index.problems
    assert "rename the one that tells them apart (ignored: patient)" in problem.remedy


def test_the_person_is_the_session_where_only_persons_are_given(tmp_path):
    index = index_cohort(make_cohort(tmp_path, "recording,person,label\nr1,p,0\nr2,p,1\n", ["r1", "r2"]))
    assert index.session_unit == {"cohort": "person"}
    assert index.recordings["session"].tolist() == ["p", "p"]
    assert index.problems == []


def test_sessions_that_share_a_person_become_one(tmp_path):
    rows = [
        ("r1", "s1", "p1"),
        ("r2", "s2", "p1"),
        ("r3", "s2", "p2"),
        ("r4", "s3", "p2"),
        ("r5", "s4", ""),
        ("r6", "s5", ""),
    ]
    labels = "recording,session,person,label\n" + "".join(f"{','.join(row)},1\n" for row in rows)
    index = index_cohort(make_cohort(tmp_path, labels, [row[0] for row in rows]))
    assert index.recordings["session"].tolist() == ["s1+s2+s3"] * 4 + ["s4", "s5"]
    assert index.recordings["person"].tolist() == ["p1", "p1", "p2", "p2", "", ""]
    assert [problem.where for problem in index.problems] == ["p1", "p2"]
    assert "s1, s2" in reported(index, "p1")
    assert "count as one" in reported(index, "p1")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=15))
def test_after_merging_nobody_is_in_two_sessions(pairs):
    rows = [{"session": f"s{session}", "person": f"p{person}" if person else ""} for session, person in pairs]
    before = [dict(row) for row in rows]
    _keep_persons_apart(rows)
    for one, was in zip(rows, before, strict=True):
        for other, had in zip(rows, before, strict=True):
            if was["session"] == had["session"] or (was["person"] and was["person"] == had["person"]):
                assert one["session"] == other["session"]


def test_every_mismatch_is_named_in_one_table_and_the_rest_is_used(tmp_path):
    rows = """recording,session,label,quality,annotation
    good,s1,normal,,
    nolabel,s1,,,
    gone,s1,normal,,
    GOOD2,s1,normal,,
    twice,s1,normal,,
    twice,s2,abnormal,,
    odd,s1,maybe,,
    alone,,normal,,
    ../outside,s1,normal,,
    damaged,s1,normal,,
    unnamed,s1,normal,,
    slow,s1,normal,,
    nosignal,s1,normal,,
    absolute,s1,normal,,
    parent,s1,normal,,
    accent,s1,normal,,
    vague,s1,normal,often,
    noonsets,s1,normal,,../x.mat
    ,s1,normal,,
    long,s1,normal,,,too,many
    """
    records = "good sub/good2 nolabel twice odd alone extra vague noonsets"
    make_cohort(tmp_path, rows.replace("    ", ""), records.split())
    write_record(tmp_path.parent, "outside")
    (tmp_path.parent / "x.mat").touch()
    write_record(tmp_path, ".hidden/ignored")
    write_record(tmp_path, "damaged").write_text("\x00 what is this\n")
    write_record(tmp_path, "unnamed", channels=["ABP", "CO2"])
    write_record(tmp_path, "slow", channels=["PCG"], rate=125)
    write_record(tmp_path, "nosignal", file_name="elsewhere.dat")
    write_record(tmp_path, "absolute", file_name=str(tmp_path / "absolute.dat"))
    write_record(tmp_path, "parent", file_name="../outside.dat")
    write_record(tmp_path, "accent", file_name="äccent.dat")
    index = index_cohort(tmp_path)
    assert index.recordings["recording"].tolist() == ["good", "noonsets", "vague"]
    expected = {
        "nolabel": "label '' .* not known",
        "gone": r"no gone\.hea \(row 4.*Add the record",
        "GOOD2": "Write 'sub/good2'",
        "sub/good2": "no row",
        "twice": r"2 times .*rows 6, 7",
        "odd": "label 'maybe'",
        "alone": "session is missing .*row 9",
        "../outside": "leads out of the folder",
        "damaged": "cannot be read",
        "unnamed": "Neither .*ABP, CO2.*--ecg-channel and --pcg-channel",
        "slow": "125 Hz",
        "nosignal": r"elsewhere\.dat .*absent",
        "absolute": "a path",
        "parent": "a path",
        "accent": "ASCII",
        "vague": "quality 'often'.* counts as 0",
        "noonsets": r"annotation '\.\./x\.mat'",
        "extra": "no row",
        "labels.csv, row 20": "names no recording",
        "labels.csv, row 21": "7 cells, but there are 5 columns",
    }
    assert {problem.where for problem in index.problems} == set(expected)
    for where, pattern in expected.items():
        assert re.search(pattern, reported(index, where)), where
    assert all(problem.what and problem.remedy for problem in index.problems)


def test_the_rate_counts_the_samples_of_a_frame(tmp_path):
    header = write_record(tmp_path, "r1", channels=["PCG"], rate=250)
    header.write_text(header.read_text().replace(" 16 1000", " 16x8 1000"))
    header.with_suffix(".dat").write_bytes(bytes(2 * 250 * 8 * 2))
    (tmp_path / "labels.csv").write_text("recording,person,label\nr1,p,0\n")
    assert index_cohort(tmp_path).problems == []


def test_a_cohort_without_any_usable_recording_is_an_empty_index(tmp_path):
    index = index_cohort(make_cohort(tmp_path, "recording,person,label\nx,p,0\n", []))
    assert index.recordings.empty
    assert list(index.recordings.columns) == list(INDEX_COLUMNS)


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (["ECG", "PCG"], ("", ""), (0, 1)),
        (["PCG", "ECG"], ("", ""), (1, 0)),
        (["phono_apex", "MLII"], ("", ""), (1, 0)),
        (["Resp", "Heart Sound 1", "aVR"], ("", ""), (2, 1)),
        (["EKG 1", "HS"], ("", ""), (0, 1)),
        (["lead II", "stethoscope"], ("", ""), (0, 1)),
        (["I", "II", "V5"], ("", ""), (0, None)),
        (["left HS1", "pulse"], ("", ""), (None, 0)),
        (["ABP", "RESP", "microphone", "ths", "IV", "V"], ("", ""), (None, None)),
        (["ECG or PCG", "x"], ("", ""), (None, None)),
        (["I", "II", "PCG"], ("ii", ""), (1, 2)),
        (["I", "PCG", "mic"], ("", "Mic "), (0, 2)),
        (["PCG", "other"], ("pcg", ""), (0, None)),
        ([None, "PCG"], ("", ""), (None, 1)),
        (None, ("", ""), (None, None)),
    ],
)
def test_channels_are_found_by_usual_or_given_names(names, options, found):
    assert find_channels(SimpleNamespace(sig_name=names), *options) == found


def test_one_channel_cannot_be_both():
    with pytest.raises(DataError, match="two channels"):
        find_channels(SimpleNamespace(sig_name=["x"]), "x", "X")


@pytest.mark.parametrize(
    ("channels", "options", "said"),
    [
        (["ECG"], ("", ""), ""),
        (["PCG"], ("", ""), ""),
        (
            ["ECG", "sound"],
            ("", ""),
            "No PCG channel among its channels: ECG, sound. It is used without PCG.*--pcg-channel",
        ),
        (["ECG", "sound"], ("", "sound"), ""),
        (["PCG"], ("II", ""), "No ECG channel 'II'"),
    ],
)
def test_a_signal_is_never_dropped_in_silence(tmp_path, channels, options, said):
    write_record(tmp_path, "r1", channels)
    (tmp_path / "labels.csv").write_text("recording,person,label\nr1,p,0\n")
    index = index_cohort(tmp_path, *options)
    assert index.recordings["recording"].tolist() == ["r1"]
    assert re.search(said, reported(index, "r1"))
    assert bool(index.problems) == bool(said)


WRITTEN = "recording,person,label\nr1,{},0\nr2,{},0\nr3,{},1\nr4,{},1\n"


@pytest.mark.parametrize(
    "cells",
    [
        ("7", "007", "8", "9"),
        ("7.0", "7", "8", "9"),
        (" 7", "7\u00a0", "8", "9"),
        ("'7", '="""7"""', "8", "9"),
    ],
)
def test_a_person_is_one_however_the_number_is_written(tmp_path, cells):
    quoted = ['"' + cell.replace('="""', '=""').replace('"""', '""') + '"' for cell in cells]
    index = index_cohort(make_cohort(tmp_path, WRITTEN.format(*quoted)))
    assert index.problems == []
    assert index.recordings["session"].tolist() == ["7", "7", "8", "9"]
    assert index.recordings["person"].tolist() == ["7", "7", "8", "9"]


def test_a_person_is_shown_as_written_and_names_its_cache_as_before(tmp_path):
    index = index_cohort(make_cohort(tmp_path, WRITTEN.format("007", "007", "P-08", "9.0")))
    assert index.recordings["session"].tolist() == ["007", "007", "P-08", "9.0"]
    assert index.choices == {}
    (tmp_path / "labels.csv").write_text(WRITTEN.format("007", "7", "P-08", "9.0"))
    assert index_cohort(tmp_path).choices != {}


def test_persons_that_may_be_one_are_named_and_in_one_part(tmp_path):
    index = index_cohort(make_cohort(tmp_path, WRITTEN.format("P7", "p7", "P07", "7")))
    assert index.recordings["session"].tolist() == ["P07+P7+p7"] * 3 + ["7"]
    assert index.recordings["person"].tolist() == ["P7", "p7", "P07", "7"]
    assert "The persons P07 and P7 and p7 may be one" in reported(index, "P07, P7, p7")
    assert "same part of every split" in reported(index, "P07, P7, p7")
    assert [problem.left_out for problem in index.problems] == [False]


def test_sessions_are_read_like_persons(tmp_path):
    index = index_cohort(
        make_cohort(tmp_path, WRITTEN.format("1", "01", "s2", "S2").replace("person", "session"))
    )
    assert index.recordings["session"].tolist() == ["1", "1", "S2+s2", "S2+s2"]


@pytest.mark.parametrize("nobody", ["nan", "N/A", "-", "\u200b"])
def test_a_cell_that_says_that_nobody_is_known_names_no_person(tmp_path, nobody):
    index = index_cohort(make_cohort(tmp_path, WRITTEN.format("1", nobody, nobody, "2")))
    assert index.recordings["recording"].tolist() == ["r1", "r4"]
    assert "The person is missing" in reported(index, "r2")


def test_the_table_is_found_in_any_letter_case_and_a_number_without_its_zeros_is_hinted_at(tmp_path):
    make_cohort(tmp_path, "recording,person,label\n1,a,0\n002,b,1\n", ["001", "002"])
    (tmp_path / "labels.csv").rename(tmp_path / "Labels.CSV")
    index = index_cohort(tmp_path)
    assert index.files == ["Labels.CSV"]
    assert index.recordings["recording"].tolist() == ["002"]
    assert "Write '001'" in reported(index, "1")


# Other files ----------------------------------------------------------------------------------------------


def test_a_cohort_may_hold_sounds_and_files_of_channels(tmp_path):
    write_record(tmp_path, "a")
    sound = np.random.default_rng(0).integers(-9000, 9000, 12_000).astype(np.int16)
    soundfile.write(tmp_path / "b.flac", sound, 2000)
    (tmp_path / "b.tsv").write_text("0\t0.5\t1\n")
    write_edf(tmp_path / "sub" / "c.edf")
    soundfile.write(tmp_path / "d.wav", np.stack([sound, sound], axis=1), 2000)
    (tmp_path / "e.wav").write_bytes((tmp_path / "d.wav").read_bytes()[:9000])
    soundfile.write(tmp_path / "f.wav", sound, 400)
    rows = "".join(f"{name},{name},normal\n" for name in ("a.hea", "b", "sub/c", "d.wav", "e", "f"))
    (tmp_path / "labels.csv").write_text("recording,person,label\n" + rows)
    index = index_cohort(tmp_path)
    table = index.recordings.set_index("recording")
    assert table["header"].to_dict() == {"a": "a.hea", "b": "b.flac", "d": "d.wav", "sub/c": "sub/c.edf"}
    assert table.loc["b", "annotation"] == "b.tsv"
    assert "2 channels; the first one is taken" in reported(index, "d")
    assert "e.wav is cut short: 6.0 s are declared, and 1.1 s are there" in reported(index, "e")
    assert "sampling rate of the PCG is 400 Hz" in reported(index, "f")
    assert reported(index, "sub/c") == reported(index, "b") == ""


def test_files_of_one_name_and_a_sound_that_no_header_names(tmp_path):
    write_record(tmp_path, "a", ("ECG",))
    for name in ("a.wav", "b.wav", "b.flac"):
        soundfile.write(tmp_path / name, np.arange(-4000, 4000, dtype=np.int16), 2000)
    (tmp_path / "labels.csv").write_text("recording,person,label\na,1,normal\nb,2,normal\n")
    index = index_cohort(tmp_path)
    assert index.recordings["recording"].tolist() == ["a"]
    assert "a.wav is not used: a.hea does not name it." in reported(index, "a")
    assert "Several files have this name: b.flac, b.wav." in reported(index, "b")


def test_a_sound_whose_header_is_lost_is_no_sound_alone(tmp_path):
    """Else its ECG would be passed over without a word, as S1 and S2 are found in the sound."""
    make_cohort(tmp_path, GOOD)
    sound = np.sin(np.arange(8000) / 9)
    for name in ("r1", "r2", "r3"):
        soundfile.write(tmp_path / f"{name}.wav", sound, 2000)
        (tmp_path / f"{name}.hea").unlink()
    (tmp_path / "r1.hea").mkdir()
    (tmp_path / "r2.hea").symlink_to("r2.hea")
    index = index_cohort(tmp_path)
    for name in ("r1", "r2"):
        assert f"There is no header {name}.hea" in reported(index, name)
    assert "r3.dat is not used: there is no header r3.hea." in reported(index, "r3")
    assert index.recordings["recording"].tolist() == ["r3", "r4"]
