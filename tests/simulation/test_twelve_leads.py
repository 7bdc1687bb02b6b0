"""The 12-lead ECG of simulated patients: physics, rhythm, and each disease where a doctor looks for it."""

import dataclasses

import numpy as np
import pytest
from scipy import signal

from simulation.electrodes import DOWER, LEADS, electrode_noise, twelve_leads
from simulation.heart_population import draw_heart
from simulation.loops import beat_loops
from simulation.physiology import CONDITIONS
from simulation.rhythm import Paroxysm, draw_beats
from simulation.vectorcardiogram import render_ecg

RATE = 500
ROW = {lead: number for number, lead in enumerate(LEADS)}
PERSONS = range(25)


def rng(seed=0):
    return np.random.default_rng(seed)


def calm(patient, pattern="none", **changes):
    """Return drivers with a pattern, in sinus rhythm, without what shows in the ECG alone."""
    drivers = draw_heart(5, patient, condition=pattern, pattern=pattern).drivers
    plain = {"rhythm": "sinus", "ectopic_rate": 0.0, "right_block": False, "flat_t": False}
    return dataclasses.replace(drivers, **{**plain, **changes})


def mean_beat(drivers, paroxysm=Paroxysm()):  # noqa: B008
    """Return the mean beat of a clean ECG, (12, samples), baseline removed; QRS begins at sample 150."""
    generator = rng(1)
    ecg = render_ecg(drivers, 10, RATE, generator, paroxysm, noise=0.0)
    beats = draw_beats(drivers, paroxysm, 10, rng(1).spawn(3)[0])
    onsets = np.round(beats.onsets[~beats.ectopic] * RATE).astype(int)
    onsets = onsets[(onsets > 150) & (onsets < ecg.shape[1] - 300)]
    mean = np.mean([ecg[:, onset - 150 : onset + 300] for onset in onsets], axis=0)
    return mean - mean[:, 10:25].mean(axis=1, keepdims=True)


def qrs(beat, drivers):
    """Return the samples of the QRS complex, (12, samples)."""
    return beat[:, 148 : 154 + round(beat_loops(drivers).qrs_duration * RATE)]


def t_wave(beat, drivers):
    """Return the T wave around its peak, (12, samples)."""
    qt = drivers.traits.qt_corrected * np.cbrt(60 / drivers.heart_rate)
    return beat[:, 150 + round(0.68 * qt * RATE) : 150 + round(0.82 * qt * RATE)]


def q_wave(complex_):
    """Return depth and duration (seconds) of what precedes the first R, relative to R; QS: all of it."""
    peak = int(np.argmax(complex_)) if complex_.max() > 0.08 else len(complex_)
    before = complex_[:peak]
    tallest = max(complex_.max(), 0.08)
    deepest = -before.min() if len(before) else 0.0
    return deepest / tallest, (before < -0.03).sum() / RATE


def has_pathological_q(complex_):
    depth, duration = q_wave(complex_)
    return depth > 0.25 and duration >= 0.02


def axis_of(complex_):
    """Return the frontal axis, degrees, from the net areas of I and aVF."""
    first, foot = complex_[ROW["I"]].sum(), complex_[ROW["aVF"]].sum()
    return np.degrees(np.arctan2(2 / np.sqrt(3) * foot, first))


def r_peaks(ecg):
    steepness = np.abs(np.gradient(ecg, axis=1)).sum(axis=0)
    smooth = np.convolve(steepness, np.ones(30) / 30, "same")
    return signal.find_peaks(smooth, height=0.5 * np.percentile(smooth, 99), distance=0.28 * RATE)[0]


# Physics -----------------------------------------------------------------------------------------


