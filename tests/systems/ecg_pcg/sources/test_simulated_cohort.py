"""Simulated patients: the files are those of training-a, the truth is in the signals, and splits matter."""

import csv
import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.io.wavfile
import wfdb
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets.sources import DataError
from simulation.patient import draw_beats
from simulation.population import assign_labels, draw_patient, draw_session
from simulation.settings import SimulationSettings
from simulation.signals import pcg_noise, render_pcg
from systems.ecg_pcg.sources import simulated
from systems.ecg_pcg.sources.simulated import plan_cohort, simulate_recording, write_cohort

RATE = 2000
SMALL = SimulationSettings(sessions=6, persons=2, recordings=3, duration=10.0)
TINY = SimulationSettings(sessions=2, persons=2, recordings=1, duration=6.0)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("raw") / "simulated", SMALL)


@pytest.fixture(scope="session")
def truth(cohort):
    return pd.read_csv(cohort / "ground_truth.csv").set_index("recording")


def read_states(path, variable):
    """Return (sample from 0, name) of each heart state, however deeply the cells are nested."""
    states = []
    for sample, name in scipy.io.loadmat(path)[variable]:
        while isinstance(name, np.ndarray):
            name = name.ravel()[0]
        states.append((int(np.ravel(sample)[0]) - 1, str(name)))
    return states


def hand_corrected(cohort, name):
    return read_states(cohort / simulated.HAND_CORRECTED_FOLDER / f"{name}_StateAns.mat", "state_ans")


def springer(cohort, name):
    return read_states(cohort / simulated.SPRINGER_FOLDER / f"{name}_StateAns0.mat", "state_ans0")


def read_signals(cohort, name):
    """Return heart sound and ECG (millivolts) of a recording."""
    return wfdb.rdrecord(str(cohort / "training-a" / name)).p_signal.T


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bandpass(values, low, high, order=2):
    return signal.sosfiltfilt(signal.butter(order, [low, high], "band", fs=RATE, output="sos"), values)


# Layout ------------------------------------------------------------------------------------------


def test_wfdb_reads_both_signals_as_it_reads_the_published_records(cohort, truth):
    name = truth.index[(truth.has_ecg == 1)][0]
    record = wfdb.rdrecord(str(cohort / "training-a" / name))
    assert record.sig_name == ["PCG", "ECG"]
    assert record.fs == RATE
    assert record.p_signal.shape == (round(truth.duration[name] * RATE), 2)
    assert not np.isnan(record.p_signal).any()
    assert record.comments == ["Abnormal" if truth.label[name] else "Normal"]
    assert 0.4 < np.ptp(record.p_signal[:, 1]) < 6  # millivolts: the gain of the header is right


def test_header_has_the_published_lines_and_its_checksum_holds(cohort, truth):
    name = truth.index[truth.has_ecg == 1][0]
    text = (cohort / "training-a" / f"{name}.hea").read_bytes().decode()
    lines = text.split("\r\n")
    ecg = np.fromfile(cohort / "training-a" / f"{name}.dat", dtype="<i2")
    assert lines[0] == f"{name} 2 2000 {len(ecg)}"
    assert lines[1] == f"{name}.wav 16+44 1 16 0 0 0 0 PCG"
    assert lines[2] == f"{name}.dat 16 1000 16 0 {ecg[0]} {int(ecg.astype(int).sum().astype(np.int16))} 0 ECG"
    assert lines[3] in ("# Abnormal", "# Normal")
    assert lines[4:] == [""]


def test_wav_file_holds_the_heart_sound(cohort, truth):
    name = truth.index[0]
    rate, sound = scipy.io.wavfile.read(cohort / "training-a" / f"{name}.wav")
    assert rate == RATE
    np.testing.assert_array_equal(sound, read_signals(cohort, name)[0])


def test_tables_agree_with_the_truth(cohort, truth):
    folder = cohort / "training-a"
    reference = pd.read_csv(folder / "REFERENCE.csv", header=None, index_col=0)[1]
    quality = pd.read_csv(folder / "REFERENCE-SQI.csv", header=None, index_col=0)
    signed = truth.label.map({0: -1, 1: 1})
    assert reference.equals(signed.rename(1).rename_axis(0))
    assert (quality[1] == signed).all()
    assert (quality[2] == truth.quality).all()
    for suffix, chosen in (("", signed != 0), ("-normal", signed < 0), ("-abnormal", signed > 0)):
        assert (folder / f"RECORDS{suffix}").read_text().split() == list(truth.index[chosen])


