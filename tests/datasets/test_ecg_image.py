"""Drawn ECGs: 25 mm/s and 10 mm/mV to the pixel, and nothing that depends on chance unless asked for."""

import functools

import numpy as np
import pytest

from datasets.ecg import LEADS
from systems.ecg_multimodal.sources.ecg_image import SHEET, draw_ecg, draw_sheet

RATE = 500.0
TIME = np.arange(5000) / RATE


def trace_rows(picture):
    """Return the row of the trace in each column, the centre of what is dark, NaN where nothing is."""
    dark = np.clip(235 - picture.max(axis=2).astype(float), 0, None)
    with np.errstate(invalid="ignore"):
        return (dark * (np.arange(len(picture))[:, None] + 0.5)).sum(axis=0) / dark.sum(axis=0)


def pulse(height=1.0, start=4.0, end=5.0, time=TIME):
    return np.where((time >= start) & (time < end), height, 0.0)


def test_one_millivolt_is_a_hundred_pixels_and_one_second_two_hundred_and_fifty():
    picture = draw_ecg(pulse(), RATE)
    rows = trace_rows(picture)
    assert rows[500] == pytest.approx(125, abs=0.01)
    assert rows[500] - rows[1100] == pytest.approx(100, abs=0.05)
    strokes = np.flatnonzero((picture.max(axis=2) < 100).sum(axis=0) > 50)
    assert strokes.tolist() == [998, 999, 1000, 1248, 1249, 1250]  # up and down, of the pen's three pixels


