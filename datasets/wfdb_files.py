"""WFDB records: headers that fit their files, and their samples as stored, each channel at its own rate."""

from __future__ import annotations

import contextlib
import copy
import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from glob import escape
from pathlib import Path

import numpy as np
import wfdb
from wfdb.io._signal import BYTES_PER_SAMPLE, INVALID_SAMPLE_VALUE
from wfdb.io.header import parse_header_content, rx_signal

from datasets.sound_files import PCM, is_riff, wav_layout
from datasets.sources import DataError

_LONGEST_LINE = 2_000
"""Bytes in a line of a header beyond which it is not parsed: wfdb's patterns take the square of it."""
_MOST_LINES = 10_000
_MILLIVOLTS = {"nv": 1e-6, "uv": 1e-3, "mv": 1.0, "v": 1e3}
_SAME_IN_SEGMENTS = {
    **{"sig_name": "channels", "units": "unit", "adc_gain": "gain", "baseline": "baseline"},
    **{"fmt": "format", "samps_per_frame": "rate", "fs": "rate"},
}


def millivolts_of(unit: str) -> float | None:
    """Return the millivolts of a unit of voltage, None for any other; the two letters for micro are u."""
    return _MILLIVOLTS.get(unicodedata.normalize("NFKC", unit).strip().replace("μ", "u").lower())


