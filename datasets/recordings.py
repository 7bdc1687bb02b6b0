"""Read one recording of ECG and heart sound, whatever its file formats and rates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from numpy.typing import NDArray
from wfdb.io._signal import INVALID_SAMPLE_VALUE

from datasets.channel_files import CHANNEL_FILES, read_channels
from datasets.signals import MINIMUM_DURATION, Floats, separate_saturation_from_gaps
from datasets.sound_files import SOUNDS, read_sound
from datasets.sources import DataError
from datasets.wfdb_files import is_inside, millivolts_of, read_record

RECORDINGS = (".hea", *SOUNDS, *CHANNEL_FILES)
"""Endings of files that hold a recording, with their rates and units."""

_COARSEST = 0.01
"""Largest error of storing a signal in single precision that is let pass, in its standard deviations."""
_SILENT = 1e-3
"""Deviation of a channel of a sound file, as a share of the loudest channel's, below which it is silent."""


@dataclass(frozen=True)
class Signal:
    """One channel.

    Attributes
    ----------
    samples : numpy.ndarray of float32, shape (n,)
        ECG in millivolts; heart sound as a share of full scale (-1 to 1). NaN where samples are missing.
    sampling_rate : float
        Hertz.
    saturated, missing : float
        Shares of samples at the rails, and of samples that are missing.
    """

    samples: NDArray[np.float32]
    sampling_rate: float
    saturated: float
    missing: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sampling_rate


@dataclass(frozen=True)
class Recording:
    """A synchronized measurement; either signal may be absent.

    Attributes
    ----------
    ecg, pcg : Signal or None
    header_rate : float
        Rate at which annotations of this recording count samples, hertz.
    sha256 : str
        Digest of the header and signal files.
    channels : dict of str to str
        Name of the channel of each signal.
    warnings : tuple of (str, str, str)
        What is doubtful about its files: a code, the signal it is about, and one sentence, as
        `datasets.signal_quality.SignalWarning` has them.
    """

    ecg: Signal | None
    pcg: Signal | None
    header_rate: float
    sha256: str
    channels: dict[str, str] = field(default_factory=dict)
    warnings: tuple[tuple[str, str, str], ...] = ()


ChannelFinder = Callable[[Any], tuple[int | None, int | None]]
"""Tells the numbers of the ECG and the PCG channel from a header's ``sig_name``; None where there is none."""


def channels_by_name(record: Any) -> tuple[int | None, int | None]:
    """Return the channels named ``ECG`` and ``PCG``, as PhysioNet 2016 names them."""
    names = [(name or "").upper() for name in record.sig_name]
    ecg, pcg = (names.index(name) if name in names else None for name in ("ECG", "PCG"))
    return ecg, pcg


def read_recording(file: Path, root: Path, find_channels: ChannelFinder = channels_by_name) -> Recording:
    """Read a recording.

    Parameters
    ----------
    file : pathlib.Path
        A WFDB header, a sound file, or a file of channels: `RECORDINGS`.
    root : pathlib.Path
        Folder outside which nothing is read.
    find_channels : callable
        Tells which channel is which; a sound file is a heart sound.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, or nothing usable is in it.
    """
    try:
        return _read(file, root, find_channels)
    except OSError as error:
        raise DataError(f"{file.name} cannot be read: {error.strerror or error}.") from error