@pytest.mark.parametrize(("width", "height"), [(2500, 250), (1250, 125), (640, 64), (5000, 300)])
def test_the_width_sets_the_scale(width, height):
    picture = draw_ecg(pulse(), RATE, width=width, height=height)
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)
    rows = trace_rows(picture)
    assert rows[width // 5] - rows[width * 9 // 20] == pytest.approx(100 * width / 2500, abs=0.15)


@pytest.mark.parametrize("rate", [100.0, 250.0, 257.0, 1000.0, 2000.0])
def test_the_trace_is_where_the_signal_is_whatever_its_rate(rate):
    time = np.arange(int(10 * rate)) / rate
    rows = trace_rows(draw_ecg(0.5 * np.sin(2 * np.pi * time), rate))
    expected = 125 - 50 * np.sin(2 * np.pi * (np.arange(2500) + 0.5) / 250)
    np.testing.assert_allclose(rows[5:-10], expected[5:-10], atol=0.6)


def test_the_offset_of_the_electrodes_does_not_show():
    signal = 0.4 * np.sin(2 * np.pi * TIME)
    np.testing.assert_array_equal(draw_ecg(signal + 8, RATE), draw_ecg(signal, RATE))


def test_a_tall_trace_is_shifted_to_fit_and_what_is_taller_than_the_paper_is_cut():
    rows = trace_rows(draw_ecg(pulse(2.0), RATE))
    assert rows[500] - rows[1100] == pytest.approx(200, abs=0.05)  # 50 from the middle would not have fitted
    assert rows[1100] == pytest.approx(10, abs=0.1)
    beyond = draw_ecg(pulse(5.0), RATE)
    assert np.isnan(trace_rows(beyond)[[500, 1100]]).all()


def test_missing_samples_lift_the_pen_and_short_signals_leave_paper():
    signal = pulse()[:4000]
    signal[1000:1500] = np.nan
    rows = trace_rows(draw_ecg(signal, RATE))
    assert np.isnan(rows[505:745]).all()
    assert np.isnan(rows[2005:]).all()
    assert np.isfinite(rows[:495]).all()
    assert np.isfinite(rows[755:1995]).all()


def test_what_is_longer_than_ten_seconds_is_cut():
    long = np.concatenate([pulse(), pulse()])
    np.testing.assert_allclose(
        trace_rows(draw_ecg(long, RATE))[:2490], trace_rows(draw_ecg(pulse(), RATE))[:2490]
    )


def test_nothing_but_missing_samples_is_empty_paper():
    assert np.isnan(trace_rows(draw_ecg(np.full(5000, np.nan), RATE))).all()


def test_the_grid_has_a_line_each_millimetre_and_a_bold_one_each_five():
    picture = draw_ecg(np.full(5000, np.nan), RATE).astype(int)
    between = picture[5, :, 1]  # a row between two lines
    lines = np.flatnonzero(between < 230)
    assert lines.tolist() == sorted({*range(0, 2500, 10), *range(1, 2500, 50)})
    assert (between[0::50] < between[10::50]).all()
    np.testing.assert_array_equal(picture[:, 5, 1], picture[5, :250, 1])
    assert (draw_ecg(np.full(5000, np.nan), RATE, grid=False) == picture[5, 5]).all()


def test_rotation_turns_the_trace_by_its_angle():
    rows = trace_rows(draw_ecg(np.zeros(5000), RATE, rotation=2.0, grid=False))
    slope = np.polyfit(np.arange(500, 2000), rows[500:2000], 1)[0]
    assert np.degrees(np.arctan(-slope)) == pytest.approx(2.0, abs=0.01)


def test_noise_and_shadow_are_as_strong_as_asked():
    plain = draw_ecg(np.full(5000, np.nan), RATE, grid=False)[..., 0].astype(float)
    noisy = draw_ecg(np.full(5000, np.nan), RATE, grid=False, noise=0.02)[..., 2].astype(float)
    darker = 247 - noisy[noisy <= 247]  # what is lighter than paper may be cut off at white
    assert np.sqrt((darker**2).mean()) == pytest.approx(255 * 0.02, rel=0.06)
    shaded = draw_ecg(np.full(5000, np.nan), RATE, grid=False, shadow=0.4)[..., 0] / plain
    assert (shaded.min(), shaded.max()) == (pytest.approx(0.6, abs=0.01), pytest.approx(1, abs=0.01))


def test_the_same_generator_draws_the_same_and_another_does_not():
    draw = functools.partial(draw_ecg, pulse(), RATE, shadow=0.3, noise=0.02)
    first, again, other = (draw(rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(draw(), draw())


def test_text_is_written_at_the_upper_left_only():
    plain, written = (draw_ecg(np.zeros(5000), RATE, text=text) for text in ("", "25 mm/s"))
    rows, columns = np.nonzero((plain != written).any(axis=2))
    assert 5 < columns.min() < 30
    assert columns.max() < 250
    assert rows.max() < 60
    np.testing.assert_array_equal(draw_ecg(np.zeros(5000), RATE), plain)


def test_a_picture_may_be_changed_without_changing_the_next():
    first = draw_ecg(pulse(), RATE)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(draw_ecg(pulse(), RATE), kept)


@pytest.mark.parametrize("order", [LEADS, LEADS[::-1], tuple(name.upper() for name in LEADS)])
def test_a_sheet_shows_each_lead_in_its_place_and_time(order):
    heights = {name.upper(): 0.1 + 0.02 * number for number, name in enumerate(LEADS)}
    beats = sum(pulse(1.0, start, start + 0.5) for start in (1.0, 3.5, 6.0, 8.5))
    ecg = np.stack([heights[name.upper()] * beats for name in order])
    picture = draw_sheet(ecg, RATE, leads=order, grid=False)
    assert picture.shape == (1000, 2500, 3)
    for row, names in enumerate(SHEET):
        rows = trace_rows(picture[250 * row + 80 : 250 * (row + 1)])  # below the names of the leads
        for column in range(4):
            name = names[column] if len(names) > 1 else "II"
            low, high = rows[625 * column + 200], rows[625 * column + 310]
            assert low - high == pytest.approx(100 * heights[name.upper()], abs=0.1), name


def test_a_sheet_of_a_short_ecg_leaves_paper():
    picture = draw_sheet(np.zeros((12, 1500)), RATE, grid=False)
    rows = trace_rows(picture[80:250])
    assert np.isfinite(rows[:740]).all()
    assert np.isnan(rows[755:]).all()


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: draw_ecg(np.zeros((12, 5000)), RATE), r"shape \(12, 5000\)"),
        (lambda: draw_ecg([], RATE), r"shape \(0,\)"),
        (lambda: draw_ecg(TIME, RATE, width=10), "too small"),
        (lambda: draw_ecg(TIME, RATE, shadow=1.5), "shadow is 1.5"),
        (lambda: draw_ecg(TIME, RATE, noise=-1), "noise -1"),
        (lambda: draw_sheet(np.zeros((3, 5000)), RATE), "A sheet needs"),
        (lambda: draw_sheet(np.zeros((12, 5000)), RATE, leads=["I"] * 12), "A sheet needs"),
    ],
)
def test_sampling_arguments_that_generate_nothing_are_refused(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()
