"""Robustness of a trained run of ``ecg-pcg``: its scores on the same recordings, corrupted.

Each fold's model predicts its own test part only, as without corruption. Signals are corrupted before
preparation: the continuous waveforms of the cache are changed (`systems.ecg_pcg.robustness.corruptions`),
conditioned and cut again as `systems.ecg_pcg.sources.beats_of_recording` does it, and for the linear model
turned into features again. The heart-state onsets stay those of the clean recordings, so the robustness of a
model is measured, not that of a segmentation. Nothing of the cache on disk is changed.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from common.command_line import from_plain
from common.errors import UserError
from common.files import write_json, write_table
from config import EvaluationSettings
from datasets.cache import Cache
from datasets.signals import Floats
from datasets.splits import ALL
from evaluation.report import watermarked
from evaluation.scores import aggregate
from evaluation.statistics import (
    Interval,
    cluster_bootstrap,
    grouped_cluster_bootstrap,
    grouped_paired_bootstrap,
    paired_cluster_bootstrap,
)
from learning.checkpoint import Checkpoint
from systems.base.evaluation_run import EvaluationRun, predict_folds
from systems.ecg_pcg.robustness.corruptions import (
    CLEAN,
    KINDS,
    Corruption,
    corrupt,
    corruptions,
    prepare_beats,
)
from systems.ecg_pcg.robustness.figure import stress_figure
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import MODALITIES

TABLE, _ORIGIN = "stress.csv", "stress.json"
"""The table of a run, and what it was made from: rows are used again where that is the same."""
_KEY = ["kind", "signal", "level"]
_COLUMNS = [*_KEY, "unit", "recordings", "sessions"]
_COLUMNS += ["auroc", "low", "high", "change", "change_low", "change_high"]


class ChangedCache(Cache):
    """A cache whose signals were changed, held in memory; close it, or use it in a ``with`` block.

    Its identity and its samples are those of the clean cache. Its ``path`` is a temporary folder, so that
    features derived from it are kept apart from those of the clean one, and are gone with it. A subclass
    defines which signals it changes, and makes them; everything else is made from them on demand.

    Parameters
    ----------
    cache : Cache
        The clean one; not changed.
    seed : int
        Seed of what is random.
    jobs : int
        Processes over recordings; -1: one a core. What is made does not depend on it.
    """

    def __init__(self, cache: Cache, *, seed: int = 0, jobs: int = 1) -> None:
        self.clean, self.seed, self.jobs = cache, seed, jobs
        self.manifest = cache.manifest
        self._folder = tempfile.TemporaryDirectory(prefix="corrupted-cache-")
        self.path = Path(self._folder.name)
        self._signals: dict[str, list[tuple[Floats, float]]] = {}
        self._beats: dict[str, NDArray[np.float32]] = {}

    def changes(self, modality: str) -> bool:
        """Whether the signals of "ecg" or "pcg" are changed."""
        raise NotImplementedError

    def make(self, modality: str) -> list[tuple[Floats, float]]:
        """Return the changed signal of each recording, and its sampling rate."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete what was derived from the changed signals."""
        self._folder.cleanup()

    def table(self, name: str, missing: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table of the cache; in recordings are rate, length and offset of the changed signals."""
        table = self.clean.table(name, missing)
        if name == "recordings":
            for modality in MODALITIES:
                if self.changes(modality):
                    table = table.assign(**self._layout(modality))
        return table

    def array(self, name: str) -> NDArray[Any]:
        """Return an array of the cache; beats and waveforms made from the changed signals."""
        what, _, modality = name.partition("_")
        if what not in ("beats", "waveforms") or not self.changes(modality):
            return self.clean.array(name)
        if what == "waveforms":
            return np.concatenate([signal for signal, _ in self._changed(modality)], dtype=np.float32)
        if modality not in self._beats:
            self._beats[modality] = self._cut(modality)
        return self._beats[modality]

    def _changed(self, modality: str) -> list[tuple[Floats, float]]:
        """Return signal and sampling rate of each recording, made once and kept."""
        if modality not in self._signals:
            self._signals[modality] = self.make(modality)
        return self._signals[modality]

    def _layout(self, modality: str) -> dict[str, NDArray[Any]]:
        """Return the columns of the table of recordings that say where the changed signals are."""
        lengths = np.array([len(signal) for signal, _ in self._changed(modality)])
        rates = np.array([rate for _, rate in self._changed(modality)])
        offsets = np.cumsum(lengths) - lengths
        return {
            f"{modality}_length": lengths,
            f"{modality}_rate": rates,
            f"{modality}_offset": offsets,
        }

    def _cut(self, modality: str) -> NDArray[np.float32]:
        """Return the beats of the changed signals, at the spans of the clean ones."""
        settings = from_plain(PreparationSettings, self.manifest["settings"])
        samples, names = self.clean.table("samples"), self.clean.table("recordings")["recording"]
        rows = samples.groupby("recording", sort=False).indices
        spans = samples[["start", "end"]].to_numpy(float)
        signals = {
            name: signal
            for name, signal in zip(names, self._changed(modality), strict=True)
            if name in rows and np.isfinite(signal[0]).any()
        }
        cut = joblib.Parallel(n_jobs=self.jobs, return_as="generator")(
            joblib.delayed(prepare_beats)(*signal, modality, spans[rows[name]], settings)
            for name, signal in signals.items()
        )
        beats = np.zeros((len(samples), settings.beat_points), dtype=np.float32)
        for name, of_recording in zip(signals, cut, strict=True):
            beats[rows[name]] = of_recording
        return beats


class CorruptedCache(ChangedCache):
    """A cache whose signals are corrupted.

    Parameters
    ----------
    cache : Cache
        The clean one; not changed.
    corruption : Corruption
        What is done to its waveforms.
    seed, jobs : int
        See `ChangedCache`.
    """

    def __init__(self, cache: Cache, corruption: Corruption, *, seed: int = 0, jobs: int = 1) -> None:
        super().__init__(cache, seed=seed, jobs=jobs)
        self.corruption = corruption

    def changes(self, modality: str) -> bool:
        """Whether the signals of "ecg" or "pcg" are corrupted."""
        return self.corruption.change(modality) is not None

    def make(self, modality: str) -> list[tuple[Floats, float]]:
        """Return the corrupted signal of each recording, and its sampling rate."""
        waveforms = self.clean.waveforms(modality)
        metadata = ["recording", f"{modality}_offset", f"{modality}_length", f"{modality}_rate"]
        rows = self.clean.table("recordings")[metadata].itertuples(index=False, name=None)
        return joblib.Parallel(n_jobs=self.jobs)(
            joblib.delayed(corrupt)(
                np.array(waveforms[offset : offset + length]),
                float(rate),
                modality,
                self.corruption,
                name,
                self.seed,
            )
            for name, offset, length, rate in rows
        )


def evaluate(run: EvaluationRun) -> pd.DataFrame:
    """Evaluate a run on corrupted recordings, write each row as soon as it is there, and print the table.

    Rows that an earlier call wrote are used again, if it was about the same checkpoints and settings.
    """
    table, origin = run.folder / TABLE, run.folder / _ORIGIN
    if _earlier(run) is None:
        table.unlink(missing_ok=True)
        write_json(origin, _made_from(run))
    elif table.exists():
        print(f"{len(read_rows(table))} rows of {table} are used again: delete it to compute them anew.")
    found = robustness_table(run.checkpoints, run.cache, run.settings, path=table)
    print(found.to_string(index=False, float_format="{:.3f}".format))
    return found


def results(run: EvaluationRun) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """Return table and figure of a run under corruption, by name, for its report; none until all is done."""
    table, planned = _earlier(run), 1 + len(corruptions())
    if table is None or len(table) < planned:
        path = run.folder / TABLE
        why = (
            "is of other checkpoints or settings" if table is None else f"has {len(table)} of {planned} rows"
        )
        print(f"{path} {why}, so the report leaves it out: --stress completes it.")
        return {}, {}
    shown = table.assign(model=run.checkpoints[0]["run"], seeds=1)
    return {"stress": table}, {"stress": stress_figure(shown, watermarked(run.protocol, run.watermark))}


def _made_from(run: EvaluationRun) -> dict[str, Any]:
    """Return what decides the rows of a run, in plain types."""
    settings = run.settings
    return {
        "checkpoints": run.metadata["checkpoints"],
        "without": settings.without,
        "bootstrap_draws": settings.bootstrap_draws,
    }


def _earlier(run: EvaluationRun) -> pd.DataFrame | None:
    """Return the rows of this run that are there, perhaps none; None where they are of something else."""
    origin = run.folder / _ORIGIN
    try:
        same = json.loads(origin.read_text(encoding="utf-8")) == _made_from(run)
    except (OSError, ValueError):
        return None
    return read_rows(run.folder / TABLE) if same else None


def read_rows(path: Path) -> pd.DataFrame:
    """Return a table as `robustness_table` writes it; empty if there is none yet."""
    if not path.is_file():
        return pd.DataFrame(columns=_COLUMNS)
    table = pd.read_csv(path, dtype={"kind": str, "signal": str, "unit": str, "level": float})
    return table[_COLUMNS].fillna({"signal": "", "unit": ""})


def robustness_table(
    checkpoints: Sequence[Checkpoint],
    cache: Cache,
    settings: EvaluationSettings,
    chosen: Sequence[Corruption] | None = None,
    *,
    seed: int = 0,
    jobs: int = 1,
    path: Path | None = None,
) -> pd.DataFrame:
    """Score a trained run on its clean test parts, then on them under each corruption.

    Parameters
    ----------
    checkpoints : sequence of dict
        The folds of one run; each model predicts its own test part.
    cache : Cache
        The one the run was trained from.
    settings : EvaluationSettings
        Device, batch size, what is hidden, draws of the bootstrap.
    chosen : sequence of Corruption, optional
        Default: all of `systems.ecg_pcg.robustness.corruptions.corruptions`.
    seed : int
        Seed of noise and of the draws.
    jobs : int
        Processes over recordings; -1: one a core.
    path : pathlib.Path, optional
        File that is written after each row, and whose rows are not computed again.

    Returns
    -------
    pandas.DataFrame
        One row a corruption as `robustness_row` makes it, the first one ``clean``.
    """
    clean = predict_recordings(checkpoints, cache, settings)
    done = {} if path is None else {_key(row): row for row in read_rows(path).to_dict("records")}
    planned = [None, *(corruptions() if chosen is None else chosen)]
    keys = [(CLEAN,) if corruption is None else _key(vars(corruption)) for corruption in planned]
    for key, corruption in tqdm(list(zip(keys, planned, strict=True)), desc="Stress", unit="corruption"):
        if key in done:
            continue
        found = clean
        if corruption is not None:
            with CorruptedCache(cache, corruption, seed=seed, jobs=jobs) as corrupted:
                found = predict_recordings(checkpoints, corrupted, settings)
        done[key] = robustness_row(corruption, found, clean, settings.bootstrap_draws, seed)
        if path is not None:
            write_table(path, pd.DataFrame(list(done.values())))
    return pd.DataFrame([done[key] for key in keys])


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from others."""
    return (CLEAN,) if row["kind"] == CLEAN else tuple(row[name] for name in _KEY)


def predict_recordings(
    checkpoints: Sequence[Checkpoint], cache: Cache, settings: EvaluationSettings
) -> pd.DataFrame:
    """Return the predictions of each fold's model on its own test part, one row a recording.

    Raises
    ------
    UserError
        If the run was trained from another cache, or on everything.
    """
    for checkpoint in checkpoints:
        if checkpoint["cache"]["identity"] != cache.identity:
            raise UserError(
                f"Run {checkpoint['run']} was not trained from this cache (identity {cache.identity[:8]}): "
                "robustness is tested on the one it was trained from."
            )
        if checkpoint["fold"] == ALL:
            raise UserError(
                f"Run {checkpoint['run']} is a final fit on everything and has no test part: "
                "train its folds, without --folds none."
            )
    return aggregate(predict_folds(EvaluationRun(list(checkpoints), cache, settings)), "recording")


def robustness_row(
    corruption: Corruption | None, corrupted: pd.DataFrame, clean: pd.DataFrame, draws: int, seed: int = 0
) -> dict[str, Any]:
    """Return the scores of a run under one corruption.

    Parameters
    ----------
    corruption : Corruption or None
        None: clean.
    corrupted, clean : pandas.DataFrame
        From `predict_recordings`, of the same recordings.
    draws, seed : int
        Of the session-clustered bootstrap; 0 draws: no intervals.

    Returns
    -------
    dict
        Under protocol ``database`` the AUROC is the mean over databases, sessions drawn within each.
        ``kind``, ``signal``, ``level``, ``unit``; ``recordings``, ``sessions``; ``auroc`` per recording
        with its 95 % interval ``low``, ``high``; ``change`` from clean with its paired 95 % interval
        ``change_low``, ``change_high``.
    """
    row: dict[str, Any] = {"kind": CLEAN, "signal": "", "level": np.nan, "unit": ""}
    if corruption is not None:
        row = dataclasses.asdict(corruption) | {"unit": KINDS[corruption.kind].unit}
    auroc: Interval
    if "database" in clean:
        of_clean = dict(iter(clean.groupby("database")))
        groups = {str(name): rows for name, rows in corrupted.groupby("database")}
        _, auroc = grouped_cluster_bootstrap(groups, draws=draws, seed=seed)
        pairs = {name: (rows, of_clean[name]) for name, rows in groups.items()}
        change = grouped_paired_bootstrap(pairs, draws=draws, seed=seed)
    else:
        auroc = cluster_bootstrap(corrupted, draws=draws, seed=seed)
        change = paired_cluster_bootstrap(corrupted, clean, draws=draws, seed=seed)
    return row | {
        "recordings": len(corrupted),
        "sessions": corrupted["session"].nunique(),
        "auroc": auroc.estimate,
        "low": auroc.low,
        "high": auroc.high,
        "change": change.estimate,
        "change_low": change.low,
        "change_high": change.high,
    }
