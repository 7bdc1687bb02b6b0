"""Sound files: what a header declares is compared with what the file holds, and soundfile reads the rest."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.sources import DataError

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
"""Endings of sound files that are read."""
PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LOSSY = ("MP3", "OGG")
_OPEN = 0x7FFF0000
"""Declared bytes from which a length was left open: writers that do not know it state about 2 or 4 GiB."""
_BORNE_REST = 0.01
"""Share of the samples' bytes that may follow them without belonging to any chunk."""


@dataclass(frozen=True)
class WavLayout:
    """Where the samples of a ``.wav`` are, and how they are stored.

    Attributes
    ----------
    encoding : int
        1: whole numbers; 3: floating point; else compressed.
    channels, rate, bits : int
        Rate in hertz; bits of a sample as stored.
    begin, end : int
        First byte of the samples, and the byte after the last.
    format : bytes
        The chunk ``fmt``.
    warnings : tuple of str
    """

    encoding: int
    channels: int
    rate: int
    bits: int
    begin: int
    end: int
    format: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sound:
    """A sound as stored.

    Attributes
    ----------
    samples : numpy.ndarray of float64, shape (n, channels)
        Share of full scale, -1 to 1.
    rate : float
        Hertz.
    highest : float
        Share of full scale of the highest value that can be stored; infinite where there is none.
    warnings : tuple of str
    """

    samples: NDArray[np.float64]
    rate: float
    highest: float
    warnings: tuple[str, ...] = ()


def is_riff(file: Path) -> bool:
    """Tell whether a file says that it is a ``.wav``."""
    with file.open("rb") as stream:
        head = stream.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WAVE"


def read_sound(file: Path) -> Sound:
    """Read a sound file.

    Raises
    ------
    DataError
        If it cannot be read, is cut short, or contradicts itself.
    """
    import soundfile  # takes a tenth of a second, and records need none of it

    content = file.read_bytes()
    warnings: tuple[str, ...] = ()
    if content[:4] == b"RIFF":
        layout = wav_layout(file)
        warnings = layout.warnings
        content = _plain_wav(content, layout)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            samples = sound.read(dtype="float64", always_2d=True)
            kind, subtype, rate, stated = sound.format, sound.subtype, sound.samplerate, sound.frames
            log = sound.extra_info
    except Exception as error:  # soundfile's own, and those of its memory
        reason = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
        raise DataError(f"{file.name} cannot be read as a {file.suffix.lower()} file: {reason}.") from error
    if len(samples) < stated or (content[:4] != b"RIFF" and re.search("should be|does not match", log)):
        raise DataError(f"{file.name} is cut short: it holds less than it declares. Copy it again.")
    if kind == "OGG" and not _ogg_is_whole(content):
        raise DataError(f"{file.name} is cut short: its last page is absent. Copy it again.")
    if kind in _LOSSY:
        name = "MP3" if kind == "MP3" else subtype.title()
        warnings += (f"{file.name} is stored with losses ({name}), which may also shift it in time.",)
    return Sound(samples, float(rate), _highest(subtype, samples), warnings)


def _highest(subtype: str, samples: NDArray[np.float64]) -> float:
    """Return the highest share of full scale that a way of storing can hold."""
    bits = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}.get(subtype)
    if bits:
        return 1 - 2.0 ** -(min(bits, 24) - 1)
    return 1.0 if np.abs(samples[np.isfinite(samples)]).max(initial=0) <= 1 else np.inf


def _ogg_is_whole(content: bytes) -> bool:
    """Tell whether the last page of an Ogg file is there, ends it, and is as long as it says (RFC 3533)."""
    last = content.rfind(b"OggS")
    sizes = content[last + 27 : last + 27 + content[last + 26]] if last + 26 < len(content) else b""
    return bool(sizes and content[last + 5] & 4) and last + 27 + len(sizes) + sum(sizes) <= len(content)


# .wav -----------------------------------------------------------------------------------------------------


