"""The grid puts power where in the cycle and how high it is, in slow hearts and in fast ones."""

import numpy as np
import pytest

from datasets.cache import Cache
from systems.ecg_pcg.features.ecg_cycle_grid import BANDS, SHAPE, cycle_grids, ecg_cycle_grid
from systems.ecg_pcg.features.spectral import CELLS

BIN = 500 / 128


def ecg(interval=1.0, tone=40.0, part=(0.5, 0.7), duration=20.0, rate=500.0, every=1):
    """Return QRS complexes and a tone in one part of every cycle, or of every so many-th."""
    time = np.arange(int(duration * rate)) / rate
    signal = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    peaks = np.arange(0.5, duration, interval)
    for number, peak in enumerate(peaks):
        signal += np.exp(-(((time - peak) / 0.012) ** 2))
        share = (time - peak) / interval
        inside = (share >= part[0]) & (share < part[1]) & (number % every == 0)
        signal += 0.2 * np.where(inside, np.sin(2 * np.pi * tone * time), 0.0)
    return signal


@pytest.mark.parametrize("interval", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("rate", [250.0, 500.0, 2000.0])
def test_a_tone_lies_in_its_band_and_its_part_of_the_cycle_at_any_heart_rate(interval, rate):
    grid = ecg_cycle_grid(ecg(interval, rate=rate), rate).reshape(SHAPE)[1]
    band = round(40.0 / BIN)
    inside = grid[int(0.55 * CELLS) : int(0.65 * CELLS), band].mean()
    outside = grid[int(0.25 * CELLS) : int(0.35 * CELLS), band].mean()
    assert inside > outside + 1.5
    assert grid[int(0.6 * CELLS), band] == grid[int(0.6 * CELLS), 5:].max()
    assert grid[0, :8].mean() > grid[int(0.3 * CELLS), :8].mean() + 1  # the QRS complex


def test_percentiles_tell_what_is_in_all_beats_from_what_is_in_some():
    grid = ecg_cycle_grid(ecg(every=3), 500.0).reshape(SHAPE)
    cell, band = int(0.6 * CELLS), round(40.0 / BIN)
    assert grid[2, cell, band] > grid[0, cell, band] + 1
    always = ecg_cycle_grid(ecg(), 500.0).reshape(SHAPE)
    assert always[2, cell, band] < always[0, cell, band] + 0.5


def test_amplitude_and_offset_do_not_matter_and_gaps_are_bridged():
    signal = ecg()
    expected = ecg_cycle_grid(signal, 500.0)
    assert ecg_cycle_grid(3.0 * signal + 5.0, 500.0) == pytest.approx(expected, abs=0.05)
    signal[4000:4010] = np.nan
    assert np.isfinite(ecg_cycle_grid(signal, 500.0)).all()


@pytest.mark.parametrize(
    "signal",
    [np.zeros(0), np.zeros(5000), np.full(5000, np.nan), ecg(duration=1.5), ecg(interval=2.4, duration=6.0)],
    ids=["none", "flat", "gaps", "short", "two beats"],
)
def test_without_beats_there_is_no_grid(signal):
    grid = ecg_cycle_grid(signal, 500.0)
    assert grid.shape == (3 * CELLS * BANDS,)
    assert np.isnan(grid).all()


def test_grids_of_a_cache_are_kept_and_made_again_when_damaged(simulated_cache, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    for path in simulated_cache.path.iterdir():
        if "derived" not in path.name:
            (folder / path.name).symlink_to(path)
    cache = Cache(folder)
    made = cycle_grids(cache, jobs=1, progress=False)
    recordings = cache.table("recordings")
    assert made.shape == (len(recordings), 3 * CELLS * BANDS)
    row = recordings.iloc[2]
    start, length = int(row["ecg_offset"]), int(row["ecg_length"])
    signal = np.array(cache.waveforms("ecg")[start : start + length])
    assert made[2] == pytest.approx(ecg_cycle_grid(signal, row["ecg_rate"]).astype(np.float32), nan_ok=True)
    kept = folder / "derived-ecg-cycle-grid-v1.npz"
    kept.write_bytes(b"damaged")
    assert np.array_equal(cycle_grids(cache, jobs=1, progress=False), made, equal_nan=True)
    monkeypatch.setattr(
        "systems.ecg_pcg.features.ecg_cycle_grid.ecg_cycle_grid", lambda *_: pytest.fail("computed again")
    )
    assert np.array_equal(cycle_grids(cache, jobs=1, progress=False), made, equal_nan=True)
