"""Twelve-lead ECGs: the leads, reading files that state rate and unit, a fixed rate and length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.channel_files import CHANNEL_FILES, ChannelFile, read_channels
from datasets.signals import fill_gaps, resample
from datasets.sources import DataError
from datasets.wfdb_files import is_inside, millivolts_of, read_record

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ECG_FILES = (".hea", *CHANNEL_FILES)
"""Endings of files that hold an ECG, with its leads, rate and unit."""
_PREFIX = re.compile(r"(mdc[ _-]ecg[ _-]lead|ecg|ekg|lead)[ _:-]+(lead[ _:-]+)?")
"""What may stand before the name of a lead, as in ``ECG V2`` (EDF+) or ``Lead I``."""


PLAUSIBLE_RATE = (50.0, 20_000.0)
"""Sampling rates that are plausible, hertz."""


@dataclass(frozen=True)
class Ecg:
    """A signal as recorded.

    Attributes
    ----------
    samples : numpy.ndarray of float64, shape (leads, T)
        Millivolts; NaN where missing.
    sampling_rate : float
        Hertz.
    warnings : tuple of str
        What is doubtful about its file.
    """

    samples: NDArray[np.float64]
    sampling_rate: float
    warnings: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Length, seconds."""
        return self.samples.shape[1] / self.sampling_rate


def prepare_signal(
    signal: NDArray[np.floating], rate: float, target_rate: float, seconds: float
) -> NDArray[np.float32]:
    """Return a signal at another rate and of fixed length, still in its own unit.

    Gaps are filled linearly, flat leads become zero, rates are reduced without aliases, the beginning is
    kept, and what is too short goes on with its last value.

    Parameters
    ----------
    signal : numpy.ndarray, shape (leads, T)
        NaN where missing.
    rate, target_rate : float
        Hertz.
    seconds : float
        Length requested.

    Returns
    -------
    numpy.ndarray of float32, shape (leads, round(seconds * target_rate))
    """
    points = round(seconds * target_rate)
    if signal.ndim != 2 or not signal.shape[1] or rate <= 0 or target_rate <= 0 or points < 1:
        raise ValueError(
            f"A signal of shape {signal.shape} at {rate} Hz cannot become {seconds} s at {target_rate} Hz."
        )
    flat = flat_leads(signal)
    ready = np.zeros((len(signal), points), dtype=np.float32)
    # what lies behind the end still belongs into the anti-alias filter of the last samples
    kept = signal[~flat, : int(np.ceil((seconds + 1) * rate))]
    if kept.shape[0]:
        filled = np.stack([fill_gaps(lead) for lead in kept.astype(np.float64)])
        resampled = resample(filled, rate, target_rate)[:, :points]
        ready[~flat] = np.pad(resampled, [(0, 0), (0, points - resampled.shape[1])], mode="edge")
    return ready


def flat_leads(signal: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which leads hold nothing, or one value throughout, shape (leads,)."""
    lowest, highest = np.fmin.reduce(signal, axis=1), np.fmax.reduce(signal, axis=1)
    return ~(highest > lowest)


def read_ecg(file: Path, root: Path, leads: Sequence[str] = LEADS, some: bool = False) -> Ecg:
    """Read leads of an ECG, in the order given, whatever order and unit the file has.

    Parameters
    ----------
    file : pathlib.Path
        WFDB header, or a file of channels: `ECG_FILES`.
    root : pathlib.Path
        Folder outside which nothing is read.
    leads : sequence of str
        Names of the leads.
    some : bool
        Whether leads may be lacking, and are NaN then; one must be there.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, a lead is lacking or there twice, or leads differ in
        rate or length.
    """
    if file.suffix != ".hea":
        return _of_channels(file, root, leads, some)
    record, _ = read_record(file, root)
    numbers = _find_leads(file.stem, [name or "(no name)" for name in record.sig_name], leads, some)
    rate = _common(file.stem, [record.samps_per_frame[number] for number in numbers.values()])
    unknown = [lead for lead, number in numbers.items() if number in record.uncalibrated]
    if unknown:
        raise DataError(
            f"The header {file.name} states no gain for {', '.join(unknown)}, so its unit is unknown: write "
            "how many units make a millivolt as third field of the line, such as 1000/mV."
        )
    units = {number: str(record.units[number]) for number in numbers.values()}
    scales = {number: millivolts_of(unit) for number, unit in units.items()}
    if None in scales.values():
        others = ", ".join({units[number].lower() for number, scale in scales.items() if scale is None})
        raise DataError(f"The recording {file.stem} is not in V, mV or uV, but in {others}.")
    physical = record.dac(expanded=True, return_res=64)
    samples = {lead: physical[number] * scales[number] for lead, number in numbers.items()}
    return Ecg(_stacked(samples, leads), float(record.fs * rate))


def _of_channels(file: Path, root: Path, leads: Sequence[str], some: bool) -> Ecg:
    """Read leads of a file of channels."""
    if not is_inside(file, root):
        raise DataError(f"{file.name} is a link that leads outside the data folder.")
    content: ChannelFile = read_channels(file)
    numbers = _find_leads(file.name, content.sig_name, leads, some)
    found = {lead: content.channels[number] for lead, number in numbers.items()}
    rate = _common(file.name, [channel.rate for channel in found.values()])
    samples = {lead: channel.millivolts(file.name) for lead, channel in found.items()}
    _common(file.name, [len(values) for values in samples.values()], "length")
    return Ecg(_stacked(samples, leads), rate, content.warnings)


def _find_leads(name: str, channels: Sequence[str], leads: Sequence[str], some: bool) -> dict[str, int]:
    """Return the number of the channel of each lead that there is."""
    named = [_PREFIX.sub("", channel.strip().casefold()) for channel in channels]
    numbers = {lead: named.index(lead.casefold()) for lead in leads if lead.casefold() in named}
    lacking = [lead for lead in leads if lead not in numbers]
    if not numbers or (lacking and not some):
        what = f"has none of the leads {', '.join(leads)}" if some else f"lacks {', '.join(lacking)}"
        raise DataError(f"The recording {name} {what}; it has {', '.join(channels)}.")
    twice = [lead for lead in numbers if named.count(lead.casefold()) > 1]
    if twice:
        raise DataError(f"The recording {name} has {', '.join(twice)} twice.")
    return numbers


def _common(name: str, values: Sequence[float], of: str = "rate") -> float:
    """Return the value that all leads share; refuse leads that differ in it."""
    if len(set(values)) > 1:
        raise DataError(f"The leads of {name} differ in {of}: write them with one.")
    return float(values[0])


def _stacked(samples: dict[str, NDArray[np.float64]], leads: Sequence[str]) -> NDArray[np.float64]:
    """Return leads in the order given, shape (leads, T); NaN where one is lacking."""
    length = len(next(iter(samples.values())))
    return np.stack([samples.get(lead, np.full(length, np.nan)) for lead in leads])
