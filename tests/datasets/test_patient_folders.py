"""One's own patients: what is read, and that every fault is named in one run while the rest is used."""

import csv
import json
import math

import numpy as np
import openpyxl
import pytest
from PIL import Image

from datasets.patients import PATIENT_COLUMNS, plausible_values
from datasets.sources import DataError, Problem
from systems.ecg_multimodal.sources.folders import index_patient_folders


def reported(index, where):
    """Return what is said about one patient or file."""
    return " ".join(problem.what for problem in index.problems if problem.where == where)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def save(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def change(path, row, column, cell):
    """Replace a cell, counted from 0, the row of names included."""
    rows = rows_of(path)
    rows[row][column] = cell
    save(path, rows)


def to_excel(path, numbers=float):
    """Replace a CSV table by an Excel one, its numbers as Excel keeps them."""
    book = openpyxl.Workbook()
    for row in rows_of(path):
        book.active.append([numbers(cell) if cell.replace(".", "").isdigit() else cell for cell in row])
    book.save(path.with_suffix(".xlsx"))
    path.unlink()


def test_a_good_folder_is_read_without_complaint(make_patients):
    index = index_patient_folders(make_patients())
    table, clinical = index.recordings, index.clinical
    assert index.problems == []
    assert list(table.columns) == list(PATIENT_COLUMNS)
    assert table["recording"].tolist() == table["person"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert table["label"].tolist() == [1, 0, 1, 0, 1, 0]
    assert set(table["official_fold"]) == {0}
    assert table["image"].tolist() == [f"images/{number}/00{number}ECG_lead2.jpg" for number in range(1, 7)]
    assert list(clinical.columns) == [
        "recording",
        *["age", "sex", "height", "weight", "systolic", "diastolic", "smoking"],
    ]
    assert clinical.loc[2].tolist() == ["3", 43.0, 1.0, 170.5, 70.0, 120.0, 80.0, 0.0]
    assert (index.name, index.leads, index.signal_rate, index.drawn) == ("patients", ("II",), 250.0, False)
    assert sorted(index.files) == ["clinical.csv", "ecg_signals.csv", "labels.csv"]
    assert not index.simulated


def test_columns_of_the_labels_can_be_learned_and_the_unlabelled_kept(make_patients):
    root = make_patients()
    rows = [
        ["index", "label", "Rhythm (ECG)", "comment", "one"],
        ["1", "normal", "AFIB", "a", "x"],
        ["2", "borderline", "SR", "b", "x"],
        ["3", "abnormal", "sr+pace", "c", "x"],
        ["4", "", "n/a", "d", "x"],
        ["5", "0", "", "", "x"],
        ["6", "1", "SR", "e", ""],
    ]
    save(root / "labels.csv", rows)
    kept = index_patient_folders(root, keep_unlabelled=True)
    table = kept.recordings
    assert table["label"].tolist() == [0, -1, 1, -1, 0, 1]
    assert table["target_rhythm"].tolist() == ["afib", "sr", "sr+pace", "", "", "sr"]
    three = ["normal", "borderline", "abnormal", "", "normal", "abnormal"]
    assert table["target_three_classes"].tolist() == three
    assert "target_comment" in table and "target_one" not in table
    usual = index_patient_folders(root)
    assert usual.recordings["recording"].tolist() == ["1", "3", "5", "6"]
    assert "target_three_classes" not in usual.recordings
    assert "--unlabelled keep" in next(problem.remedy for problem in usual.problems if problem.where == "2")
    assert kept.choices != usual.choices, "two caches"


def test_a_class_called_none_counts_as_not_known_and_is_named(make_patients):
    root = make_patients()
    severity = ("none", "mild", "None", "severe", "mild", "severe")
    rows = [[str(number), "normal", cell] for number, cell in enumerate(severity, 1)]
    save(root / "labels.csv", [["index", "label", "severity"], *rows])
    index = index_patient_folders(root)
    assert index.recordings["target_severity"].tolist() == ["", "mild", "", "severe", "mild", "severe"]
    (problem,) = [problem for problem in index.problems if "none" in problem.what]
    assert "2 cells of the column 'severity'" in problem.what and not problem.left_out


def test_a_table_of_labels_may_name_other_classes_only(make_patients):
    root = make_patients()
    rows = [[str(number), ("afib", "sr")[number % 2]] for number in range(1, 7)]
    save(root / "labels.csv", [["index", "rhythm"], *rows])
    with pytest.raises(DataError, match=r"no column label.*prepare with --unlabelled keep"):
        index_patient_folders(root)
    table = index_patient_folders(root, keep_unlabelled=True).recordings
    assert table["target_rhythm"].tolist() == ["sr", "afib"] * 3
    assert set(table["label"]) == {-1}
    save(root / "labels.csv", [["index", "label"], *rows])
    assert index_patient_folders(root, keep_unlabelled=True).recordings["target_label"].nunique() == 2


def test_simulated_patients_are_known_as_such(make_patients):
    root = make_patients()
    (root / "simulation.json").write_text(json.dumps({}))
    assert index_patient_folders(root).simulated


def as_windows(root):
    for name in ("labels.csv", "clinical.csv", "ecg_signals.csv"):
        text = (root / name).read_text(encoding="utf-8")
        (root / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())


def as_excel(root):
    to_excel(root / "labels.csv")
    to_excel(root / "clinical.csv")


def as_spaced(root):
    for name in ("labels.csv", "clinical.csv"):
        save(root / name, [[f" {cell} " for cell in row] for row in rows_of(root / name)])


def as_semicolons(root):
    for name in ("labels.csv", "clinical.csv", "ecg_signals.csv"):
        text = (root / name).read_text(encoding="utf-8").replace(",", ";").replace(".", ",")
        (root / name).write_text(text, encoding="utf-8")


def as_shouted(root):
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("normal", "NORMAL").replace("label", "Label"))


def as_padded_folders(root):
    for number in range(1, 7):
        (root / f"images/{number}").rename(root / f"images/{number:04d}")


@pytest.mark.parametrize(
    "saved", [as_windows, as_excel, as_spaced, as_semicolons, as_shouted, as_padded_folders]
)
def test_the_folder_is_read_however_it_was_saved(make_patients, saved):
    root = make_patients()
    plain = index_patient_folders(root)
    saved(root)
    index = index_patient_folders(root)
    assert index.problems == []
    columns = ["recording", "label", "person"]
    assert index.recordings[columns].equals(plain.recordings[columns])
    assert index.clinical.equals(plain.clinical)
    assert (index.recordings[["signal", "image"]] != "").all(axis=None)


def test_names_beyond_ascii_are_patients_too(make_patients):
    root = make_patients()
    for name in ("labels.csv", "clinical.csv"):
        change(root / name, 3, 0, "Zoë")
    change(root / "ecg_signals.csv", 2, 0, "Zoe\u0308")
    (root / "images/3").rename(root / "images/Zoe\u0308")
    (root / "images/Zoe\u0308/003ECG_lead2.jpg").rename(root / "images/Zoe\u0308/Zoe\u0308ECG_lead2.jpg")
    index = index_patient_folders(root)
    assert index.problems == []
    row = index.recordings.set_index("recording").loc["Zo\u00eb"]
    assert (root / row["image"]).is_file()
    assert row["signal"]


def test_every_fault_is_named_in_one_run_and_the_rest_is_used(make_patients):
    root = make_patients(20)
    # labels: unknown, borderline, twice, absent (4), a row without a number, one who is nowhere else
    change(root / "labels.csv", 1, 1, "perhaps")
    change(root / "labels.csv", 2, 1, "Borderline")
    rows = rows_of(root / "labels.csv")
    del rows[4]
    save(root / "labels.csv", [*rows, ["3.0", "normal"], ["", "normal"], ["77", "normal"]])
    # signals: not a number, far too short, twice, absent (8)
    rows = rows_of(root / "ecg_signals.csv")
    rows[4][100] = "x1"
    rows[5] = rows[5][:1500]
    del rows[7]
    save(root / "ecg_signals.csv", [*rows, ["007", *rows[6][1:]], ["99", *rows[0][1:]]])
    # clinical: age in words, impossible values, pressures swapped, twice, absent (13), too many cells
    change(root / "clinical.csv", 9, 1, "forty")
    change(root / "clinical.csv", 10, 3, "1.75")
    change(root / "clinical.csv", 11, 5, "70")
    rows = rows_of(root / "clinical.csv")
    del rows[13]
    rows[13].append("1")
    save(root / "clinical.csv", [*rows, [12.0, *rows[12][1:]]])
    # images: cut short, no picture, empty, another patient's, folder twice, outside a folder, absent (20)
    pictures = {number: root / f"images/{number}/{number:03d}ECG_lead2.jpg" for number in range(1, 21)}
    pictures[15].write_bytes(pictures[15].read_bytes()[:5000])
    pictures[16].write_text("nothing")
    Image.new("RGB", (2500, 250), "white").save(pictures[17])
    pictures[18].rename(pictures[18].parent / "081ECG_lead2.jpg")
    (root / "images/019").mkdir()
    pictures[20].rename(root / "images/020ECG_lead2.jpg")
    pictures[20].parent.rmdir()
    (root / "images/.DS_Store").touch()
    (root / "images/1/Thumbs.db").touch()

    index = index_patient_folders(root)

    expected = {
        "1": "The label 'perhaps' (row 2 of labels.csv) is not known.",
        "2": "The label is borderline.",
        "3": "occurs 2 times in labels.csv (rows 4, 21)",
        "4": "in images, ecg_signals.csv, clinical.csv, but not in labels.csv",
        "labels.csv, row 22": "names no patient",
        "77": "It has a label, but no usable view.",
        "5": "'x1' in column 101 is no number (line 5)",
        "6": "1499 samples where 2476 are usual",
        "7": "occurs 2 times (lines 7, 20)",
        "8": "not in ecg_signals.csv",
        "99": "in ecg_signals.csv, but not in labels.csv",
        "9": "The Age 'forty' is no number (row 10 of clinical.csv)",
        "10": "The height 1.75 is not possible (50 to 250 cm)",
        "11": "diastolic pressure 80 is not below the systolic 70",
        "12": "occurs 2 times in clinical.csv",
        "13": "not in clinical.csv",
        "14": "Row 14 of clinical.csv has 9 cells, but there are 8 columns",
        "15": "015ECG_lead2.jpg cannot be read",
        "16": "016ECG_lead2.jpg cannot be read",
        "17": "shows nothing but paper",
        "18": "holds 081ECG_lead2.jpg where 018ECG_lead2.jpg is expected",
        "19": "The folders 019 and 19 name one patient",
        "images/020ECG_lead2.jpg": "lies in no patient's folder",
        "20": "not in images",
    }
    for where, words in expected.items():
        assert words in reported(index, where), where
    assert {problem.where for problem in index.problems} == set(expected)
    assert len(index.problems) == len(expected) + 1  # 77 is in one table only, too
    assert all(problem.remedy for problem in index.problems)
    lost = {problem.where for problem in index.problems if problem.left_out}
    assert lost == {"1", "2", "3", "4", "77", "99", "labels.csv, row 22"}
    table = index.recordings.set_index("recording")
    assert sorted(table.index, key=int) == [str(number) for number in range(5, 21)]
    assert set(table.index[table["signal"] == ""]) == {"5", "6", "7", "8"}
    assert set(table.index[table["image"] == ""]) == {"15", "16", "17", "18", "19", "20"}
    clinical = index.clinical.set_index("recording")
    assert set(clinical.index[clinical.isna().all(axis=1)]) == {"12", "13", "14"}
    assert clinical["age"].isna().sum() == 4
    assert clinical.loc["10"].isna().sum() == 1
    assert clinical.loc["11"].isna().sum() == 2


@pytest.mark.parametrize("view", ["images", "ecg_signals.csv", "clinical.csv"])
def test_a_view_that_nobody_has_is_named_once(make_patients, view):
    root = make_patients()
    (root / view).rename(root / "elsewhere")
    index = index_patient_folders(root)
    assert len(index.recordings) == 6
    assert [problem.left_out for problem in index.problems] == [False]
    assert "no patient has this view" in index.problems[0].what
    assert len(index.clinical.columns) == (1 if view == "clinical.csv" else 8)


def test_a_column_that_states_another_unit_is_another_value(make_patients):
    root = make_patients()
    rows = rows_of(root / "clinical.csv")
    before = index_patient_folders(root)
    place = [name.casefold() for name in rows[0]].index("weight")
    rows[0][place] = "Weight (lb)"
    save(root / "clinical.csv", rows)
    index = index_patient_folders(root)
    assert "weight" not in index.clinical and "weight_lb" in index.clinical
    assert index.clinical["weight_lb"].tolist() == before.clinical["weight"].tolist()
    assert index.choices == before.choices | {"units": "stated"}
    rows[0][place] = "Weight (kg)"
    save(root / "clinical.csv", rows)
    assert index_patient_folders(root).clinical.equals(before.clinical)


def test_what_gives_the_label_away_is_no_clinical_value(make_patients):
    root = make_patients()
    rows = rows_of(root / "clinical.csv")
    names = ["Label", "Diagnosis", "Name", "gender", "RR mean [ms]"]
    cells = [[str(k % 2), "1", "Kim", "0", str(800 + k)] for k in range(6)]
    save(root / "clinical.csv", [row + more for row, more in zip(rows, [names, *cells], strict=True)])
    index = index_patient_folders(root)
    assert [name for name in index.clinical.columns if name not in ("recording", "age", "sex")][
        -1
    ] == "rr_mean"
    text = reported(index, "clinical.csv")
    for words in (
        "'Label' tells the label",
        "'Diagnosis' tells",
        "'Name' holds no number",
        "'gender' repeats",
    ):
        assert words in text
    assert index.clinical["sex"].tolist() == [1, 0, 1, 0, 1, 0]


def test_sex_may_be_written_in_words(make_patients):
    root = make_patients()
    for number, word in enumerate(["M", "f", "Male", "female", "m", "W"], start=1):
        change(root / "clinical.csv", number, 2, word)
    assert index_patient_folders(root).clinical["sex"].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_diagnosis_beside_the_label_is_kept_as_text(make_patients):
    root = make_patients()
    save(
        root / "labels.csv",
        [[*row, ("Diagnosis", "AF")[number > 0]] for number, row in enumerate(rows_of(root / "labels.csv"))],
    )
    index = index_patient_folders(root)
    assert set(index.recordings["diagnosis"]) == {"AF"}
    assert index.recordings["label"].tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, "has no labels.xlsx or labels.csv"),
        ("index,verdict\n1,normal\n", "no column label; its columns are: verdict"),
        ("index,label\n1,-1\n2,0\n", "ambiguous: both -1 and 0"),
        ("index,label\n1,borderline\n", "No patient of .* can be used. The first reasons: 1: The label"),
        ("", "is empty"),
    ],
)
def test_without_labels_nothing_is_guessed(make_patients, labels, sentence):
    root = make_patients()
    (root / "labels.csv").unlink()
    if labels is not None:
        (root / "labels.csv").write_text(labels)
    with pytest.raises(DataError, match=sentence):
        index_patient_folders(root)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        index_patient_folders(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"age": 120.0, "height": 50.0, "weight": 400.0, "sex": 1.0}, set()),
        ({"age": 121.0, "height": 49.9, "weight": 1.0, "sex": 2.0}, {"age", "height", "weight", "sex"}),
        ({"sex": 0.5, "bmi": 5.0, "heart_rate": 10.0}, {"sex", "bmi", "heart_rate"}),
        ({"systolic": 120.0, "diastolic": 80.0}, set()),
        ({"systolic": 80.0, "diastolic": 80.0}, {"systolic", "diastolic"}),
        ({"systolic": 500.0, "diastolic": 80.0}, {"systolic"}),
        ({"age": math.nan, "anything": 1e9}, set()),
    ],
)
def test_impossible_values_count_as_missing_and_are_named(values, missing):
    problems: list[Problem] = []
    kept = plausible_values(values, "7", problems)
    assert {name for name in kept if math.isnan(kept[name]) and not math.isnan(values[name])} == missing
    assert {name: value for name, value in kept.items() if name not in missing} == pytest.approx(
        {name: value for name, value in values.items() if name not in missing}, nan_ok=True
    )
    assert bool(problems) == bool(missing)
    assert all(problem.where == "7" and not problem.left_out for problem in problems)
    assert np.isfinite([value for name, value in kept.items() if name not in missing | {"age"}]).all()


