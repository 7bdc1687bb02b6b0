"""The grid puts power where the heart put it, and real recordings give the published floor."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from datasets.beats import HeartStates
from datasets.cache import FORMAT, Cache
from systems.ecg_pcg.features import phase_grid as module
from systems.ecg_pcg.features.phase_grid import PhaseGrid, phase_grid
from systems.ecg_pcg.features.spectral import (
    BAND_EDGES,
    BANDS,
    CELLS,
    ECG_BANDS,
    ECG_EDGES,
    GRID_SHAPE,
    RATE,
    cell_edges,
    ecg_band_powers,
    pcg_grid,
    remove_spikes,
)
from systems.ecg_pcg.linear.fit import out_of_fold_log_odds
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016

STATES = ("S1", "systole", "S2", "diastole")
LENGTHS = (0.15, 0.42, 0.15, 0.6)
SYSTOLE = range(3, 9)


def states_of(lengths, start=0.3):
    """Return the states of consecutive beats, each row the lengths of its four states, and the next S1."""
    lengths = np.asarray(lengths, dtype=float)
    times = start + np.concatenate([[0.0], np.cumsum(lengths)])
    return HeartStates(times, np.array([*(STATES * len(lengths)), "S1"]))


def sound(states, frequency=400.0, part=(1 / 3, 2 / 3), rate=RATE, seed=0):
    """Return weak noise, first and second sounds at 40 Hz, and a tone in one part (from, to) of systole."""
    count = int((states.time[-1] + 0.4) * rate)
    time = np.arange(count) / rate
    signal = 0.002 * np.random.default_rng(seed).standard_normal(count)
    for row, state in enumerate(states.state[:-1]):
        start, end = states.time[row : row + 2]
        if state in ("S1", "S2"):
            envelope = np.exp(-(((time - (start + end) / 2) / 0.03) ** 2))
            signal += 0.8 * envelope * np.sin(2 * np.pi * 40 * time)
        if state == "systole":
            inside = (time >= start + part[0] * (end - start)) & (time < start + part[1] * (end - start))
            signal[inside] += np.sin(2 * np.pi * frequency * time[inside])
    return signal


def median_grid(signal, states, rate=RATE):
    return pcg_grid(signal, rate, states).reshape(GRID_SHAPE)[1]


@pytest.mark.parametrize(("frequency", "edges"), [(400.0, (47, 52)), (101.6, (13, 14)), (800.0, (96, 112))])
def test_a_tone_in_mid_systole_lights_up_its_band_and_its_cells(frequency, edges):
    states = states_of([LENGTHS] * 10)
    grid = median_grid(sound(states, frequency), states)
    band = grid[SYSTOLE[2]].argmax()
    assert (BAND_EDGES[band], BAND_EDGES[band + 1]) == edges
    assert set(np.argsort(grid[:, band])[-2:]) == {SYSTOLE[2], SYSTOLE[3]}
    assert (grid[SYSTOLE[2], band] - grid[CELLS - 7 :, band]).min() > 3  # 30 dB over late diastole


def test_stretched_beats_leave_the_cells_in_place():
    factors = np.random.default_rng(1).uniform(0.8, 1.6, (12, 4))
    steady, uneven = states_of([LENGTHS] * 12), states_of(LENGTHS * factors)
    grids = [median_grid(sound(states, part=(1 / 2, 2 / 3)), states) for states in (steady, uneven)]
    profiles = [grid[:, BAND_EDGES.index(47)] for grid in grids]
    assert [profile.argmax() for profile in profiles] == [SYSTOLE[3], SYSTOLE[3]]
    assert np.corrcoef(profiles)[0, 1] > 0.97


def test_the_lowest_percentile_forgets_a_sound_of_some_beats():
    states = states_of([LENGTHS] * 10)
    signal, silent = sound(states), sound(states, part=(0, 0))
    signal[len(signal) // 2 :] = silent[len(signal) // 2 :]
    low, _, high = pcg_grid(signal, RATE, states).reshape(GRID_SHAPE)[:, SYSTOLE[2], BAND_EDGES.index(47)]
    assert high - low > 2


@pytest.mark.parametrize("rate", [4000.0, 44100.0, 2000.0])
def test_rate_unit_and_short_gaps_do_not_matter(rate):
    states = states_of([LENGTHS] * 10)
    reference = median_grid(sound(states, 200.0), states)
    other = 700.0 * sound(states, 200.0, rate=rate, seed=3)
    other[int(1.0 * rate) : int(1.001 * rate)] = np.nan
    grid = median_grid(other, states, rate)
    assert np.isfinite(grid).all()
    lit = np.ix_(SYSTOLE[1:5], [BAND_EDGES.index(24)])  # 187.5 to 203.1 Hz
    np.testing.assert_allclose(grid[lit], reference[lit], atol=0.02)


def test_cell_edges_are_those_worked_out_by_hand():
    states = HeartStates(
        np.array([0.0, 1.0, 1.3, 1.9, 2.2, 3.2, 3.5]),
        np.array(["diastole", "S1", "systole", "S2", "diastole", "S1", "systole"]),
    )
    expected = [*(1, 1.1, 1.2), *np.arange(1.3, 1.85, 0.1), *(1.9, 2, 2.1), *np.arange(2.2, 3.25, 0.1)]
    np.testing.assert_allclose(cell_edges(states, 5.0), [expected])
    assert len(cell_edges(states, 3.1)) == 0, "the beat ends after the recording"


@pytest.mark.parametrize(
    "names",
    [
        ["S1", "systole", "(N", "N)", "diastole", "S1"],
        ["S1", "systole", "diastole", "S1"],
        ["S1", "S2", "systole", "diastole", "S1"],
        ["S1", "systole", "S2", "diastole"],
    ],
)
def test_a_beat_that_is_not_complete_has_no_cells(names):
    states = HeartStates(0.3 * np.arange(len(names), dtype=np.float64), np.array(names))
    assert cell_edges(states, 60.0).shape == (0, CELLS + 1)


def test_a_spike_is_removed_and_the_first_sound_stays():
    time = np.arange(int(8 * RATE)) / RATE
    heart = np.sin(2 * np.pi * 50 * time) * np.exp(-((((time % 1.0) - 0.2) / 0.04) ** 2)) + 1e-3
    heart += 0.1 * np.sin(2 * np.pi * 37 * time)
    spiky = heart.copy()
    spike = slice(int(3.61 * RATE), int(3.615 * RATE))
    spiky[spike] += 30.0
    clean = remove_spikes(spiky, RATE)
    assert not clean[spike].any()
    changed = np.flatnonzero(clean != spiky)
    assert spike.start - 60 < changed.min() < changed.max() < spike.stop + 60
    first_sound = slice(int(3.1 * RATE), int(3.3 * RATE))
    np.testing.assert_array_equal(clean[first_sound], heart[first_sound])


def test_a_spike_does_not_reach_the_grid():
    states = states_of([LENGTHS] * 10)
    signal = sound(states)
    spiky = signal.copy()
    spiky[int(5.0 * RATE) :][:10] += 50.0
    lit = np.ix_(SYSTOLE[1:5], [BAND_EDGES.index(47)])
    np.testing.assert_allclose(median_grid(spiky, states)[lit], median_grid(signal, states)[lit], atol=0.05)


@pytest.mark.parametrize("signal", [np.sin(np.arange(5300)), np.eye(1, 9000)[0], np.zeros(2500)])
def test_what_has_no_spike_or_no_usual_peak_stays(signal):
    before = signal.copy()
    np.testing.assert_array_equal(remove_spikes(signal, RATE), before)
    np.testing.assert_array_equal(signal, before)


@pytest.mark.parametrize("rate", [2000.0, 1000.0])
def test_the_band_powers_of_a_sine_are_those_worked_out_by_hand(rate):
    # variance 1 lies in one band: density, summed over bins of 0.5 Hz, is 1; band 4-6 Hz has four bins
    sine = 5.0 * np.sin(2 * np.pi * 5.0 * np.arange(int(20 * rate)) / rate)
    powers = ecg_band_powers(sine, rate)
    assert powers[ECG_EDGES.index(4.0)] == pytest.approx(np.log10(1 / 0.5 / 4), abs=0.02)
    assert powers.argmax() == ECG_EDGES.index(4.0)


def test_mains_is_found_in_the_band_of_fifty_hertz():
    time = np.arange(int(20 * RATE)) / RATE
    ecg = np.sin(2 * np.pi * 50 * time) + 0.1 * np.random.default_rng(0).standard_normal(len(time))
    assert ecg_band_powers(ecg, RATE).argmax() == ECG_EDGES.index(48.0)


@pytest.mark.parametrize(
    "ecg", [np.zeros(0), np.zeros(9000), np.full(9000, 0.3), np.full(9000, np.nan), np.sin(np.arange(3000))]
)
def test_an_ecg_that_is_absent_flat_or_short_has_no_bands(ecg):
    assert np.isnan(ecg_band_powers(ecg, RATE)).all()


@pytest.mark.parametrize("pcg", [np.zeros(0), np.zeros(40000), np.full(40000, np.nan)])
def test_a_heart_sound_that_is_absent_or_flat_has_no_grid(pcg):
    assert np.isnan(pcg_grid(pcg, RATE, states_of([LENGTHS] * 4))).all()


def write_cache(folder, recordings):
    """Write the parts of a cache that the grid reads; a recording is (pcg, ecg, states), None if absent."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT}))
    table = pd.DataFrame({"recording": list(recordings)})
    for place, kind in enumerate(("pcg", "ecg")):
        waves = [np.zeros(0) if item[place] is None else item[place] for item in recordings.values()]
        lengths = np.array([len(wave) for wave in waves])
        table[f"{kind}_offset"], table[f"{kind}_length"] = np.cumsum(lengths) - lengths, lengths
        table[f"{kind}_rate"] = np.where(lengths > 0, RATE, 0.0)
        np.save(folder / f"waveforms_{kind}.npy", np.concatenate(waves).astype(np.float32))
    table.to_csv(folder / "recordings.csv", index=False)
    events = [
        pd.DataFrame({"recording": name, "time": states.time, "state": states.state})
        for name, (*_, states) in recordings.items()
        if states is not None
    ]
    pd.concat(events).to_csv(folder / "events.csv", index=False)
    return Cache(folder)


