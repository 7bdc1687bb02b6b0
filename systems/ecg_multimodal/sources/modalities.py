"""From one patient of an index to the views that the cache keeps: the signal and the picture."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.cache import Prepared
from datasets.ecg import PLAUSIBLE_RATE, Ecg, flat_leads, prepare_signal, read_ecg
from datasets.identity import MISSING, counts_rows, identity
from datasets.lead_checks import LARGEST_GAP, check_ecg, without_gaps
from datasets.patients import ID_COLUMNS, id_column, is_unnamed
from datasets.signals import MINIMUM_DURATION
from datasets.sources import DataError, Problem
from datasets.tables import Marks, delimiter, encoding, not_utf8, tidy
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.ecg_image import draw_ecg, draw_sheet, read_ecg_image, to_ink
from systems.ecg_multimodal.sources.filters import filtered

IMAGE_LEAD = "II"
OF_IMAGE = "Image: "
"""How a warning about a picture begins."""


@dataclass(frozen=True)
class PreparedPatient(Prepared):
    """What one recording gives to the cache.

    Attributes
    ----------
    signal : numpy.ndarray of float32, shape (leads, points), or None
        Millivolts.
    image : numpy.ndarray of uint8, shape (height, width), or None
        Ink, 0 paper to 255 black.
    """

    signal: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None


def prepare_patient(
    row: dict[str, Any],
    *,
    root: Path,
    settings: ModalitySettings,
    leads: tuple[str, ...],
    signal_rate: float,
    drawn: bool,
) -> PreparedPatient | Problem:
    """Prepare the views of one recording of an index, or say why it is left out.

    Parameters
    ----------
    row : dict
        One row of the index.
    root : pathlib.Path
    settings : ModalitySettings
    leads, signal_rate, drawn
        As in `datasets.patients.PatientIndex`.
    """
    name, problems = str(row["recording"]), list[Problem]()
    ecg, image, digest = None, None, ""
    try:
        ecg = read_signal(row, root, leads, signal_rate)
        if drawn and ecg is None:
            raise DataError("It has no signal.")
        if ecg is not None:
            problems += _doubts(name, ecg, leads)
    except DataError as error:
        ecg = None
        if drawn:
            return Problem(name, str(error), "Mend or remove the recording, then prepare again.")
        problems.append(_used_without(name, "signal", error))
    try:
        if drawn and ecg is not None:
            image = _draw_ink(ecg, leads, settings, name)
        elif row["image"]:
            path = root / row["image"]
            warnings: list[str] = []
            size = (settings.image_height, settings.image_width)
            image = read_ecg_image(path, *size, warnings, strip=not settings.sheet)
            problems += [_doubt(name, f"{OF_IMAGE}{text}") for text in warnings]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except DataError as error:
        problems.append(_used_without(name, "image", error))
    signal = None
    if ecg is not None:
        prepared = prepare_signal(ecg.samples, ecg.sampling_rate, settings.signal_rate, settings.seconds)
        signal = filtered(prepared, settings)
    metadata = row | _signal_metadata(ecg, leads) | {"image_sha256": digest}
    return PreparedPatient(metadata, signal, image, problems=problems)


def _doubts(name: str, ecg: Ecg, leads: tuple[str, ...]) -> list[Problem]:
    """Return what is doubtful about a signal, of which no lead may lack much."""
    require_few_gaps(ecg, leads)
    texts = [warning.text for warning in check_ecg(ecg, leads)]
    return [_doubt(name, f"Signal: {text}") for text in texts]


def _doubt(name: str, text: str) -> Problem:
    """Return the warning about a modality that is used."""
    return Problem(name, text, "Check the file.", left_out=False)


def require_few_gaps(ecg: Ecg, leads: tuple[str, ...]) -> None:
    """Refuse a signal of which a lead lacks much; one that is not there at all is another matter.

    Raises
    ------
    DataError
    """
    if (lost := without_gaps(ecg)[1]).any():
        worst = int((np.isnan(ecg.samples).mean(axis=1) * lost).argmax())
        share = np.isnan(ecg.samples[worst]).mean()
        raise DataError(f"Of lead {leads[worst]} of its signal {share:.0%} of the samples are missing.")


def _draw_ink(
    ecg: Ecg, leads: tuple[str, ...], settings: ModalitySettings, name: str
) -> NDArray[np.uint8] | None:
    """Return a picture drawn from a signal as ink, shape (height, width); None where lead II is missing.

    What is random in it depends on the name of the recording only.
    """
    lead = ecg.samples[leads.index(IMAGE_LEAD)]
    if np.isnan(lead).all():
        return None
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    signal = ecg.samples if settings.sheet else lead
    picture = (draw_sheet if settings.sheet else draw_ecg)(
        signal,
        ecg.sampling_rate,
        rotation=rng.uniform(-1, 1) * settings.rotation,
        shadow=rng.uniform() * settings.shadow,
        noise=rng.uniform() * settings.noise,
        text=settings.text,
        rng=rng,
    )
    return to_ink(picture, settings.image_height, settings.image_width)


def read_signal(row: dict[str, Any], root: Path, leads: tuple[str, ...], signal_rate: float) -> Ecg | None:
    """Return the signal of a row of the index as recorded, None where it has none.

    Raises
    ------
    DataError
        If it cannot be read, its rate is not plausible, or it is too short or empty.
    """
    where = str(row["signal"])
    if not where:
        return None
    if where.endswith(".hea"):
        ecg = read_ecg(root / where, root, leads)
    else:
        table, place = where.rsplit("@", 1)
        ecg = Ecg(read_row(root / table, str(row["recording"]), place)[None], signal_rate)
    low, high = PLAUSIBLE_RATE
    if not low <= ecg.sampling_rate <= high:
        raise DataError(f"Its sampling rate is {ecg.sampling_rate:g} Hz; {low:g} to {high:g} are plausible.")
    if ecg.duration < MINIMUM_DURATION:
        raise DataError(f"Its signal lasts {ecg.duration:.2f} s; at least {MINIMUM_DURATION:g} s are needed.")
    if np.isnan(ecg.samples).all():
        raise DataError("Its signal holds no sample.")
    return ecg


def _signal_metadata(ecg: Ecg | None, leads: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``recordings.csv`` says of a signal; the digest is of its content, none of a flat one."""
    if ecg is None:
        return {"ecg_rate": 0.0, "duration": 0.0, "flat_leads": "", "ecg_missing": 0.0, "signal_sha256": ""}
    flat = flat_leads(ecg.samples)
    content = ecg.samples.astype("<f4").tobytes() + f"{ecg.sampling_rate:g}".encode()
    return {
        "ecg_rate": ecg.sampling_rate,
        "duration": round(ecg.duration, 4),
        "flat_leads": " ".join(lead for lead, is_flat in zip(leads, flat, strict=True) if is_flat),
        "ecg_missing": round(float(np.isnan(ecg.samples).mean()), 6),
        "signal_sha256": "" if flat.all() else hashlib.sha256(content).hexdigest(),
    }


