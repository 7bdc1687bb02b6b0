"""Steps on one signal, against answers worked out by hand or in closed form."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from datasets.signals import (
    bandpass,
    cut_beats,
    fill_gaps,
    resample,
    separate_saturation_from_gaps,
    shorten_beats,
    standardize,
)
from datasets.sources import DataError

LOWEST = -32768
RATE = 2000.0


def sine(frequency, seconds, rate=RATE, phase=0.4):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate + phase)


# Saturation and gaps --------------------------------------------------------------------------------


def stored(before, run, after):
    """Return a signal of small values with a run of the lowest code between two given neighbours."""
    quiet = np.full(20, 7)
    return np.concatenate([quiet, [before], np.full(run, LOWEST), [after], quiet]).astype(np.int16)


@pytest.mark.parametrize(
    ("before", "run", "after", "rate", "saturated"),
    [
        (0, 1, 0, 2000, True),  # short: a spike to the rail
        (0, 10, 0, 2000, True),  # 5 ms is still short
        (0, 11, 0, 2000, False),  # longer, out of nowhere: a gap
        (0, 11, 0, 4000, True),  # the limit is a time, not a number of samples
        (-24577, 500, 0, 2000, True),  # came in near the rail
        (0, 500, -24577, 2000, True),  # left near the rail
        (-24576, 500, -24576, 2000, False),  # three quarters of the range is not near
        (24577, 500, 32767, 2000, False),  # near the other rail
    ],
)
def test_the_lowest_code_is_saturation_if_short_or_near_the_rail(before, run, after, rate, saturated):
    digital = stored(before, run, after)
    found, missing = separate_saturation_from_gaps(digital, LOWEST, rate)
    expected = digital == LOWEST
    np.testing.assert_array_equal(found, expected if saturated else False)
    np.testing.assert_array_equal(missing, False if saturated else expected)


def test_each_run_is_evaluated_for_itself():
    digital = np.concatenate([stored(0, 100, 0), stored(-30000, 100, 0)])
    saturated, missing = separate_saturation_from_gaps(digital, LOWEST, RATE)
    np.testing.assert_array_equal(np.flatnonzero(missing), np.arange(21, 121))
    np.testing.assert_array_equal(np.flatnonzero(saturated), 142 + np.arange(21, 121))


def test_runs_at_both_ends_and_a_recording_of_nothing_else():
    digital = np.zeros(300, dtype=np.int16)
    digital[:100] = digital[-3:] = LOWEST
    saturated, missing = separate_saturation_from_gaps(digital, LOWEST, RATE)
    np.testing.assert_array_equal(np.flatnonzero(missing), np.arange(100))
    np.testing.assert_array_equal(np.flatnonzero(saturated), [297, 298, 299])
    nothing = np.full(100, LOWEST, dtype=np.int16)
    saturated, missing = separate_saturation_from_gaps(nothing, LOWEST, RATE)
    assert missing.all()
    assert not saturated.any()


def test_a_signal_without_the_lowest_code_has_neither():
    saturated, missing = separate_saturation_from_gaps(np.array([0, -32767, 32767]), LOWEST, RATE)
    assert not saturated.any()
    assert not missing.any()


def test_gaps_are_bridged_by_straight_lines_and_ends_held():
    signal = np.array([np.nan, 1.0, np.nan, np.nan, 4.0, 2.0, np.nan])
    given = signal.copy()
    np.testing.assert_allclose(fill_gaps(signal), [1, 1, 2, 3, 4, 2, 2])
    np.testing.assert_array_equal(signal, given)
    whole = np.array([1.0, 5.0])
    np.testing.assert_array_equal(fill_gaps(whole), whole)


# Filters --------------------------------------------------------------------------------------------


def butterworth_gain(frequency, rate, low, high=None, order=2):
    """Return the gain of a Butterworth filter run forth and back, by the bilinear transform."""
    at, low = (np.tan(np.pi * value / rate) for value in (frequency, low))
    if high is None:
        return 1 / (1 + (low / at) ** (2 * order))
    high = np.tan(np.pi * high / rate)
    return 1 / (1 + ((at**2 - low * high) / (at * (high - low))) ** (2 * order))


@pytest.mark.parametrize("frequency", [2.0, 25.0, 60.0, 100.0, 250.0, 400.0, 900.0])
def test_bandpass_scales_a_sine_as_the_formula_says_and_does_not_shift_it(frequency):
    signal = sine(frequency, 8)
    gain = butterworth_gain(frequency, RATE, 25, 400)
    middle = slice(6000, 10000)
    filtered = bandpass(signal, RATE, (25, 400))
    np.testing.assert_allclose(filtered[middle], gain * signal[middle], atol=2e-3)


def test_the_formula_of_the_test_is_half_at_the_edges_and_stops_far_outside():
    assert butterworth_gain(25, RATE, 25, 400) == pytest.approx(0.5)
    assert butterworth_gain(400, RATE, 25, 400) == pytest.approx(0.5)
    assert butterworth_gain(2, RATE, 25, 400) < 1e-4
    assert butterworth_gain(100, RATE, 25, 400) > 0.99


@pytest.mark.parametrize("frequency", [5.0, 25.0, 240.0])
def test_an_upper_edge_beyond_half_the_rate_leaves_a_high_pass(frequency):
    signal = sine(frequency, 16, rate=500.0)
    gain = butterworth_gain(frequency, 500.0, 25)
    filtered = bandpass(signal, 500.0, (25, 250))
    np.testing.assert_allclose(filtered[3000:5000], gain * signal[3000:5000], atol=2e-3)


@pytest.mark.parametrize("band", [(0.0, 40.0), (-1.0, 40.0), (40.0, 40.0), (50.0, 40.0), (250.0, 400.0)])
def test_a_band_that_cannot_be_is_refused(band):
    with pytest.raises(ValueError, match=r"does not fit a sampling rate of 500\.0 Hz"):
        bandpass(np.zeros(1000), 500.0, band)


def test_bandpass_works_along_the_last_axis():
    signals = np.stack([sine(60, 4), sine(100, 4)])
    together = bandpass(signals, RATE, (25, 400))
    np.testing.assert_array_equal(together[1], bandpass(signals[1], RATE, (25, 400)))


# Standardization and resampling ---------------------------------------------------------------------


def test_standardize_gives_the_known_answer():
    np.testing.assert_allclose(standardize(np.array([2.0, 4.0, 6.0])), np.array([-1, 0, 1]) * np.sqrt(1.5))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e6])
def test_a_flat_signal_becomes_zeros(value):
    np.testing.assert_array_equal(standardize(np.full(1001, value)), 0)


def test_a_tiny_signal_is_not_taken_for_flat():
    assert standardize(sine(5, 1) * 1e-6).std() == pytest.approx(1)


@pytest.mark.parametrize(("rate", "target"), [(2000.0, 500.0), (360.0, 250.0), (250.0, 1000.0)])
def test_resampling_gives_the_same_sine_at_the_other_rate(rate, target):
    again = resample(sine(20, 8, rate), rate, target)
    expected = sine(20, 8, target)
    assert again.shape == expected.shape
    inside = slice(round(2 * target), round(6 * target))
    np.testing.assert_allclose(again[inside], expected[inside], atol=5e-3)


def test_resampling_stops_what_the_lower_rate_cannot_hold():
    again = resample(sine(400, 4), RATE, 500.0)
    assert np.abs(again[500:1500]).max() < 0.01


def test_resampling_to_the_same_rate_changes_nothing_and_44100_is_a_rate_too():
    signal = sine(20, 1)
    assert resample(signal, RATE, RATE) is signal
    assert resample(np.zeros(44100), 44100.0, 2000.0).shape == (2000,)


# Beats ----------------------------------------------------------------------------------------------


def test_a_cubic_is_cut_exactly_and_the_end_is_no_part_of_the_beat():
    def cubic(time):
        return 1 - 2 * time + 3 * time**2 - time**3

    rate, spans = 100.0, np.array([[0.123, 0.877], [0.0, 0.05]])
    signal = cubic(np.arange(200) / rate)
    beats = cut_beats(signal, rate, spans, 7)
    phase = np.arange(7) / 7
    expected = [cubic(start + (end - start) * phase) for start, end in spans]
    np.testing.assert_allclose(beats, expected, rtol=1e-6)
    assert beats[0, 0] == pytest.approx(cubic(0.123), rel=1e-6)
    assert beats[0, -1] != pytest.approx(cubic(0.877), rel=1e-3)


def test_beats_of_any_length_get_the_same_points():
    spans = np.array([[0.1, 0.7], [0.7, 1.9]])
    beats = cut_beats(sine(5, 2), RATE, spans, 2000)
    assert (beats.shape, beats.dtype) == ((2, 2000), np.float32)
    times = spans[:, :1] + np.diff(spans) * np.arange(2000) / 2000
    np.testing.assert_allclose(beats, np.sin(2 * np.pi * 5 * times + 0.4), atol=1e-6)


def test_a_span_of_as_many_samples_as_points_is_the_signal_itself():
    signal = np.random.default_rng(0).normal(size=500)
    beat = cut_beats(signal, RATE, np.array([[0.05, 0.15]]), 200)
    np.testing.assert_allclose(beat[0], signal[100:300], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6, 40, 9000])
@pytest.mark.parametrize("points", [7, 9000])
def test_the_spline_is_that_of_scipy_to_the_last_bit_beyond_the_ends_too(samples, points):
    random = np.random.default_rng(samples)
    signal = random.normal(size=samples)
    spans = np.sort(random.uniform(-1.5, samples + 2, (30, 2)), axis=1)
    spans[:2] = [[0, samples - 1], [0, samples]]
    places = spans[:, :1] + np.diff(spans) * (np.arange(points) / points)
    expected = CubicSpline(np.arange(samples), signal)(places).astype(np.float32)
    np.testing.assert_array_equal(cut_beats(signal, 1.0, spans, points), expected)


def test_a_signal_that_is_not_finite_is_not_cut():
    signal = np.ones(50)
    signal[7] = np.nan
    with pytest.raises(ValueError, match="finite"):
        cut_beats(signal, 1.0, np.array([[20.0, 30.0]]), 10)


def test_no_spans_give_no_beats():
    assert cut_beats(sine(5, 1), RATE, np.zeros((0, 2)), 100).shape == (0, 100)


def cycles(number, points=2000):
    return np.sin(2 * np.pi * number * np.arange(points) / points).astype(np.float32)[None]


@pytest.mark.parametrize("number", [1, 10, 100])
def test_shortened_beats_keep_what_fits(number):
    inside = slice(50, 450)
    np.testing.assert_allclose(
        shorten_beats(cycles(number), 500)[0, inside], cycles(number, 500)[0, inside], atol=0.01
    )


@pytest.mark.parametrize("number", [400, 490, 900])
def test_shortened_beats_lose_what_would_be_folded_down(number):
    assert np.abs(cycles(number)[0, ::4]).max() > 0.9  # what plain picking of samples would leave
    assert np.abs(shorten_beats(cycles(number), 500)[0, 50:450]).max() < 0.01


def test_shortening_in_chunks_gives_the_same_beats():
    beats = np.random.default_rng(0).normal(size=(10, 200)).astype(np.float32)
    short = shorten_beats(beats, 50, chunk=3)
    assert (short.shape, short.dtype) == ((10, 50), np.float32)
    np.testing.assert_array_equal(short, shorten_beats(beats, 50))
    np.testing.assert_array_equal(shorten_beats(beats, 200), beats)


@pytest.mark.parametrize("points", [300, 4000, 0, -500])
def test_points_that_do_not_divide_are_refused_with_both_remedies(points):
    with pytest.raises(DataError, match=rf"--points that divides 2000, or .* --beat-points {points}\."):
        shorten_beats(cycles(1), points)
