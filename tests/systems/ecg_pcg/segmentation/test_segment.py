"""Heart states found in sounds whose onsets are known, and the decoder against all paths there are."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import signal as scipy_signal

from datasets.beats import NOISE_MARKS
from datasets.sources import DataError
from simulation.settings import SimulationSettings
from systems.ecg_pcg.segmentation.features import (
    RING,
    WEIGHTS,
    duration_distributions,
    read_parameters,
    shipped_parameters,
    write_parameters,
)
from systems.ecg_pcg.segmentation.segment import decode, find_r_peaks, segment, segment_heart_sound
from systems.ecg_pcg.sources.simulated import plan_cohort, simulate_recording

RATE = 2000.0
COHORT = SimulationSettings(sessions=4, persons=1, recordings=1, duration=12.0, seed=3)


def two_tones(cycle: float, systole: float, seconds: float = 20.0, alike: bool = False):
    """Return a heart sound of 50 Hz (S1) and 70 Hz (S2) bursts in faint noise, and the onsets of both.

    ``alike`` makes S2 a burst like S1.
    """
    time = np.arange(round(seconds * RATE)) / RATE
    sound = 0.01 * np.random.default_rng(0).normal(size=len(time))
    first = np.arange(0.3, seconds - cycle, cycle)
    other = (50, 0.12, 1.0) if alike else (70, 0.1, 0.7)
    for onsets, (hertz, length, loudness) in ((first, (50, 0.12, 1.0)), (first + systole, other)):
        for onset in onsets:
            since = time - onset
            inside = (since >= 0) & (since < length)
            sound[inside] += loudness * (
                np.sin(np.pi * since[inside] / length) * np.sin(2 * np.pi * hertz * since[inside])
            )
    return sound, first, first + systole


def found(states, name: str):
    return states.time[states.state == name]


def assert_found(states, name: str, true, tolerance: float, duration: float):
    """Every onset away from the ends is found, and nothing else is."""
    inside = true[(true > 0.2) & (true < duration - 0.2)]
    given = found(states, name)
    nearest = np.abs(inside[:, None] - given).min(axis=1)
    assert nearest.max() <= tolerance, (
        f"{name}: {inside[nearest.argmax()]:.2f} s is off by {nearest.max():.3f} s"
    )
    stray = np.abs(given[(given > 0.3) & (given < duration - 0.3)][:, None] - true).min(axis=1)
    assert stray.max() <= tolerance, f"{name}: nothing is where one was found"


# Known answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_ecg", [False, True], ids=["sound", "sound-and-ecg"])
def test_simulated_hearts_are_segmented_where_they_beat(with_ecg):
    for planned in plan_cohort(COHORT):
        signals, truth = simulate_recording(COHORT, dataclasses.replace(planned, poor=False, with_gap=False))
        ecg = (signals.ecg.astype(float), RATE) if with_ecg else (None, None)
        result = segment(signals.pcg.astype(float), RATE, *ecg)
        for name, true in (("S1", signals.beats.s1_onsets), ("S2", signals.beats.s2_onsets)):
            assert_found(result.states, name, true, 0.06, truth["duration"])
        assert result.heart_rate == pytest.approx(60 / truth["mean_rr_interval"], rel=0.06)
        assert (result.r_peak_agreement == 1.0) if with_ecg else np.isnan(result.r_peak_agreement)


@pytest.mark.parametrize(("cycle", "systole"), [(0.5, 0.22), (0.8, 0.31), (1.2, 0.35)])
def test_sounds_of_any_heart_rate_are_segmented(cycle, systole):
    sound, first, second = two_tones(cycle, systole)
    states = segment_heart_sound(sound, RATE)
    last = first[-1]
    assert_found(states, "S1", first, 0.05, last)
    assert_found(states, "S2", second, 0.05, last)
    assert segment(sound, RATE).heart_rate == pytest.approx(60 / cycle, rel=0.02)


def test_states_follow_one_another_in_the_ring_and_rise():
    sound, _, _ = two_tones(0.8, 0.31)
    states = segment_heart_sound(sound, RATE)
    assert (np.diff(states.time) > 0).all()
    places = [RING.index(name) for name in states.state]
    assert all((after - before) % 4 == 1 for before, after in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("change", "rate"),
    [
        (lambda sound: 1000 * sound + 7, RATE),
        (lambda sound: -sound, RATE),
        (lambda sound: scipy_signal.resample_poly(sound, 2, 1), 2 * RATE),
        (lambda sound: scipy_signal.resample_poly(sound, 1, 2), RATE / 2),
    ],
    ids=["loudness", "polarity", "twice-the-rate", "half-the-rate"],
)
def test_loudness_polarity_and_rate_do_not_matter(change, rate):
    sound, _, _ = two_tones(0.8, 0.31)
    expected, given = segment_heart_sound(sound, RATE), segment_heart_sound(change(sound), rate)
    assert (given.state == expected.state).all()
    assert given.time == pytest.approx(expected.time, abs=0.021)


def test_a_wrong_rate_shows_in_the_heart_rate():
    """A heart of 75 a minute at half its true rate beats 37.5 a minute, if the rest still fits a heart."""
    sound, _, _ = two_tones(0.8, 0.31)
    assert segment(sound, RATE).heart_rate == pytest.approx(75, rel=0.02)
    assert segment(sound, 1.5 * RATE).heart_rate == pytest.approx(112, rel=0.03)


def test_an_ecg_tells_which_sound_is_the_first():
    """Equal sounds at equal distances: the sound cannot tell S1 from S2, R-peaks can."""
    sound, first, second = two_tones(0.7, 0.35, seconds=16.0, alike=True)
    time = np.arange(len(sound)) / RATE
    for beats, others in ((first, second), (second, first)):
        ecg = np.exp(-(((time[:, None] - beats) / 0.01) ** 2) / 2).sum(axis=1)
        states = segment_heart_sound(sound, RATE, ecg, RATE)
        inside = (beats > 0.5) & (beats < 14.5)
        assert np.abs(beats[inside][:, None] - found(states, "S1")).min(axis=1).max() < 0.1
        later = (others > 0.5) & (others < 14.5)
        assert np.abs(others[later][:, None] - found(states, "S2")).min(axis=1).max() < 0.1


def test_noise_is_reported_from_a_heart_by_the_quality():
    sound, _, _ = two_tones(0.8, 0.31)
    noise = np.random.default_rng(1).normal(size=len(sound))
    assert segment(sound, RATE).quality > segment(noise, RATE).quality + 0.08


# Gaps -----------------------------------------------------------------------------------------------------


def test_an_interruption_is_marked_and_no_state_is_in_it():
    sound, first, _ = two_tones(0.8, 0.31)
    sound[round(8 * RATE) : round(11.5 * RATE)] = np.nan
    states = segment_heart_sound(sound, RATE)
    start, stop = (found(states, mark)[0] for mark in NOISE_MARKS)
    assert (start, stop) == (pytest.approx(8, abs=0.01), pytest.approx(11.5, abs=0.01))
    inside = (states.time > start) & (states.time < stop)
    assert not inside.any()
    for true in first[(first < 7.2) & (first > 0.2) | (first > 12.5) & (first < 18)]:
        assert np.abs(found(states, "S1") - true).min() < 0.06


def test_short_gaps_are_bridged():
    sound, _, _ = two_tones(0.8, 0.31)
    expected = segment_heart_sound(sound, RATE)
    sound[round(5.2 * RATE) : round(5.25 * RATE)] = np.nan
    given = segment_heart_sound(sound, RATE)
    assert not set(NOISE_MARKS) & set(given.state)
    assert len(given.time) == len(expected.time)


# What cannot be segmented ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sound", "rate", "said"),
    [
        (np.zeros(20_000), RATE, r"Only 0\.00 s of the heart sound hold a signal"),
        (np.full(20_000, np.nan), RATE, r"Only 0\.00 s of the heart sound hold a signal"),
        (np.ones(4_000), RATE, r"lasts 2\.00 s, and 3 s or more"),
        (np.random.default_rng(0).normal(size=20_000), 400.0, "400 samples a second, and 500 or more"),
        (np.random.default_rng(0).normal(size=20_000), float("nan"), "nan samples a second"),
        (np.zeros((20_000, 2)), RATE, r"one channel, and this one has the shape \(20000, 2\)"),
    ],
    ids=["silence", "nothing", "short", "slow", "no-rate", "stereo"],
)
def test_sounds_that_cannot_be_segmented_are_refused(sound, rate, said):
    with pytest.raises(DataError, match=said):
        segment_heart_sound(sound, rate)


def test_an_ecg_without_a_rate_is_refused_and_a_dead_one_is_done_without():
    sound, _, _ = two_tones(0.8, 0.31)
    with pytest.raises(DataError, match="An ECG needs a sampling rate"):
        segment_heart_sound(sound, RATE, np.ones(100), None)
    expected = segment_heart_sound(sound, RATE)
    for dead in (np.zeros(len(sound)), np.full(len(sound), np.nan), np.ones(100)):
        assert len(find_r_peaks(dead, RATE)) == 0
        assert np.array_equal(segment_heart_sound(sound, RATE, dead, RATE).time, expected.time)


# The decoder ----------------------------------------------------------------------------------------------


def best_by_trying_all(evidence, beat, durations):
    """Return the best score and path among all paths, from the definition."""
    frames, (ring, longest) = len(evidence), durations.shape
    mean = (durations * np.arange(1, longest + 1)).sum()
    at_least = np.array([[row[n - 1 :].sum() for n in range(1, longest + 1)] for row in durations])
    best: tuple[float, list[int], list[int]] = (-np.inf, [], [])
    for count in range(1, frames + 1):
        for cuts in itertools.combinations(range(1, frames), count - 1):
            edges = [0, *cuts, frames]
            lengths = np.diff(edges)
            if lengths.max() > longest:
                continue
            for first in range(ring):
                states = [(first + step) % ring for step in range(count)]
                score = np.log(at_least[first, lengths[0] - 1] / mean)
                for place, (state, length) in enumerate(zip(states, lengths, strict=True)):
                    score += evidence[edges[place] : edges[place + 1], state].sum()
                    if place:
                        table = at_least if place == count - 1 else durations
                        score += np.log(table[state, length - 1]) + (beat[edges[place]] if state == 0 else 0)
                if score > best[0]:
                    best = score, edges[:-1], states
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_decoder_finds_the_best_of_all_paths(seed):
    rng = np.random.default_rng(seed)
    evidence, beat = rng.normal(0, 1.5, (9, 4)), rng.normal(0, 1, 9)
    durations = rng.dirichlet(np.ones(4), (2, 4))
    scores, paths = decode(evidence, beat, durations)
    for number in range(2):
        score, onsets, states = best_by_trying_all(evidence, beat, durations[number])
        assert scores[number] == pytest.approx(score)
        assert paths[number][0].tolist() == onsets
        assert paths[number][1].tolist() == states


# Parameters -----------------------------------------------------------------------------------------------


def test_durations_are_distributions_around_what_they_were_made_for():
    table = duration_distributions(0.8, 0.31, shipped_parameters())
    assert table.sum(axis=1) == pytest.approx(np.ones(4))
    likely = (table.argmax(axis=1) + 1) / 50
    assert likely.sum() == pytest.approx(0.8, abs=0.03), "the four states make one cycle"
    assert likely[0] + likely[1] == pytest.approx(0.31, abs=0.02), "S1 and systole make the interval"


def test_the_parameters_of_the_repository_come_from_all_databases():
    metadata = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    sets = ", ".join(f"training-{letter}" for letter in "abcdef")
    assert metadata["fitted_on"] == f"547 hand-corrected recordings of {sets}"
    assert shipped_parameters().share.sum() == pytest.approx(1, abs=1e-5)


def test_parameters_are_read_as_they_were_written(tmp_path):
    write_parameters(tmp_path / "p.json", shipped_parameters(), {"fitted_on": "a test"})
    again = read_parameters(tmp_path / "p.json")
    for field in dataclasses.fields(again):
        assert np.array_equal(getattr(again, field.name), getattr(shipped_parameters(), field.name))


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"format": 1}', "cannot be read")],
)
def test_damaged_parameters_are_refused(tmp_path, content, said):
    (tmp_path / "p.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_parameters(tmp_path / "p.json")


def test_parameters_of_another_format_are_refused(tmp_path):
    metadata = json.loads(WEIGHTS.read_text(encoding="utf-8")) | {"format": 2}
    (tmp_path / "p.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(DataError, match="has format 2, and 1 is needed"):
        read_parameters(tmp_path / "p.json")
