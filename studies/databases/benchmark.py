"""Score variants on databases left out, choose inside the others, and calibrate what is shipped.

    python load_data.py --raw-dir PATH/challenge-2016 --sets a b c d e f
    python -m studies.databases --raw-dir PATH/challenge-2016      # about ten minutes on one core
    python training.py --model cycle-shape --folds none --run-name ecg_pcg_cycle_shape
    python -m studies.databases --checkpoint checkpoints/ecg_pcg_cycle_shape/fold_all/best.pt   # a minute

Each of the six databases of PhysioNet/CinC 2016 is left out once. A variant is chosen by its mean AUROC over
the databases that are learned from, each left out again (nested), and is scored on the one left out. The
features come from annotated heart states, and from states that the segmentation finds with parameters of the
other databases; the latter is what a new hospital has. Probabilities are those of the fit of
`systems.ecg_pcg.cycle_shape`, brought from one half to the share of abnormal of each database.

Writes results/physionet2016/databases.csv (a row a database), databases_variants.csv (a row a variant) and
databases_figures.csv; with ``--checkpoint`` (a final fit on all sets) models/weights/cycle_shape.pt as well.
databases_exploration.csv has what was scored before, by hand, to find these variants.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import special
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from common.command_line import read_settings
from common.errors import UserError
from common.files import replacing, write_table
from common.script import run_script
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from evaluation.calibration import calibration_line, expected_calibration_error, shift_prior
from evaluation.statistics import grouped_cluster_bootstrap
from learning.checkpoint import load_checkpoint, save_checkpoint
from models.cycle_shape import CycleShape
from studies.databases.variants import CYCLE_SHAPE, LINEAR, SHAPE, VARIANTS, Variant
from studies.segmentation.benchmark import SegmentationSettings, segment_left_out
from studies.segmentation.fit import read_recordings
from studies.shipped_model import shipped
from systems.base.predictor import BALANCED_PREVALENCE, SHIPPED_SOUND
from systems.ecg_pcg.cycle_shape.fit import calibration_over, fit_balanced
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import GRID_SHAPE, pcg_grid

ANNOTATED, AUTOMATIC = "annotated", "automatic"
APPENDIX = Path("annotations/Online_Appendix_training_set.csv")
_FIRST = "training-a"


@dataclass(frozen=True)
class DatabasesSettings:
    """Settings of the study."""

    cache: Path | None = None
    """Cache of all sets; default: the one prepared last."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    raw_dir: Path | None = None
    """Folder of the Challenge's data; adds what age alone says of the label, where it is published."""
    checkpoint: Path | None = None
    """Final fit of cycle-shape on all sets, to be calibrated and shipped; variants are not scored again."""
    draws: int = EvaluationSettings.bootstrap_draws
    """Draws of the bootstrap of sessions."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of the tables."""
    weights: Path = SHIPPED_SOUND
    """Checkpoint to write."""


@dataclass(frozen=True)
class Sounds:
    """Grids of the heart sounds of several databases, and their metadata.

    Attributes
    ----------
    grids : mapping of str to numpy.ndarray, shape (N, 3, 22, 34)
        By where the heart states come from.
    table : pandas.DataFrame
        ``recording``, ``session``, ``database``, ``label``, a row a grid.
    """

    grids: Mapping[str, NDArray[np.float64]]
    table: pd.DataFrame

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each recording."""
        return self.table["label"].to_numpy(np.int64)

    @property
    def databases(self) -> NDArray[np.str_]:
        """Database of each recording."""
        return self.table["database"].to_numpy(str)


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Score, choose, calibrate; return the table of databases."""
    settings = read_settings(DatabasesSettings, arguments, __doc__)
    cache = find_cache(settings.cache, settings.cache_dir)
    sounds = read_sounds(cache)
    if len(np.unique(sounds.databases)) < 3:
        raise UserError(f"{cache.path} has fewer than three databases: prepare them with --sets a b c d e f.")
    path = settings.results_dir / "databases_variants.csv"
    if settings.checkpoint is None or not path.is_file():
        write_table(path, score_variants(sounds))
    variants = pd.read_csv(path)
    calibrated = {states: predict_left_out(sounds, states) for states in sounds.grids}
    table = pd.concat([tabulate(rows, states, settings.draws) for states, rows in calibrated.items()])
    write_table(settings.results_dir / "databases.csv", table)
    figures = pd.concat([figures_of(sounds, variants, calibrated), *ages(sounds, settings.raw_dir)])
    write_table(settings.results_dir / "databases_figures.csv", figures)
    for found in (variants[["mean", "worst", "variant"]], table, figures):
        print(found.to_string(index=False, float_format="{:.3f}".format), end="\n\n")
    if settings.checkpoint is not None:
        ship(settings, cache, calibrated, table)
    return table


