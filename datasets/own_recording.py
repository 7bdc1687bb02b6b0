"""Find and read recordings of one's own: WFDB records, and .wav heart sounds with or without an ECG.

Nothing outside the folder of a recording is read on the word of its header. A signal that cannot be used is
left out with a remark, as long as the other one can.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wfdb
from numpy.typing import NDArray
from scipy.io import wavfile

from datasets.cohort import PLAUSIBLE_RATE, find_channels
from datasets.recordings import MINIMUM_DURATION, Recording, Signal, read_recording, signal_files
from datasets.signal_quality import NAMES, Remark
from datasets.sources import DataError

ANNOTATIONS = ("_StateAns.mat", "_StateAns0.mat")
"""Ends of the names of files of heart-state onsets, hand-corrected and automatic."""
SAMPLES = (".npy", ".csv", ".txt")


@dataclass(frozen=True)
class Place:
    """Where one recording is, and the name by which it is reported."""

    name: str
    path: Path


@dataclass(frozen=True)
class OwnRecording:
    """One recording of one's own.

    Attributes
    ----------
    name : str
    path : pathlib.Path
        Its header or .wav.
    recording : Recording
        Signals that can be used.
    annotation : pathlib.Path or None
        Its file of heart-state onsets, not read yet.
    channels : dict of str to str
        Where each signal comes from: the name of a channel, or of a file.
    remarks : list of Remark
        What was left out, and what is doubtful, as far as reading tells.
    """

    name: str
    path: Path
    recording: Recording
    annotation: Path | None = None
    channels: dict[str, str] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)


@dataclass(frozen=True)
class ReadingOptions:
    """How recordings are read: the file of the ECG and its rate, names of channels, folder of onsets."""

    ecg: Path | None = None
    ecg_rate: float | None = None
    ecg_channel: str = ""
    pcg_channel: str = ""
    annotations: Path | None = None


def find_recordings(given: Iterable[Path]) -> list[Place]:
    """Return the recordings that paths name: records, .wav files, and all of both in folders, recursively.

    Names are those of the files without ending, with their folders where a folder was given; equal names
    get a number. Hidden files and folders are left out, and so is a .wav that belongs to a record. Whether
    a file is there shows when it is read.

    Raises
    ------
    DataError
        If a folder holds no recording.
    """
    found: list[Place] = []
    for path in given:
        found += _of_folder(path) if path.is_dir() else [Place(_name(Path(path.name)), path)]
    named: list[Place] = []
    taken: set[str] = set()
    for place in found:
        numbered = (f"{place.name}-{number}" for number in range(2, len(found) + 2))
        name = place.name if place.name not in taken else next(name for name in numbered if name not in taken)
        taken.add(name)
        named.append(Place(name, place.path))
    return named


def resolve_recording(path: Path) -> Path:
    """Return the header or .wav file that a path means; records may be named without .hea.

    Raises
    ------
    DataError
        If there is none.
    """
    header = path.with_name(f"{path.name}.hea")
    if path.suffix.lower() in (".hea", ".wav") and path.is_file():
        return path
    if path.name and header.is_file():
        return header
    beside = path.with_suffix(".hea") if path.suffix else header
    hint = f" Perhaps you meant {beside.with_suffix('')}." if path.is_file() and beside.is_file() else ""
    what = "is neither a WFDB record nor a .wav file" if path.is_file() else "does not exist"
    raise DataError(f"{path} {what}.{hint} Name a WFDB record (with or without .hea), a .wav, or a folder.")


def _of_folder(folder: Path) -> list[Place]:
    """Return the recordings in a folder and its subfolders, sorted by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    headers = [path for path in shown if path.suffix == ".hea"]
    parts = {path.with_suffix("") for path in headers}
    for header in headers:
        with contextlib.suppress(DataError):  # a faulty header is refused when it is read
            parts.update(signal_files(header, header.parent))
    sounds = [
        path for path in shown if path.suffix.lower() == ".wav" and not {path, path.with_suffix("")} & parts
    ]
    places = [Place(_name(path.relative_to(folder)), path) for path in sorted(headers + sounds)]
    if not places:
        raise DataError(f"{folder} holds no recording: no WFDB header (.hea) and no .wav file.")
    return places


def _name(path: Path) -> str:
    """Return the name of a recording: its path without the ending."""
    return (path.with_suffix("") if path.suffix.lower() in (".hea", ".wav") else path).as_posix()


def read_own_recording(place: Place, options: ReadingOptions | None = None) -> OwnRecording:
    """Read one recording.

    Raises
    ------
    DataError
        If nothing usable is in it. The message says why.
    """
    chosen = options or ReadingOptions()
    found = Place(place.name, resolve_recording(place.path))
    is_sound = found.path.suffix.lower() == ".wav"
    if not is_sound and chosen.ecg is not None:
        raise DataError(f"--ecg belongs to a .wav; {found.path.name} is a WFDB record with its own channels.")
    try:
        own = (_read_sound if is_sound else _read_record)(found, chosen)
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # there is no end to the ways in which files from anywhere can be damaged
        reason = str(error) or type(error).__name__
        raise DataError(f"{found.path.name} cannot be read: {reason}.") from error
    return _believable(own)