def is_inside(path: Path, root: Path) -> bool:
    """Tell whether a file lies inside a folder once links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        return False


# Headers --------------------------------------------------------------------------------------------------


def read_header(header: Path) -> wfdb.Record:
    """Read a header; that of a multi-segment record has the channels of its segments.

    Raises
    ------
    DataError
        If it is absent, no file, or no header; or holds a line so long that parsing it would take minutes; or
        its segments are unlike.
    """
    content = _parse(header)
    if isinstance(content, wfdb.Record):
        return content
    own = [_parse(path) for path, _ in _segments(header, content) if path]
    return _alike(header, content, own)


def _parse(header: Path) -> wfdb.Record | wfdb.MultiRecord:
    """Read one header file, with the letters beyond ASCII that wfdb drops: ``µV`` would become V."""
    try:
        if header.exists() and not header.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        stored = header.read_bytes()
        lines = stored.splitlines()
        if max(map(len, lines), default=0) > _LONGEST_LINE or len(lines) > _MOST_LINES:
            raise ValueError(f"it has more than {_MOST_LINES} lines, or {_LONGEST_LINE} letters in a line")
        content = wfdb.rdheader(str(header.with_suffix("")))
    except FileNotFoundError:
        raise DataError(f"The header {header.name} does not exist.") from None
    except Exception as error:  # wfdb raises many kinds for a damaged header
        raise DataError(f"The header {header.name} cannot be read: {error}") from error
    if isinstance(content, wfdb.Record):
        _restore(content, stored)
    return content


def _restore(content: wfdb.Record, stored: bytes) -> None:
    """Give a record what wfdb drops: letters of UTF-8 or Latin-1, and which channels state no gain.

    For those wfdb takes the default of 200 a millivolt; the format calls them uncalibrated.
    """
    content.uncalibrated = set()
    try:
        text = stored.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = stored.decode("latin-1")
    lines, _ = parse_header_content(re.sub("[\x85\u2028\u2029]", " ", text))  # no ends of lines in ASCII
    for number, line in enumerate(lines[1:]):
        found = rx_signal.match(line)
        if found and not line.isascii():
            content.units[number] = found["units"] or "mV"
            content.sig_name[number] = found["sig_name"]
        if found and not found["adc_gain"].strip("0."):
            content.uncalibrated.add(number)


def _segments(header: Path, content: wfdb.MultiRecord) -> list[tuple[Path | None, int]]:
    """Return header and length of each segment that has samples; None is a gap."""
    stated = list(zip(content.seg_name, content.seg_len, strict=True))
    if len(stated) != content.n_seg or sum(content.seg_len) != content.sig_len:
        raise DataError(f"The header {header.name} declares other segments or another length than it lists.")
    segments = [
        (None if name == "~" else header.parent / f"{name}.hea", length) for name, length in stated if length
    ]
    for path, _ in segments:
        if path is not None and (path == header or not isinstance(_parse(path), wfdb.Record)):
            raise DataError(f"The segment {path.stem} of {header.name} has segments itself.")
    if not any(path for path, _ in segments):
        raise DataError(f"The multi-segment record {header.stem} has no segment with samples.")
    return segments


def _alike(header: Path, content: wfdb.MultiRecord, segments: list[wfdb.Record]) -> wfdb.Record:
    """Return one record for segments that have the same channels, gains, units, formats and rates."""
    first = copy.copy(segments[0])
    for field, what in _SAME_IN_SEGMENTS.items():
        if any(getattr(segment, field, None) != getattr(first, field, None) for segment in segments):
            raise DataError(
                f"The segments of the multi-segment record {header.stem} differ in {what}: "
                f"name one of them instead, such as {segments[0].record_name}."
            )
    first.record_name, first.sig_len = content.record_name, sum(content.seg_len)
    return first


def _check_declared(content: wfdb.Record, header: Path) -> None:
    """Refuse a header that declares other signals than it describes, or more samples than its files hold.

    Nothing of the size that a header declares is allocated before this has passed.

    Raises
    ------
    DataError
    """
    described = len(content.file_name)
    if content.n_sig != described:
        raise DataError(
            f"The header {header.name} declares {content.n_sig} signals, and describes {described}."
        )
    length = content.sig_len or 0
    if any((skew or 0) > length for skew in content.skew):
        raise DataError(f"The header {header.name} shifts a signal by more than the recording's length.")
    for name in dict.fromkeys(content.file_name):
        held = (header.parent / name).stat().st_size
        if _declared_bytes(content, name) > held:
            raise DataError(
                f"The signal file {name} is cut short, or its header wrong: "
                f"it holds {held} bytes, and {header.name} declares more."
            )


def _declared_bytes(content: wfdb.Record, name: str) -> Fraction:
    """Return how many bytes of a file a header declares; exact, however large."""
    own = [number for number, file in enumerate(content.file_name) if file == name]
    frame = Fraction(0)
    for number in own:
        size = BYTES_PER_SAMPLE.get(content.fmt[number], 0)  # may be the float nearest to 4/3
        frame += content.samps_per_frame[number] * Fraction(size).limit_denominator(3)
    return (content.byte_offset[own[0]] or 0) + (content.sig_len or 0) * frame


# Files ----------------------------------------------------------------------------------------------------


def signal_files(header: Path, root: Path) -> list[Path]:
    """Return the signal files a header names, refusing any outside the folder of raw data.

    Those of a multi-segment record are the headers of its segments as well.

    Raises
    ------
    DataError
        If the header is unreadable, lies outside ``root``, names a file that is absent or lies outside, or
        declares more than its files hold.
    """
    return _opened(header, root)[1]


def _opened(header: Path, root: Path) -> tuple[wfdb.Record | wfdb.MultiRecord, list[Path]]:
    """Return what a header says, and the files it names, as `signal_files` checks them."""
    if not is_inside(header, root):
        raise DataError(f"The header {header.name} is a link that leads outside the data folder.")
    content = _parse(header)
    if isinstance(content, wfdb.MultiRecord):
        return content, _files_of_segments(header, content, root)
    names = dict.fromkeys(getattr(content, "file_name", None) or [])
    if not names:
        raise DataError(f"The header {header.name} names no signal file.")
    files = []
    for name in names:
        if re.search(r"(^[/\\~]|^[A-Za-z]:|://)", name) or ".." in Path(name.replace("\\", "/")).parts:
            raise DataError(f"The header {header.name} names {name!r}, a path outside the data folder.")
        file = header.parent / name
        if not is_inside(file, root):
            raise DataError(f"The header {header.name} names {name!r}, which leads outside the data folder.")
        if not file.is_file():
            raise DataError(f"The signal file {name} named by {header.name} is absent.")
        files.append(file)
    _check_declared(content, header)
    return content, files


def _files_of_segments(header: Path, content: wfdb.MultiRecord, root: Path) -> list[Path]:
    """Return the headers and signal files of segments, and the header that tells their layout."""
    files = [
        part for path, _ in _segments(header, content) if path for part in (path, *signal_files(path, root))
    ]
    layouts = [header.parent / f"{name}.hea" for name in content.seg_name]
    return files + [
        path for path in layouts if path not in files and is_inside(path, root) and path.is_file()
    ]


def record_files(root: Path, recordings: Iterable[str]) -> list[str]:
    """Return the files of recordings, relative to the root: themselves, and what a header names."""
    names = []
    for recording in recordings:
        if not is_inside(root / recording, root):  # left out when it is prepared
            continue
        names.append(recording)
        if not recording.endswith(".hea"):
            continue
        with contextlib.suppress(DataError):  # a faulty header is left out when it is prepared
            files = signal_files(root / recording, root)
            names += [file.relative_to(root).as_posix() for file in files]
    return names


def find_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Return headers, and files with other endings that belong to none, in a folder and its subfolders.

    Sorted by path; hidden files and folders are left out, and so is what a header names. A file with the name
    of a header that does not name it counts as a part of it: `unnamed_files`.
    """
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    headers = [path for path in shown if path.suffix == ".hea"]
    parts = {path.with_suffix("") for path in headers}
    for header in headers:
        with contextlib.suppress(DataError):  # a faulty header is refused when it is read
            parts.update(signal_files(header, header.parent))
    others = [path for path in shown if path.suffix.lower() in endings and path.suffix != ".hea"]
    return [path for path in headers if path not in parts] + [
        path for path in others if not {path, path.with_suffix("")} & parts
    ]