def test_limb_leads_fulfil_einthoven_and_goldberger_in_every_sample():
    for patient in range(5):
        ecg = render_ecg(draw_heart(0, patient), 5, RATE, rng(patient))
        first, second, third, right, left, foot = ecg[:6]
        np.testing.assert_array_equal(third, second - first)
        np.testing.assert_array_equal(right, -(first + second) / 2)
        np.testing.assert_array_equal(left, first - second / 2)
        np.testing.assert_array_equal(foot, second - first / 2)
        np.testing.assert_allclose(right + left + foot, 0, atol=2e-6)


@pytest.mark.parametrize(
    ("dipole", "expected"),
    [
        ((1, 0, 0), {"I": 0.632, "III": -0.397, "aVR": -0.434, "aVL": 0.515, "V1": -0.515, "V5": 1.125}),
        ((0, 1, 0), {"II": 1.066, "aVF": 1.184, "aVL": -0.768, "V1": 0.157}),
        ((0, 0, 1), {"V2": -1.387, "V6": 0.230, "aVF": -0.162, "I": 0.059}),
    ],
)
def test_leads_see_a_unit_dipole_as_published(dipole, expected):
    leads = twelve_leads(np.array(dipole, float)[:, None])[:, 0]
    for lead, value in expected.items():
        assert leads[ROW[lead]] == pytest.approx(value, abs=0.0011)


def test_the_projection_is_inverted_by_the_published_inverse_dower_matrix():
    published = [  # V1 to V6, I, II; Edenbrandt and Pahlm 1988
        [-0.172, -0.074, 0.122, 0.231, 0.239, 0.194, 0.156, -0.010],
        [0.057, -0.019, -0.106, -0.022, 0.041, 0.048, -0.227, 0.887],
        [-0.229, -0.310, -0.246, -0.063, 0.055, 0.108, 0.022, 0.102],
    ]
    np.testing.assert_allclose(np.array(published) @ DOWER[[*range(2, 8), 0, 1]], np.eye(3), atol=0.005)


def test_gains_scale_the_leads_they_name():
    dipole = rng().normal(size=(3, 4))
    gains = (1.1, 0.9, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0)
    plain, scaled = twelve_leads(dipole), twelve_leads(dipole, gains)
    np.testing.assert_allclose(scaled[ROW["I"]], 1.1 * plain[ROW["I"]])
    np.testing.assert_allclose(scaled[ROW["V3"]], 2.0 * plain[ROW["V3"]])
    np.testing.assert_allclose(scaled[ROW["III"]], 0.9 * plain[ROW["II"]] - 1.1 * plain[ROW["I"]])


@pytest.mark.parametrize(("dipole", "axis"), [((1, 0, 0), -8.4), ((0, 1, 0), 99.8), ((-1, 0, 0), 171.6)])
def test_axis_of_a_constructed_dipole(dipole, axis):
    # by hand: atan2(2 / sqrt 3 * aVF, I) with aVF -.081 and I .632 for x, 1.184 and -.235 for y
    assert axis_of(twelve_leads(np.array(dipole, float)[:, None])) == pytest.approx(axis, abs=0.5)


def test_turning_the_heart_turns_the_loop_and_the_axis():
    for patient in PERSONS:
        loops, axes = [], []
        for change in (0, 30):
            drivers = calm(patient)
            traits = dataclasses.replace(drivers.traits, axis=drivers.traits.axis + change, turn=0.0)
            drivers = dataclasses.replace(drivers, traits=traits)
            x, y, _ = beat_loops(drivers).qrs.vectors.sum(axis=0)
            loops.append(np.degrees(np.arctan2(y, x)))
            axes.append(axis_of(qrs(mean_beat(drivers), drivers)))
        assert loops[1] - loops[0] == pytest.approx(30)
        assert 15 < axes[1] - axes[0] < 80  # the limb leads are not quite Einthoven's triangle


# Rhythm ------------------------------------------------------------------------------------------


def test_r_peaks_come_at_the_heart_rate():
    ratios = []
    for patient in PERSONS:
        drivers = calm(patient)
        peaks = r_peaks(render_ecg(drivers, 20, RATE, rng(patient)))
        ratios.append(np.diff(peaks).mean() / RATE * drivers.heart_rate / 60)
    np.testing.assert_allclose(ratios, 1, atol=0.08)
    assert np.mean(ratios) == pytest.approx(1, abs=0.012)


