"""A cohort of simulated patients, written in the layout of training-a.

A cohort is planned first (who is abnormal, what each recording is called), then rendered person by
person, in parallel if asked. Every person has a random stream of its own, so the files do not depend
on the number of processes::

    training-a/aNNNN.hea .wav .dat   header (lines end CR LF), heart sound, ECG
    training-a/REFERENCE.csv REFERENCE-SQI.csv RECORDS RECORDS-normal RECORDS-abnormal SHA256SUMS
    annotations/hand_corrected/training-a_StateAns/aNNNN_StateAns.mat
    annotations/springer_alg/training-a-Aut/aNNNN_StateAns0.mat
    annotations/Online_Appendix_training_set.csv
    ground_truth.csv simulation.json README.txt
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import scipy.io
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.simulated import holds_cohort, new_cohort
from simulation.patient import BeatSequence, at_site, stream
from simulation.population import ORDER, RECORDING, SEGMENTATION, assign_labels, draw_patient, draw_session
from simulation.settings import SimulationSettings
from simulation.signals import ECG_COUNTS_PER_MILLIVOLT, SAMPLING_RATE, Signals, simulate_signals

_SIMULATOR_VERSION = 2
"""Raised when the same settings would give other files."""
_SPECIAL_FROM = 20
"""Recordings from which a cohort holds poor recordings, one without ECG, and one with a noise gap."""
_POOR_SHARE = 0.04
_ONSET_JITTER = 0.006
"""Error of the automatic segmentation, seconds."""
SHORTEST_DURATION = 6.0

_README = """\
SIMULATED DATA

These recordings come from simulated patients. No human was measured, and nothing here says anything
about the heart of anybody. The layout is that of training-a of the PhysioNet/CinC Challenge 2016.

