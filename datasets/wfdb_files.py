"""Whether a WFDB header fits its files: what it declares is there, and is what the files say it is."""

from __future__ import annotations

import contextlib
import re
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import wfdb
from wfdb.io._signal import BYTES_PER_SAMPLE

from datasets.sources import DataError

_LONGEST_LINE = 2_000
"""Bytes in a line of a header beyond which it is not parsed: wfdb's patterns take the square of it."""
_MOST_LINES = 10_000


def is_inside(path: Path, root: Path) -> bool:
    """Tell whether a file lies inside a folder once links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        return False


def read_header(header: Path) -> wfdb.Record:
    """Read a header.

    Raises
    ------
    DataError
        If it is absent, no file, or no header; or holds a line so long that parsing it would take minutes.
    """
    try:
        if header.exists() and not header.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        lines = header.read_bytes().splitlines()
        if max(map(len, lines), default=0) > _LONGEST_LINE or len(lines) > _MOST_LINES:
            raise ValueError(f"it has more than {_MOST_LINES} lines, or {_LONGEST_LINE} letters in a line")
        return wfdb.rdheader(str(header.with_suffix("")))
    except FileNotFoundError:
        raise DataError(f"The header {header.name} does not exist.") from None
    except Exception as error:  # wfdb raises many kinds for a damaged header
        raise DataError(f"The header {header.name} cannot be read: {error}") from error


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


def check_sound_file(record: wfdb.Record, file: Path) -> None:
    """Refuse a header that contradicts the ``.wav`` file it names: rate, channels, bits, first byte.

    Raises
    ------
    DataError
    """
    own = [number for number, name in enumerate(record.file_name) if name == file.name]
    first = own[0]
    try:
        with file.open("rb") as stream, wave.open(stream) as sound:
            begin = stream.tell()  # the reader stops where the samples begin
            found = (sound.getframerate(), sound.getnchannels(), 8 * sound.getsampwidth(), begin)
    except (wave.Error, EOFError):  # not plain PCM: it cannot be determined
        return
    bits = 8 * BYTES_PER_SAMPLE.get(record.fmt[first], 0)
    stated = (
        float(record.fs * record.samps_per_frame[first]),
        len(own),
        int(bits),
        record.byte_offset[first] or 0,
    )
    if stated != found:
        text = "{:g} Hz, {} channels of {} bits from byte {}"
        raise DataError(f"{file.name} holds {text.format(*found)}; its header says {text.format(*stated)}.")


def check_checksums(record: wfdb.Record) -> None:
    """Refuse samples that do not add up to the checksum of their header; 0, or none, promises nothing.

    Raises
    ------
    DataError
    """
    whole = record.e_d_signal is not None  # else samples of one frame are averaged
    for number, stated in enumerate(record.checksum):
        if not stated or record.skew[number] or not (whole or record.samps_per_frame[number] == 1):
            continue
        samples = record.e_d_signal[number] if whole else record.d_signal[:, number]
        if (int(samples.sum(dtype="int64")) - stated) % 2**16:
            raise DataError(
                f"The samples of channel {record.sig_name[number]} of {record.record_name} do not have the "
                f"checksum of their header ({stated}): the file is damaged, or belongs to another header."
            )


MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}


def signal_files(header: Path, root: Path) -> list[Path]:
    """Return the signal files a header names, refusing any outside the folder of raw data.

    Raises
    ------
    DataError
        If the header is unreadable, lies outside ``root``, names a file that is absent or lies outside, or
        declares more than its files hold.
    """
    if not is_inside(header, root):
        raise DataError(f"The header {header.name} is a link that leads outside the data folder.")
    content = read_header(header)
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
    return files


def record_files(root: Path, headers: Iterable[str]) -> list[str]:
    """Return the files of WFDB records, relative to the root: headers, and the signal files they name."""
    names = []
    for header in headers:
        if not is_inside(root / header, root):  # left out when it is prepared
            continue
        names.append(header)
        with contextlib.suppress(DataError):  # a faulty header is left out when it is prepared
            files = signal_files(root / header, root)
            names += [file.relative_to(root).as_posix() for file in files]
    return names
