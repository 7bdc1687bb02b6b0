"""Find and read twelve-lead ECGs of a user, one by one: files of channels, and arrays in millivolts.

They are read as those of a table of pairs are (`systems.ecg_cmr.sources.pair_modalities.read_leads`). How
good one is, is measured lead by lead with the limits of `datasets.signal_quality`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets.array_files import ARRAYS
from datasets.channel_files import CHANNEL_FILES
from datasets.ecg import ECG_FILES, LEADS, Ecg, flat_leads
from datasets.recordings import Recording, Signal
from datasets.signal_quality import NO_HEART, SHORT, Quality, SignalWarning, examine
from datasets.sources import DataError
from datasets.wfdb_files import find_files
from systems.base.predictor import RecordingPath, distinct
from systems.ecg_cmr.sources.pair_modalities import read_leads

_ENDINGS = (*ECG_FILES, *ARRAYS)
_SHORTEST = 5.0
"""Seconds that an ECG must last at least, or as long as the model reads if that is less."""
_LARGEST_GAP = 0.1
"""Share of a lead that may be missing; gaps are filled by straight lines, and more would be invented."""
_SMALLEST_MILLIVOLTS = 0.1
"""What the largest lead of a living heart's ECG spans at least: below it the unit is another."""
_LARGEST_MISMATCH = 0.25
"""Deviation of lead II from the sum of I and III that is borne, as a share of its own: leads in another order
have one of 1 or more, 500 records of PTB-XL at most .007."""
_EXPECTED = (
    f"a WFDB record, {', '.join(CHANNEL_FILES)}, or an .npy or .mat of shape (leads, samples) in millivolts"
)


def find_ecgs(given: Iterable[Path]) -> list[RecordingPath]:
    """Return the ECGs that paths name: records, arrays, and all of both in folders, recursively.

    Names are as `systems.ecg_pcg.sources.user_recording.find_recordings` gives them. Whether a file is there
    shows when it is read.

    Raises
    ------
    DataError
        If a folder holds none.
    """
    found: list[RecordingPath] = []
    for path in given:
        found += _of_folder(path) if path.is_dir() else [RecordingPath(name_of(path.name), path)]
    return distinct(found)


def _of_folder(folder: Path) -> list[RecordingPath]:
    """Return the ECGs in a folder and its subfolders, sorted by name, hidden ones left out."""
    files = sorted(path for path in find_files(folder, _ENDINGS) if "_StateAns" not in path.name)
    if not files:
        raise DataError(
            f"{folder} holds no ECG: no WFDB header (.hea) and none of {', '.join(_ENDINGS[1:])}."
        )
    return [RecordingPath(name_of(path.relative_to(folder).as_posix()), path) for path in files]


def name_of(path: str) -> str:
    """Return the name of an ECG: its path without the ending."""
    found = PurePosixPath(path)
    return found.with_suffix("").as_posix() if found.suffix.lower() in _ENDINGS else path


def open_ecg(path: Path, rate: float = 0.0) -> Ecg:
    """Read the twelve leads of a WFDB record (with or without .hea) or other file; a lead absent is NaN.

    Parameters
    ----------
    path : pathlib.Path
    rate : float
        Hertz, of an ``.npy`` that does not state it.

    Raises
    ------
    DataError
        If there is no such file, or it cannot be read.
    """
    file = path if path.suffix.lower() in _ENDINGS else path.with_name(path.name + ".hea")
    if not file.is_file():
        raise DataError(f"There is no ECG {file}: name {_EXPECTED}.")
    return read_leads(file, file.parent, rate)