ground_truth.csv   what each recording was made from: person, session, physiology, murmur, coloration
simulation.json    the settings; the same settings give the same files
"""


@dataclass(frozen=True)
class _PlannedRecording:
    """One recording before it is rendered.

    Attributes
    ----------
    name : str
        ``a0001`` and so on; the order is shuffled over sessions.
    session, person : int
        Numbers in the cohort, from 0.
    index : int
        Number in the session, from 0; the recordings of a person follow one another.
    site : str
        Auscultation site; the sites of each person come in the same order, so that a repeated site
        marks the next person.
    abnormal, poor, with_ecg, with_gap : bool
    """

    name: str
    session: int
    person: int
    index: int
    site: str
    abnormal: bool
    poor: bool = False
    with_ecg: bool = True
    with_gap: bool = False


def plan_cohort(settings: SimulationSettings) -> list[_PlannedRecording]:
    """Return the recordings of a cohort, sorted by session, person and site.

    Raises
    ------
    ValueError
        If a setting is out of range; names it.
    """
    _check(settings)
    labels = assign_labels(settings).ravel()
    per_session = settings.persons * settings.recordings
    total = settings.sessions * per_session
    rng = stream(settings.seed, ORDER)
    numbers = rng.permutation(total)
    special = [int(place) for place in rng.permutation(total)] if total >= _SPECIAL_FROM else []
    without_ecg, with_gap, poor = special[:1], special[1:2], special[2 : 2 + round(_POOR_SHARE * total)]
    return [
        _PlannedRecording(
            name=f"a{numbers[place] + 1:04d}",
            session=place // per_session,
            person=place // settings.recordings,
            index=place % per_session,
            site=_SITES[place % settings.recordings],
            abnormal=bool(labels[place // settings.recordings]),
            poor=place in poor,
            with_ecg=place not in without_ecg,
            with_gap=place in with_gap,
        )
        for place in range(total)
    ]


def _check(settings: SimulationSettings) -> None:
    """Raise ValueError for the first setting that is out of range."""
    total = settings.sessions * settings.persons * settings.recordings
    sites = len(_SITES)
    rules = (
        (settings.sessions >= 1, "sessions", "1 or more"),
        (settings.persons >= 1, "persons", "1 or more"),
        (1 <= settings.recordings <= sites, "recordings", f"1 to {sites}, one an auscultation site"),
        (total <= 9999, "sessions", "such that sessions x persons x recordings is at most 9999"),
        (settings.duration >= SHORTEST_DURATION, "duration", f"{SHORTEST_DURATION:g} seconds or more"),
        (0 <= settings.abnormal_share <= 1, "abnormal_share", "between 0 and 1"),
        (settings.fingerprint >= 0, "fingerprint", "0 or more"),
        (settings.seed >= 0, "seed", "0 or more"),
    )
    for holds, name, expected in rules:
        if not holds:
            raise ValueError(
                f"Simulation setting {name} is {getattr(settings, name)}, but must be {expected}."
            )


def write_cohort(
    directory: Path, settings: SimulationSettings, jobs: int = 1, progress: bool = False
) -> Path:
    """Write a simulated cohort and return its folder; at once if it already holds the same cohort.

    Parameters
    ----------
    directory : pathlib.Path
        Folder to make. The files appear in it all together, when the last one is complete.
    settings : SimulationSettings
    jobs : int
        Processes; -1: one a core. The files do not depend on it.
    progress : bool
        Show a progress bar.

    Raises
    ------
    DataError
        If the folder holds something else.
    ValueError
        If a setting is out of range.
    """
    plan = plan_cohort(settings)
    identity = {"simulator": _SIMULATOR_VERSION, "settings": dataclasses.asdict(settings)}
    if not holds_cohort(directory, identity, "cohort"):
        with new_cohort(directory, identity, _README, "cohort") as unfinished:
            _write_files(unfinished, settings, plan, jobs, progress)
    return directory


def _write_files(
    root: Path, settings: SimulationSettings, plan: list[_PlannedRecording], jobs: int, progress: bool
) -> None:
    """Write everything a cohort consists of into a new folder."""
    for folder in (_SET_FOLDER, HAND_CORRECTED_FOLDER, SPRINGER_FOLDER):
        (root / folder).mkdir(parents=True)
    size = settings.recordings
    persons = [plan[first : first + size] for first in range(0, len(plan), size)]
    work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_write_person)(root, settings, planned) for planned in persons
    )
    bar = tqdm(work, total=len(persons), desc="simulated patients", disable=not progress)
    rows = [row for person_rows in bar for row in person_rows]
    write_tables(root, rows)
    truth = pd.DataFrame(rows).sort_values("recording", ignore_index=True)
    truth.to_csv(root / "ground_truth.csv", index=False, lineterminator="\n")


def _write_person(
    root: Path, settings: SimulationSettings, planned: list[_PlannedRecording]
) -> list[dict[str, Any]]:
    """Render and write the recordings of one person; return their rows of ground_truth.csv."""
    rows = []
    for recording in planned:
        signals, truth = simulate_recording(settings, recording)
        _write_recording(root, settings, recording, signals)
        rows.append(truth)
    return rows


def simulate_recording(
    settings: SimulationSettings, planned: _PlannedRecording
) -> tuple[Signals, dict[str, Any]]:
    """Return the signals of one recording and the truth behind them, without touching a file.

    Returns
    -------
    signals : Signals
    truth : dict
        The row of ground_truth.csv: who, where, and every latent number (`SimulatedPatient`, `Session`).
    """
    rng = stream(settings.seed, RECORDING, planned.person, planned.index)
    person = draw_patient(settings.seed, planned.person, planned.abnormal, settings.fingerprint)
    session = draw_session(settings.seed, planned.session, settings.fingerprint)
    patient = at_site(person, rng)
    duration = round(settings.duration * rng.uniform(0.75, 1.0), 1)
    signals = simulate_signals(patient, session, duration, rng, planned.poor, planned.with_gap)
    inside = (signals.beats.s1_onsets >= 0) & (signals.beats.s1_onsets < duration)
    truth = {
        "recording": planned.name,
        "session": f"C{planned.session + 1}",
        "person": f"C{planned.session + 1}P{planned.person % settings.persons + 1}",
        "original_name": f"C{planned.session + 1}S{planned.index}",
        "site": planned.site,
        "label": patient.label,
        "quality": int(not planned.poor),
        "has_ecg": int(planned.with_ecg),
        "has_gap": int(planned.with_gap),
        "duration": duration,
        "beats": int(inside.sum()),
        "mean_rr_interval": float(signals.beats.rr_intervals[inside].mean()),
        **_flat(dataclasses.asdict(patient)),
        **_flat(dataclasses.asdict(session)),
    }
    return signals, truth


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries and tuples as one level: murmur_loudness, body_ecg_gains_0, ..."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, tuple):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}_")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _write_recording(
    root: Path, settings: SimulationSettings, planned: _PlannedRecording, signals: Signals
) -> None:
    """Write the record and both of its annotations."""
    name, count = planned.name, len(signals.pcg)
    ecg = signals.ecg if planned.with_ecg else None
    write_record(root / _SET_FOLDER, name, int(planned.abnormal), signals.pcg, ecg)
    states = _heart_states(signals.beats, count, signals.gap)
    write_states(root / HAND_CORRECTED_FOLDER / f"{name}_StateAns.mat", "state_ans", states)
    rng = stream(settings.seed, SEGMENTATION, planned.person, planned.index)
    automatic = _jittered(_heart_states(signals.beats, count), count, _ONSET_JITTER, rng)
    write_states(root / SPRINGER_FOLDER / f"{name}_StateAns0.mat", "state_ans0", automatic)


_SET_FOLDER = "training-a"
HAND_CORRECTED_FOLDER = "annotations/hand_corrected/training-a_StateAns"
SPRINGER_FOLDER = "annotations/springer_alg/training-a-Aut"
APPENDIX = "annotations/Online_Appendix_training_set.csv"

# Auscultation sites and diagnoses as the appendix spells them, trailing blanks included.
_SITES = (
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
_NORMAL_SPELLING = "Normal "

STATE_NAMES = ("S1", "systole", "S2", "diastole")
_GAP_START, _GAP_END = "(N", "N)"
_MATLAB_HEADER_BYTES = 116
"""Length of the free text of a MATLAB 5 file, in which scipy would write the time of day."""

State = tuple[int, str]
"""First sample of a heart state, counted from 1, and its name."""


def _heart_states(beats: BeatSequence, count: int, gap: tuple[float, float] | None = None) -> list[State]:
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
    return [*before, (first, _GAP_START), (last, _GAP_END), *after]


def _jittered(states: list[State], count: int, deviation: float, rng: np.random.Generator) -> list[State]:
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
        cells[row, 1] = name if name in (_GAP_START, _GAP_END) else np.array([[name]], dtype=object)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {variable: cells}, do_compression=True)
    text = b"MATLAB 5.0 MAT-file, simulated heart states".ljust(_MATLAB_HEADER_BYTES)
    path.write_bytes(text + buffer.getvalue()[_MATLAB_HEADER_BYTES:])


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
    folder = root / _SET_FOLDER
    table = pd.DataFrame(rows).sort_values("recording", ignore_index=True)
    signed = table["label"].map({0: -1, 1: 1})
    reference = pd.DataFrame({"name": table["recording"], "label": signed, "quality": table["quality"]})
    _write_csv(reference[["name", "label"]], folder / "REFERENCE.csv", header=False)
    _write_csv(reference, folder / "REFERENCE-SQI.csv", header=False)
    for suffix, chosen in (("", signed != 0), ("-normal", signed < 0), ("-abnormal", signed > 0)):
        _write_csv(table.loc[chosen, ["recording"]], folder / f"RECORDS{suffix}", header=False)
    appendix = {
        "Challenge record name": table["recording"],
        "Database": _SET_FOLDER,
        "Original record name": table["original_name"],
        "Diagnosis": table["diagnosis"].replace("Normal", _NORMAL_SPELLING),
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