def test_the_beats_drawn_are_the_beats_seen():
    drivers = calm(3)
    beats = draw_beats(drivers, Paroxysm(), 10, rng(4).spawn(3)[0])
    peaks = r_peaks(render_ecg(drivers, 10, RATE, rng(4), noise=0.0)) / RATE
    inside = beats.onsets[(beats.onsets > 0.1) & (beats.onsets < 9.8)]
    late = peaks[np.abs(peaks[:, None] - inside).argmin(axis=0)] - inside
    assert (late > 0.01).all()
    assert (late < 0.08).all()


def test_variability_is_that_of_the_person():
    for deviation in (0.015, 0.06):
        drivers = calm(2)
        drivers = dataclasses.replace(
            drivers, traits=dataclasses.replace(drivers.traits, variability=deviation)
        )
        intervals = np.diff(draw_beats(drivers, Paroxysm(), 600, rng()).onsets)
        assert intervals.std() == pytest.approx(deviation, rel=0.2)


def test_fibrillation_is_irregular_and_has_no_p_wave():
    for patient in PERSONS[:8]:
        drivers = calm(patient)
        calm_beats = draw_beats(drivers, Paroxysm(), 60, rng(patient))
        wild_beats = draw_beats(drivers, Paroxysm(fibrillation=True), 60, rng(patient))
        spread = [
            np.std(np.diff(beats.onsets)) / np.mean(np.diff(beats.onsets))
            for beats in (calm_beats, wild_beats)
        ]
        assert spread[0] < 0.12
        assert 0.15 < spread[1] < 0.35
        assert not wild_beats.conducted.any()
    inherent = calm(0, rhythm="fibrillation")
    assert not draw_beats(inherent, Paroxysm(), 10, rng()).conducted.any()
    drivers = calm(1)
    start = 150 - round(drivers.traits.pr_interval * RATE)
    sinus, fibrillating = (
        np.ptp(mean_beat(drivers, paroxysm)[ROW["II"], start : start + 55])
        for paroxysm in (Paroxysm(), Paroxysm(fibrillation=True))
    )
    assert sinus > 2 * fibrillating


def test_ectopic_beats_are_early_wide_and_followed_by_a_compensatory_pause():
    drivers = calm(1)
    steady = dataclasses.replace(drivers, traits=dataclasses.replace(drivers.traits, variability=0.0))
    beats = draw_beats(steady, Paroxysm(ectopic_beats=3), 10, rng(2))
    places = np.flatnonzero(beats.ectopic)
    assert len(places) == 3
    interval = 60 / drivers.heart_rate
    for place in places:
        before, after = np.diff(beats.onsets[place - 1 : place + 2])
        assert 0.55 * interval < before < 0.70 * interval
        assert before + after == pytest.approx(2 * interval)
        assert not beats.ectopic[[place - 1, place + 1]].any()
    assert not beats.conducted[places].any()
    ecg = render_ecg(steady, 10, RATE, rng(2), Paroxysm(ectopic_beats=3), noise=0.0)
    normal = render_ecg(steady, 10, RATE, rng(2), noise=0.0)
    assert np.abs(ecg[1]).max() > np.abs(normal[1]).max() or np.ptp(ecg[1]) > 1.2 * np.ptp(normal[1])


def test_persons_with_ectopy_have_it_at_their_rate():
    drivers = calm(1, ectopic_rate=6.0)
    beats = draw_beats(drivers, Paroxysm(), 600, rng())
    assert beats.ectopic.sum() == pytest.approx(60, abs=4 * np.sqrt(60))


