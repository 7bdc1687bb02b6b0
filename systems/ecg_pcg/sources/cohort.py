"""Index one's own cohort: a folder of WFDB records with ECG and heart sound, and ``labels.csv``.

``labels.csv`` has one row a recording, with the columns ``recording`` and ``label``, ``session`` or
``person`` or both, and optionally ``database``, ``diagnosis``, ``site``, ``quality`` and ``annotation``
(``docs/data.md`` says what they mean). Whatever does not fit is named in one table of problems.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.identity import alike, identity, spelled, warn_alike
from datasets.recordings import RECORDINGS, read_recording
from datasets.simulated import SIMULATION
from datasets.sound_files import SOUNDS
from datasets.sources import (
    LABELS,
    DataError,
    Problem,
    SourceIndex,
    plain_number,
    readable,
)
from datasets.tables import REREAD, find_entry, read_rows
from datasets.wfdb_files import find_files, is_inside, read_header, signal_files, unnamed_files
from systems.ecg_pcg.sources.beats_of_recording import index_table

_LABELS_FILE = "labels.csv"
_ECG_NAME = re.compile(r".*(ecg|ekg).*|(lead[ _-]*)?(i{1,3}|av[rlf]|v[1-9]r?|mli{1,3}|mcl[1-6])")
_PCG_NAME = re.compile(r".*(pcg|phono|stetho|heart[ _-]*sound).*|(.*[^a-z])?hs([^a-z].*)?")
_PLACE_NAME = re.compile(r"(av|mv|pv|tv|phc)([ _-]?\d+)?")
"""Places of auscultation, after which CirCor names channels; elsewhere they may mean other things."""
PLAUSIBLE_RATE = {"ECG": (50.0, 20_000.0), "PCG": (500.0, 200_000.0)}
"""Sampling rates that are plausible, hertz; outside, the header is more likely wrong than right."""


class _UnusableError(Exception):
    """A recording that has to be left out; the arguments are what is wrong, and the remedy."""


def index_cohort(root: Path, ecg_channel: str = "", pcg_channel: str = "") -> SourceIndex:
    """Index the recordings of one's own cohort.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds ``labels.csv`` and the WFDB records, in subfolders if one likes.
    ecg_channel, pcg_channel : str
        Names of the channels in the headers; empty: recognized by their names (`find_channels`).

    Returns
    -------
    SourceIndex
        The recordings that can be used, and a problem for each mismatch. Without a session column the
        session is the person, without both the recording; a person who was recorded in several sessions
        makes one session of them. Without a database column all are of the database ``cohort``.

    Raises
    ------
    DataError
        If ``labels.csv`` is absent or unreadable, lacks a column, or its labels are ambiguous.
    """
    _refuse_same_channel(ecg_channel, pcg_channel)
    problems: list[Problem] = []
    path = (find_entry(root, _LABELS_FILE, problems) if root.is_dir() else None) or root / _LABELS_FILE
    table = read_labels(path)
    unit = next((column for column in ("session", "person") if column in table.columns), "recording")
    problems += [*table.problems, *([_without_groups(table.columns)] if unit == "recording" else [])]
    headers = _find_headers(root, problems)
    rows = []
    for name, row in table.rows.items():
        try:
            _check_row(row, headers, unit)
            problems += _check_record(root, headers[name], (ecg_channel, pcg_channel))
            rows.append(_index_row(root, row, headers[name], unit, problems))
        except _UnusableError as reason:
            problems.append(Problem(name, *reason.args))
    for name in sorted(set(headers) - table.listed):
        problems.append(
            Problem(name, f"The record has no row in {_LABELS_FILE}.", "Add a row, or remove it.")
        )
    written = [(row["session"], row["person"]) for row in rows]
    problems += _keep_persons_apart(rows, unit)
    doubtful = any(alike(names) for names in zip(*written, strict=True)) if unit != "recording" else False
    databases = {} if "database" in table.columns else {"database": "cohort"}
    problems += _check_databases(rows) if not databases else []
    numbers = [{"position": math.nan} | {key: int(row[key]) for key in ("label", "quality")} for row in rows]
    index = index_table([{**row, **own, **databases} for row, own in zip(rows, numbers, strict=True)])
    named = {"ecg_channel": ecg_channel, "pcg_channel": pcg_channel}
    choices = {option: channel for option, channel in named.items() if channel}
    choices |= REREAD if table.respelled or doubtful else {}
    choices |= {"database": "column"} if not databases else {}
    return SourceIndex(
        "cohort",
        root,
        index,
        problems,
        {"cohort": unit},
        [path.name],
        choices,
        simulated=(root / SIMULATION).is_file(),
    )


def find_channels(header: Any, ecg_channel: str = "", pcg_channel: str = "") -> tuple[int | None, int | None]:
    """Find the ECG and the heart sound among the channels of a record.

    Parameters
    ----------
    header : wfdb.Record or ChannelFile
        What has the names of channels, ``sig_name``.
    ecg_channel, pcg_channel : str
        Names to look for, in upper or lower case; empty: the first channel with a usual name (ECG, EKG,
        a lead such as II, aVR, V5 or MLII; PCG, phono, heart sound, HS, stethoscope; in a sound file the
        place of auscultation, AV, MV, PV, TV or Phc).

    Returns
    -------
    tuple of (int or None, int or None)
        Numbers of the ECG and of the PCG channel, None where there is no such channel.
    """
    _refuse_same_channel(ecg_channel, pcg_channel)
    named = (_folded(ecg_channel), _folded(pcg_channel))
    kinds = _kinds_of_channels(header)
    names = [_folded(name) for name in _channel_names(header)]
    found: list[int | None] = []
    for requested, own in zip(named, ("ECG", "PCG"), strict=True):
        fitting = [
            name == requested if requested else kind == own and name not in named
            for name, kind in zip(names, kinds, strict=True)
        ]
        found.append(fitting.index(True) if any(fitting) else None)
    return found[0], found[1]


def unknown_channels(header: Any, used: Iterable[int | None]) -> list[str]:
    """Return the names of channels of which no usual name tells what they are, and that are not used."""
    kinds = enumerate(zip(_channel_names(header), _kinds_of_channels(header), strict=True))
    return [name for number, (name, kind) in kinds if not kind and number not in used]


def _kinds_of_channels(header: Any) -> list[str]:
    """Return ``ECG`` or ``PCG`` for each channel with a usual name, else nothing."""
    names = [_folded(name) for name in _channel_names(header)]
    files = getattr(header, "file_name", None) or [""] * len(names)
    kinds = []
    for name, file in zip(names, files, strict=True):
        ecg = bool(_ECG_NAME.fullmatch(name))
        in_sound = str(file).lower().endswith(SOUNDS)
        pcg = bool(_PCG_NAME.fullmatch(name) or (in_sound and _PLACE_NAME.fullmatch(name)))
        kinds.append("" if ecg == pcg else "ECG" if ecg else "PCG")
    return kinds


def _refuse_same_channel(ecg_channel: str, pcg_channel: str) -> None:
    if ecg_channel and _folded(ecg_channel) == _folded(pcg_channel):
        raise DataError(f"ECG and PCG cannot both be the channel {ecg_channel!r}: name two channels.")


def _folded(name: str) -> str:
    return name.strip().casefold()


def _channel_names(header: Any) -> list[str]:
    return [name or "" for name in getattr(header, "sig_name", None) or []]


def _find_headers(root: Path, problems: list[Problem]) -> dict[str, str]:
    """Return the relative path of each recording by its name; a header counts before other files."""
    spelled: dict[str, list[str]] = defaultdict(list)
    for path in find_files(root, RECORDINGS):
        inside = path.relative_to(root)
        spelled[unicodedata.normalize("NFC", inside.with_suffix("").as_posix())].append(inside.as_posix())
    for name, same in spelled.items():
        if len(same) > 1 and len({path.rpartition(".")[0] for path in same}) == 1:
            what = f"Several files have this name: {', '.join(same)}."
            problems.append(Problem(name, what, "Keep one of them, or rename the others."))
        elif len(same) > 1:
            what = "Two records have this name, their accents spelled in different ways."
            problems.append(Problem(name, what, "Rename one of them."))
        elif readable(name) != name:
            what = "The name of the record is in no encoding that is known."
            problems.append(Problem(readable(name), what, "Rename it, and its folder, in UTF-8."))
    return {name: same[0] for name, same in spelled.items() if len(same) == 1 and readable(name) == name}


def _is_inside(name: str) -> bool:
    """Tell whether a relative path stays in its folder, on any system."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:]", name)