def test_appendix_names_sessions_diagnoses_and_sites(cohort, truth):
    table = pd.read_csv(cohort / simulated.APPENDIX).set_index("Challenge record name")
    assert (table["Database"] == "training-a").all()
    assert (table["Original record name"].str.extract(r"^(C\d+)S\d+$")[0] == truth.session).all()
    assert table["Original record name"].is_unique
    assert (table["Diagnosis"].str.strip() == truth.diagnosis).all()
    assert (table["Class (-1=normal 1=abnormal)"] == truth.label.map({0: -1, 1: 1})).all()
    assert (table["Transducer site on body"] == truth.site).all()


def test_checksums_cover_every_file_and_hold(cohort):
    folder = cohort / "training-a"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_repeated_site_starts_the_next_person(cohort, truth):
    table = truth.assign(index=truth.original_name.str.extract(r"S(\d+)$")[0].astype(int))
    for _, session in table.groupby("session"):
        person, inferred = 0, []
        seen: set[str] = set()
        for site in session.sort_values("index").site:
            if site in seen:
                person, seen = person + 1, set()
            seen.add(site)
            inferred.append(person)
        assert list(pd.factorize(session.sort_values("index").person)[0]) == inferred
        assert person == SMALL.persons - 1


def test_recordings_are_shuffled_over_sessions(truth):
    sessions = truth.sort_index().session
    assert (sessions.ne(sessions.shift())).sum() > 2 * SMALL.sessions


def test_folder_says_it_is_simulated(cohort):
    assert "simulated patients" in (cohort / "README.txt").read_text()
    assert json.loads((cohort / "simulation.json").read_text())["settings"] == dataclasses.asdict(SMALL)


@pytest.mark.skipif("PHYSIONET2016_DIR" not in os.environ, reason="PHYSIONET2016_DIR is not set")
def test_layout_is_that_of_the_published_data(cohort, truth):
    real = Path(os.environ["PHYSIONET2016_DIR"])

    def tokens(root, name):
        lines = (root / "training-a" / f"{name}.hea").read_bytes().split(b"\r\n")
        return [len(line.split()) for line in lines]

    def nesting(cell):
        return [np.ndim(cell), *nesting(cell.ravel()[0])] if isinstance(cell, np.ndarray) else []

    def cells(root, name):
        path = root / simulated.HAND_CORRECTED_FOLDER / f"{name}_StateAns.mat"
        return {tuple(nesting(cell)) for cell in scipy.io.loadmat(path)["state_ans"][:, 1]}

    with (real / simulated.APPENDIX).open(encoding="latin-1") as file:
        published = [row for row in csv.DictReader(file) if row["Database"] == "training-a"]
    with (cohort / simulated.APPENDIX).open() as file:
        made = list(csv.DictReader(file))
    assert set(made[0]) <= set(published[0])
    for column in ("Diagnosis", "Transducer site on body"):
        assert {row[column] for row in made} <= {row[column] for row in published}
    complete, silent, gap = (
        truth.index[mask][0] for mask in (truth.has_ecg == 1, truth.has_ecg == 0, truth.has_gap == 1)
    )
    assert tokens(cohort, complete) == tokens(real, "a0001")
    assert tokens(cohort, silent) == tokens(real, "a0041")
    assert cells(cohort, complete) == cells(real, "a0001")
    assert cells(cohort, gap) == cells(real, "a0075")


# Truth in the signals ----------------------------------------------------------------------------


def test_annotated_states_follow_one_another_and_start_at_the_first_sample(cohort, truth):
    following = {"S1": "systole", "systole": "S2", "S2": "diastole", "diastole": "S1", "(N": "N)", "N)": "S1"}
    for name, row in truth.iterrows():
        states = hand_corrected(cohort, name)
        samples = np.array([sample for sample, _ in states])
        assert samples[0] == 0
        assert (np.diff(samples) > 0).all()
        assert samples[-1] < row.duration * RATE
        for (_, now), (_, then) in itertools.pairwise(states):
            assert then == following[now] or (now, then) == ("S2", "(N")


