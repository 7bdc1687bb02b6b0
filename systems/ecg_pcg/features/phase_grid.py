"""Features of every recording of a cache for linear models, computed once and kept beside the cache.

`spectral.py` says what they are. The parts of them that should tell nothing of the heart, noise late in
diastole and the ECG above 40 Hz, are the recording-condition probe: what a model could learn from the room
and the equipment.
"""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import replacing
from datasets.beats import HeartStates
from datasets.cache import Cache
from datasets.signals import Floats
from systems.ecg_pcg.features.spectral import ECG_EDGES, GRID_SHAPE, PERCENTILES, ecg_band_powers, pcg_grid

VERSION = 1
_PROBE_CELLS, _PROBE_EDGE = 3, 40.0
"""The probe: so many last cells of diastole, and the ECG from here on, hertz."""


@dataclass(frozen=True)
class PhaseGrid:
    """Features of all recordings of a cache, in the order of its table of recordings.

    Attributes
    ----------
    recording : numpy.ndarray of str, shape (N,)
    pcg : numpy.ndarray of float32, shape (N, 2244)
        Grid of the heart sound, a row reshapes to `GRID_SHAPE`; NaN where there is none.
    ecg : numpy.ndarray of float32, shape (N, 13)
        Band powers of the ECG; NaN where there are none.
    has_pcg, has_ecg : numpy.ndarray of bool, shape (N,)
        Whether there are any. The grid needs a heart sound and heart states: beats found by
        R-peaks alone do not say where systole ends.
    """

    recording: NDArray[np.str_]
    pcg: NDArray[np.float32]
    ecg: NDArray[np.float32]
    has_pcg: NDArray[np.bool_]
    has_ecg: NDArray[np.bool_]

    @property
    def probe_pcg(self) -> NDArray[np.float32]:
        """Spectrum of late diastole, its level removed, shape (N, 34): the probe's part of the grid."""
        medians = self.pcg.reshape(-1, *GRID_SHAPE)[:, PERCENTILES.index(50)]
        late = medians[:, -_PROBE_CELLS:].mean(axis=1)
        return late - late.mean(axis=1, keepdims=True)

    @property
    def probe_ecg(self) -> NDArray[np.float32]:
        """Band powers from 40 Hz on, their mean removed, shape (N, 5): the probe's part of the ECG."""
        high = self.ecg[:, ECG_EDGES.index(_PROBE_EDGE) :]
        return high - high.mean(axis=1, keepdims=True)

    def lacking(self) -> str:
        """Say what recordings lack, for the user to read; empty if nothing."""
        counts = {
            "the heart-sound grid (no heart sound, or no heart states)": int((~self.has_pcg).sum()),
            "the ECG bands (no ECG)": int((~self.has_ecg).sum()),
        }
        parts = [f"{count} lack {what}" for what, count in counts.items() if count]
        return f"Of {len(self.recording)} recordings {' and '.join(parts)}." if parts else ""


def phase_grid(cache: Cache, jobs: int = -1, *, progress: bool = True) -> PhaseGrid:
    """Return the features of a cache's recordings, computed once and kept in a file in its folder.

    Parameters
    ----------
    cache : Cache
    jobs : int
        Processes; -1: one a core.
    progress : bool
        Whether to show a bar.
    """
    recordings = cache.table("recordings")
    path = cache.path / f"derived-phase-grid-v{VERSION}.npz"
    kept = _read(path)
    if kept is not None and np.array_equal(kept.recording, recordings["recording"].to_numpy(str)):
        return kept
    grid = _compute(cache, recordings, jobs, progress)
    with contextlib.suppress(OSError), replacing(path) as temporary:  # a cache may be on a read-only disk
        np.savez(temporary, **{field.name: getattr(grid, field.name) for field in fields(grid)})
    return grid


def _read(path: Path) -> PhaseGrid | None:
    """Return the features of a file; None if it is absent or damaged, as it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return PhaseGrid(**{field.name: content[field.name] for field in fields(PhaseGrid)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _compute(cache: Cache, recordings: pd.DataFrame, jobs: int, progress: bool) -> PhaseGrid:
    """Compute the features of all recordings of a cache."""
    waveforms = {kind: cache.waveforms(kind) for kind in ("pcg", "ecg")}
    nothing = HeartStates(np.zeros(0), np.zeros(0, dtype=str))
    states = {
        str(name): HeartStates(rows["time"].to_numpy(float), rows["state"].to_numpy(str))
        for name, rows in cache.table("events").groupby("recording", sort=False)
    }

    def signal(row: dict[str, object], kind: str) -> tuple[NDArray[np.float32], float]:
        start, length = (int(str(row[f"{kind}_{fact}"])) for fact in ("offset", "length"))
        return np.array(waveforms[kind][start : start + length]), float(str(row[f"{kind}_rate"]))

    made = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_features)(
            *signal(row, "pcg"), *signal(row, "ecg"), states.get(row["recording"], nothing)
        )
        for row in recordings.to_dict("records")
    )
    bar = tqdm(made, total=len(recordings), desc="Phase grid", unit="recording", disable=not progress)
    pcg, ecg = (np.stack(rows) for rows in zip(*bar, strict=True))
    has_pcg, has_ecg = (np.asarray(np.isfinite(values).all(axis=1)) for values in (pcg, ecg))
    return PhaseGrid(recordings["recording"].to_numpy(str), pcg, ecg, has_pcg, has_ecg)


def _features(
    pcg: Floats, pcg_rate: float, ecg: Floats, ecg_rate: float, states: HeartStates
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the two rows of one recording."""
    rows = pcg_grid(pcg, pcg_rate, states), ecg_band_powers(ecg, ecg_rate)
    return rows[0].astype(np.float32), rows[1].astype(np.float32)
