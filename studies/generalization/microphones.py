"""Both models on their test recordings as other microphones, rooms and devices would have made them.

A microphone is a gain that is smooth over the logarithm of frequency, with knots an octave or less apart,
sampled anew for every session: equipment changes from one session to the next. Heart sounds are filtered as
waveforms and turned into features again; noise and lower sampling rates come from
`systems.ecg_pcg.robustness.corruptions`. Models and onsets are those of the clean recordings.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from common.files import write_table
from config import EvaluationSettings
from datasets.cache import Cache
from datasets.signals import Floats, fill_gaps
from evaluation.comparison import compare
from learning.checkpoint import load_checkpoint
from learning.runs import find_checkpoints
from systems.ecg_pcg.features.ecg_cycle_grid import cycle_grids
from systems.ecg_pcg.robustness.corruptions import Corruption
from systems.ecg_pcg.robustness.evaluate import ChangedCache, CorruptedCache, predict_recordings

KNOTS = np.geomspace(20.0, 1000.0, 8)
"""Frequencies at which a gain is sampled, hertz."""
WORSE: tuple[Corruption, ...] = (
    Corruption("white", "pcg", 10.0),
    Corruption("ambient", "pcg", 10.0),
    Corruption("rub", "pcg", 10.0),
    Corruption("rate", "pcg", 1000.0),
    Corruption("mains-60", "ecg", 10.0),
    Corruption("muscle", "ecg", 10.0),
)


def through(signal: Floats, sampling_rate: float, decibels: float, session: str, seed: int) -> Floats:
    """Return a heart sound through the microphone of a session; gaps are bridged."""
    if not np.isfinite(signal).any():
        return signal
    digest = hashlib.sha256(f"{session}-{seed}".encode()).digest()
    sampled = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=len(KNOTS))
    frequency = np.maximum(fft.rfftfreq(len(signal), 1 / sampling_rate), 1.0)
    gain: NDArray[np.float64] = np.interp(np.log(frequency), np.log(KNOTS), decibels * sampled)
    return fft.irfft(fft.rfft(fill_gaps(signal)) * 10 ** (gain / 20), len(signal))


class FilteredCache(ChangedCache):
    """A cache whose heart sounds went through other microphones, one a session.

    Parameters
    ----------
    cache : Cache
        The clean one; not changed.
    decibels : float
        Standard deviation of the gain at a knot.
    seed : int
        Set of microphones.
    """

    def __init__(self, cache: Cache, decibels: float, *, seed: int = 0) -> None:
        super().__init__(cache, seed=seed)
        self.decibels = decibels

    def changes(self, modality: str) -> bool:
        """Whether the signals are heart sounds."""
        return modality == "pcg"

    def make(self, modality: str) -> list[tuple[Floats, float]]:
        """Return the filtered signal of each recording, and its sampling rate."""
        waveforms = self.clean.waveforms(modality)
        columns = ["session", f"{modality}_offset", f"{modality}_length", f"{modality}_rate"]
        rows = self.clean.table("recordings")[columns].itertuples(index=False, name=None)
        return [
            (through(np.array(waveforms[at : at + size]), rate, self.decibels, session, self.seed), rate)
            for session, at, size, rate in rows
        ]


def score_microphones(
    runs: Sequence[Path],
    cache: Cache,
    path: Path,
    decibels: Sequence[float] = (3.0, 6.0, 10.0),
    draws: int = 2,
) -> pd.DataFrame:
    """Evaluate runs clean, through other microphones and with worse signals; write and return the table.

    Parameters
    ----------
    runs : sequence of pathlib.Path
        Folders of checkpoints, named ``<model>-session-seed<n>``.
    cache : Cache
        The one the runs were trained from.
    path : pathlib.Path
        Of the table: kind, level, draw, and the AUROC of each run. Beside it, ``..._comparisons.csv``: phase
        fusion (first) against the linear model (second) over their seeds, whole sessions resampled.
    decibels : sequence of float
        Standard deviations of the gain.
    draws : int
        Sets of microphones a level.
    """
    settings = EvaluationSettings(device="cpu", bootstrap_draws=0)
    checkpoints = {
        run.name: [load_checkpoint(file) for file in find_checkpoints(run, run.parent, "best")]
        for run in runs
    }
    rows: list[dict[str, object]] = []
    compared: list[dict[str, object]] = []

    cycle_grids(cache)  # computed once; where only the sound is worse, it is taken over

    def evaluate(kind: str, level: float, draw: int, worse: Cache) -> None:
        if worse is not cache and "ecg" not in kind:
            kept = next(cache.path.glob("derived-ecg-cycle-grid-*.npz"))
            shutil.copy(kept, worse.path / kept.name)
        tables: dict[str, list[pd.DataFrame]] = {}
        for name, contents in checkpoints.items():
            predicted = predict_recordings(contents, worse, settings)
            model, seed = name.split("-session-seed")
            tables.setdefault(model, []).append(predicted.assign(seed=int(seed)))
            auroc = float(roc_auc_score(predicted["label"], predicted["probability"]))
            rows.append({"kind": kind, "level": level, "draw": draw, "run": name, "auroc": auroc})
        write_table(path, pd.DataFrame(rows))
        if set(tables) == {"phase-fusion", "linear"}:
            both = (pd.concat(tables[model]) for model in ("phase-fusion", "linear"))
            found = compare(*both, draws=EvaluationSettings.bootstrap_draws).iloc[0]
            shown = {name: found[name] for name in ("first", "second", "difference", "low", "high", "p")}
            compared.append({"kind": kind, "level": level, "draw": draw} | shown)
            write_table(path.with_name(f"{path.stem}_comparisons.csv"), pd.DataFrame(compared))

    evaluate("clean", 0.0, 0, cache)
    for level in tqdm(decibels, desc="Microphones", unit="level"):
        for draw in range(draws):
            with FilteredCache(cache, level, seed=draw) as filtered:
                evaluate("microphone", level, draw, filtered)
    for corruption in tqdm(WORSE, desc="Worse signals", unit="corruption"):
        with CorruptedCache(cache, corruption) as worse:
            evaluate(f"{corruption.kind} on {corruption.signal}", corruption.level, 0, worse)
    return pd.DataFrame(rows)