def test_annotated_intervals_are_the_simulated_ones(cohort, truth):
    for planned in plan_cohort(SMALL):
        if planned.with_gap:
            continue
        signals, _ = simulate_recording(SMALL, planned)
        onsets = [sample for sample, name in hand_corrected(cohort, planned.name) if name == "S1"]
        beats = signals.beats
        inside = (beats.s1_onsets > 0.001) & (beats.s1_onsets < truth.duration[planned.name] - 0.001)
        annotated = np.diff([onset for onset in onsets if onset > 2]) / RATE
        simulated = beats.rr_intervals[inside][: len(annotated)]
        np.testing.assert_allclose(annotated, simulated, atol=1.5 / RATE)


def test_r_peaks_precede_s1_by_the_electromechanical_delay(cohort, truth):
    errors = []
    for name in truth.index[(truth.has_ecg == 1) & (truth.quality == 1)]:
        steep = bandpass(read_signals(cohort, name)[1], 10, 60)
        onsets = np.array([sample for sample, state in hand_corrected(cohort, name) if state == "S1"])
        onsets = onsets[(onsets > 300) & (onsets < len(steep) - 100)]
        windows = np.stack([steep[onset - 250 : onset + 30] for onset in onsets])
        delays = (250 - windows.argmax(axis=1)) / RATE
        errors.append(np.median(delays) - truth.electromechanical_delay[name])
    assert np.max(np.abs(errors)) < 0.006


def test_second_sound_begins_where_the_t_wave_ends_and_systole_shortens_with_rate():
    patient = draw_patient(0, 0, False, 0.0)
    systoles = {}
    for rate in (55.0, 95.0):
        beats = draw_beats(dataclasses.replace(patient, heart_rate=rate), 20.0, np.random.default_rng(0))
        t_ends = beats.r_peaks - 0.45 * patient.qrs_duration + beats.qt_intervals
        np.testing.assert_allclose(beats.s2_onsets, t_ends)
        before = beats.rr_intervals[:-1]
        np.testing.assert_allclose(beats.qt_intervals[1:], patient.qt_corrected * np.cbrt(before))
        systoles[rate] = (beats.s2_onsets - beats.s1_onsets).mean()
        assert beats.rr_intervals.mean() == pytest.approx(60 / rate, rel=0.05)
    assert systoles[55.0] - systoles[95.0] > 0.04


def test_springer_onsets_are_the_same_states_some_milliseconds_off(cohort, truth):
    name = truth.index[truth.has_gap == 0][0]
    exact, automatic = hand_corrected(cohort, name), springer(cohort, name)
    assert [state for _, state in exact] == [state for _, state in automatic]
    errors = np.array([a - e for (a, _), (e, _) in zip(automatic, exact, strict=True)]) / RATE
    assert 0.002 < errors[1:].std() < 0.015