def require_whole(ecg: Ecg, seconds: float) -> None:
    """Refuse an ECG that lacks a lead or much of one, is too short, or cannot be in millivolts.

    Parameters
    ----------
    ecg : Ecg
        Of twelve leads.
    seconds : float
        Length that the model reads.

    Raises
    ------
    DataError
        Saying which leads, or what.
    """
    least = min(_SHORTEST, seconds)
    if ecg.duration < least:
        raise DataError(f"It lasts {ecg.duration:.1f} s, and at least {least:g} s are needed.")
    missing = np.isnan(ecg.samples).mean(axis=1)
    absent = _lead_names(missing == 1)
    if absent:
        raise DataError(f"It lacks {absent}: all of {', '.join(LEADS)} are needed.")
    if flat := _lead_names(flat_leads(ecg.samples)):
        raise DataError(f"No signal is in {flat}: all twelve leads are needed.")
    if gaps := _lead_names(missing > _LARGEST_GAP):
        raise DataError(f"More than {_LARGEST_GAP:.0%} of {gaps} is missing (NaN): too much to be filled.")
    largest = float(np.ptp(np.nanpercentile(ecg.samples, [0.5, 99.5], axis=1), axis=0).max())
    if largest < _SMALLEST_MILLIVOLTS:
        raise DataError(f"Its largest lead spans {largest:.2g} mV: its values are not in millivolts.")


def _lead_names(flags: Iterable[Any]) -> str:
    """Return the names of the leads that are flagged."""
    return ", ".join(lead for lead, flag in zip(LEADS, flags, strict=True) if flag)


def examine_leads(ecg: Ecg) -> tuple[dict[str, Quality], list[SignalWarning]]:
    """Return how good each lead is, and warnings, one for all leads that share it.

    Raises
    ------
    DataError
        If most leads show no heart beat that repeats.
    """
    nothing = np.zeros((0, 2))
    leads = {}
    for lead, samples in zip(LEADS, ecg.samples, strict=True):
        signal = Signal(samples.astype(np.float32), ecg.sampling_rate, 0.0, float(np.isnan(samples).mean()))
        leads[lead] = examine(Recording(signal, None, ecg.sampling_rate, ""), nothing)
    if _typical_agreement(leads, ecg.duration) < NO_HEART:
        raise DataError("No heart beat that repeats is found in most leads: it is too noisy.")
    of_file = [SignalWarning("file", "ecg", text) for text in ecg.warnings]
    return leads, [*of_file, *_joined_warnings(leads), *_order_warnings(ecg)]


def _typical_agreement(leads: Mapping[str, Quality], duration: float) -> float:
    """Return the median over the leads of how alike their beats are: noise has .1, PTB-XL .89 and more.

    A lead without beats enough to tell counts as unlike if there was time enough for them.
    """
    unknown = 0.0 if duration >= SHORT else 1.0
    return float(np.median([quality.signals["ecg"].get("agreement", unknown) for quality in leads.values()]))


def _joined_warnings(leads: Mapping[str, Quality]) -> list[SignalWarning]:
    """Return each kind of warning once, with the leads that it is about, or none for the whole recording."""
    found: dict[str, dict[str, SignalWarning]] = {}
    for lead, quality in leads.items():
        for warning in quality.warnings:
            found.setdefault(warning.code, {}).setdefault(lead, warning)
    joined = []
    for code, by_lead in found.items():
        (lead, first), *others = by_lead.items()
        text = f"Lead {lead}: {first.text}"
        text += f" So are {', '.join(name for name, _ in others)}." if others else ""
        joined.append(SignalWarning(code, "ecg", text) if first.signal else first)
    return joined


def _order_warnings(ecg: Ecg) -> list[SignalWarning]:
    """Return a warning about leads that do not fit each other, as lead II is the sum of I and III."""
    first, second, third = (np.nan_to_num(ecg.samples[index]) for index in range(3))
    centred = [lead - np.median(lead) for lead in (second, second - first - third)]
    mismatch = float(np.std(centred[1]) / max(float(np.std(centred[0])), 1e-9))
    if mismatch <= _LARGEST_MISMATCH:
        return []
    text = (
        f"Lead II is not the sum of I and III ({mismatch:.0%} of it is left): are the leads in the order "
        f"{', '.join(LEADS)}?"
    )
    return [SignalWarning("lead-order", "ecg", text)]