def _read_record(place: Place, options: ReadingOptions) -> OwnRecording:
    """Read a WFDB record; where one of two signals is unusable, the other one."""
    find = functools.partial(find_channels, ecg_channel=options.ecg_channel, pcg_channel=options.pcg_channel)
    recording, remarks = _read_usable(place.path, find)
    header = wfdb.rdheader(str(place.path.with_suffix("")))
    channels = {
        kind: str(header.sig_name[number])
        for kind, number in zip(NAMES, find(header), strict=True)
        if number is not None and getattr(recording, kind) is not None
    }
    annotation = _find_annotation(place.path, options)
    return OwnRecording(place.name, place.path, recording, annotation, channels, remarks)


def _read_usable(
    header: Path, find: Callable[[wfdb.Record], tuple[int | None, int | None]]
) -> tuple[Recording, list[Remark]]:
    """Read both signals of a record, or the one that can be read and a remark about the other."""
    try:
        return read_recording(header, header.parent, find), []
    except DataError as both:
        found: list[tuple[Recording, list[Remark]]] = []
        faults: dict[str, str] = {}
        for place, kind in enumerate(NAMES):
            alone = functools.partial(_only, find=find, place=place)
            try:
                found.append((read_recording(header, header.parent, alone), []))
            except DataError as error:
                faults[kind] = str(error)
        if len(found) != 1:  # neither signal alone, or a fault of the record itself
            raise both from None
        ((kind, reason),) = faults.items()
        return found[0][0], [Remark("unusable", kind, f"The {NAMES[kind]} is left out: {reason}")]


def _only(
    record: wfdb.Record, find: Callable[[wfdb.Record], tuple[int | None, int | None]], place: int
) -> tuple[int | None, int | None]:
    """Return the numbers of the channels of a record with one of the two hidden."""
    numbers = find(record)
    return (numbers[0], None) if place == 0 else (None, numbers[1])


def _read_sound(place: Place, options: ReadingOptions) -> OwnRecording:
    """Read a .wav heart sound, and the ECG that was recorded with it, if one is named."""
    digest = hashlib.sha256(place.path.read_bytes())
    pcg, remarks = read_wav(place.path)
    ecg = None
    channels = {"pcg": place.path.name}
    if options.ecg is not None:
        ecg, source = _read_ecg(options)
        digest.update(source.read_bytes())
        channels["ecg"] = source.name
    recording = Recording(ecg, pcg, pcg.sampling_rate, digest.hexdigest())
    annotation = _find_annotation(place.path, options)
    return OwnRecording(place.name, place.path, recording, annotation, channels, remarks)