def _read(file: Path, root: Path, find_channels: ChannelFinder) -> Recording:
    """Read a recording by the reader of its ending."""
    if file.suffix == ".hea":
        return _of_record(file, root, find_channels)
    if not is_inside(file, root):
        raise DataError(f"{file.name} is a link that leads outside the data folder.")
    if not file.is_file():
        raise DataError(f"The recording {file.name} does not exist.")
    read = _of_sound(file) if file.suffix.lower() in SOUNDS else _of_channels(file, find_channels)
    return dataclasses.replace(read, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def _of_record(header: Path, root: Path, find_channels: ChannelFinder) -> Recording:
    """Read a WFDB record."""
    record, files = read_record(header, root)
    digest = hashlib.sha256()
    for file in [header, *files]:
        digest.update(file.read_bytes())
    numbers = _found(record, header.stem, find_channels)
    convert = {"ecg": _millivolts, "pcg": _share_of_full_scale}
    signals = {kind: _channel(record, number, convert[kind]) for kind, number in numbers.items()}
    names = {kind: str(record.sig_name[number]) for kind, number in numbers.items()}
    ecg, pcg = signals.get("ecg"), signals.get("pcg")
    return Recording(ecg, pcg, float(record.fs), digest.hexdigest(), names)


def _found(record: Any, name: str, find_channels: ChannelFinder) -> dict[str, int]:
    """Return the numbers of the channels that there are.

    Raises
    ------
    DataError
        If there is neither.
    """
    numbers = zip(("ecg", "pcg"), find_channels(record), strict=True)
    found = {kind: number for kind, number in numbers if number is not None}
    if not found:
        names = ", ".join(name or "(no name)" for name in record.sig_name)
        raise DataError(
            f"The recording {name} has neither an ECG nor a PCG channel, only {names}: "
            "name one with --ecg-channel or --pcg-channel."
        )
    return found


def _of_sound(file: Path) -> Recording:
    """Read a heart sound: of several channels the first that is not silent, and a warning."""
    sound = read_sound(file)
    deviations = (
        np.nan_to_num(sound.samples.std(axis=0)) if len(sound.samples) else np.zeros(sound.samples.shape[1])
    )
    number = int(np.argmax(deviations > _SILENT * deviations.max()))
    warnings = [("sound-file", "pcg", text) for text in sound.warnings]
    if len(deviations) > 1:
        which = "first one" if not number else f"{number + 1}. one, as those before it are silent,"
        text = f"{file.name} has {len(deviations)} channels; the {which} is taken for the heart sound."
        warnings.append(("channels", "pcg", text))
    samples = sound.samples[:, number]
    saturated = float(((samples <= -1) | (samples >= sound.highest)).mean()) if len(samples) else 0.0
    if not np.isfinite(sound.highest):
        saturated = 0.0
    pcg = make_signal(samples, sound.rate, file.name, saturated)
    return Recording(None, pcg, sound.rate, "", {"pcg": file.name}, tuple(warnings))


def _of_channels(file: Path, find_channels: ChannelFinder) -> Recording:
    """Read the ECG and the heart sound of a file of channels; the sound as a share of its largest value."""
    content = read_channels(file)
    signals, names = {}, {}
    for kind, number in _found(content, file.name, find_channels).items():
        channel = content.channels[number]
        samples = channel.millivolts(file.name) if kind == "ecg" else _of_largest(channel.samples)
        text = f"Channel {channel.name} of {file.name}"
        signals[kind], names[kind] = make_signal(samples, channel.rate, text, channel.saturated), channel.name
    warnings = tuple(("file", "", text) for text in content.warnings)
    rate = next(iter(signals.values())).sampling_rate
    return Recording(signals.get("ecg"), signals.get("pcg"), rate, "", names, warnings)


def _of_largest(samples: Floats) -> Floats:
    """Return a heart sound as a share of its largest value, where full scale is not known."""
    largest = np.nanmax(np.abs(samples), initial=0.0)
    return samples / largest if largest > 0 else samples


def make_signal(samples: Floats, sampling_rate: float, name: str, saturated: float = 0.0) -> Signal:
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


def _channel(record: wfdb.Record, number: int, convert: Callable[[wfdb.Record, int], Floats]) -> Signal:
    """Return one channel in its physical unit, with saturation and gaps kept apart."""
    digital = np.asarray(record.e_d_signal[number])
    rate = float(record.fs * record.samps_per_frame[number])
    if not rate > 0:
        raise DataError(f"The header of {record.record_name} gives a sampling rate of {rate:g} Hz.")
    if len(digital) < MINIMUM_DURATION * rate:
        raise DataError(
            f"Channel {record.sig_name[number]} of {record.record_name} lasts "
            f"{len(digital) / rate:.2f} s; at least {MINIMUM_DURATION:g} s are needed."
        )
    lowest = _lowest_code(record, number)
    saturated, missing = separate_saturation_from_gaps(digital, lowest, rate)
    if missing.all():
        raise DataError(f"Channel {record.sig_name[number]} of {record.record_name} holds no sample.")
    present = digital[~missing]
    if present.min() == present.max():
        raise DataError(f"Channel {record.sig_name[number]} of {record.record_name} is constant.")
    samples = _single_precision(convert(record, number), record, number)
    samples[missing] = np.nan
    at_rails = saturated.mean() + (digital == -lowest - 1).mean()
    return Signal(samples, rate, saturated=float(at_rails), missing=float(missing.mean()))


def _single_precision(samples: Floats, record: wfdb.Record, number: int) -> NDArray[np.float32]:
    """Return a channel as it is stored; refuse a gain or baseline with which nothing of it would be left."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = samples.astype(np.float32)
        near = np.abs(stored - samples).max() <= _COARSEST * samples.std()
    varies = stored.min() < stored.max()  # as the samples do; an endless gain makes nothing of them
    if not (near and varies and np.isfinite(stored).all()):
        raise DataError(
            f"The gain or baseline of channel {record.sig_name[number]} of {record.record_name} cannot be "
            f"right: its samples would be around {np.median(samples):.3g}."
        )
    return stored


def _lowest_code(record: wfdb.Record, number: int) -> int:
    """Return the lowest code of the channel's storage format (16 bits where the format names none)."""
    return int(INVALID_SAMPLE_VALUE.get(record.fmt[number]) or -32768)


def _millivolts(record: wfdb.Record, number: int) -> Floats:
    """Convert an ECG to millivolts by the gain, baseline and unit of its header."""
    scale = millivolts_of(str(record.units[number]))
    if scale is None:
        raise DataError(
            f"The ECG of {record.record_name} is in {record.units[number]!r}; "
            "state V, mV or uV in the header's gain field, as in 1000/mV."
        )
    counts = record.e_d_signal[number] - float(record.baseline[number])
    with np.errstate(all="ignore"):  # what is not finite is named and skipped later
        return counts * (scale / (record.adc_gain[number] or 200.0))


def _share_of_full_scale(record: wfdb.Record, number: int) -> Floats:
    """Convert a heart sound to a share of full scale, -1 to 1; microphones are not calibrated."""
    return record.e_d_signal[number] / -float(_lowest_code(record, number))
