"""Find and read twelve-lead ECGs of a user, one by one: files of channels, and arrays in millivolts.

They are read as those of a table of pairs are (`systems.ecg_cmr.sources.pair_modalities.read_leads`). How
good one is, is measured lead by lead with the limits of `datasets.signal_quality`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.array_files import ARRAYS
from datasets.channel_files import CHANNEL_FILES
from datasets.ecg import ECG_FILES, LEADS, Ecg, flat_leads
from datasets.lead_checks import LARGEST_GAP, check_ecg, named
from datasets.recordings import Recording, Signal
from datasets.signal_quality import NO_HEART, SHORT, Quality, SignalWarning, examine
from datasets.sources import DataError
from datasets.wfdb_files import find_files
from systems.base.predictor import RecordingPath, distinct
from systems.ecg_cmr.sources.pair_modalities import read_leads

_ENDINGS = (*ECG_FILES, *ARRAYS)
_SHORTEST = 5.0
"""Seconds that an ECG must last at least, or as long as the model reads if that is less."""
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
    """Refuse an ECG that lacks a lead or much of one, or is too short.

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
    if absent := named(LEADS, missing == 1):
        raise DataError(f"It lacks {absent}: all of {', '.join(LEADS)} are needed.")
    if flat := named(LEADS, flat_leads(ecg.samples)):
        raise DataError(f"No signal is in {flat}: all twelve leads are needed.")
    if gaps := named(LEADS, missing > LARGEST_GAP):
        raise DataError(f"More than {LARGEST_GAP:.0%} of {gaps} is missing (NaN): too much to be filled.")


def examine_leads(ecg: Ecg) -> tuple[dict[str, Quality], list[SignalWarning]]:
    """Return how good each lead is, and warnings, one for all leads that share it.

    Raises
    ------
    DataError
        If its values cannot be millivolts, or most leads show no heart beat that repeats.
    """
    of_leads = check_ecg(ecg)
    nothing = np.zeros((0, 2))
    leads = {}
    for lead, samples in zip(LEADS, ecg.samples, strict=True):
        signal = Signal(samples.astype(np.float32), ecg.sampling_rate, 0.0, float(np.isnan(samples).mean()))
        leads[lead] = examine(Recording(signal, None, ecg.sampling_rate, ""), nothing)
    if _typical_agreement(leads, ecg.duration) < NO_HEART:
        raise DataError("No heart beat that repeats is found in most leads: it is too noisy.")
    of_file = [SignalWarning("file", "ecg", text) for text in ecg.warnings]
    return leads, [*of_file, *_joined_warnings(leads), *of_leads]


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