def test_letter_case_of_files_and_folders_does_not_count(make_patients):
    root = make_patients()
    plain = index_patient_folders(root)
    for name, other in (
        ("images", "Images"),
        ("ecg_signals.csv", "ECG_Signals.CSV"),
        ("labels.csv", "LABELS.csv"),
    ):
        (root / name).rename(root / other)
    index = index_patient_folders(root)
    assert index.problems == []
    assert index.recordings["signal"].str.startswith("ECG_Signals.CSV@").all()
    assert all((root / image).is_file() for image in index.recordings["image"])
    assert index.clinical.equals(plain.clinical)
    assert sorted(index.files) == ["ECG_Signals.CSV", "LABELS.csv", "clinical.csv"]


@pytest.mark.parametrize("name", ["clinical.xls", "ecg_signals.xlsx", "ecg_signals.tsv", "ECG signals.csv"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_view_in_a_file_that_is_not_read_is_never_passed_over(make_patients, name, labelled):
    root = make_patients()
    own = "clinical.csv" if name.startswith("clinical") else "ecg_signals.csv"
    (root / own).rename(root / name)
    with pytest.raises(DataError, match="is not read: save it as"):
        index_patient_folders(root, labelled=labelled)


def test_patients_that_may_be_one_are_named_and_in_one_part(make_patients):
    root = make_patients()
    for table in ("labels.csv", "clinical.csv"):
        change(root / table, 3, 0, "A7")
    change(root / "ecg_signals.csv", 2, 0, "a7")
    index = index_patient_folders(root)
    assert "The patients A7 and a7 may be one" in reported(index, "A7, a7")
    assert index.recordings.set_index("recording").loc["A7", "person"] == "A7+a7"
    assert index.choices["tables"] == "2"


def test_what_a_comma_may_mean_is_named_and_decided_for_a_column(make_patients):
    root = make_patients()
    rows = rows_of(root / "clinical.csv")
    for row, height, weight in zip(
        rows[1:], ("170,5",) * 6, ("3,250", "70", "71", "72", "73", "74"), strict=True
    ):
        row[3], row[4] = height, weight
    save(root / "clinical.csv", rows)
    index = index_patient_folders(root)
    assert set(index.clinical["height"]) == {170.5}
    assert index.clinical["weight"].tolist() == pytest.approx([3.25, 70, 71, 72, 73, 74])
    for row in rows[1:]:
        row[3] = "170.5"
    save(root / "clinical.csv", rows)
    index = index_patient_folders(root)
    assert "The Weight '3,250' may be 3.25 or 3250: write one of them (row 2" in reported(index, "1")
    assert math.isnan(index.clinical["weight"][0])
    assert index.clinical["weight"][1:].tolist() == [70, 71, 72, 73, 74]


def test_whoever_predicts_is_told_of_a_picture_outside_of_folders_and_of_empty_tables(make_patients):
    root = make_patients()
    for number in (2, 3):
        folder = root / f"images/{number}"
        picture = folder / f"00{number}ECG_lead2.jpg"
        picture.rename(root / f"images/{picture.name}")
        folder.rmdir()
    (root / "clinical.csv").write_text("IDX,age\n")
    index = index_patient_folders(root, labelled=False)
    assert index.unusable["image"]["2"] == "002ECG_lead2.jpg lies in no patient's folder."
    assert set(index.unusable["image"]) == {"2", "3"}
    assert "names no patient" in reported(index, "clinical.csv")


def test_a_column_of_formulas_without_stored_results_says_so(make_patients):
    root = make_patients()
    change(root / "clinical.csv", 1, 4, "7.5")
    to_excel(root / "clinical.csv")
    book = openpyxl.load_workbook(root / "clinical.xlsx")
    for row in range(2, 8):
        book.active.cell(row, 9, f"=D{row}/2")
    book.active.cell(1, 9, "half")
    book.active.cell(3, 5, "=D3/2")
    book.save(root / "clinical.xlsx")
    index = index_patient_folders(root)
    assert "'half' holds no number that is sure ('=D2/2' is a formula without a stored result)" in reported(
        index, "clinical.xlsx"
    )
    assert "The Weight '=D3/2' is a formula without a stored result (row 3" in reported(index, "2")
    assert math.isnan(index.clinical["weight"][1])