def systolic_excess(cohort, name):
    """Return log10 of the murmur band's power in systole relative to late diastole."""
    sound = bandpass(read_signals(cohort, name)[0], 80, 250, order=4) ** 2
    states = hand_corrected(cohort, name)
    power: dict[str, list[float]] = {"systole": [], "diastole": []}
    for (start, state), (end, _) in itertools.pairwise(states):
        if state in power:
            length = end - start
            power[state].append(np.mean(sound[start + length // 4 : end - length // 6]))
    return np.log10(np.median(power["systole"]) / np.median(power["diastole"]))


def test_murmur_fills_systole_as_loud_as_the_truth_says(cohort, truth):
    good = truth[truth.quality == 1]
    excess = pd.Series({name: systolic_excess(cohort, name) for name in good.index})
    assert excess[good.label == 1].median() > excess[good.label == 0].median() + 0.5
    assert excess.corr(good.murmur_loudness, method="spearman") > 0.6
    assert good.murmur_loudness[good.label == 1].between(0.03, 0.46).all()
    assert (good.murmur_kind[good.label == 0] == "none").all()
    assert (good.murmur_kind[good.label == 1] != "none").all()


def test_mains_hum_belongs_to_the_session(cohort, truth):
    for _, session in truth[(truth.has_ecg == 1) & (truth.quality == 1)].groupby("session"):
        assert session[["mains_frequency", "mains_phase", "room_level", "sensor_gain"]].nunique().eq(1).all()
        for name, row in session.iterrows():
            ecg = read_signals(cohort, name)[1]
            ecg = bandpass(ecg, 35, 200)
            wave = np.exp(-2j * np.pi * row.mains_frequency * np.arange(len(ecg)) / RATE)
            hum = 2 * np.mean(ecg * wave) / np.exp(1j * (row.mains_phase - np.pi / 2))
            assert abs(hum) == pytest.approx(row.mains_level, rel=0.4, abs=0.003)
            assert abs(np.angle(hum)) < 0.6
    assert truth.groupby("session").mains_phase.first().nunique() == SMALL.sessions
    assert set(truth.mains_frequency) <= {50.0, 60.0}


def test_body_belongs_to_the_person_and_vanishes_without_fingerprint(truth):
    body = [column for column in truth if column.startswith("body_")]
    assert len(body) > 10
    assert truth.groupby("person")[body].nunique().eq(1).all(axis=None)
    assert truth.groupby("person").body_sound_gains_0.first().nunique() == SMALL.sessions * SMALL.persons
    plain = draw_patient(0, 0, True, 0.0).body
    assert set(plain.ecg_gains) == {1.0}
    assert not any(plain.bump_amplitudes + plain.sound_gains + plain.sound_phases)


def decibels_at(frequencies, values, otherwise):
    """Return the level of one signal relative to another around some frequencies, decibels."""
    axis, power = signal.welch(np.stack([values, otherwise]), RATE, nperseg=2000)
    power = np.stack([power[:, np.abs(axis - frequency) <= 3].mean(axis=1) for frequency in frequencies])
    return 10 * np.log10(power[:, 0] / power[:, 1])


def test_chest_and_sensor_color_the_sound_of_the_heart():
    patient = draw_patient(0, 0, True, 1.0)
    plain = dataclasses.replace(patient.body, sound_gains=(0.0,) * 6)
    beats = draw_beats(patient, 20.0, np.random.default_rng(0))
    colored, flat = (
        render_pcg(dataclasses.replace(patient, body=body), beats, 20 * RATE, np.random.default_rng(1))
        for body in (patient.body, plain)
    )
    gains = decibels_at((50, 100, 200), colored, flat)
    np.testing.assert_allclose(gains, patient.body.sound_gains[1:4], atol=1.5)


def test_rooms_have_their_own_spectrum():
    patient = draw_patient(0, 0, False, 0.0)
    rooms = [dataclasses.replace(draw_session(0, number, 1.0), room_level=10.0) for number in (0, 1)]
    noises = [pcg_noise(patient, room, 60 * RATE, 1.0, np.random.default_rng(2)) for room in rooms]
    differences = decibels_at((50, 100, 200, 400), *noises)
    expected = np.subtract(rooms[0].room_gains, rooms[1].room_gains)[1:5]
    np.testing.assert_allclose(differences - differences.mean(), expected - expected.mean(), atol=2.0)
    assert np.ptp(expected) > 4


def test_a_large_cohort_has_poor_silent_and_interrupted_recordings(cohort, truth):
    assert (truth.has_ecg == 0).sum() == 1
    assert (truth.quality == 0).sum() == 1
    assert (truth.has_gap == 1).sum() == 1
    silent = truth.index[truth.has_ecg == 0][0]
    assert wfdb.rdheader(str(cohort / "training-a" / silent)).sig_name == ["PCG"]
    assert not (cohort / "training-a" / f"{silent}.dat").exists()
    with_gap = truth.index[truth.has_gap == 1][0]
    cells = scipy.io.loadmat(cohort / simulated.HAND_CORRECTED_FOLDER / f"{with_gap}_StateAns.mat")[
        "state_ans"
    ]
    assert {cell.dtype.kind for cell in cells[:, 1] if cell.ravel()[0] in ("(N", "N)")} == {"U"}
    assert [cell.dtype.kind for cell in cells[:, 1]].count("O") == len(cells) - 2
    marks = {state: sample for sample, state in hand_corrected(cohort, with_gap) if "N" in state}
    assert RATE < marks["N)"] - marks["(N"] < 5 * RATE
    sound = np.abs(read_signals(cohort, with_gap)[0])
    inside = sound[marks["(N"] : marks["N)"]].mean()
    assert inside > 3 * np.mean([sound[: marks["(N"]].mean(), sound[marks["N)"] :].mean()])
    assert {state for _, state in springer(cohort, with_gap)} == set(simulated.STATE_NAMES)


def test_a_poor_recording_is_noisier_than_the_same_recording_would_be(truth):
    planned = next(planned for planned in plan_cohort(SMALL) if planned.poor)
    assert truth.quality[planned.name] == 0
    poor, _ = simulate_recording(SMALL, planned)
    good, _ = simulate_recording(SMALL, dataclasses.replace(planned, poor=False))
    for now, otherwise in ((poor.ecg, good.ecg), (poor.pcg, good.pcg)):
        above = [bandpass(values.astype(float), 70, 130).std() for values in (now, otherwise)]
        assert above[0] > 2 * above[1]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_uneven_over_sessions_and_the_share_is_kept(seed):
    labels = assign_labels(SimulationSettings(seed=seed))
    abnormal = labels.sum(axis=1)
    assert labels.sum() == round(0.6 * labels.size)
    assert (abnormal == 3).sum() >= 6
    assert (abnormal == 0).sum() >= 1
    assert ((abnormal > 0) & (abnormal < 3)).sum() >= 4


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 4), (0.01, 1), (0.99, 3)])
def test_small_cohorts_hold_both_kinds_unless_reported_otherwise(share, expected):
    assert assign_labels(SimulationSettings(sessions=2, persons=2, abnormal_share=share)).sum() == expected