def _check_row(row: dict[str, str], headers: dict[str, str], unit: str) -> None:
    """Refuse a row of the table of labels that does not name a record, a label and a session."""
    name, where = row["recording"], f"row {row['row']} of {_LABELS_FILE}"
    if not _is_inside(name):
        raise _UnusableError(
            f"The name ({where}) leads out of the folder.", "Name it relative to the folder."
        )
    if name not in headers:
        raise _UnusableError(f"There is no {name}.hea ({where}).", _hint(name, headers))
    if plain_number(row["label"]) not in LABELS:
        what = f"The label {row['label']!r} ({where}) is not known."
        raise _UnusableError(what, "Use normal and abnormal, -1 and 1, or 0 and 1.")
    if not row[unit]:
        raise _UnusableError(f"The {unit} is missing ({where}).", "Fill in the cell.")


def _hint(name: str, headers: dict[str, str]) -> str:
    """Suggest the record that was probably meant."""
    last = identity(PurePosixPath(name).name)
    others = {known: identity(PurePosixPath(known).name) for known in headers}
    similar = [known for known, other in others.items() if other == last or alike([other, last])]
    return f"Write {similar[0]!r}, if that is meant." if similar else "Add the record, or remove the row."


def _check_record(root: Path, path: str, requested: tuple[str, str]) -> list[Problem]:
    """Refuse a recording without usable signals; return what is doubtful about the others."""
    name = path.rpartition(".")[0]
    check = _check_header if path.endswith(".hea") else _check_file
    channels, rates, warnings = check(root, path, requested)
    if not rates:
        what = f"Neither an ECG nor a PCG channel is recognized among its channels: {channels}."
        raise _UnusableError(what, "Name them with --ecg-channel and --pcg-channel.")
    problems = [Problem(name, *warning, left_out=False) for warning in warnings]
    for kind, channel in zip(PLAUSIBLE_RATE, requested, strict=True):
        if kind in rates:
            _check_rate(kind, rates[kind])
        elif channel or "," in channels:
            what = f"No {kind} channel{f' {channel!r}' if channel else ''} among its channels: {channels}."
            remedy = f"Name it with --{kind.lower()}-channel, if there is one."
            problems.append(Problem(name, what + f" It is used without {kind}.", remedy, False))
    return problems


