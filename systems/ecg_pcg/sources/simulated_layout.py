"""The files of training-a (PhysioNet/CinC Challenge 2016): records, heart states and tables.

::

    training-a/aNNNN.hea .wav .dat   header (lines end CR LF), heart sound, ECG
    training-a/REFERENCE.csv REFERENCE-SQI.csv RECORDS RECORDS-normal RECORDS-abnormal SHA256SUMS
    annotations/hand_corrected/training-a_StateAns/aNNNN_StateAns.mat
    annotations/springer_alg/training-a-Aut/aNNNN_StateAns0.mat
    annotations/Online_Appendix_training_set.csv
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from numpy.typing import NDArray

from simulation.patient import BeatSequence
from simulation.signals import ECG_COUNTS_PER_MILLIVOLT, SAMPLING_RATE

SET_FOLDER = "training-a"
HAND_CORRECTED_FOLDER = "annotations/hand_corrected/training-a_StateAns"
SPRINGER_FOLDER = "annotations/springer_alg/training-a-Aut"
APPENDIX = "annotations/Online_Appendix_training_set.csv"

# Auscultation sites and diagnoses as the appendix spells them, trailing blanks included.
SITES = (
    "Left of apex ",
    "Left of parasternum   ",
    "Parasternum when sit    ",
    "Parasternum when squat",
    "Apex when sit  ",
    "Apex when squat",
    "2nd right intercostal space",
    "2nd left intercostal space",
    "Superior of apex  ",
)
NORMAL_SPELLING = "Normal "

STATE_NAMES = ("S1", "systole", "S2", "diastole")
GAP_START, GAP_END = "(N", "N)"
MATLAB_HEADER_BYTES = 116
"""Length of the free text of a MATLAB 5 file, in which scipy would write the time of day."""

State = tuple[int, str]
"""First sample of a heart state, counted from 1, and its name."""


def heart_states(beats: BeatSequence, count: int, gap: tuple[float, float] | None = None) -> list[State]:
    """Return the heart states of a recording, ascending; the first entry is the state at sample 1.

    Parameters
    ----------
    beats : BeatSequence
    count : int
        Samples of the recording.
    gap : tuple of float, optional
        Seconds of a span that is marked as noise instead of its states. The next state is an S1.
    """
    onsets = [beats.s1_onsets, beats.systole_onsets, beats.s2_onsets, beats.diastole_onsets]
    samples = np.floor(np.stack(onsets, axis=1) * SAMPLING_RATE).astype(int).ravel() + 1
    names = STATE_NAMES * len(beats.r_peaks)
    begin = int(np.searchsorted(samples, 1, side="right")) - 1
    states = [
        (max(int(sample), 1), name) for sample, name in zip(samples[begin:], names[begin:], strict=True)
    ]
    states = [state for state in states if state[0] <= count]
    return states if gap is None else _with_gap(states, gap, count)


def _with_gap(states: list[State], gap: tuple[float, float], count: int) -> list[State]:
    """Return states with those of a noisy span replaced by its two marks."""
    first, last = (min(int(second * SAMPLING_RATE) + 1, count) for second in gap)
    before = [state for state in states if state[0] < first]
    after = [state for state in states if state[0] > last]
    return [*before, (first, GAP_START), (last, GAP_END), *after]


def jittered(states: list[State], count: int, deviation: float, rng: np.random.Generator) -> list[State]:
    """Return states with onsets moved by a normal error, as an automatic segmentation finds them.

    Parameters
    ----------
    states : list of State
    count : int
        Samples of the recording.
    deviation : float
        Standard deviation of the error, seconds.
    rng : numpy.random.Generator
    """
    samples = np.array([sample for sample, _ in states], dtype=float)
    samples[1:] += rng.normal(0, deviation * SAMPLING_RATE, len(states) - 1)
    ordered = np.clip(np.sort(np.round(samples)), 1, count).astype(int)
    return [(int(sample), name) for sample, (_, name) in zip(ordered, states, strict=True)]


def write_states(path: Path, variable: str, states: list[State]) -> None:
    """Write heart states as a MATLAB cell array of shape (states, 2), nested as the published files are."""
    cells = np.empty((len(states), 2), dtype=object)
    for row, (sample, name) in enumerate(states):
        cells[row, 0] = np.array([[sample]], dtype=np.int32)
        cells[row, 1] = name if name in (GAP_START, GAP_END) else np.array([[name]], dtype=object)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {variable: cells}, do_compression=True)
    text = b"MATLAB 5.0 MAT-file, simulated heart states".ljust(MATLAB_HEADER_BYTES)
    path.write_bytes(text + buffer.getvalue()[MATLAB_HEADER_BYTES:])


def write_record(
    folder: Path, name: str, label: int, pcg: NDArray[np.int16], ecg: NDArray[np.int16] | None
) -> None:
    """Write one WFDB record: header, heart sound (WAV) and, unless None, ECG (format 16).

    Parameters
    ----------
    folder : pathlib.Path
    name : str
    label : int
        1 abnormal, 0 normal.
    pcg, ecg : numpy.ndarray of int16, shape (samples,)
    """
    lines = [f"{name} {1 if ecg is None else 2} {SAMPLING_RATE} {len(pcg)}"]
    lines.append(f"{name}.wav 16+44 1 16 0 0 0 0 PCG")
    if ecg is not None:
        checksum = int(np.sum(ecg, dtype=np.int64).astype(np.int16))
        lines.append(f"{name}.dat 16 {ECG_COUNTS_PER_MILLIVOLT} 16 0 {ecg[0]} {checksum} 0 ECG")
        (folder / f"{name}.dat").write_bytes(ecg.astype("<i2").tobytes())
    lines.append("# Abnormal" if label else "# Normal")
    (folder / f"{name}.hea").write_bytes("".join(f"{line}\r\n" for line in lines).encode("ascii"))
    (folder / f"{name}.wav").write_bytes(_wave_header(len(pcg)) + pcg.astype("<i2").tobytes())


def _wave_header(count: int) -> bytes:
    """Return the 44 bytes before the samples of a mono 16-bit WAV file."""
    size, rate = 2 * count, SAMPLING_RATE
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size)


def write_tables(root: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the reference tables, the record lists, the appendix and the checksums.

    Parameters
    ----------
    root : pathlib.Path
    rows : sequence of dict
        A recording each: recording, original_name, label, quality, diagnosis, site, beats.
    """
    folder = root / SET_FOLDER
    table = pd.DataFrame(rows).sort_values("recording", ignore_index=True)
    signed = table["label"].map({0: -1, 1: 1})
    reference = pd.DataFrame({"name": table["recording"], "label": signed, "quality": table["quality"]})
    _write_csv(reference[["name", "label"]], folder / "REFERENCE.csv", header=False)
    _write_csv(reference, folder / "REFERENCE-SQI.csv", header=False)
    for suffix, chosen in (("", signed != 0), ("-normal", signed < 0), ("-abnormal", signed > 0)):
        _write_csv(table.loc[chosen, ["recording"]], folder / f"RECORDS{suffix}", header=False)
    appendix = {
        "Challenge record name": table["recording"],
        "Database": SET_FOLDER,
        "Original record name": table["original_name"],
        "Diagnosis": table["diagnosis"].replace("Normal", NORMAL_SPELLING),
        "Class (-1=normal 1=abnormal)": signed,
        "# Beat (automated algorithm)": table["beats"],
        "# Beats requiring hand correction": 0,
        "Subject ID": "",
        "# Raw record": "",
        "Transducer site on body": table["site"],
    }
    _write_csv(pd.DataFrame(appendix), root / APPENDIX, header=True)
    _write_checksums(folder)


def _write_csv(table: pd.DataFrame, path: Path, header: bool) -> None:
    """Write a table without row numbers, lines ending in LF on every system."""
    table.to_csv(path, index=False, header=header, lineterminator="\n")


def _write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder into SHA256SUMS."""
    paths = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (folder / "SHA256SUMS").write_bytes("".join(lines).encode("ascii"))
