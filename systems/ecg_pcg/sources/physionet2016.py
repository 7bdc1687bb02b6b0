"""Index PhysioNet/CinC Challenge 2016: training-a (ECG and heart sound) to training-f (heart sound).

Source: Liu et al., Physiol. Meas. 37 (2016) 2181; physionet.org/content/challenge-2016/1.0.0 (ODC-BY 1.0).
The layout, and the traps in it, are described in ``docs/data.md``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datasets.identity import spelled
from datasets.simulated import SIMULATION
from datasets.sources import DataError, Problem, SourceIndex, readable
from datasets.tables import read_frame, read_rows
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import index_table

APPENDIX = "annotations/Online_Appendix_training_set.csv"
LABELS = {"-1": 0, "1": 1}
WITH_ECG = ("training-a",)
_SESSION_UNIT = {"training-a": "session", "training-b": "person", "training-e": "raw recording"}
"""What the appendix lets each set keep apart; elsewhere a recording is all that is known."""
_ORIGINAL_NAME = re.compile(r"C(?P<session>\d{1,9})S(?P<index>\d{1,9})(?P<suffix>\w*)$")
_RECORDING_NAME = re.compile(r"\w[\w-]{,99}")
_ANNOTATIONS = {
    "hand-corrected": "annotations/hand_corrected/{set}_StateAns/{recording}_StateAns.mat",
    "springer": "annotations/springer_alg/{set}-Aut/{recording}_StateAns0.mat",
}


def index_physionet2016(
    root: Path, sets: Sequence[str], settings: PreparationSettings | None = None
) -> SourceIndex:
    """Index the recordings of some training sets.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds ``training-a`` ... and ``annotations``.
    sets : sequence of str
        Letters of the sets to read, ``a`` to ``f``.
    settings : PreparationSettings, optional
        Which onsets to look up.

    Returns
    -------
    SourceIndex
        Every listed recording with a valid label; what lacks one is among the problems.

    Raises
    ------
    DataError
        If a set, or its reference table, is not there.
    """
    settings = settings or PreparationSettings()
    appendix = _read_appendix(root)
    rows: list[dict[str, object]] = []
    problems: list[Problem] = []
    files = [APPENDIX] if (root / APPENDIX).is_file() else []
    for letter in sets:
        name = f"training-{letter}"
        if not (root / name).is_dir():
            raise DataError(f"There is no folder {name} in {root}. {_fetch_hint(root, name)}")
        table = _reference_table(root, name)
        files.append(table.relative_to(root).as_posix())
        references = _listed_once(_read_reference(table, problems), rows, table, problems)
        problems += _unlisted(root / name, table, references, problems)
        own = [_row(root, name, reference, appendix, settings) for reference in references]
        problems += _without_session(name, own, appendix)
        rows += own
    if files[0] != APPENDIX:
        problems.append(
            Problem(
                APPENDIX,
                "The appendix is absent, so no recording has a session, diagnosis or site.",
                "Fetch it with: python load_data.py --download. Until then a recording counts as a session.",
                left_out=False,
            )
        )
    units = {f"training-{x}": _SESSION_UNIT.get(f"training-{x}", "recording") for x in sets}
    if appendix.empty:
        units = dict.fromkeys(units, "recording")
    return SourceIndex(
        "physionet2016",
        root,
        index_table(rows),
        problems,
        units,
        files,
        simulated=(root / SIMULATION).is_file(),
    )


def _reference_table(root: Path, name: str) -> Path:
    """Return the table of labels and signal quality of a set, the first that exists of three places."""
    candidates = [
        root / name / "REFERENCE-SQI.csv",
        root / "annotations" / "updated" / name / "REFERENCE_withSQI.csv",
        root / name / "REFERENCE.csv",
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(candidate.relative_to(root).as_posix() for candidate in candidates)
    raise DataError(
        f"{name} has no table of labels: looked for {looked} in {root}. {_fetch_hint(root, name)}"
    )


def _fetch_hint(root: Path, name: str) -> str:
    """Say how to get a set."""
    return f"Fetch it with: python load_data.py --download --sets {name[-1]} --raw-dir {root}"


def _read_reference(table: Path, problems: list[Problem]) -> list[tuple[str, int, int]]:
    """Return (recording, label, quality) for each valid row; name every other row as a problem."""
    good: dict[str, tuple[str, int, int]] = {}
    for number, row in read_rows(table):
        where = f"{table.name}, line {number}"
        name, label, quality = row[0], *(row[1:3] + ["", "1"][len(row) - 1 :])[:2]
        if not _RECORDING_NAME.fullmatch(name):
            problems.append(Problem(where, f"{name[:60]!r} is no recording name.", "Correct the row."))
        elif label not in LABELS:
            problems.append(
                Problem(name, f"The label {label[:60]!r} ({where}) is neither -1 nor 1.", "Correct it.")
            )
        elif quality not in ("0", "1"):
            problems.append(
                Problem(name, f"The quality {quality[:60]!r} ({where}) is neither 0 nor 1.", "Correct it.")
            )
        elif name in good:
            what = f"Listed again at {where}; the first row is used."
            problems.append(Problem(name, what, "Remove one.", left_out=False))
        else:
            good[name] = (name, LABELS[label], int(quality))
    return list(good.values())


def _listed_once(
    references: list[tuple[str, int, int]],
    earlier: list[dict[str, object]],
    table: Path,
    problems: list[Problem],
) -> list[tuple[str, int, int]]:
    """Return the rows of a set whose names no earlier set has; the others are problems."""
    taken = {row["recording"]: row["database"] for row in earlier}
    for name in (name for name, _, _ in references if name in taken):
        what = f"{table.parent.name} lists a recording of this name too; that of {taken[name]} is used."
        problems.append(Problem(name, what, "Give it a name of its own."))
    return [reference for reference in references if reference[0] not in taken]


def _unlisted(
    folder: Path, table: Path, references: list[tuple[str, int, int]], problems: list[Problem]
) -> list[Problem]:
    """Name the recordings of a folder that its table does not list."""
    listed = {name for name, _, _ in references} | {problem.where for problem in problems}
    found = sorted(readable(path.stem) for path in folder.glob("*.hea"))
    what, remedy = f"The record has no row in {table.name}.", "Add a row, or remove it."
    return [Problem(name, what, remedy) for name in found if name not in listed]


def _without_session(name: str, rows: list[dict[str, object]], appendix: pd.DataFrame) -> list[Problem]:
    """Warn of recordings whose session the appendix should name, and does not."""
    lone = [str(row["recording"]) for row in rows if row["session"] == row["recording"]]
    if appendix.empty or name not in _SESSION_UNIT or not lone:
        return []
    what = (
        f"It names no {_SESSION_UNIT[name]} for {len(lone)} recordings of {name} ({', '.join(lone[:3])}"
        f"{' ...' * (len(lone) > 3)}); each counts as a session of its own."
    )
    return [Problem(APPENDIX, what, "Fetch the file again.", left_out=False)]


def _read_appendix(root: Path) -> pd.DataFrame:
    """Return the appendix by recording name; without the file, an empty table."""
    columns = {
        "Challenge record name": "recording",
        "Original record name": "original",
        "Diagnosis": "diagnosis",
        "Subject ID": "subject",
        "# Raw record": "raw",
        "Transducer site on body": "site",
    }
    path = root / APPENDIX
    if not path.is_file():
        return pd.DataFrame(columns=list(columns.values())).set_index("recording")
    try:
        table = read_frame(path, list(columns))[list(columns)].rename(columns=columns)
    except DataError as error:
        raise DataError(f"{error} Fetch the file again.") from error
    for column in ("subject", "raw"):
        table[column] = table[column].map(spelled(table[column]))
    return table.drop_duplicates("recording").set_index("recording")


def _row(
    root: Path,
    name: str,
    reference: tuple[str, int, int],
    appendix: pd.DataFrame,
    settings: PreparationSettings,
) -> dict[str, object]:
    """Return the index row of one recording; its person is left to be inferred."""
    recording, label, quality = reference
    known = appendix.loc[recording].to_dict() if recording in appendix.index else {}
    pattern = _ANNOTATIONS.get(settings.onsets)
    annotation = pattern.format(set=name, recording=recording) if pattern else ""
    return {
        "recording": recording,
        "database": name,
        "header": f"{name}/{recording}.hea",
        "annotation": annotation if annotation and (root / annotation).is_file() else "",
        "session": _session(name, recording, known),
        "position": _position(name, known),
        "person": "",
        "label": label,
        "diagnosis": known.get("diagnosis", ""),
        "site": known.get("site", ""),
        "quality": quality,
        "needs": "ecg+pcg" if name in WITH_ECG else "pcg",
    }


def _session(name: str, recording: str, known: dict[str, str]) -> str:
    """Return the strictest group that the appendix names for a recording."""
    matched = _ORIGINAL_NAME.match(known.get("original", ""))
    if name == "training-a" and matched:
        return f"C{int(matched['session']):03d}"
    if name == "training-b" and known.get("subject"):
        return f"B{known['subject']}"
    if name == "training-e" and known.get("raw"):
        return f"E{known['raw']} {known['diagnosis']}"  # the number is unique within a diagnosis
    return recording


def _position(name: str, known: dict[str, str]) -> float:
    """Return the place of a recording of training-a in its session; a name ending in b follows its twin."""
    matched = _ORIGINAL_NAME.match(known.get("original", ""))
    if name != "training-a" or not matched:
        return float("nan")
    return int(matched["index"]) + (0.5 if matched["suffix"] else 0.0)