@pytest.fixture
def mixed(tmp_path):
    states = states_of([LENGTHS] * 3)
    pcg, ecg = sound(states), np.random.default_rng(5).standard_normal(12000)
    return write_cache(
        tmp_path / "mixed",
        {
            "0001": (pcg, ecg, states),
            "0002": (pcg, None, states),
            "0003": (pcg, ecg, None),
            "0004": (None, ecg, states),
        },
    )


def test_what_a_recording_lacks_is_marked_and_said(mixed):
    grid = phase_grid(mixed, jobs=1, progress=False)
    assert grid.recording.tolist() == ["0001", "0002", "0003", "0004"]
    assert grid.has_pcg.tolist() == [True, True, False, False]
    assert grid.has_ecg.tolist() == [True, False, True, True]
    for values, has in ((grid.pcg, grid.has_pcg), (grid.ecg, grid.has_ecg)):
        assert np.isfinite(values[has]).all()
        assert np.isnan(values[~has]).all()
    np.testing.assert_array_equal(grid.pcg[0], grid.pcg[1])
    assert grid.lacking().startswith("Of 4 recordings 2 lack the heart-sound grid")
    assert "1 lack the ECG bands" in grid.lacking()


def test_a_cache_without_any_ecg_has_grids_all_the_same(tmp_path):
    states = states_of([LENGTHS] * 3)
    grid = phase_grid(write_cache(tmp_path / "pcg", {"b1": (sound(states), None, states)}), 1, progress=False)
    assert grid.has_pcg.all()
    assert not grid.has_ecg.any()


