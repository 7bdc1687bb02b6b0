"""Beats from annotations and from R-peaks; the truth comes from the simulator."""

import dataclasses

import numpy as np
import pytest

from datasets import beats as beats_module
from datasets.beats import (
    HeartStates,
    annotated_spans,
    groups_of_beats,
    r_peak_spans,
    r_peaks,
    sliding_windows,
)
from simulation.patient import stream
from simulation.population import draw_patient, draw_session
from simulation.settings import SimulationSettings
from simulation.signals import simulate_signals

RATE = 2000.0


def states(*entries):
    return HeartStates(
        np.array([time for time, _ in entries], dtype=float), np.array([name for _, name in entries])
    )


def test_spans_are_whole_cycles_within_the_recording():
    given = states((0.0, "diastole"), (0.3, "S1"), (0.7, "S2"), (1.1, "S1"), (2.0, "S1"), (2.9, "S1"))
    np.testing.assert_allclose(annotated_spans(given, 10.0), [[0.3, 1.1], [1.1, 2.0], [2.0, 2.9]])
    np.testing.assert_allclose(annotated_spans(given, 2.0), [[0.3, 1.1], [1.1, 2.0]])
    np.testing.assert_allclose(annotated_spans(given, 1.99), [[0.3, 1.1]])


def test_groups_are_beats_in_a_row_and_no_beat_is_in_two():
    """Beats from 0, 1, 2, a gap, then from 4, 5, 6, 7, 8."""
    starts = np.array([0.0, 1, 2, 4, 5, 6, 7, 8])
    beats = np.stack([starts, starts + 1], axis=1)
    assert groups_of_beats(beats, 1).tolist() == beats.tolist()
    assert groups_of_beats(beats, 2).tolist() == [[0, 2], [4, 6], [6, 8]]
    assert groups_of_beats(beats, 3).tolist() == [[0, 3], [4, 7]]
    assert groups_of_beats(beats, 5).tolist() == [[4, 9]]
    assert groups_of_beats(beats, 6).shape == (0, 2)


def test_windows_slide_to_the_end_and_not_beyond():
    assert sliding_windows(5.9, 3.0, 1.0).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert sliding_windows(6.0, 3.0, 1.0)[-1].tolist() == [3, 6]
    assert len(sliding_windows(3.3, 3.0, 0.1)) == 4
    assert sliding_windows(2.9, 3.0, 1.0).shape == (0, 2)


def test_spans_that_bridge_noise_are_no_beats():
    given = states((0.1, "S1"), (0.9, "S1"), (1.2, "(N"), (2.4, "N)"), (2.5, "S1"), (3.3, "S1"))
    np.testing.assert_allclose(annotated_spans(given, 10.0), [[0.1, 0.9], [2.5, 3.3]])


def test_spans_without_length_are_dropped_and_none_is_an_empty_table():
    np.testing.assert_allclose(
        annotated_spans(states((0.5, "S1"), (0.5, "S1"), (1.4, "S1")), 9.0), [[0.5, 1.4]]
    )
    assert annotated_spans(states((0.5, "S1")), 9.0).shape == (0, 2)


def simulated_ecg(person, seconds=20.0, **changes):
    """Return the ECG of a simulated patient in millivolts, and the times of its R-peaks."""
    patient = draw_patient(0, person, abnormal=person % 2 == 0, fingerprint=1.0)
    patient = dataclasses.replace(patient, **changes)
    session = draw_session(0, person, SimulationSettings().fingerprint)
    signals = simulate_signals(patient, session, seconds, stream(0, 9, person))
    peaks = signals.beats.r_peaks
    return signals.ecg / 1000.0, peaks[(peaks > 0.3) & (peaks < seconds - 0.3)]


def assert_found(found, truth, since=0.3, until=np.inf, tolerance=0.012):
    """Assert that from some moment on each true peak, and nothing else, was found."""
    truth, found = (peaks[(peaks > since) & (peaks < until)] for peaks in (truth, found))
    assert len(found) == len(truth)
    assert np.abs(found - truth).max() < tolerance


@pytest.mark.parametrize("person", range(4))
def test_r_peaks_are_found_at_2000_hz(person):
    ecg, truth = simulated_ecg(person)
    assert len(truth) > 15
    assert_found(r_peaks(ecg, RATE), truth, until=19.7)


@pytest.mark.parametrize("rate", [250.0, 500.0, 1000.0])
def test_r_peaks_do_not_depend_on_the_rate(rate):
    ecg, truth = simulated_ecg(1)
    assert_found(r_peaks(ecg[:: round(RATE / rate)], rate), truth, until=19.7)


def test_an_upside_down_ecg_has_the_same_peaks():
    ecg, truth = simulated_ecg(2)
    assert_found(r_peaks(-ecg, RATE), truth, until=19.7)


@pytest.mark.parametrize("height", [-8.0, 5.0, 20.0])
@pytest.mark.parametrize("settling", [0.02, 0.3])
def test_a_settling_electrode_does_not_hide_the_beats_after_it(height, settling):
    ecg, truth = simulated_ecg(3)
    time = np.arange(len(ecg)) / RATE
    transient = np.where(time > 0.5, height * np.exp(-(time - 0.5) / settling), 0.0)
    assert_found(r_peaks(ecg + transient, RATE), truth, since=1.5, until=19.7)


def test_tall_t_waves_are_no_beats():
    ecg, truth = simulated_ecg(1, t_amplitude=2.0, heart_rate=60.0, qt_corrected=0.40)
    assert_found(r_peaks(ecg, RATE), truth, until=19.7)


def test_spans_run_from_peak_to_peak():
    ecg, truth = simulated_ecg(0)
    spans = r_peak_spans(ecg, RATE)
    inside = spans[(spans[:, 0] > 0.3) & (spans[:, 1] < 19.7)]
    np.testing.assert_allclose(inside, np.stack([truth[:-1], truth[1:]], axis=1), atol=0.012)


def test_intervals_no_heart_would_have_are_left_out(monkeypatch):
    peaks = np.array([0.0, 0.25, 1.0, 1.3, 3.8, 6.31, 7.0])
    monkeypatch.setattr(beats_module, "r_peaks", lambda ecg, rate: peaks)
    np.testing.assert_allclose(
        r_peak_spans(np.zeros(1), RATE), [[0.25, 1.0], [1.0, 1.3], [1.3, 3.8], [6.31, 7.0]]
    )


@pytest.mark.parametrize("peaks", [[], [1.0]])
def test_fewer_than_two_peaks_give_no_spans(monkeypatch, peaks):
    monkeypatch.setattr(beats_module, "r_peaks", lambda ecg, rate: np.array(peaks))
    assert r_peak_spans(np.zeros(1), RATE).shape == (0, 2)


def test_a_silent_ecg_has_no_beats():
    assert len(r_peak_spans(np.zeros(10_000), RATE)) == 0