def patient_digest(metadata: Mapping[str, Any], values: pd.Series) -> str:
    """Return the digest by which a recording is known: of its signal, else its picture, else its values.

    Parameters
    ----------
    metadata : mapping
        Row of `PreparedPatient`.
    values : pandas.Series
        Clinical values.
    """
    found = metadata["signal_sha256"] or metadata["image_sha256"]
    # clinical values alone two patients may share
    return found or hashlib.sha256(f"{metadata['recording']} {values.to_dict()}".encode()).hexdigest()


def _used_without(name: str, modality: str, error: Exception) -> Problem:
    """Return the warning about a modality that cannot be read."""
    return Problem(name, f"{error}{without(modality)}", "Mend the file.", left_out=False)


def without(modality: str) -> str:
    """Return the end of the warning about a modality that cannot be read."""
    return f" It is used without {modality}."


_LENGTH_TOLERANCE = 0.1
"""Share by which a row may be shorter or longer than the middle one of all rows."""
_SEPARATOR, _FIRST_CELLS = "sep=", 1000
"""Beginning of a line that spreadsheets write before the table, and characters that hold the first cells."""
LARGEST_MILLIVOLTS = 20.0
"""Range of the middle signal, millivolts, above which the unit of the table is doubted."""


@dataclass(frozen=True)
class SignalRows:
    """What the table of signals holds.

    Attributes
    ----------
    places : dict of str to str
        By patient, where the row of a usable signal begins, for `read_row`.
    listed : set of str
        Every patient that occurs.
    reread : bool
        Whether it was once read otherwise.
    """

    places: dict[str, str]
    listed: set[str]
    reread: bool = False


@dataclass(frozen=True)
class _Row:
    """A row of numbers: its line counted from 1, its place in the file, and metadata of its samples."""

    line: int
    place: str
    samples: int
    span: float