def test_features_are_computed_once_and_again_where_the_file_is_damaged(mixed, monkeypatch):
    first = phase_grid(mixed, jobs=1, progress=False)
    files = [path for path in mixed.path.iterdir() if path.name.startswith("derived")]
    assert [path.name for path in files] == [f"derived-phase-grid-v{module.VERSION}.npz"]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_compute", None)  # not called
        np.testing.assert_array_equal(phase_grid(mixed, jobs=1, progress=False).pcg, first.pcg)
    files[0].write_bytes(files[0].read_bytes()[:5000])
    np.testing.assert_array_equal(phase_grid(mixed, jobs=1, progress=False).ecg, first.ecg)
    assert module._read(files[0]) is not None, "the damaged file is replaced"


def test_features_of_two_processes_are_those_of_one(mixed):
    one, other = (module._compute(mixed, mixed.table("recordings"), jobs, False) for jobs in (1, 2))
    np.testing.assert_array_equal(one.pcg, other.pcg)
    np.testing.assert_array_equal(one.ecg, other.ecg)


def test_the_probe_is_the_part_of_the_features_worked_out_by_hand():
    pcg = np.zeros((1, *GRID_SHAPE), dtype=np.float32)
    pcg[0, 0], pcg[0, 2] = 7.0, 9.0  # other percentiles do not count
    pcg[0, 1, : CELLS - 3] = 5.0  # nor do earlier cells
    pcg[0, 1, CELLS - 3 :, 0] = (34.0, 68.0, 102.0)
    ecg = np.array([[100.0] * 8 + [1.0, 2.0, 3.0, 4.0, 5.0]], dtype=np.float32)
    grid = PhaseGrid(np.array(["a"]), pcg.reshape(1, -1), ecg, np.array([True]), np.array([True]))
    assert (BANDS, ECG_BANDS, grid.pcg.shape[1]) == (34, 13, 2244)
    np.testing.assert_allclose(grid.probe_pcg, [[66.0] + [-2.0] * 33])
    np.testing.assert_allclose(grid.probe_ecg, [[-2.0, -1.0, 0.0, 1.0, 2.0]])


