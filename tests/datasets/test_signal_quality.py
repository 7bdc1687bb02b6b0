"""Signal quality: shares counted by hand, delays of simulated hearts, and what each measure says."""

import dataclasses

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from datasets.recordings import Recording, Signal
from datasets.signal_quality import (
    Quality,
    agreement,
    clipped_share,
    examine,
    flat_share,
    in_band_share,
    likeness,
    measure,
    sound_delay,
    warnings_of_length,
    warnings_of_rhythm,
    warnings_of_signal,
)

RATE = 1000.0
CYCLE, SYSTOLE, DELAY = 0.8, 0.32, 0.04
FINE = {
    "missing": 0.0,
    "clipped": 0.0,
    "flat": 0.0,
    "in_band": 1.0,
    "sampling_rate": 2000.0,
    "agreement": 1.0,
}


def signal(samples: np.ndarray, rate: float = RATE) -> Signal:
    return Signal(samples.astype(np.float32), rate, saturated=0.0, missing=float(np.isnan(samples).mean()))


def heart(seconds: float = 20.0, shift: float = 0.0, noise: float = 0.0) -> tuple[Signal, Signal, np.ndarray]:
    """Return ECG, heart sound and R-peaks; S1 is loudest 40 ms after the R-peak, plus a shift."""
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    peaks = np.arange(0.5, seconds - 0.5, CYCLE)
    peaks = peaks + rng.normal(0, 0.01, len(peaks))
    ecg, sound = np.zeros_like(time), np.zeros_like(time)
    for peak in peaks:
        ecg += np.exp(-(((time - peak) / 0.012) ** 2) / 2)
        for place, loud in ((DELAY + shift, 1.0), (DELAY + shift + SYSTOLE, 0.7)):
            sound += loud * np.exp(-(((time - peak - place) / 0.02) ** 2) / 2) * np.sin(2 * np.pi * 60 * time)
    ecg += 0.01 * rng.normal(size=len(time))
    sound += (0.01 + noise) * rng.normal(size=len(time))
    return signal(ecg), signal(sound), peaks


# Shares ---------------------------------------------------------------------------------------------------


def test_clipped_samples_are_counted_by_hand():
    """Three at the top count, two at the bottom do not, and one peak does not."""
    samples = np.array([0, 5, 5, 5, 0, -4, -4, 0, 5, 1.0])
    assert clipped_share(samples) == pytest.approx(0.3)


def test_flat_windows_are_counted_by_hand():
    """Of four windows of half a second one rests."""
    samples = np.sin(np.arange(2000) / 7)
    samples[500:1000] = 0.3
    assert flat_share(samples, 1000.0) == 0.25
    assert flat_share(np.ones(2000), 1000.0) == 1.0


@pytest.mark.parametrize(("hertz", "expected"), [(100.0, 1.0), (600.0, 0.5), (5.0, 1.0)])
def test_share_of_power_in_the_band(hertz, expected):
    """A sine of 50 Hz and another as loud: outside the band it takes half; below it counts not at all."""
    time = np.arange(8000) / 2000
    samples = np.sin(2 * np.pi * 50 * time) + np.sin(2 * np.pi * hertz * time)
    assert in_band_share(samples, 2000.0, "pcg") == pytest.approx(expected, abs=0.01)


def test_gaps_are_measured_and_bridged():
    samples = np.sin(np.arange(4000) / 5)
    samples[1000:2000] = np.nan
    metadata = measure(signal(samples), "ecg")
    assert metadata["missing"] == 0.25
    assert metadata["duration"] == 4.0
    assert all(np.isfinite(value) for value in metadata.values())


def test_saturation_reported_by_the_reader_counts_as_clipped():
    clipped = dataclasses.replace(signal(np.sin(np.arange(4000) / 5)), saturated=0.02)
    assert measure(clipped, "pcg")["clipped"] == 0.02


# Agreement of beats ---------------------------------------------------------------------------------------


def test_likeness_of_equal_and_of_opposite_beats():
    beat = np.sin(np.arange(50))
    assert likeness(np.stack([beat, 3 * beat + 1, beat])) == pytest.approx(1.0)
    assert likeness(np.stack([beat, beat, -beat, -beat])) < -0.3
    assert np.isnan(likeness(np.stack([beat, beat])))


def test_few_beats_of_noise_are_not_alike():
    """A beat is compared with the others only: with itself among them three would agree by .6."""
    rng = np.random.default_rng(1)
    assert abs(np.mean([likeness(rng.normal(size=(3, 100))) for _ in range(200)])) < 0.03


@pytest.mark.parametrize("kind", ["ecg", "pcg"])
def test_agreement_is_high_in_a_heart_and_low_in_noise(kind):
    ecg, pcg, peaks = heart()
    assert agreement({"ecg": ecg, "pcg": pcg}[kind], kind, peaks) > 0.95
    noise = signal(np.random.default_rng(2).normal(size=20000))
    assert abs(agreement(noise, kind, peaks)) < 0.2
    assert np.isnan(agreement(ecg, kind, peaks[:2]))