def read_wav(path: Path) -> tuple[Signal, list[Remark]]:
    """Read a heart sound as a share of full scale; of several channels the first.

    Raises
    ------
    DataError
        If the file is no .wav that can be read, or nothing usable is in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of text, a length left open
            rate, stored = wavfile.read(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        reason = str(error) or type(error).__name__
        raise DataError(f"{path.name} cannot be read as a .wav file: {reason}") from error
    remarks = []
    if stored.ndim > 1:
        text = f"{path.name} has {stored.shape[1]} channels; the first one is taken for the heart sound."
        remarks.append(Remark("channels", "pcg", text))
        stored = stored[:, 0]
    samples, lowest, highest = _share_of_full_scale(stored)
    saturated = float(((stored <= lowest) | (stored >= highest)).mean()) if len(stored) else 0.0
    return make_signal(samples, float(rate), path.name, saturated), remarks


def _share_of_full_scale(stored: NDArray[Any]) -> tuple[NDArray[np.float64], float, float]:
    """Return the samples of a .wav as a share of full scale, and the lowest and highest value stored."""
    if stored.dtype.kind == "f":
        limit = 1.0 if np.abs(stored[np.isfinite(stored)]).max(initial=0) <= 1 else np.inf
        return stored.astype(np.float64), -limit, limit
    bits = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "u":  # 8 bits and fewer are stored without a sign
        return (stored.astype(np.float64) - 2 ** (bits - 1)) / 2 ** (bits - 1), 0.0, 2.0**bits - 1
    whole = 2.0 ** (bits - 1)
    # 24 bits arrive in the upper part of 32: the lowest byte of their highest value is empty
    return stored / whole, -whole, whole - (256.0 if bits == 32 else 1.0)


def _read_ecg(options: ReadingOptions) -> tuple[Signal, Path]:
    """Read the ECG of a .wav, and return the file that it is in."""
    path = options.ecg
    assert path is not None
    if path.suffix.lower() not in SAMPLES:
        header = resolve_recording(path)
        if header.suffix.lower() == ".wav":
            raise DataError(f"--ecg {path} is a .wav: name a WFDB record, a .npy or a .csv file.")
        find = functools.partial(find_channels, ecg_channel=options.ecg_channel)
        ecg = read_recording(header, header.parent, functools.partial(_only, find=find, place=0)).ecg
        assert ecg is not None  # else there would have been an error
        return ecg, header
    if not path.is_file():
        raise DataError(f"There is no {path}: --ecg names a WFDB record, a .npy or a .csv file.")
    if options.ecg_rate is None or not 0 < options.ecg_rate < float("inf"):
        raise DataError(f"{path.name} does not say how often it was sampled: add --ecg-rate HERTZ.")
    samples = _read_npy(path) if path.suffix.lower() == ".npy" else _read_column(path)
    return make_signal(samples, options.ecg_rate, path.name), path


def _read_npy(path: Path) -> NDArray[np.float64]:
    """Read one row of numbers from an array file; nothing that could hold code is read."""
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
            raise ValueError("it holds no array of numbers")
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    if values.squeeze().ndim != 1:
        raise DataError(f"{path.name} holds an array of shape {values.shape}; one row of samples is needed.")
    return values.squeeze().astype(np.float64)


def _read_column(path: Path) -> NDArray[np.float64]:
    """Read one column of numbers, with or without a name above it; empty cells are gaps."""
    try:
        cells = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", skip_blank_lines=False)
    except (ValueError, OSError) as error:  # pandas' errors of parsing and of decoding are ValueErrors
        raise DataError(f"{path.name} cannot be read as a table: {error}") from error
    if cells.shape[1] != 1:
        raise DataError(f"{path.name} has {cells.shape[1]} columns; keep one, that of the ECG.")
    column = cells[0].str.strip()
    numbers = pd.to_numeric(column, errors="coerce")
    strange = np.flatnonzero(numbers.isna() & column.notna() & (column != "") & (column.str.lower() != "nan"))
    if len(strange) and strange[0] == 0:
        numbers, strange = numbers.iloc[1:], strange[1:]
    if len(strange):
        raise DataError(f"{path.name}, line {strange[0] + 1}: {column[strange[0]]!r} is no number.")
    return numbers.to_numpy(dtype=np.float64)


def make_signal(
    samples: NDArray[np.float64], sampling_rate: float, name: str, saturated: float = 0.0
) -> Signal:
    """Return samples as a signal; what is not finite counts as missing.

    Raises
    ------
    DataError
        If they are too few, all missing or constant, or the rate is no number above zero.
    """
    if not sampling_rate > 0:
        raise DataError(f"{name} states a sampling rate of {sampling_rate:g} Hz.")
    if len(samples) < MINIMUM_DURATION * sampling_rate:
        raise DataError(
            f"{name} lasts {len(samples) / sampling_rate:.2f} s; at least {MINIMUM_DURATION:g} s are needed."
        )
    present = np.isfinite(samples)
    if not present.any():
        raise DataError(f"{name} holds no sample.")
    if np.ptp(samples[present]) == 0:
        raise DataError(f"{name} is constant: nothing was recorded.")
    clean = np.where(present, samples, np.nan).astype(np.float32)
    return Signal(clean, sampling_rate, saturated=saturated, missing=float((~present).mean()))


def _find_annotation(path: Path, options: ReadingOptions) -> Path | None:
    """Return the file of heart-state onsets beside a recording, or in the folder named."""
    folder = options.annotations or path.parent
    candidates: Sequence[Path] = [folder / f"{path.stem}{ending}" for ending in ANNOTATIONS]
    return next((file for file in candidates if file.is_file()), None)


def _believable(own: OwnRecording) -> OwnRecording:
    """Leave out signals whose sampling rate cannot be right; refuse a recording without any other."""
    kept: dict[str, Signal | None] = {}
    remarks = list(own.remarks)
    for kind, name in NAMES.items():
        signal = kept[kind] = getattr(own.recording, kind)
        low, high = PLAUSIBLE_RATE[kind.upper()]
        if signal is not None and not low <= signal.sampling_rate <= high:
            kept[kind] = None
            text = f"{signal.sampling_rate:g} Hz; {low:g} to {high:g} Hz is plausible"
            remarks.append(Remark("rate", kind, f"The {name} is left out: its sampling rate is {text}."))
    if not any(kept.values()):
        raise DataError(" ".join(remark.text for remark in remarks))
    recording = Recording(kept["ecg"], kept["pcg"], own.recording.header_rate, own.recording.sha256)
    return OwnRecording(own.name, own.path, recording, own.annotation, own.channels, remarks)
