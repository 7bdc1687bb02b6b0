"""Make the small model that comes with the code, calibrate it, and measure what to expect of it.

    python training.py --model linear --folds none --run-name ecg_pcg_linear
    python -m studies.shipped_model

The first command fits the linear model, the best of the honest benchmark under ``session``, on all sessions
of training-a. The second estimates, with a session-level split, the prediction for a recording without
annotated heart states. In each fold the model is fitted on annotated recordings of the other sessions, and
predicts recordings whose states were found by a segmentation that was fitted on other sessions too. From
these predictions come the table of scores and the calibration: an intercept and a slope of the log-odds for
each input, both classes weighing the same, where these improve the predictions of other sessions.

Writes models/weights/ecg_pcg_linear.pt and results/benchmarks/shipped_model.csv. Two minutes on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.command_line import read_settings
from common.errors import UserError
from common.files import write_table
from common.script import run_script
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from datasets.splits import make_folds
from evaluation.calibration import weighted_calibration_line
from evaluation.statistics import cluster_bootstrap
from learning.checkpoint import load_checkpoint, save_checkpoint
from models.layers.blocks import MODALITIES
from studies.segmentation.benchmark import WITH_ECG, SegmentationSettings, segment_out_of_fold
from studies.segmentation.fit import read_recordings
from systems.base.evaluation_run import Checkpoint
from systems.base.predictor import SHIPPED
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import GRID_SHAPE, pcg_grid
from systems.ecg_pcg.linear.fit import Features, fit_modalities, sum_log_odds
from systems.ecg_pcg.sources.user_recording import signal_digest

ANNOTATED, AUTOMATIC = "annotated", "automatic"
KEPT = (
    *("model", "task", "run", "fold", "protocol", "settings", "inputs", "label_share", "parts"),
    *("cache", "provenance", "threshold"),
)
"""What of a checkpoint is shipped as it is."""


@dataclass(frozen=True)
class ShippedModelSettings:
    """Settings of the study."""

    checkpoint: Path = Path("checkpoints/ecg_pcg_linear/fold_all/best.pt")
    """Final fit of the linear model on everything."""
    cache: Path | None = None
    """Cache of training-a; default: the one prepared last."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    folds: int = 5
    """Folds over sessions."""
    seeds: int = 5
    """Seeds of the folds, from 0 on."""
    draws: int = EvaluationSettings.bootstrap_draws
    """Draws of the bootstrap of sessions."""
    output: Path = Path("results/benchmarks/shipped_model.csv")
    """Table to write."""
    weights: Path = SHIPPED
    """Checkpoint to write."""


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Predict out of fold, calibrate, write model and table; return the table."""
    settings = read_settings(ShippedModelSettings, arguments, __doc__)
    content = load_checkpoint(settings.checkpoint)
    cache = find_cache(settings.cache, settings.cache_dir)
    if content["settings"]["model"]["model"] != "linear" or content["fold"] != -1:
        raise UserError(f"{settings.checkpoint} is no linear model fitted on everything (--folds none).")
    if content["cache"]["identity"] != cache.identity:
        raise UserError(f"{settings.checkpoint} was trained from another cache than {cache.path}.")
    predictions = predict_out_of_fold(cache, features(cache, settings), settings)
    table = tabulate(calibrated_out_of_fold(predictions), settings.draws)
    lines = calibration(predictions, table)
    write_table(settings.output, table)
    save_checkpoint(settings.weights, shipped(content, lines, cache))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    for name, (intercept, slope) in lines.items():
        print(f"{name}: log-odds become {intercept:+.3f} {slope:+.3f} x log-odds")
    print(f"Written to {settings.output} and {settings.weights} ({settings.weights.stat().st_size:,} bytes).")
    return table


def features(cache: Cache, settings: ShippedModelSettings) -> dict[str, Features]:
    """Return the features of all recordings for each source of heart states; automatic ones out of fold."""
    known = phase_grid(cache)
    position = {name: row for row, name in enumerate(known.recording)}
    blank = np.full((len(position), int(np.prod(GRID_SHAPE))), np.nan, dtype=np.float32)
    alone, with_ecg = blank.copy(), blank.copy()
    waveforms = cache.waveforms("pcg")
    rows = cache.table("recordings").set_index("recording")
    segmentation = SegmentationSettings(folds=settings.folds)
    for recording, source, found, _ in segment_out_of_fold(read_recordings(cache), segmentation):
        row = rows.loc[recording.name]
        pcg = np.array(waveforms[row["pcg_offset"] :][: row["pcg_length"]])
        grid = with_ecg if source == WITH_ECG else alone
        grid[position[recording.name]] = pcg_grid(pcg, row["pcg_rate"], found.states)
    return {
        f"ecg+pcg {ANNOTATED}": {"pcg": known.pcg, "ecg": known.ecg},
        f"pcg {ANNOTATED}": {"pcg": known.pcg},
        "ecg": {"ecg": known.ecg},
        f"ecg+pcg {AUTOMATIC}": {"pcg": with_ecg, "ecg": known.ecg},
        f"pcg {AUTOMATIC}": {"pcg": alone},
    }


def predict_out_of_fold(
    cache: Cache, inputs: Mapping[str, Features], settings: ShippedModelSettings
) -> pd.DataFrame:
    """Return the log-odds of every recording for each seed and input, by models of other sessions."""
    known, recordings = phase_grid(cache), cache.table("recordings")
    learned: Features = {"pcg": known.pcg, "ecg": known.ecg}
    labels = recordings["label"].to_numpy()
    metadata = recordings[["recording", "session", "label"]]
    tables = []
    for seed in tqdm(range(settings.seeds), desc="Predicting", unit="seed"):
        for fold in make_folds(recordings, "session", settings.folds, 0.0, seed):
            fits = fit_modalities(
                {name: rows[fold.train] for name, rows in learned.items()}, labels[fold.train]
            )
            for name, values in inputs.items():
                part = {modality: fits[modality] for modality in values}
                log_odds = sum_log_odds(
                    part, {modality: rows[fold.test] for modality, rows in values.items()}
                )
                predicted = metadata.iloc[fold.test].assign(
                    seed=seed, fold=fold.number, input=name, log_odds=log_odds
                )
                tables.append(predicted[np.isfinite(log_odds)])
    return pd.concat(tables, ignore_index=True)


def calibration(predictions: pd.DataFrame, table: pd.DataFrame) -> dict[str, list[float]]:
    """Return intercept and slope of the log-odds for each input where they help sessions kept apart.

    Elsewhere the log-odds stay as they are: a line that raises the Brier score out of fold is noise.
    """
    helped = table[table["brier_after"] < table["brier_before"]]["input"]
    return {name: list(line_of(predictions[predictions["input"] == name])) for name in helped}


def line_of(predictions: pd.DataFrame) -> tuple[float, float]:
    """Return intercept and slope of the label on the log-odds, both classes weighing the same."""
    odds = 1 / (1 + np.exp(-predictions["log_odds"].to_numpy()))
    weights = balanced_weights(predictions["label"])
    intercept, slope = weighted_calibration_line(predictions["label"], odds, weights[None])[0]
    return float(intercept), float(slope)


def calibrated_out_of_fold(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return predictions with probabilities, each calibrated on the other folds of its seed and input."""
    tables = []
    for _, rows in predictions.groupby(["input", "seed"], sort=False):
        for fold in rows["fold"].unique():
            intercept, slope = line_of(rows[rows["fold"] != fold])
            here = rows[rows["fold"] == fold]
            probability = 1 / (1 + np.exp(-(intercept + slope * here["log_odds"])))
            tables.append(here.assign(probability=probability, raw=1 / (1 + np.exp(-here["log_odds"]))))
    return pd.concat(tables, ignore_index=True)