# ECG and heart sound --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "in_step"), [(0.0, True), (0.05, True), (0.2, False), (-0.2, False), (0.15, False)]
)
def test_the_delay_of_the_heart_sound_is_measured(shift, in_step):
    _, pcg, peaks = heart(shift=shift)
    measured = sound_delay(pcg, peaks)
    assert measured is not None
    delay, fits = measured
    assert delay == pytest.approx(DELAY + shift, abs=0.015)
    assert fits == in_step


def test_no_delay_is_made_up_where_the_sound_does_not_follow_the_peaks():
    _, pcg, peaks = heart()
    unrelated = np.sort(np.random.default_rng(3).uniform(1, 19, len(peaks)))
    assert sound_delay(pcg, unrelated) is None
    assert sound_delay(pcg, peaks[:2]) is None


@pytest.mark.parametrize(("shift", "reported"), [(0.0, False), (0.25, True)])
def test_examination_says_when_signals_are_out_of_step(shift, reported):
    ecg, pcg, peaks = heart(shift=shift)
    spans = np.stack([peaks[:-1], peaks[1:]], axis=1)
    quality = examine(Recording(ecg, pcg, RATE, ""), spans)
    assert [warning.code for warning in quality.warnings] == (["out-of-step"] if reported else [])
    assert quality.sound_delay == pytest.approx(DELAY + shift, abs=0.015)


def test_examination_of_one_signal_and_of_unequal_lengths():
    ecg, pcg, _ = heart()
    quality = examine(Recording(ecg, None, RATE, ""), np.zeros((0, 2)))
    assert set(quality.signals) == {"ecg"}
    assert quality.signals["ecg"]["agreement"] > 0.95
    longer = signal(np.concatenate([ecg.samples, ecg.samples[:2000]]))
    codes = [warning.code for warning in examine(Recording(longer, pcg, RATE, ""), np.zeros((0, 2))).warnings]
    assert codes == ["lengths"]


def test_a_recording_shows_no_heart_if_none_of_its_signals_repeats():
    def quality(ecg: float, pcg: float) -> Quality:
        return Quality({"ecg": {"agreement": ecg}, "pcg": {"agreement": pcg}}, None, [])

    assert quality(0.1, 0.2).shows_no_heart(["ecg", "pcg"])
    assert not quality(0.1, 0.9).shows_no_heart(["ecg", "pcg"])
    assert quality(0.1, 0.9).shows_no_heart(["ecg"])
    assert not Quality({"pcg": {}}, None, []).shows_no_heart(["pcg"]), "too few beats to tell"


# What is said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "metadata", "code"),
    [
        ("pcg", {}, None),
        ("pcg", {"missing": 0.02}, "gaps"),
        ("pcg", {"flat": 0.1}, "flat"),
        ("ecg", {"clipped": 0.002}, "clipped"),
        ("pcg", {"clipped": 0.0005}, None),
        ("pcg", {"sampling_rate": 800.0}, "rate"),
        ("ecg", {"sampling_rate": 250.0}, None),
        ("ecg", {"in_band": 0.5}, "noisy"),
        ("pcg", {"in_band": 0.8}, "noisy"),
        ("ecg", {"in_band": 0.8}, None),
        ("ecg", {"agreement": 0.6}, "noisy"),
        ("pcg", {"agreement": 0.6}, None),
        ("pcg", {"agreement": 0.4}, "noisy"),
    ],
)
def test_each_fault_has_its_word(kind, metadata, code):
    warnings = warnings_of_signal(FINE | metadata, kind)
    assert [(warning.code, warning.signal) for warning in warnings] == ([(code, kind)] if code else [])


def test_signals_without_beats_are_not_blamed_for_them():
    metadata = {name: value for name, value in FINE.items() if name != "agreement"}
    assert warnings_of_signal(metadata, "pcg") == []


@pytest.mark.parametrize(("cycle", "said"), [(0.8, None), (0.25, "240 a minute"), (2.0, "30 a minute")])
def test_a_heart_rate_that_none_has_suggests_a_wrong_sampling_rate(cycle, said):
    starts = cycle * np.arange(5)
    warnings = warnings_of_rhythm(np.stack([starts, starts + cycle], axis=1))
    assert [said in warning.text for warning in warnings] == ([True] if said else [])
    assert warnings_of_rhythm(np.zeros((0, 2))) == []


def test_short_recordings_are_warned_of():
    assert warnings_of_length(10.0) == []
    assert [warning.code for warning in warnings_of_length(9.9)] == ["short"]


def test_a_muffled_signal_of_low_rate_is_measured_without_fault():
    """Half the sampling rate lies below the upper edge of the band."""
    rough = np.random.default_rng(4).normal(size=6000)
    slow = signal(sosfilt(butter(2, 100, fs=500, output="sos"), rough), 500.0)
    assert measure(slow, "pcg")["in_band"] == 1.0
    assert np.isfinite(agreement(slow, "pcg", np.arange(0.5, 11, 0.8)))