@pytest.mark.skipif("PHYSIONET2016_DIR" not in os.environ, reason="PHYSIONET2016_DIR is not set")
def test_training_a_gives_the_published_floor(tmp_path):
    index = index_physionet2016(Path(os.environ["PHYSIONET2016_DIR"]), ("a",))
    settings = PreparationSettings(beat_points=10)  # the beats are not used
    cache = Cache(RecordingCache(index, settings).build(tmp_path, jobs=1, progress=False))
    grid = phase_grid(cache, jobs=1, progress=False)
    recordings = cache.table("recordings")
    labels, sessions = recordings["label"].to_numpy(), recordings["session"].to_numpy()
    assert (len(labels), grid.has_pcg.all(), grid.has_ecg.all()) == (388, True, True)
    features = {"pcg": grid.pcg, "ecg": grid.ecg}
    probe = {"pcg": grid.probe_pcg, "ecg": grid.probe_ecg}
    found = []
    for seed in range(5):
        alone = [{name: values} for name, values in features.items()]
        pcg, ecg = (out_of_fold_log_odds(one, labels, sessions, seed=seed) for one in alone)
        both = out_of_fold_log_odds(features, labels, sessions, seed=seed)
        np.testing.assert_allclose(both, pcg + ecg)
        conditions = out_of_fold_log_odds(probe, labels, sessions, seed=seed)
        found.append([roc_auc_score(labels, log_odds) for log_odds in (pcg, ecg, both, conditions)])
    np.testing.assert_allclose(np.mean(found, axis=0), [0.853, 0.817, 0.900, 0.821], atol=0.01)