def read_sounds(cache: Cache) -> Sounds:
    """Return the grids of a cache with annotated and with automatic states, where both exist."""
    known = phase_grid(cache)
    table = cache.table("recordings")[["recording", "session", "database", "label"]]
    grids = {ANNOTATED: known.pcg, AUTOMATIC: _automatic_grids(cache)}
    usable = np.all([np.isfinite(grid).all(axis=1) for grid in grids.values()], axis=0)
    shaped = {name: grid[usable].astype(np.float64).reshape(-1, *GRID_SHAPE) for name, grid in grids.items()}
    return Sounds(shaped, table[usable].reset_index(drop=True))


def _automatic_grids(cache: Cache) -> NDArray[np.float32]:
    """Return grids with states by parameters of other databases, computed once and kept beside the cache."""
    path = cache.path / "derived-left-out-grid.npz"
    recordings = cache.table("recordings").set_index("recording")
    if path.is_file():
        with np.load(path, allow_pickle=False) as content:
            if np.array_equal(content["recording"], recordings.index.to_numpy(str)):
                return content["grid"]
    waveforms = cache.waveforms("pcg")
    grid = np.full((len(recordings), int(np.prod(GRID_SHAPE))), np.nan, dtype=np.float32)
    row_of = {name: row for row, name in enumerate(recordings.index)}
    for recording, found in segment_left_out(read_recordings(cache), SegmentationSettings()):
        row = recordings.loc[recording.name]
        pcg = np.array(waveforms[row["pcg_offset"] :][: row["pcg_length"]])
        grid[row_of[recording.name]] = pcg_grid(pcg, row["pcg_rate"], found.states)
    with replacing(path) as temporary:
        np.savez(temporary, recording=recordings.index.to_numpy(str), grid=grid)
    return grid


def score_variants(sounds: Sounds) -> pd.DataFrame:
    """Return a row a variant: AUROC on each database left out, and inside the others of each."""
    rows = []
    for variant in tqdm(VARIANTS, desc="Variants", unit="variant"):
        features = variant.features(sounds.grids[ANNOTATED])
        outer, inner = _left_out_scores(variant, features, sounds)
        rows.append(
            {"variant": variant.name}
            | {f"AUROC {name}": value for name, value in outer.items()}
            | {"mean": np.mean(list(outer.values())), "worst": min(outer.values())}
            | {f"inside the others of {name}": value for name, value in inner.items()}
        )
    return pd.DataFrame(rows)