def test_st_depression_has_the_depth_asked_for_in_lead_two():
    for patient in PERSONS[:6]:
        drivers = calm(patient)
        plain, low = (mean_beat(drivers, Paroxysm(st_depression=depth)) for depth in (0.0, 0.15))
        qt = drivers.traits.qt_corrected * np.cbrt(60 / drivers.heart_rate)
        segment = slice(150 + round(0.33 * qt * RATE), 150 + round(0.53 * qt * RATE))
        change = (low - plain)[ROW["II"], segment]
        gain = drivers.traits.lead_gains[1]
        assert change.mean() == pytest.approx(-0.15 * gain, rel=0.2)


def test_late_potentials_are_small_fast_and_follow_the_qrs():
    drivers = calm(4)
    paroxysm = Paroxysm(late_potentials=0.03)
    generator = rng(1)
    changed = render_ecg(drivers, 10, 1000, generator, paroxysm, noise=0.0)
    plain = render_ecg(drivers, 10, 1000, rng(1), noise=0.0)
    change = changed[1] - plain[1]
    assert np.abs(change).max() == pytest.approx(0.03 * drivers.traits.lead_gains[1], rel=0.2)
    frequencies, power = signal.periodogram(change, 1000)
    assert frequencies[power.argmax()] == pytest.approx(85, abs=10)
    beats = draw_beats(drivers, paroxysm, 10, rng(1).spawn(3)[0])
    since = np.arange(10000) / 1000 - beats.onsets[:, None]
    end = beat_loops(drivers).qrs_duration
    near = ((since > end - 0.04) & (since < end + 0.07)).any(axis=0)
    assert np.abs(change[~near]).max() < 0.002


# What shows where --------------------------------------------------------------------------------


def test_voltage_rises_with_the_mass_of_the_left_ventricle():
    for patient in PERSONS[:10]:
        tall = []
        for bulk in (-1.0, 0.0, 1.0, 2.0):
            drivers = calm(patient, lv_bulk=bulk)
            complex_ = qrs(mean_beat(drivers), drivers)
            tall.append(complex_[ROW["V5"]].max() - complex_[ROW["V1"]].min())  # Sokolow-Lyon
        ratios = np.array(tall[1:]) / tall[:-1]
        np.testing.assert_allclose(ratios, np.exp(0.20), rtol=0.06)


def test_qrs_widens_with_the_volume_of_the_left_ventricle():
    widths = [beat_loops(calm(3, lv_size=size)).qrs_duration for size in (-2.0, 0.0, 2.0)]
    assert 0.07 < widths[0] < widths[1] < widths[2] < 0.12


def test_a_large_right_ventricle_turns_the_axis_to_the_right():
    for patient in PERSONS[:10]:
        axes = []
        for size in (-2.0, 2.0):
            drivers = calm(patient, rv_size=size)
            axes.append(axis_of(qrs(mean_beat(drivers), drivers)))
        assert axes[1] - axes[0] > 8


def test_a_large_left_atrium_makes_p_terminal_in_v1_more_negative():
    deepest = []
    for atrium in (-1.0, 3.0):
        drivers = calm(3, atrium=atrium)
        start = 150 - round(drivers.traits.pr_interval * RATE)
        deepest.append(mean_beat(drivers)[ROW["V1"], start:145].min())
    assert deepest[1] < deepest[0] - 0.02


def test_strong_ejection_comes_with_tall_t_waves():
    tall = []
    for pump in (-2.0, 2.0):
        drivers = calm(3, pump=pump)
        tall.append(t_wave(mean_beat(drivers), drivers)[ROW["V5"]].max())
    assert tall[1] > 1.6 * tall[0] > 0


def share(predicate, pattern):
    """Return the share of persons with a pattern for whom something holds."""
    found = []
    for patient in PERSONS:
        drivers = calm(patient, pattern)
        found.append(predicate(mean_beat(drivers), drivers))
    return np.mean(found)