_Checked = tuple[str, dict[str, float], list[tuple[str, str]]]
"""Names of the channels, rates of those that are used, and what is doubtful with its remedy."""


def _check_header(root: Path, path: str, requested: tuple[str, str]) -> _Checked:
    """Check a WFDB record as far as its header tells."""
    try:
        if not is_inside(root / path, root):
            raise DataError(f"The header {Path(path).name} is a link that leads outside the data folder.")
        _check_file_names(root / path)
        signal_files(root / path, root)
        header = read_header(root / path)
        unnamed = unnamed_files(root / path, SOUNDS)
    except (DataError, OSError) as error:
        raise _UnusableError(str(error), "Mend the header or add the file.") from error
    found = zip(PLAUSIBLE_RATE, find_channels(header, *requested), strict=True)
    rates = {
        kind: float(header.fs) * header.samps_per_frame[number]
        for kind, number in found
        if number is not None
    }
    remedy = "Name it in the header, if both were recorded together; else rename it."
    warnings = [
        (f"{sound.name} is not used: {Path(path).name} does not name it.", remedy) for sound in unnamed
    ]
    return ", ".join(_channel_names(header)) or "none", rates, warnings


def _check_file(root: Path, path: str, requested: tuple[str, str]) -> _Checked:
    """Check another file by reading it."""
    find = functools.partial(find_channels, ecg_channel=requested[0], pcg_channel=requested[1])
    beside = _without_header(root / path)
    try:
        recording = read_recording(root / path, root, find)
    except (DataError, OSError) as error:
        raise _UnusableError(str(error), "Mend or replace the file.") from error
    signals = {"ECG": recording.ecg, "PCG": recording.pcg}
    rates = {kind: signal.sampling_rate for kind, signal in signals.items() if signal is not None}
    warnings = [(text, "Look at the file.") for *_, text in recording.warnings]
    return ", ".join(recording.channels.values()), rates, warnings + beside


def _without_header(path: Path) -> list[tuple[str, str]]:
    """Refuse a file that is part of a record whose header cannot be read; name signals without a header."""
    header, signals = path.with_suffix(".hea"), path.with_suffix(".dat")
    if os.path.lexists(header):
        what = f"There is no header {header.name}: what has that name is a folder or a broken link."
        raise _UnusableError(what, "Put the header in its place.")
    if path.suffix != ".dat" and signals.is_file():
        return [(f"{signals.name} is not used: there is no header {header.name}.", "Add the header.")]
    return []


