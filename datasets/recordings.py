"""Read one WFDB recording of ECG and heart sound, whatever its file formats and rates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray
from wfdb.io._signal import INVALID_SAMPLE_VALUE

from datasets.signals import MINIMUM_DURATION, Floats, separate_saturation_from_gaps
from datasets.sources import DataError
from datasets.wfdb_files import (
    MILLIVOLTS,
    check_checksums,
    check_sound_file,
    signal_files,
)

_COARSEST = 0.01
"""Largest error of storing a signal in single precision that is let pass, in its standard deviations."""


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
    """

    ecg: Signal | None
    pcg: Signal | None
    header_rate: float
    sha256: str


ChannelFinder = Callable[[wfdb.Record], tuple[int | None, int | None]]
"""Tells the numbers of the ECG and the PCG channel of a header; None where there is none."""


def channels_by_name(record: wfdb.Record) -> tuple[int | None, int | None]:
    """Return the channels named ``ECG`` and ``PCG``, as PhysioNet 2016 names them."""
    names = [(name or "").upper() for name in record.sig_name]
    ecg, pcg = (names.index(name) if name in names else None for name in ("ECG", "PCG"))
    return ecg, pcg


def read_recording(header: Path, root: Path, find_channels: ChannelFinder = channels_by_name) -> Recording:
    """Read a WFDB recording.

    Parameters
    ----------
    header : pathlib.Path
        The ``.hea`` file.
    root : pathlib.Path
        Folder outside which nothing is read.
    find_channels : callable
        Tells which channel is which.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, or nothing usable is in it.
    """
    files = signal_files(header, root)
    digest = hashlib.sha256()
    try:
        for file in [header, *files]:
            digest.update(file.read_bytes())
        record = wfdb.rdrecord(str(header.with_suffix("")), physical=False, smooth_frames=False)
    except Exception as error:  # wfdb raises many kinds for damaged files
        raise DataError(f"The recording {header.stem} cannot be read: {error}") from error
    for file in files:
        if file.suffix.lower() == ".wav":
            check_sound_file(record, file)
    check_checksums(record)
    ecg_number, pcg_number = find_channels(record)
    ecg = None if ecg_number is None else _channel(record, ecg_number, _millivolts)
    pcg = None if pcg_number is None else _channel(record, pcg_number, _share_of_full_scale)
    if ecg is None and pcg is None:
        raise DataError(f"The recording {header.stem} has neither an ECG nor a PCG channel.")
    return Recording(ecg, pcg, float(record.fs), digest.hexdigest())


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
    unit = str(record.units[number]).lower()
    if unit not in MILLIVOLTS:
        raise DataError(
            f"The ECG of {record.record_name} is in {record.units[number]!r}; "
            "state V, mV or uV in the header's gain field, as in 1000/mV."
        )
    counts = record.e_d_signal[number] - float(record.baseline[number])
    with np.errstate(all="ignore"):  # what is not finite is named and skipped later
        return counts * (MILLIVOLTS[unit] / (record.adc_gain[number] or 200.0))


def _share_of_full_scale(record: wfdb.Record, number: int) -> Floats:
    """Convert a heart sound to a share of full scale, -1 to 1; microphones are not calibrated."""
    return record.e_d_signal[number] / -float(_lowest_code(record, number))
