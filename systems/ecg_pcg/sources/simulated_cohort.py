"""A cohort of simulated patients, written in the layout of training-a.

A cohort is planned first (who is abnormal, what each recording is called), then rendered person by
person, in parallel if asked. Every person has a random stream of its own, so the files do not depend
on the number of processes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm import tqdm

from datasets.sources import DataError
from simulation.patient import at_site, stream
from simulation.population import (
    ORDER,
    RECORDING,
    SEGMENTATION,
    SimulationSettings,
    assign_labels,
    draw_patient,
    draw_session,
)
from simulation.signals import Signals, simulate_signals
from systems.ecg_pcg.sources import simulated_layout as layout

SIMULATOR_VERSION = 2
"""Raised when the same settings would give other files."""
SPECIAL_FROM = 20
"""Recordings from which a cohort holds poor recordings, one without ECG, and one with a noise gap."""
POOR_SHARE = 0.04
ONSET_JITTER = 0.006
"""Error of the automatic segmentation, seconds."""
SHORTEST_DURATION = 6.0

README = """\
SIMULATED DATA

These recordings come from simulated patients. No human was measured, and nothing here says anything
about the heart of anybody. The layout is that of training-a of the PhysioNet/CinC Challenge 2016.

ground_truth.csv   what each recording was made from: person, session, physiology, murmur, coloration
simulation.json    the settings; the same settings give the same files
"""


@dataclass(frozen=True)
class PlannedRecording:
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


def plan_cohort(settings: SimulationSettings) -> list[PlannedRecording]:
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
    special = [int(place) for place in rng.permutation(total)] if total >= SPECIAL_FROM else []
    without_ecg, with_gap, poor = special[:1], special[1:2], special[2 : 2 + round(POOR_SHARE * total)]
    return [
        PlannedRecording(
            name=f"a{numbers[place] + 1:04d}",
            session=place // per_session,
            person=place // settings.recordings,
            index=place % per_session,
            site=layout.SITES[place % settings.recordings],
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
    sites = len(layout.SITES)
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
    if _holds_cohort(directory, settings):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished-{uuid.uuid4().hex[:8]}")
    try:
        _write_files(unfinished, settings, plan, jobs, progress)
        unfinished.rename(directory)  # an empty folder gives way
    except OSError:
        if not _holds_cohort(directory, settings):  # another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def _identity(settings: SimulationSettings) -> dict[str, Any]:
    """Return what decides the content of a cohort, as it stands in simulation.json."""
    return {"simulator": SIMULATOR_VERSION, "settings": dataclasses.asdict(settings)}


def _holds_cohort(directory: Path, settings: SimulationSettings) -> bool:
    """Return whether a folder holds this very cohort; raise DataError if it holds anything else."""
    if not directory.exists():
        return False
    advice = "Delete it, or choose another folder."
    if not directory.is_dir():
        raise DataError(f"{directory} is a file; the simulated cohort needs a folder of this name. {advice}")
    if not any(directory.iterdir()):
        return False
    try:
        found = json.loads((directory / "simulation.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        raise DataError(f"{directory} is not empty and holds no simulated cohort. {advice}") from None
    if found != _identity(settings):
        raise DataError(f"{directory} holds a cohort simulated with other settings: {found}. {advice}")
    return True


def _write_files(
    root: Path, settings: SimulationSettings, plan: list[PlannedRecording], jobs: int, progress: bool
) -> None:
    """Write everything a cohort consists of into a new folder."""
    for folder in (layout.SET_FOLDER, layout.HAND_CORRECTED_FOLDER, layout.SPRINGER_FOLDER):
        (root / folder).mkdir(parents=True)
    size = settings.recordings
    persons = [plan[first : first + size] for first in range(0, len(plan), size)]
    work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_write_person)(root, settings, planned) for planned in persons
    )
    bar = tqdm(work, total=len(persons), desc="simulated patients", disable=not progress)
    rows = [row for person_rows in bar for row in person_rows]
    layout.write_tables(root, rows)
    truth = pd.DataFrame(rows).sort_values("recording", ignore_index=True)
    truth.to_csv(root / "ground_truth.csv", index=False, lineterminator="\n")
    (root / "README.txt").write_text(README, newline="\n")
    (root / "simulation.json").write_text(json.dumps(_identity(settings), indent=2) + "\n", newline="\n")


def _write_person(
    root: Path, settings: SimulationSettings, planned: list[PlannedRecording]
) -> list[dict[str, Any]]:
    """Render and write the recordings of one person; return their rows of ground_truth.csv."""
    rows = []
    for recording in planned:
        signals, truth = simulate_recording(settings, recording)
        _write_recording(root, settings, recording, signals)
        rows.append(truth)
    return rows


def simulate_recording(
    settings: SimulationSettings, planned: PlannedRecording
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
    root: Path, settings: SimulationSettings, planned: PlannedRecording, signals: Signals
) -> None:
    """Write the record and both of its annotations."""
    name, count = planned.name, len(signals.pcg)
    ecg = signals.ecg if planned.with_ecg else None
    layout.write_record(root / layout.SET_FOLDER, name, int(planned.abnormal), signals.pcg, ecg)
    states = layout.heart_states(signals.beats, count, signals.gap)
    layout.write_states(root / layout.HAND_CORRECTED_FOLDER / f"{name}_StateAns.mat", "state_ans", states)
    rng = stream(settings.seed, SEGMENTATION, planned.person, planned.index)
    automatic = layout.jittered(layout.heart_states(signals.beats, count), count, ONSET_JITTER, rng)
    layout.write_states(root / layout.SPRINGER_FOLDER / f"{name}_StateAns0.mat", "state_ans0", automatic)
