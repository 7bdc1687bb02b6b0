"""Corruptions: their power, spectrum, place in time and independence of anything but seed and recording."""

import numpy as np
import pytest
from scipy import signal as scipy_signal

from common.errors import UserError
from datasets.sources import DataError
from systems.ecg_pcg.robustness.corruptions import (
    KINDS,
    NOISES,
    SNR,
    Corruption,
    add_noise,
    corrupt,
    corruptions,
)

RATE = 2000.0
SECONDS = 30
NOISE_KINDS = [(name, signal) for name, kind in KINDS.items() if kind.unit == "dB" for signal in kind.changes]


def recording(seconds: float = SECONDS, rate: float = RATE, gap: bool = False) -> np.ndarray:
    """Something like an ECG: peaks on an offset, with a gap if asked."""
    time = np.arange(round(seconds * rate)) / rate
    made = 4.0 + np.exp(-((((time % 0.9) - 0.4) / 0.02) ** 2)) + 0.02 * np.sin(40 * time)
    if gap:
        made[len(made) // 3 : len(made) // 2] = np.nan
    return made.astype(np.float32)


def noise_of(kind: str, seconds: float = SECONDS, rate: float = RATE, seed: int = 0) -> np.ndarray:
    return NOISES[kind](round(seconds * rate), rate, np.random.default_rng(seed))


def share_within(noise: np.ndarray, low: float, high: float, rate: float = RATE) -> float:
    """Share of the power between two frequencies."""
    frequency, power = scipy_signal.periodogram(noise, rate, window="hann")
    return power[(frequency >= low) & (frequency <= high)].sum() / power.sum()


def corruption(kind: str, modality: str, level: float) -> Corruption:
    signals = KINDS[kind].signals
    return Corruption(kind, modality if modality in signals else signals[-1], level)


# Power ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", SNR)
@pytest.mark.parametrize(("kind", "modality"), NOISE_KINDS)
def test_noise_has_the_power_that_was_asked_for(kind, modality, snr):
    clean = recording(gap=True)
    worse, rate = corrupt(clean, RATE, modality, corruption(kind, modality, snr), "a0001")
    there = np.isfinite(clean)
    added = worse[there].astype(float) - clean[there]
    assert rate == RATE
    assert np.array_equal(np.isfinite(worse), there), "gaps stay"
    assert 10 * np.log10(clean[there].astype(float).var() / added.var()) == pytest.approx(snr, abs=0.1)
    assert added.mean() == pytest.approx(0, abs=1e-3 * added.std()), "no offset is added"


@pytest.mark.parametrize("name", NOISES)
def test_a_short_recording_at_another_rate_has_noise_of_the_right_power_too(name):
    clean = recording(1.0, 500.0).astype(float)
    added = add_noise(clean, noise_of(name, 1.0, 500.0), 5.0) - clean
    assert 10 * np.log10(clean.var() / added.var()) == pytest.approx(5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_and_empty_signals_stay_as_they_are(kind):
    modality = next(iter(KINDS[kind].changes))
    for clean in (np.full(4000, 3.0, np.float32), np.full(4000, np.nan, np.float32), np.zeros(0, np.float32)):
        worse, rate = corrupt(
            clean, 100.0, modality, corruption(kind, modality, 50.0 if kind != "clipping" else 1), "a"
        )
        if kind != "rate":
            assert rate == 100
            assert np.array_equal(worse, clean, equal_nan=True)
        assert not np.isinf(worse).any()


@pytest.mark.parametrize(("kind", "rate"), [("mains-60", 100.0), ("muscle", 30.0)])
def test_noise_that_a_rate_cannot_hold_is_refused(kind, rate):
    with pytest.raises(DataError, match=rf"ECG of a0001, sampled at {rate:g} Hz, cannot hold {kind} noise"):
        corrupt(recording(rate=rate), rate, "ecg", Corruption(kind, "ecg", 0.0), "a0001")


# Spectra -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [50, 60])
def test_mains_hum_is_a_line_and_its_third_harmonic(frequency):
    noise = noise_of(f"mains-{frequency}")
    axis, power = scipy_signal.periodogram(noise, RATE, scaling="spectrum")
    lines = axis[np.argsort(power)[-2:]]
    assert lines == pytest.approx([3 * frequency, frequency])
    assert power.max() == pytest.approx(0.5), "a sine of amplitude 1"
    assert np.sort(power)[-2] == pytest.approx(0.5 * 0.2**2)
    slow = noise_of(f"mains-{frequency}", rate=250.0)
    assert share_within(slow, frequency - 1, frequency + 1, 250.0) > 0.999, "the harmonic is not aliased"


@pytest.mark.parametrize(
    ("name", "low", "high", "share"),
    [
        ("wander", 0, 0.5, 0.99),
        ("muscle", 20, 150, 0.95),
        ("ambient", 20, 850, 0.99),
        ("rub", 100, 1000, 0.98),
    ],
)
def test_noise_lies_where_it_should(name, low, high, share):
    assert share_within(noise_of(name), low, high) > share


def test_baseline_wander_is_slow_in_a_short_recording_too():
    for seed in range(5):
        drift = noise_of("wander", 1.0, seed=seed)
        assert np.abs(np.diff(drift)).max() < 0.02 * np.ptp(drift)


def test_white_noise_is_flat():
    for low in (0, 250, 500, 750):
        assert share_within(noise_of("white"), low, low + 250) == pytest.approx(0.25, abs=0.02)


def test_ambient_noise_falls_by_three_decibels_an_octave():
    noise = noise_of("ambient", 200)
    octaves = [share_within(noise, low, 2 * low) for low in (70, 140, 280)]
    assert octaves == pytest.approx([np.mean(octaves)] * 3, rel=0.15), "equal power in each octave: pink"


def power_a_moment(noise: np.ndarray, seconds: float) -> np.ndarray:
    return (
        (noise[: len(noise) // round(seconds * RATE) * round(seconds * RATE)] ** 2)
        .reshape(-1, round(seconds * RATE))
        .mean(axis=1)
    )


@pytest.mark.parametrize(("name", "seconds", "least"), [("muscle", 0.25, 0.45), ("rub", 0.02, 0.6)])
def test_bursts_hold_much_of_the_power_in_little_of_the_time(name, seconds, least):
    moments = np.sort(power_a_moment(noise_of(name, 120), seconds))[::-1]
    assert moments[: len(moments) // 10].sum() / moments.sum() > least, "of the loudest tenth of the time"
    steady = np.sort(power_a_moment(noise_of("white", 120), seconds))[::-1]
    assert steady[: len(steady) // 10].sum() / steady.sum() < 0.2


# Other changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", KINDS["shift"].levels)
def test_a_shift_moves_the_ecg_by_exactly_that_much_and_not_the_heart_sound(level):
    clean = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    shift = Corruption("shift", "ecg", level)
    moved, _ = corrupt(clean, RATE, "ecg", shift, "a")
    lags = scipy_signal.correlation_lags(len(moved), len(clean))
    lag = lags[np.argmax(scipy_signal.correlate(moved, clean))]
    assert lag == level * RATE / 1000, "positive: the ECG comes later"
    assert len(moved) == len(clean)
    edge = moved[: int(lag)] if lag > 0 else moved[int(lag) :]
    assert (edge == (clean[0] if lag > 0 else clean[-1])).all()
    assert corrupt(clean, RATE, "pcg", shift, "a")[0] is clean


def test_a_shift_longer_than_the_recording_holds_a_value():
    clean = recording(0.1, gap=True)
    moved, _ = corrupt(clean, RATE, "ecg", Corruption("shift", "ecg", 200.0), "a")
    assert (moved == clean[0]).all()


@pytest.mark.parametrize("level", KINDS["clipping"].levels)
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_clipping_cuts_at_a_share_of_the_peak_around_the_median(level, offset):
    random = np.random.default_rng(1)
    clean = (random.normal(size=50_000) + offset).astype(np.float32)
    clean[100:200] = np.nan
    worse, _ = corrupt(clean, RATE, "pcg", Corruption("clipping", "pcg", level), "a")
    distance = np.abs(clean - np.nanmedian(clean))
    limit = level * np.nanpercentile(distance, 99.9)
    found = np.abs(worse - np.nanmedian(clean))
    assert np.nanmax(found) == pytest.approx(limit, rel=1e-5)
    inside = distance < limit
    assert np.array_equal(worse[inside], clean[inside])
    assert found[distance >= limit] == pytest.approx(limit, rel=1e-5)
    assert np.isnan(worse[100:200]).all()


@pytest.mark.parametrize("target", KINDS["rate"].levels)
def test_a_lower_rate_keeps_what_it_can_hold_and_nothing_above(target):
    time = np.arange(20_000) / RATE
    slow, fast = np.sin(2 * np.pi * 20 * time), np.sin(2 * np.pi * 0.7 * target * time)
    signal, rate = corrupt(slow.astype(np.float32), RATE, "ecg", Corruption("rate", "both", target), "a")
    assert rate == target
    assert len(signal) == 10 * target
    middle = slice(int(target), int(9 * target))
    assert signal[middle] == pytest.approx(
        np.sin(2 * np.pi * 20 * np.arange(10 * target) / target)[middle], abs=0.02
    )
    aliased, _ = corrupt(fast.astype(np.float32), RATE, "ecg", Corruption("rate", "both", target), "a")
    assert np.abs(aliased[middle]).max() < 0.02


def test_each_signal_is_compared_with_its_own_rate():
    for own in (250.0, 500.0):
        clean = recording(rate=own)
        same, rate = corrupt(clean, own, "ecg", Corruption("rate", "ecg", 500.0), "a")
        assert rate == own
        assert np.array_equal(same, clean)


def test_a_gap_is_bridged_before_the_rate_is_lowered():
    clean = recording(gap=True)
    worse, _ = corrupt(clean, RATE, "ecg", Corruption("rate", "ecg", 500.0), "a")
    assert np.isfinite(worse).all()
    assert np.ptp(worse[20_000 // 4 + 50 : 30_000 // 4 - 50]) < 0.1, "a straight line"


# Chance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "modality"), NOISE_KINDS)
def test_noise_comes_from_seed_and_recording_and_not_from_the_order_of_work(kind, modality):
    asked = corruption(kind, modality, 0.0)
    clean = recording(5.0)

    def made(name: str, seed: int = 0) -> np.ndarray:
        return corrupt(clean, RATE, modality, asked, name, seed)[0]

    forwards = [made(name) for name in ("a1", "a2", "a3")]
    backwards = [made(name) for name in ("a3", "a2", "a1")]
    assert all(np.array_equal(one, two) for one, two in zip(forwards, backwards[::-1], strict=True))
    assert not np.array_equal(forwards[0], forwards[1]), "each recording has its own"
    assert not np.array_equal(forwards[0], made("a1", seed=1)), "another seed, another noise"


def test_the_level_scales_one_and_the_same_noise():
    clean = recording(5.0).astype(np.float64)
    quiet, loud = (
        corrupt(clean, RATE, "pcg", Corruption("ambient", "pcg", level), "a")[0] for level in (20.0, 0.0)
    )
    assert loud - clean == pytest.approx(10 * (quiet - clean), abs=1e-5)


def test_both_signals_get_at_once_what_each_gets_alone():
    clean = recording(5.0)
    for both, parts in (
        ("movement", {"ecg": "muscle", "pcg": "rub"}),
        ("white", {"ecg": "white", "pcg": "white"}),
    ):
        for modality, alone in parts.items():
            together = corrupt(clean, RATE, modality, Corruption(both, "both", 0.0), "a")[0]
            single = corrupt(clean, RATE, modality, Corruption(alone, modality, 0.0), "a")[0]
            assert np.array_equal(together, single)
    ecg, pcg = (
        corrupt(clean, RATE, kind, Corruption("white", "both", 0.0), "a")[0] for kind in ("ecg", "pcg")
    )
    assert not np.array_equal(ecg, pcg), "two microphones, two noises"


# Names ---------------------------------------------------------------------------------------------------


def test_the_study_has_every_kind_signal_and_level_once():
    chosen = corruptions()
    assert len(set(chosen)) == len(chosen) == 82
    assert {(item.kind, item.signal) for item in chosen} == {
        (name, signal) for name, kind in KINDS.items() for signal in kind.signals
    }
    assert [item.level for item in corruptions(["rub"])] == [20, 10, 5, 0, -5]


def test_a_signal_that_is_not_named_is_left_alone_and_one_that_is_changes():
    clean = recording(2.0)
    for asked in corruptions():
        for modality in ("ecg", "pcg"):
            worse, rate = corrupt(clean, RATE, modality, asked, "a")
            touched = asked.signal in (modality, "both")
            assert touched != (worse is clean and rate == RATE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hail", "ecg", 0.0), r"no corruption 'hail': choose from wander, "),
        (("wander", "pcg", 0.0), r"wander is done to ecg, not to 'pcg'"),
        (("movement", "ecg", 0.0), r"movement is done to both, not to 'ecg'"),
        (("clipping", "ecg", 0.0), r"clipping has no level 0 of peak"),
        (("clipping", "ecg", 1.5), r"clipping has no level 1.5 of peak"),
        (("rate", "ecg", -1.0), r"rate has no level -1 Hz"),
        (("white", "ecg", float("nan")), r"white has no level nan dB"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Corruption(*arguments)


def test_unknown_kinds_are_refused():
    with pytest.raises(UserError, match="no corruption 'hail'"):
        corruptions(["white", "hail"])