def scan_signals(path: Path, sampling_rate: float, problems: list[Problem]) -> SignalRows:
    """Read every row once, and name what cannot be used.

    Parameters
    ----------
    path : pathlib.Path
        CSV with commas, semicolons or tabs, UTF-8 or UTF-16, with or without a first row of names.
    sampling_rate : float
        Hertz.
    problems : list of Problem
        Gets a warning for each row whose signal is not used: the patient may have other views.

    Raises
    ------
    DataError
        If the file is no text, no column holds the number of the patient, or decimals have two marks.
    """
    rows: dict[str, list[_Row]] = defaultdict(list)
    faults: dict[str, list[str]] = defaultdict(list)
    key, comma = _id_place(path), _decimal_comma(path)
    for line, place, cells in _lines(path):
        name, where = identity(cells[key] if key < len(cells) else ""), f"{path.name}, line {line}"
        if not name:
            problems.append(Problem(where, "The row names no patient.", "Fill in the cell, or remove it."))
            continue
        try:
            samples = _checked(cells, key, comma, sampling_rate)
            span = float(np.ptp(samples[~np.isnan(samples)]))
            rows[name].append(_Row(line, _Place(place, key, comma).text, len(samples), span))
        except ValueError as error:
            rows[name].append(_Row(line, "", 0, 0.0))
            faults[name].append(f"{error} (line {line}).")
    problems += _warnings(path, rows)
    with _opened(path) as (_, mark):
        reread = key > 0 or (comma and mark == ",")
    return SignalRows(_usable(path, rows, faults, problems), set(rows), reread)


def read_row(path: Path, name: str, place: str) -> NDArray[np.float64]:
    """Return the samples of a patient, whose row begins at a place, shape (T,); NaN where a cell is empty.

    Raises
    ------
    DataError
        If the row is no longer there.
    """
    found = _Place.of(place)
    with _opened(path) as (file, mark):
        file.seek(found.start)
        cells = _split(file.readline(), mark)
    try:
        if identity(cells[found.key] if found.key < len(cells) else "") == name:
            return _numbers(cells, found.key, found.comma)
    except ValueError:
        pass
    raise DataError(f"{path.name} has changed since it was checked: start again.")


@dataclass(frozen=True)
class _Place:
    """Where a row begins in the file, the column of the patient's number, and if decimals have commas."""

    start: int
    key: int = 0
    comma: bool = False

    @property
    def text(self) -> str:
        """As the index keeps it: ``120``, or ``120+1,`` with a column before the number, and commas."""
        return f"{self.start}{f'+{self.key}' * (self.key > 0)}{',' * self.comma}"

    @classmethod
    def of(cls, text: str) -> _Place:
        """Return the place of a text."""
        start, _, key = text.removesuffix(",").partition("+")
        return cls(int(start), int(key or 0), text.endswith(","))


def _id_place(path: Path) -> int:
    """Return the column that holds the number of the patient: the first, unless that only counts rows."""
    with _opened(path) as (file, mark):
        rows = [_split(line[:_FIRST_CELLS], mark)[:8] for line in file if not line.startswith(_SEPARATOR)]
    rows = [cells for cells in rows if any(cells)]
    if not rows:
        return 0
    if _is_head(rows[0]):
        known = [name.casefold() in ID_COLUMNS or is_unnamed(name) for name in rows[0]]
        names = [
            name if is_id else f"samples {n}"
            for n, (name, is_id) in enumerate(zip(rows[0], known, strict=True))
        ]
        return id_column(path, names, rows[1:]) if any(known) else 0
    counted = [identity(cells[0]) for cells in rows]
    numbers = [cells[1] if len(cells) > 1 else "" for cells in rows]
    counts = len(rows) > 1 and any(counts_rows(counted, start) for start in (0, 1))
    fractions = not all(cell.lstrip("+-").isdecimal() for cell in rows[0][2:])
    if counts and fractions and all(map(str.isdecimal, numbers)) and len(set(numbers)) == len(numbers):
        raise DataError(
            f"The first column of {path} only counts rows, and the second seems to hold the number of the "
            "patient: remove the first column."
        )
    return 0


def _decimal_comma(path: Path) -> bool:
    """Return whether the decimals of a table have commas: one answer for all its cells.

    Raises
    ------
    DataError
        If some have commas and some points, or commas may separate thousands.
    """
    with _opened(path) as (file, mark):
        if mark == "," and not any('"' in line for line in file):
            return False
    comma = next((cell for _, _, cells in _lines(path) for cell in cells[1:] if "," in cell), "")
    if not comma:
        return False
    marks = Marks.of(cell for _, _, cells in _lines(path) for cell in cells[1:])
    if marks.has(",", "thousands") or not marks.has(",", "decimal"):
        raise DataError(f"{path} has {comma!r}, of which the comma may mark thousands: write decimal points.")
    if marks.has(".", "decimal"):
        raise DataError(f"{path} has decimals with commas ({comma!r}) and with points: write all alike.")
    return True