# Files -------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_whatever_the_number_of_processes(tmp_path):
    first = content(write_cohort(tmp_path / "one", TINY, jobs=1))
    second = content(write_cohort(tmp_path / "two", TINY, jobs=2, progress=True))
    assert first == second


def test_another_seed_gives_other_bytes(tmp_path):
    first = content(write_cohort(tmp_path / "one", TINY))
    second = content(write_cohort(tmp_path / "two", dataclasses.replace(TINY, seed=1)))
    assert set(first) == set(second)
    waveforms = [name for name in first if name.endswith((".dat", ".wav", ".mat"))]
    assert len(waveforms) == 4 * 4
    assert all(first[name] != second[name] for name in waveforms)
    lengths = [
        sorted(len(files[name]) for name in files if name.endswith(".wav")) for files in (first, second)
    ]
    assert lengths[0] != lengths[1]


def test_an_interrupted_cohort_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk full")

    monkeypatch.setattr(simulated, "write_tables", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_cohort(tmp_path / "cohort", TINY)
    assert list(tmp_path.iterdir()) == []


def test_the_same_cohort_is_not_written_twice(tmp_path, monkeypatch):
    folder = write_cohort(tmp_path / "new" / "cohort", TINY)
    monkeypatch.setattr(simulated, "_write_files", lambda *_: pytest.fail("written again"))
    assert write_cohort(folder, TINY) == folder


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "cohort").mkdir()
    assert (write_cohort(tmp_path / "cohort", TINY) / "ground_truth.csv").is_file()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "mine", "not empty and holds no simulated cohort"),
        ("simulation.json", "{", "not empty and holds no simulated cohort"),
        ("simulation.json", '{"simulator": 1, "settings": {}}', "other settings"),
    ],
)
def test_other_content_is_never_overwritten(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        write_cohort(tmp_path, TINY)
    assert (tmp_path / name).read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sessions": 0}, "sessions is 0"),
        ({"persons": 0}, "persons is 0"),
        ({"recordings": 10}, "recordings is 10, but must be 1 to 9"),
        ({"duration": 3.0}, "duration is 3.0"),
        ({"abnormal_share": 1.2}, "abnormal_share is 1.2"),
        ({"fingerprint": -1.0}, "fingerprint is -1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"sessions": 5000}, "at most 9999"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_cohort(tmp_path / "cohort", dataclasses.replace(TINY, **change))
    assert list(tmp_path.iterdir()) == []


# What a classifier can learn ---------------------------------------------------------------------

BANDS = ((25, 70), (80, 160), (160, 300))
LEARNING_SEEDS = (0, 1, 2, 3)


def beat_features(signals):
    """Return features of each beat: ECG waveform (beats, 50), log power of the sound by phase (beats, 48)."""
    ecg = bandpass(signals.ecg.astype(float), 0.5, 40)
    ecg = (ecg - ecg.mean()) / ecg.std()
    powers = [bandpass(signals.pcg / signals.pcg.std(), *band) ** 2 for band in BANDS]
    onsets = (signals.beats.s1_onsets * RATE).astype(int)
    onsets = onsets[(onsets >= 0) & (onsets < len(ecg))]
    rows_ecg, rows_pcg = [], []
    for start, end in itertools.pairwise(onsets):
        rows_ecg.append(np.interp(np.linspace(start, end - 1, 50), np.arange(start, end), ecg[start:end]))
        edges = np.linspace(start, end, 17).astype(int)[:-1] - start
        cells = [np.add.reduceat(power[start:end], edges) for power in powers]
        rows_pcg.append(np.log10(np.concatenate(cells)))
    return np.array(rows_ecg), np.array(rows_pcg)


def learning_set(fingerprint, seed):
    """Return beats of a cohort: features of both modalities, label, recording and session of each beat."""
    settings = SimulationSettings(recordings=2, duration=9.0, fingerprint=fingerprint, seed=seed)
    parts = []
    for number, planned in enumerate(plan_cohort(settings)):
        if planned.poor or planned.with_gap or not planned.with_ecg:
            continue
        ecg, pcg = beat_features(simulate_recording(settings, planned)[0])
        ones = np.ones(len(ecg), int)
        parts.append((ecg, pcg, planned.abnormal * ones, number * ones, planned.session * ones))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def out_of_fold(classifier, features, label, folds):
    score = np.zeros(len(label))
    for train, test in folds:
        probability = classifier.fit(features[train], label[train]).predict_proba(features[test])[:, 1]
        score[test] = np.log((probability + 1e-3) / (1 - probability + 1e-3))
    return score


@pytest.fixture(scope="session")
def learning_sets():
    return {
        fingerprint: [learning_set(fingerprint, seed) for seed in LEARNING_SEEDS]
        for fingerprint in (0.0, 1.0)
    }


def neighbour_auroc(ecg, pcg, label, session):
    """Return AUROC of a nearest-neighbour classifier on beats: beats kept apart, sessions kept apart."""
    features = np.hstack([ecg, pcg])
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    beats = StratifiedKFold(5, shuffle=True, random_state=0).split(features, label)
    sessions = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(features, label, session)
    return [roc_auc_score(label, out_of_fold(nearest, features, label, folds)) for folds in (beats, sessions)]


def test_splitting_beats_flatters_because_persons_are_recognized(learning_sets):
    auroc = {
        fingerprint: np.mean([neighbour_auroc(e, p, y, s) for e, p, y, _, s in sets], axis=0)
        for fingerprint, sets in learning_sets.items()
    }
    (beats, sessions), (plain_beats, plain_sessions) = auroc[1.0], auroc[0.0]
    assert beats > 0.98
    assert beats - sessions > 0.17
    assert (beats - sessions) - (plain_beats - plain_sessions) > 0.08


def recording_auroc(ecg, pcg, label, recording, session):
    """Return AUROC per recording with sessions kept apart: ECG, heart sound, sum of their log-odds."""
    numbers, first = np.unique(recording, return_index=True)
    label, session = label[first], session[first]
    scores = []
    for features, strength in ((ecg, 0.01), (pcg, 0.1)):
        middle = np.array([np.median(features[recording == number], axis=0) for number in numbers])
        linear = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(middle, label, session)
        scores.append(out_of_fold(make_pipeline(StandardScaler(), linear), middle, label, folds))
    return [roc_auc_score(label, score) for score in (*scores, sum(scores))]


def test_two_modalities_beat_one_on_sessions_never_seen(learning_sets):
    ecg, pcg, both = np.mean([recording_auroc(*arrays) for arrays in learning_sets[1.0]], axis=0)
    assert 0.62 < ecg < 0.8
    assert 0.78 < pcg < 0.93
    assert both > max(ecg, pcg) + 0.02
    assert 0.83 < both < 0.97