@pytest.mark.parametrize(
    ("territory", "leads", "elsewhere"),
    [
        ("anterior", ("V2", "V3"), ("II", "aVF", "V6")),
        ("inferior", ("II", "aVF"), ("V2", "V3", "V4")),
        ("lateral", ("I", "V6"), ("II", "V2")),
    ],
)
def test_infarctions_leave_q_waves_in_their_leads_and_nowhere_else(territory, leads, elsewhere):
    def in_lead(lead):
        return lambda beat, drivers: has_pathological_q(qrs(beat, drivers)[ROW[lead]])

    for lead in leads:
        assert share(in_lead(lead), f"{territory} infarction") >= 0.7, lead
        assert share(in_lead(lead), "none") <= 0.2, lead
    for lead in elsewhere:
        assert share(in_lead(lead), f"{territory} infarction") <= 0.25, lead


@pytest.mark.parametrize(
    ("pattern", "leads"),
    [
        ("anterior infarction", ("V2", "V3")),
        ("inferior infarction", ("III", "aVF")),
        ("lateral infarction", ("I", "V6")),
        ("hypertrophic", ("I", "V6")),
        ("dilated", ("I", "V6")),
        ("pulmonary hypertension", ("V1",)),
    ],
)
def test_t_waves_are_inverted_where_the_pattern_has_it(pattern, leads):
    for lead in leads:

        def inverted(beat, drivers, lead=lead):
            return t_wave(beat, drivers)[ROW[lead]].mean() < 0

        normal = share(inverted, "none")
        assert share(inverted, pattern) >= max(0.6, normal + 0.4 if lead != "V1" else 0.0), lead


def test_dilated_hearts_have_wide_complexes_without_a_septal_q():
    assert share(lambda _, drivers: beat_loops(drivers).qrs_duration > 0.11, "dilated") > 0.9
    assert share(lambda _, drivers: beat_loops(drivers).qrs_duration > 0.11, "none") < 0.05
    severe = calm(0, "dilated", severity=1.0)
    beat = qrs(mean_beat(severe), severe)
    assert beat_loops(severe).qrs_duration > 0.13
    assert beat[ROW["V1"]].max() < 0.15 * -beat[ROW["V1"]].min()
    assert beat[ROW["V6"]].min() > -0.1


def test_a_loaded_right_ventricle_shows_in_v1_and_in_the_axis():
    def tall_in_v1(beat, drivers):
        complex_ = qrs(beat, drivers)[ROW["V1"]]
        return complex_.max() > -complex_.min()

    assert share(tall_in_v1, "pulmonary hypertension") > 0.75
    assert share(tall_in_v1, "none") < 0.05
    right = share(
        lambda beat, drivers: 80 < axis_of(qrs(beat, drivers)) % 360 < 270, "pulmonary hypertension"
    )
    assert right > 0.8


def test_voltages_are_high_in_hypertrophic_and_low_in_restrictive_hearts():
    def voltage(pattern):
        return np.median(
            [np.ptp(qrs(mean_beat(drivers), drivers)[:6]) for drivers in (calm(p, pattern) for p in PERSONS)]
        )

    normal = voltage("none")
    assert voltage("hypertrophic") > 1.4 * normal
    assert voltage("restrictive") < 0.85 * normal


def test_right_bundle_branch_block_has_a_late_r_in_v1_and_a_wide_s_in_v6():
    for patient in PERSONS[:8]:
        drivers = calm(patient, right_block=True)
        complex_ = qrs(mean_beat(drivers), drivers)
        assert beat_loops(drivers).qrs_duration > 0.105
        half = complex_.shape[1] // 2
        assert complex_[ROW["V1"], half:].max() > 0.2
        assert complex_[ROW["V6"], half:].min() < -0.1


def test_unspecific_flat_t_waves_are_flat():
    for patient in PERSONS[:8]:
        usual, flat = (
            t_wave(mean_beat(drivers), drivers)[ROW["V4"]].mean()
            for drivers in (calm(patient), calm(patient, flat_t=True))
        )
        assert usual > 0.08
        assert flat < 0.45 * usual