def unnamed_files(header: Path, endings: Iterable[str]) -> list[Path]:
    """Return files beside a header with its name, and one of these endings, that it does not name."""
    named = signal_files(header, header.parent)
    beside = [path for path in header.parent.glob(f"{escape(header.stem)}.*") if path.is_file()]
    return sorted(path for path in beside if path.suffix.lower() in endings and path not in named)


# Samples --------------------------------------------------------------------------------------------------


def read_record(header: Path, root: Path) -> tuple[wfdb.Record, list[Path]]:
    """Read a record and return it with the files that it names.

    Its ``e_d_signal`` holds the samples of each channel as stored, at its own rate, which is ``fs *
    samps_per_frame``. The segments of a multi-segment record are joined.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, or contradicts its header.
    """
    content, files = _opened(header, root)
    if isinstance(content, wfdb.MultiRecord):
        return _joined(header, content, root), files
    try:
        record = wfdb.rdrecord(str(header.with_suffix("")), physical=False, smooth_frames=False)
    except Exception as error:  # wfdb raises many kinds for damaged files
        raise DataError(f"The recording {header.stem} cannot be read: {error}") from error
    record.units, record.sig_name = content.units, content.sig_name  # with all their letters
    record.uncalibrated = content.uncalibrated
    for file in files:
        if file.suffix.lower() == ".wav":
            _check_sound_file(record, file)
    _check_checksums(record)
    return record, files


def _joined(header: Path, content: wfdb.MultiRecord, root: Path) -> wfdb.Record:
    """Read a multi-segment record as one; where a segment is a gap, samples are missing."""
    segments = _segments(header, content)
    parts = [(read_record(path, root)[0] if path else None, size) for path, size in segments]
    for part, size in parts:
        if part is not None and part.sig_len != size:
            raise DataError(
                f"{header.name} says that its segment {part.record_name} has {size} samples, and its own "
                f"header says {part.sig_len}."
            )
    whole = _alike(header, content, [part for part, _ in parts if part is not None])
    whole.e_d_signal = []
    for number, (code, frames) in enumerate(zip(whole.fmt, whole.samps_per_frame, strict=True)):
        gap = INVALID_SAMPLE_VALUE.get(code) or -32768
        signals = [
            part.e_d_signal[number] if part is not None else np.full(size * frames, gap)
            for part, size in parts
        ]
        whole.e_d_signal.append(np.concatenate(signals))
    return whole


def _check_sound_file(record: wfdb.Record, file: Path) -> None:
    """Refuse a header that contradicts the ``.wav`` file it names: rate, channels, bits, first byte.

    Raises
    ------
    DataError
    """
    if not is_riff(file):  # samples alone, whatever the name
        return
    layout = wav_layout(file)
    own = [number for number, name in enumerate(record.file_name) if name == file.name]
    first = own[0]
    if layout.encoding != PCM:
        raise DataError(f"{file.name} does not hold whole numbers (PCM), as its header says.")
    found = (float(layout.rate), layout.channels, layout.bits, layout.begin)
    stated = (
        float(record.fs * record.samps_per_frame[first]),
        len(own),
        int(8 * BYTES_PER_SAMPLE.get(record.fmt[first], 0)),
        record.byte_offset[first] or 0,
    )
    if stated != found:
        text = "{:g} Hz, {} channels of {} bits from byte {}"
        raise DataError(f"{file.name} holds {text.format(*found)}; its header says {text.format(*stated)}.")


def _check_checksums(record: wfdb.Record) -> None:
    """Refuse samples that do not add up to the checksum of their header; 0, or none, promises nothing.

    Raises
    ------
    DataError
    """
    for number, stated in enumerate(record.checksum):
        if not stated or record.skew[number]:
            continue
        samples = record.e_d_signal[number]
        if (int(samples.sum(dtype="int64")) - stated) % 2**16:
            raise DataError(
                f"The samples of channel {record.sig_name[number]} of {record.record_name} do not have the "
                f"checksum of their header ({stated}): the file is damaged, or belongs to another header."
            )