def _check_file_names(header: Path) -> None:
    """Refuse paths in a header, which could lead anywhere, and letters that `wfdb` would drop."""
    lines = header.read_bytes().decode("utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    for name in (line.split()[0] for line in lines[1:]):
        if re.search(r"[/\\:]|\.\.", name):
            what = f"The header names {name!r}, a path."
            raise _UnusableError(what, "Put the signal file beside its header, and name it without a folder.")
        if not name.isascii():
            what = f"The header names {name!r}; WFDB reads ASCII letters only."
            raise _UnusableError(what, "Rename the signal file, and correct the header.")


def _check_rate(kind: str, rate: float) -> None:
    low, high = PLAUSIBLE_RATE[kind]
    if not low <= rate <= high:
        what = f"The sampling rate of the {kind} is {rate:g} Hz; {low:g} to {high:g} Hz is plausible."
        raise _UnusableError(what, "Correct the header, or resample the signal.")


def _index_row(
    root: Path, row: dict[str, str], header: str, unit: str, problems: list[Problem]
) -> dict[str, str]:
    """Return the index row of one recording; add what is doubtful to the problems."""
    quality = plain_number(row["quality"])
    if quality not in _QUALITIES:
        what = f"The quality {row['quality']!r} is neither 1 (good) nor 0 (unsure); it counts as 0."
        problems.append(
            Problem(row["recording"], what, f"Correct row {row['row']} of {_LABELS_FILE}.", False)
        )
    return {
        "recording": row["recording"],
        "database": row["database"],
        "header": header,
        "annotation": _annotation(root, row, header, problems),
        "session": row[unit],
        "person": row["person"],
        "label": str(LABELS[plain_number(row["label"])]),
        "diagnosis": row["diagnosis"],
        "site": row["site"],
        "quality": str(_QUALITIES.get(quality, 0)),
        "needs": "any",
    }


def _annotation(root: Path, row: dict[str, str], header: str, problems: list[Problem]) -> str:
    """Return the file of heart-state onsets: the one named, or the one beside the record."""
    given = row["annotation"].replace("\\", "/")
    if not given:
        beside = [header.rpartition(".")[0] + ending for ending in ("_StateAns.mat", ".tsv")]
        return next((name for name in beside if (root / name).is_file()), "")
    with contextlib.suppress(OSError):  # a name no file can have
        if _is_inside(given) and (root / given).is_file():
            return given
    what = (
        f"The annotation {row['annotation']!r} is absent or outside the folder; beats are found without it."
    )
    problems.append(Problem(row["recording"], what, "Name it relative to the folder of labels.csv.", False))
    return ""


def _keep_persons_apart(rows: list[dict[str, str]], unit: str = "session") -> list[Problem]:
    """Make one session of those that share a person, or may do so: the spelling leaves doubt."""
    problems: list[Problem] = []
    sessions: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["person"]:
            sessions[row["person"]].add(row["session"])
    joined = _alike(rows, sessions, unit, problems)
    groups = {row["session"]: {row["session"]} for row in rows}
    for own in [*sessions.values(), *joined]:
        merged = set[str]().union(*(groups[session] for session in own))
        groups |= dict.fromkeys(merged, merged)
    for person, own in sessions.items():
        if len(own) > 1:
            what = f"The person {person} is in the sessions {', '.join(sorted(own))}; they count as one."
            remedy = "Nothing: this keeps persons apart. Or correct the cells."
            problems.append(Problem(person, what, remedy, left_out=False))
    for row in rows:
        row["session"] = "+".join(sorted(groups[row["session"]]))
    return problems


def _check_databases(rows: list[dict[str, str]]) -> list[Problem]:
    """Name what protocol ``database`` would refuse, or could get wrong."""
    problems: list[Problem] = []
    warn_alike((row["database"] for row in rows), "databases", "they count as two", problems)
    for name in (row["recording"] for row in rows if not row["database"]):
        remedy = f"Fill in the cell in {_LABELS_FILE}."
        problems.append(Problem(name, "It names no database, as protocol database needs.", remedy, False))
    return problems


def _alike(
    rows: list[dict[str, str]], sessions: dict[str, set[str]], unit: str, problems: list[Problem]
) -> list[set[str]]:
    """Return the sessions of persons, and the sessions, whose names may be one; name these."""
    consequence = "they are in the same part of every split"
    persons = warn_alike(sessions, "persons", consequence, problems)
    found = [set[str]().union(*(sessions[person] for person in group)) for group in persons]
    if unit == "session":
        names = (row["session"] for row in rows)
        found += map(set, warn_alike(names, "sessions", consequence, problems))
    return found


COLUMNS = (
    *("recording", "session", "person", "database", "label", "diagnosis", "site", "quality", "annotation"),
)
_QUALITIES = {"": 1, "good": 1, "1": 1, "unsure": 0, "0": 0}


@dataclass(frozen=True)
class _LabelsTable:
    """What ``labels.csv`` says.

    Attributes
    ----------
    columns : list of str
        Columns that the file has, in lower case.
    rows : dict of str to dict of str to str
        By recording: a cell for each of `COLUMNS` (empty where the file has none), and ``row``, its
        number in the file counted from 1. Recordings that occur once only.
    listed : set of str
        Every recording that occurs.
    problems : list of Problem
        Rows that are left out.
    respelled : bool
        Whether persons or sessions are shown otherwise than written.
    """

    columns: list[str]
    rows: dict[str, dict[str, str]]
    listed: set[str]
    problems: list[Problem]
    respelled: bool


def read_labels(path: Path) -> _LabelsTable:
    """Read the table: commas, semicolons or tabs; with or without byte order mark; any line ends.

    Raises
    ------
    DataError
        If the file is absent or unreadable, lacks a column, or its labels are ambiguous.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: a cohort needs this table (docs/data.md has an example).")
    lines = read_rows(path)
    columns = [cell.lower() for cell in lines[0][1]] if lines else []
    _check_columns(path, columns)
    problems: list[Problem] = []
    rows = []
    for number, cells in lines[1:]:
        row = dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells, strict=False))
        row |= {"recording": record_name(row["recording"]), "row": str(number)}
        where = f"{path.name}, row {number}"
        if any(cells[len(columns) :]):
            what = f"The row has {len(cells)} cells, but there are {len(columns)} columns."
            problems.append(Problem(where, what, "Put text that holds a comma between quotes."))
        elif not row["recording"]:
            problems.append(
                Problem(where, "The row names no recording.", "Fill in the cell, or remove the row.")
            )
        else:
            rows.append(row)
    _refuse_ambiguous(path, rows)
    respelled = False
    for column in ("session", "person", "database"):
        names = spelled(row[column] for row in rows)
        respelled |= any(cell != name for cell, name in names.items())
        for row in rows:
            row[column] = names[row[column]]
    listed = {row["recording"] for row in rows}
    return _LabelsTable(columns, _single(path, rows, problems), listed, problems, respelled)


def record_name(cell: str) -> str:
    r"""Return the name of a record with forward slashes and without extension: ``sub\a.hea`` is ``sub/a``."""
    name = cell.replace("\\", "/").removeprefix("./")
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in RECORDINGS else name


def _without_groups(columns: list[str]) -> Problem:
    """Return the warning of a table that names neither sessions nor persons, with the columns not read."""
    ignored = ", ".join(column for column in columns if column and column not in COLUMNS)
    rename = f", or rename the one that tells them apart (ignored: {ignored})" if ignored else ""
    return Problem(
        _LABELS_FILE,
        "There is neither a session nor a person column: each recording counts as a session of its own, so "
        "persons may be shared between train and test, and scores flattered.",
        f"Add a column person (or session) if anyone was recorded more than once{rename}.",
        left_out=False,
    )


def _check_columns(path: Path, columns: list[str]) -> None:
    absent = {"recording", "label"} - set(columns)
    twice = [column for column in COLUMNS if columns.count(column) > 1]
    if absent or twice:
        wrong = f"lacks {', '.join(sorted(absent))}" if absent else f"has {', '.join(twice)} twice"
        raise DataError(
            f"{path} {wrong}; its columns are: {', '.join(columns) or 'none'} (see docs/data.md)."
        )


def _refuse_ambiguous(path: Path, rows: list[dict[str, str]]) -> None:
    """Refuse labels that mix -1/1, where 0 is nothing, with 0/1, where -1 is nothing."""
    first = {plain_number(row["label"]): row["row"] for row in reversed(rows)}
    if "-1" in first and "0" in first:
        raise DataError(
            f"The labels of {path} are ambiguous: both -1 (row {first['-1']}) and 0 (row {first['0']}) "
            "occur. Use normal and abnormal, or -1 and 1, or 0 and 1."
        )


def _single(path: Path, rows: list[dict[str, str]], problems: list[Problem]) -> dict[str, dict[str, str]]:
    """Return the row of each recording; one that is listed twice is a problem, and left out."""
    by_name: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_name[row["recording"]].append(row)
    for name, same in by_name.items():
        if len(same) > 1:
            where = ", ".join(row["row"] for row in same)
            what = f"The name occurs {len(same)} times in {path.name} (rows {where})."
            problems.append(Problem(name, what, "Keep one row; until then the recording is left out."))
    return {name: same[0] for name, same in by_name.items() if len(same) == 1}