def test_normal_ecgs_are_normal():
    axes, peaks = [], []
    for patient in PERSONS:
        drivers = calm(patient)
        complex_ = qrs(mean_beat(drivers), drivers)
        axes.append(axis_of(complex_))
        peaks.append([complex_[ROW[lead]].max() for lead in ("II", "V1", "V5")])
    assert np.mean([-30 < axis < 95 for axis in axes]) > 0.9
    second, right, left = np.mean(peaks, axis=0)
    assert 0.6 < second < 1.2  # PTB-XL, normal records: .83 +- .37
    assert 0.1 < right < 0.35  # .20 +- .12
    assert 0.9 < left < 1.7  # 1.25 +- .46


# The recording -----------------------------------------------------------------------------------


def test_only_the_drivers_and_the_stream_decide():
    heart = draw_heart(0, 8)
    twin = draw_heart(0, 8, twin=1)
    assert heart != twin
    first = render_ecg(heart, 3, RATE, rng(1))
    np.testing.assert_array_equal(first, render_ecg(twin, 3, RATE, rng(1)))
    np.testing.assert_array_equal(first, render_ecg(heart.drivers, 3, RATE, rng(1)))
    assert not np.array_equal(first, render_ecg(heart, 3, RATE, rng(2)))


@pytest.mark.parametrize("rate", [100, 250, 500, 1000])
def test_recordings_of_any_rate_show_the_same_heart(rate):
    drivers = calm(6)
    fine = render_ecg(drivers, 10, 1000, rng(3), noise=0.0)
    coarse = render_ecg(drivers, 10, rate, rng(3), noise=0.0)
    assert coarse.shape == (12, 10 * rate)
    assert coarse.dtype == np.float32
    np.testing.assert_allclose(coarse, fine[:, :: 1000 // rate], atol=2e-3)


def test_noise_is_as_strong_as_asked_for_and_leaves_no_lead_out():
    drivers = calm(6)
    clean, usual, strong = (render_ecg(drivers, 10, RATE, rng(3), noise=level) for level in (0, 1, 4))
    noise = (usual - clean).std(axis=1)
    assert (noise > 0.01).all()
    assert (noise < 0.15).all()
    np.testing.assert_allclose((strong - clean), 4 * (usual - clean), atol=1e-5)


def test_noise_has_wander_muscle_and_hum():
    spectra = [signal.periodogram(electrode_noise(5000, RATE, 1.0, rng(seed)), RATE)[1] for seed in range(30)]
    power = np.mean(spectra, axis=0).mean(axis=0)
    frequencies = np.fft.rfftfreq(5000, 1 / RATE)

    def level(low, high):
        return power[(frequencies >= low) & (frequencies < high)].mean()

    assert level(0.1, 0.5) > 100 * level(2, 10)
    assert level(20, 45) > 10 * level(2, 10)
    assert power[np.isclose(frequencies, 50)][0] > 5 * level(40, 45)
    assert power[np.isclose(frequencies, 60)][0] > 5 * level(40, 45)
    assert level(160, 250) < 0.01 * level(20, 45)


def test_every_patient_of_a_population_has_a_plausible_ecg():
    for patient in range(150):
        ecg = render_ecg(draw_heart(2, patient), 4, 250, rng(patient))
        assert np.isfinite(ecg).all()
        assert 0.25 < np.ptp(ecg, axis=1).max() < 7.5


def test_patterns_are_all_drawn():
    shapes = {condition: beat_loops(calm(0, condition)).t.vectors.tobytes() for condition in CONDITIONS}
    assert len(set(shapes.values())) == len(CONDITIONS)


@pytest.mark.parametrize(
    ("duration", "noise", "message"), [(0, 1.0, "no sample"), (5, -0.1, "noise is -0.1")]
)
def test_impossible_recordings_are_refused(duration, noise, message):
    with pytest.raises(ValueError, match=message):
        render_ecg(calm(0), duration, RATE, rng(), noise=noise)
