"""Index a folder laid out as CirCor DigiScope and the PhysioNet Challenge 2022: heart sounds of many places.

``<patient>.txt`` names the recordings of a patient, one line each (place, header, sound, heart states), and
says in comments what is known of the patient: age, sex, murmur, outcome. Labels are of patients: a murmur
heard at one place counts for all of them. (Oliveira et al., IEEE J. Biomed. Health Inform. 26 (2022) 2524;
physionet.org/content/circor-heart-sound/1.0.3)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.sources import DataError, Problem, SourceIndex
from datasets.wfdb_files import read_header, signal_files
from systems.ecg_pcg.sources.beats_of_recording import index_table

LABELS = {
    "outcome": {"normal": 0, "abnormal": 1},
    "murmur": {"absent": 0, "present": 1},
}
"""What may be learned, and the labels of its values; others (a murmur that is ``Unknown``) are left out."""
_FOLDER = "training_data"
_RECORDING = re.compile(r"(\S+)\s+(\S+)\.hea\s+(\S+)\.wav(?:\s+(\S+\.tsv))?")


@dataclass(frozen=True)
class _Patient:
    """What a patient's text file says: comments by name in lower case, and (place, record, states)."""

    number: str
    facts: dict[str, str]
    recordings: list[tuple[str, str, str]]


def find_sound(record: Any) -> tuple[None, int]:
    """Return the one channel of a record, the heart sound, whatever place it is named after."""
    return None, 0


def index_circor(root: Path, label: str) -> SourceIndex:
    """Index the recordings of all patients of a folder, or of its ``training_data``.

    Parameters
    ----------
    root : pathlib.Path
    label : {"outcome", "murmur"}
        What is learned.

    Returns
    -------
    SourceIndex
        Session and person are the patient; one who took part twice (``Additional ID``) is one person.

    Raises
    ------
    DataError
        If no patient is there.
    """
    folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
    problems: list[Problem] = []
    files = sorted(path for path in folder.glob("*.txt") if path.stem.isdigit())
    patients = [patient for path in files if (patient := _tried(path, problems))]
    if not patients:
        raise DataError(f"{folder} holds no patient of CirCor: no <number>.txt that names recordings.")
    persons = _persons(patients)
    rows = [
        row
        for patient in patients
        for row in _rows(root, folder, patient, persons[patient.number], label, problems)
    ]
    listed = {row["header"] for row in rows} | {problem.where for problem in problems}
    for header in sorted(folder.glob("*.hea")):
        name = header.relative_to(root).as_posix()
        if name not in listed and header.stem not in listed:
            problems.append(
                Problem(header.stem, "No text file of a patient names it.", "Add it, or remove it.")
            )
    print(f"Label: {label} of the patient (--label {' or '.join(LABELS)} chooses).")
    tables = [path.relative_to(root).as_posix() for path in files]
    return SourceIndex(
        "circor", root, index_table(rows), problems, {"circor": "person"}, tables, {"label": label}
    )


def _tried(path: Path, problems: list[Problem]) -> _Patient | None:
    """Read a patient's text file, or name what is wrong with it."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(path.name, f"It cannot be read: {error}.", "Fetch the file again."))
        return None
    facts, recordings = {}, []
    for line in lines[1:]:
        name, _, value = line.lstrip("#").partition(":")
        found = _RECORDING.fullmatch(line.strip())
        if line.startswith("#"):
            facts[name.strip().casefold()] = value.strip()
        elif found and found[2] == found[3]:
            recordings.append((found[1], found[2], found[4] or ""))
        elif line.strip():
            problems.append(
                Problem(path.name, f"The line {line.strip()!r} names no recording.", "Correct it.")
            )
    first = lines[0].split() if lines else []
    if len(first) < 3 or first[0] != path.stem or first[1] != str(len(recordings)):
        what = "Its first line is not the number of the patient and of as many recordings as follow."
        problems.append(Problem(path.name, what, "Fetch the file again; its recordings are left out."))
        return None
    return _Patient(path.stem, facts, recordings)


def _persons(patients: list[_Patient]) -> dict[str, str]:
    """Return the person of each number: those that name each other as an additional number are one."""
    groups = {patient.number: {patient.number} for patient in patients}
    for patient in patients:
        other = patient.facts.get("additional id", "").removesuffix(".0")
        if other in groups and groups[other] is not groups[patient.number]:
            merged = groups[patient.number] | groups[other]
            groups |= dict.fromkeys(merged, merged)
    return {number: "+".join(sorted(group)) for number, group in groups.items()}


def _rows(
    root: Path, folder: Path, patient: _Patient, person: str, label: str, problems: list[Problem]
) -> list[dict[str, Any]]:
    """Return the index rows of one patient; what cannot be used is named."""
    value = patient.facts.get(label, "")
    number = LABELS[label].get(value.casefold())
    if number is None:
        what = f"The {label} of patient {patient.number} is {value or 'not given'}."
        other = next(name for name in LABELS if name != label)
        remedy = f"Nothing, or learn the other label: --label {other}."
        problems += [Problem(record, what, remedy) for _, record, _ in patient.recordings]
        return []
    rows = []
    for place, record, states in patient.recordings:
        try:
            _check(root, folder, record)
        except (DataError, OSError) as error:
            problems.append(Problem(record, str(error), "Fetch the files again."))
            continue
        if states and not (folder / states).is_file():
            what = f"Its heart states {states} are absent: they are found automatically."
            problems.append(Problem(record, what, "Fetch the file.", left_out=False))
        rows.append(
            {
                "recording": record,
                "database": "circor",
                "header": (folder / f"{record}.hea").relative_to(root).as_posix(),
                "annotation": _annotation(root, folder, states),
                "session": person,
                "position": float("nan"),
                "person": person,
                "label": number,
                "diagnosis": _diagnosis(patient.facts),
                "site": place,
                "quality": 1,
                "needs": "pcg",
            }
        )
    return rows


def _check(root: Path, folder: Path, record: str) -> None:
    """Refuse a record whose header does not fit its sound, or has no heart sound."""
    header = folder / f"{record}.hea"
    signal_files(header, root)
    if read_header(header).n_sig != 1:
        raise DataError(f"The header {record}.hea describes other channels than one heart sound.")


def _annotation(root: Path, folder: Path, states: str) -> str:
    return (folder / states).relative_to(root).as_posix() if states and (folder / states).is_file() else ""


def _diagnosis(facts: dict[str, str]) -> str:
    """Return what is known of the patient, for the tables."""
    known = {name: value for name, value in facts.items() if value.casefold() not in ("", "nan")}
    parts = [f"{name} {known[name].lower()}" for name in ("outcome", "murmur", "age", "sex") if name in known]
    places = known.get("murmur locations")
    return ", ".join([*parts, *([f"heard at {places}"] if places else [])])