def wav_layout(file: Path) -> WavLayout:
    """Return where the samples of a ``.wav`` are, after comparing what it declares with what it holds.

    A length that was left open, as a writer leaves it that cannot go back or crashed, ends with the file.

    Raises
    ------
    DataError
        If it has no samples or two sets of them, is cut short, or contradicts itself.
    """
    content = file.read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise DataError(f"{file.name} cannot be read as a .wav file: it does not begin as one.")
    chunks = list(_chunks(content))
    forms, data = ([chunk for chunk in chunks if chunk[0] == name] for name in (b"fmt ", b"data"))
    if len(forms) != 1 or len(data) != 1:
        counts = f"{len(forms)} descriptions (fmt) and {len(data)} sets of samples (data)"
        raise DataError(f"{file.name} cannot be read as a .wav file: it holds {counts}, not one of each.")
    (_, at, size), (_, begin, declared) = forms[0], data[0]
    form = _Form.of(content[at : at + size], file.name)
    held, seconds = len(content) - begin, 1 / form.block / form.rate
    warnings = form.warnings(file.name)
    if _is_open(chunks, declared, held):
        warnings.append(f"The length of {file.name} was left open: all {held * seconds:.1f} s are read.")
        declared = held // form.block * form.block
    if declared > held:
        times = f"{declared * seconds:.1f} s are declared, and {held * seconds:.1f} s are there"
        raise DataError(f"{file.name} is cut short: {times}. Copy it again.")
    if form.is_plain and declared % form.block:
        raise DataError(
            f"{file.name} holds {declared} bytes of samples, no multiple of {form.block}: it is damaged."
        )
    _check_rest(file.name, content, chunks, declared)
    return WavLayout(
        form.encoding,
        form.channels,
        form.rate,
        8 * form.block // form.channels,
        begin,
        begin + declared,
        form.stored,
        tuple(warnings),
    )


class _Form(NamedTuple):
    """The description of the samples of a ``.wav``: its chunk ``fmt``."""

    encoding: int
    channels: int
    rate: int
    byte_rate: int
    block: int
    bits: int
    stored: bytes

    @classmethod
    def of(cls, stored: bytes, name: str) -> _Form:
        """Unpack a description; refuse one that contradicts itself."""
        if len(stored) < 16:
            raise DataError(f"{name} cannot be read as a .wav file: its description is too short.")
        form = cls._make((*struct.unpack("<HHIIHH", stored[:16]), stored))
        if form.encoding == _EXTENSIBLE and len(stored) >= 26:
            form = form._replace(encoding=int.from_bytes(stored[24:26], "little"))
        _, channels, rate, _, block, bits, _ = form
        if not (channels and rate and block):
            raise DataError(f"{name} declares {channels} channels, {rate} Hz and {block} bytes a sample.")
        if form.is_plain and block != channels * -(-bits // 8):
            raise DataError(
                f"{name} contradicts itself: {channels} channels of {bits} bits in {block} bytes."
            )
        return form

    @property
    def is_plain(self) -> bool:
        """Whether samples are stored one after the other, not compressed."""
        return self.encoding in (PCM, _FLOAT)

    def warnings(self, name: str) -> list[str]:
        """Return what is doubtful: bytes a second that do not fit samples a second."""
        if not self.is_plain or self.byte_rate in (0, self.rate * self.block):
            return []
        text = f"{self.rate} samples of {self.block} bytes and {self.byte_rate} bytes a second"
        return [f"{name} declares {text}, which do not fit: its sampling rate may be wrong."]


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte and declared size of the chunks of a ``.wav``, as long as they have a name.

    A chunk of odd size is followed by a byte of padding, which some writers leave out.
    """
    at = 12
    while _is_name(content[at : at + 4]) and at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        yield content[at : at + 4], at + 8, size
        at += 8 + size + size % 2
        if size % 2 and _is_name(content[at - 1 : at + 3]) and not _is_name(content[at : at + 4]):
            at -= 1


def _is_name(letters: bytes) -> bool:
    return re.fullmatch(rb"[A-Za-z0-9_]{3}[A-Za-z0-9_ ]", letters) is not None


def _is_open(chunks: list[tuple[bytes, int, int]], declared: int, held: int) -> bool:
    """Tell whether the length of the samples was left open: as 0 where bytes follow, or as 2 GiB and more."""
    return declared > max(held, _OPEN) or (declared == 0 and held > 0 and chunks[-1][0] == b"data")


def _check_rest(name: str, content: bytes, chunks: list[tuple[bytes, int, int]], declared: int) -> None:
    """Refuse a ``.wav`` that goes on behind its samples with something that is no chunk."""
    _, at, size = chunks[-1]
    end = at + (declared if chunks[-1][0] == b"data" else size)
    rest = len(content[end:].strip(b"\0"))
    if rest > max(_BORNE_REST * declared, 64):
        raise DataError(
            f"{name} declares {declared} bytes of samples, and {rest} more follow that belong to nothing: "
            "its header is wrong."
        )


def _plain_wav(content: bytes, layout: WavLayout) -> bytes:
    """Return a ``.wav`` of nothing but the description and the samples of another."""
    form, samples = layout.format, content[layout.begin : layout.end]
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"\0" * (len(form) % 2)
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