def tabulate(predictions: pd.DataFrame, draws: int) -> pd.DataFrame:
    """Return a row an input: AUROC and its interval, and how well calibrated it is before and after."""
    return pd.DataFrame(
        [
            {"input": name, "recordings": rows["recording"].nunique(), "seeds": rows["seed"].nunique()}
            | _mean([scores(one, draws) for _, one in rows.groupby("seed")])
            for name, rows in predictions.groupby("input", sort=False)
        ]
    )


def scores(predictions: pd.DataFrame, draws: int) -> dict[str, float]:
    """Return the scores of one seed; all but the AUROC weigh both classes the same."""
    interval = cluster_bootstrap(predictions.assign(probability=predictions["raw"]), "auroc", draws=draws)
    weights = balanced_weights(predictions["label"])
    found = {"auroc": interval.estimate, "low": interval.low, "high": interval.high}
    for stage, column in (("before", "raw"), ("after", "probability")):
        probability = predictions[column].to_numpy()
        line = weighted_calibration_line(predictions["label"], probability, weights[None])[0]
        brier = float(np.average((probability - predictions["label"]) ** 2, weights=weights))
        found |= {
            f"intercept_{stage}": float(line[0]),
            f"slope_{stage}": float(line[1]),
            f"brier_{stage}": brier,
        }
    return found


def balanced_weights(labels: pd.Series) -> NDArray[np.float64]:
    """Return weights under which both classes count half."""
    share = labels.mean()
    return np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))


def shipped(content: Checkpoint, lines: Mapping[str, list[float]], cache: Cache) -> dict[str, Any]:
    """Return what is shipped of a checkpoint: with the calibration, without the state of the training."""
    rows = cache.table("recordings")
    learned = rows[rows["recording"].isin(content["trained_on"]["recording"])]
    digests = [
        signal_digest(np.array(cache.waveforms(name)[row[f"{name}_offset"] :][: row[f"{name}_length"]]))
        for name in MODALITIES
        for row in learned.to_dict("records")
        if row[f"{name}_length"]
    ]
    kept: dict[str, Any] = {name: value for name, value in content.items() if name in KEPT}
    return kept | {
        "trained_on": content["trained_on"] | {"signals": digests},
        "calibration": {name: [round(value, 4) for value in line] for name, line in lines.items()},
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    run_script(main)