def _left_out_scores(
    variant: Variant, features: NDArray[np.float64], sounds: Sounds
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the AUROC on each database, and the mean over the others with it and one more left out."""
    labels, databases = sounds.labels, sounds.databases
    names = np.unique(databases)

    def score(without: Sequence[str]) -> dict[str, float]:
        train = ~np.isin(databases, without)
        tested = {name: databases == name for name in without}
        return {
            name: roc_auc_score(
                labels[rows],
                variant.log_odds(features[train], labels[train], databases[train], features[rows]),
            )
            for name, rows in tested.items()
        }

    outer = {name: score([name])[name] for name in names}
    inner: dict[str, list[float]] = {name: [] for name in names}
    for one, other in itertools.combinations(names, 2):
        found = score([one, other])
        inner[one].append(found[other])
        inner[other].append(found[one])
    return outer, {name: float(np.mean(values)) for name, values in inner.items()}


def predict_left_out(sounds: Sounds, states: str) -> pd.DataFrame:
    """Return the predictions of cycle-shape for each database left out.

    The model is fitted on annotated states. It is calibrated, within the databases that it learns from, on
    states of the kind that it is used on.
    """
    labels, databases = sounds.labels, sounds.databases
    features = _features(sounds)
    fits, names = {}, np.unique(databases)
    for without in [*itertools.combinations(names, 1), *itertools.combinations(names, 2)]:
        train = ~np.isin(databases, without)
        fits[frozenset(without)] = fit_balanced(features[ANNOTATED][train], labels[train], databases[train])
    found = sounds.table.assign(raw=0.0, log_odds=0.0, distance=0.0)
    for name in names:
        inside, test = databases != name, databases == name
        outside = np.zeros(len(labels))
        for other in names[names != name]:
            rows = databases == other
            outside[rows] = fits[frozenset((name, other))].log_odds(features[states][rows])
        intercept, slope = calibration_over(outside[inside], labels[inside], databases[inside])
        fitted = fits[frozenset((name,))]
        raw = fitted.log_odds(features[states][test])
        standard = (features[states][test] - fitted.mean) / fitted.scale
        found.loc[test, "raw"] = raw
        found.loc[test, "log_odds"] = intercept + slope * raw
        found.loc[test, "distance"] = np.sqrt((standard**2).mean(axis=1))
    return found.assign(probability=special.expit(found["log_odds"]))


def _features(sounds: Sounds) -> dict[str, NDArray[np.float64]]:
    """Return the features of cycle-shape by where the heart states come from."""
    model = CycleShape()
    grids = {name: torch.from_numpy(grid.reshape(len(grid), -1)) for name, grid in sounds.grids.items()}
    return {name: model.features(grid).numpy() for name, grid in grids.items()}


def calibration_lines(predictions: Mapping[str, pd.DataFrame]) -> dict[str, list[float]]:
    """Return intercept and slope that the log-odds of the shipped model need, for each kind of states.

    The shipped model is calibrated for annotated states. Other states need the line of their own
    predictions for databases left out, in terms of those log-odds.
    """
    lines = {
        states: calibration_over(
            rows["raw"].to_numpy(), rows["label"].to_numpy(np.int64), rows["database"].to_numpy(str)
        )
        for states, rows in predictions.items()
    }
    first, steep = lines[ANNOTATED]
    return {
        f"pcg {states}": [intercept - slope * first / steep, slope / steep]
        for states, (intercept, slope) in lines.items()
    }


def tabulate(rows: pd.DataFrame, states: str, draws: int) -> pd.DataFrame:
    """Return a row a database: AUROC, calibration, sensitivity and specificity; and one of all."""
    groups = {str(name): own for name, own in rows.groupby("database")}
    intervals, mean = grouped_cluster_bootstrap(groups, "auroc", draws=draws)
    table = pd.DataFrame(
        [
            {"states": states, "database": name, "recordings": len(own), "abnormal": own["label"].mean()}
            | {"auroc": intervals[name].estimate, "low": intervals[name].low, "high": intervals[name].high}
            | _calibration(own)
            for name, own in groups.items()
        ]
    )
    ends = {"auroc": mean.estimate, "low": mean.low, "high": mean.high}
    middle = table[["slope", "intercept", "ece"]].median().to_dict()
    last = {"states": states, "database": "mean; median of calibration", "recordings": len(rows)}
    last |= ends | middle | table[["sensitivity", "specificity"]].mean().to_dict()
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def _centred(rows: pd.DataFrame) -> dict[str, float]:
    """Return medians over databases of how probabilities hold whose median in each database is one half.

    That is what unlabelled recordings of a device allow: twenty are enough for a median.
    """
    middle = rows.groupby("database")["log_odds"].transform("median")
    moved = rows.assign(probability=special.expit(rows["log_odds"] - middle))
    table = pd.DataFrame([_calibration(own) for _, own in moved.groupby("database")])
    return {str(name): float(value) for name, value in table.median().items()}


def _calibration(rows: pd.DataFrame) -> dict[str, float]:
    """Return how the probabilities of one database hold, brought to its own share of abnormal."""
    labels = rows["label"].to_numpy(np.int64)
    above = rows["probability"].to_numpy() >= 0.5
    probability = shift_prior(rows["probability"], BALANCED_PREVALENCE, labels.mean())
    slope, intercept = calibration_line(labels, probability)
    return {
        "slope": slope,
        "intercept": intercept,
        "ece": expected_calibration_error(labels, probability),
        "sensitivity": float(above[labels == 1].mean()),
        "specificity": float(1 - above[labels == 0].mean()),
    }


def figures_of(
    sounds: Sounds, variants: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return the figures that the documents quote, a row each."""
    names = np.unique(sounds.databases)
    chosen = {name: variants.loc[variants[f"inside the others of {name}"].idxmax()] for name in names}
    nested = {name: row[f"AUROC {name}"] for name, row in chosen.items()}
    found = {"nested choice, mean AUROC": np.mean(list(nested.values()))}
    found |= {f"nested choice, {name}": value for name, value in nested.items()}
    found |= {
        "nested choice, databases for which it is cycle-shape": sum(
            row["variant"] == CYCLE_SHAPE.name for row in chosen.values()
        )
    }
    for label, variant in (("linear", LINEAR), ("shape", SHAPE), ("cycle-shape", CYCLE_SHAPE)):
        alone = _from_first(variant, sounds)
        found |= {
            f"{label} fitted on {_FIRST} alone, mean AUROC of the others": np.mean(list(alone.values()))
        }
        found |= {f"{label} fitted on {_FIRST} alone, {name}": value for name, value in alone.items()}
    for states, rows in predictions.items():
        found |= {
            f"{states}, median of each database set to one half: {name}": value
            for name, value in (_centred(rows).items())
        }
        right = (rows["probability"] >= 0.5) == (rows["label"] == 1)
        for limit in (1.5, 2.5):
            far = rows["distance"] > limit
            found |= {f"{states}: share farther than {limit:g}": far.mean()}
            found |= {f"{states}: right within {limit:g}": right[~far].mean()}
            found |= {f"{states}: right farther than {limit:g}": right[far].mean()}
    return pd.DataFrame(found.items(), columns=["figure", "value"])


def ages(sounds: Sounds, raw_dir: Path | None) -> Iterator[pd.DataFrame]:
    """Yield the AUROC of age alone in each database whose ages are published, if the raw data are given.

    Where it is high, a model may hear age and not disease.
    """
    if raw_dir is None:
        return
    published = pd.read_csv(raw_dir / APPENDIX).set_index("Challenge record name")
    rows = sounds.table.assign(age=sounds.table["recording"].map(published["Age (year)"])).dropna()
    yield pd.DataFrame(
        [
            (f"age alone, {name}, {len(own)} recordings", roc_auc_score(own["label"], own["age"]))
            for name, own in rows.groupby("database")
            if own["label"].nunique() == 2
        ],
        columns=["figure", "value"],
    )


def _from_first(variant: Variant, sounds: Sounds) -> dict[str, float]:
    """Return the AUROC on each other database of a fit on the first alone."""
    features, labels, databases = variant.features(sounds.grids[ANNOTATED]), sounds.labels, sounds.databases
    train = databases == _FIRST
    others = {name: databases == name for name in np.unique(databases) if name != _FIRST}
    return {
        name: roc_auc_score(
            labels[rows], variant.log_odds(features[train], labels[train], databases[train], features[rows])
        )
        for name, rows in others.items()
    }


def _measured(table: pd.DataFrame) -> dict[str, Any]:
    """Return what predict.py says of databases left out, with automatic states."""
    rows = table[table["states"] == AUTOMATIC]
    single, mean = rows.iloc[:-1], rows.iloc[-1]
    ends = {name: [float(single[name].min()), float(single[name].max())] for name in ("auroc", "specificity")}
    return {"databases": len(single), "mean_auroc": float(mean["auroc"])} | ends


def ship(
    settings: DatabasesSettings, cache: Cache, predictions: Mapping[str, pd.DataFrame], table: pd.DataFrame
) -> None:
    """Write the checkpoint without the state of its training."""
    assert settings.checkpoint is not None
    content = load_checkpoint(settings.checkpoint)
    if content["settings"]["model"]["model"] != "cycle-shape" or content["fold"] != -1:
        raise UserError(f"{settings.checkpoint} is no cycle-shape model fitted on everything (--folds none).")
    if content["cache"]["identity"] != cache.identity:
        raise UserError(f"{settings.checkpoint} was trained from another cache than {cache.path}.")
    lines = calibration_lines(predictions)
    save_checkpoint(settings.weights, shipped(content, lines, cache) | {"left_out": _measured(table)})
    print(
        "\n".join(f"{name}: log-odds become {a:+.3f} {b:+.3f} x log-odds" for name, (a, b) in lines.items())
    )
    print(f"Written to {settings.weights} ({settings.weights.stat().st_size:,} bytes).")


if __name__ == "__main__":
    run_script(main)