def _usable(
    path: Path, rows: dict[str, list[_Row]], faults: dict[str, list[str]], problems: list[Problem]
) -> dict[str, str]:
    """Return the places of the signals that can be used; name the others."""
    lengths = sorted(row.samples for same in rows.values() for row in same if row.place)
    middle = lengths[len(lengths) // 2] if lengths else 0
    places = {}
    for name, same in rows.items():
        row = same[0]
        what = " ".join(faults[name])
        if len(same) > 1:
            lines = ", ".join(str(one.line) for one in same)
            what += f" The patient occurs {len(same)} times (lines {lines})."
        elif row.place and abs(row.samples - middle) > _LENGTH_TOLERANCE * middle:
            what = f"The row has {row.samples} samples where {middle} are usual (line {row.line})."
        if what:
            what = f"No signal of {path.name} is used. {what.strip()}"
            problems.append(Problem(name, what, "Correct the row.", left_out=False))
        else:
            places[name] = row.place
    return places


def _warnings(path: Path, rows: dict[str, list[_Row]]) -> list[Problem]:
    """Return what is doubtful about signals that are used."""
    warnings = []
    used = [(name, row) for name, same in rows.items() for row in same if row.place]
    for name, row in used:
        if not row.span:
            what = f"Its signal is constant ({path.name}, line {row.line})."
            warnings.append(Problem(name, what, "Check the electrode; remove the row.", left_out=False))
    span = float(np.median([row.span for _, row in used])) if used else 0.0
    if span > LARGEST_MILLIVOLTS:
        what = f"The signals range over {span:g}, half of them over more: they seem not to be in millivolts."
        warnings.append(Problem(path.name, what, "Divide them by the gain.", left_out=False))
    return warnings


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[TextIO, str]]:
    """Open the table as text; give it with its delimiter."""
    with path.open("rb") as start:
        form = encoding(start.read(4))
    try:
        with path.open(encoding=form) as file:
            mark, _ = delimiter("".join(itertools.islice(file, 20)))
            file.seek(0)
            yield file, mark
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _lines(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Return number, place and cells of each row of samples that is not empty."""
    with _opened(path) as (file, mark):
        number, place, first = 1, file.tell(), True
        while line := file.readline():
            cells = [] if line.startswith(_SEPARATOR) else _split(line, mark)
            if any(cells) and not (first and _is_head(cells)):
                yield number, place, cells
            number, place, first = number + 1, file.tell(), first and not any(cells)


def _split(line: str, mark: str) -> list[str]:
    """Return the cells of a line, without the empty ones that fill a table up."""
    try:
        cells = [tidy(cell) for row in csv.reader([line], delimiter=mark) for cell in row]
    except csv.Error:
        cells = [line]  # a cell beyond all measure, which is no number
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _is_head(cells: list[str]) -> bool:
    """Tell whether a first row holds names."""
    if cells[0].casefold() in ID_COLUMNS or is_unnamed(cells[0]):
        return True
    return len(cells) > 1 and all(_is_word(cell) for cell in cells[1:])


def _is_word(cell: str) -> bool:
    try:
        _number(cell, "," in cell)
    except ValueError:
        return True
    return False


def _checked(cells: list[str], key: int, comma: bool, sampling_rate: float) -> NDArray[np.float64]:
    """Return the samples of a row; a ValueError says why they cannot be used."""
    samples = _numbers(cells, key, comma)
    if len(samples) < MINIMUM_DURATION * sampling_rate:
        raise ValueError(f"{len(samples)} samples are less than {MINIMUM_DURATION:g} s")
    gaps = float(np.isnan(samples).mean())
    if gaps > LARGEST_GAP:
        raise ValueError(f"{gaps:.0%} of its samples are missing")
    return samples


def _numbers(cells: list[str], key: int, comma: bool) -> NDArray[np.float64]:
    """Return the cells after a column as numbers, NaN where empty; a ValueError names what is none."""
    samples = np.empty(len(cells) - key - 1)
    for place, cell in enumerate(cells[key + 1 :]):
        try:
            samples[place] = _number(cell, comma)
        except ValueError:
            raise ValueError(f"{cell[:20]!r} in column {key + place + 2} is no number") from None
    return samples


def _number(cell: str, comma: bool) -> float:
    """Return a cell as a number; ``comma``: decimals have commas."""
    try:
        value = float(cell.replace(",", ".") if comma else cell)
    except ValueError:
        if cell.casefold() in MISSING:
            return math.nan
        raise
    if math.isinf(value) or "_" in cell:
        raise ValueError("not finite")
    return value
