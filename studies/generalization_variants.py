"""Every variant that was tried for people never met, scored inside training sessions; few also outside.

A variant maps training and test rows to scores. It is scored on the training part of each outer fold of seed
0 by inner folds that keep sessions apart: AUROC, pairs within a session, pairs within a fifth of the
recording-condition probe, disease against no disease, each the mean of five training parts. Choices were
made on these. The rows in `OUTER` are scored on the outer folds of seeds 0 to 4 as well: to read why, not to
choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC
from tqdm import tqdm

from common.files import write_table
from datasets.cache import Cache
from studies.generalization_learners import (
    Material,
    Rows,
    Scores,
    Variant,
    colour_of,
    estimator,
    learned_on_equalized,
    multinomial,
    network,
    over_phase,
    over_phase_and_frequency,
    read_material,
    regression,
    session_intercepts,
    shape_of,
    total,
    under_noise,
    weighted_by_session,
    whole,
)
from systems.ecg_pcg.subgroups import DISEASES, within_column, within_sessions

INNER_SEED = 100
"""Seed of the inner folds."""
OUTER = (
    "linear: grid C .01 + ECG C .1",
    "three views + ECG C 1",
    "phase-fusion evidence: three views coloured .3 + ECG C 1",
    "grid coloured .3 + ECG C 1",
    "shape + ECG C 1",
    "colour + ECG C 1",
)
"""Variants that are scored on the outer folds too."""


def variants(made: Material) -> Mapping[str, Variant]:
    """Return all variants by name."""
    return {**sums(made), **of_the_grid(made), **learned_otherwise(made), **of_the_ecg(made)}


def sums(made: Material) -> dict[str, Variant]:
    """Return the variants of both signals, those of `OUTER`."""
    y, grid, shape, colour = made.label, made.grid, shape_of(made.grid), made.grid.mean(axis=2)
    ecg = regression(made.ecg, y, 1.0)
    plain = (regression(grid, y, 0.01), regression(shape, y, 0.003), regression(colour, y, 0.03))
    filtered = (
        learned_on_equalized(whole, made, 0.01, 0.3),
        learned_on_equalized(shape_of, made, 0.003, 0.3),
        learned_on_equalized(colour_of, made, 0.03, 0.3),
    )
    found = (
        total((1, plain[0]), (1, regression(made.ecg, y, 0.1))),
        total(*((0.5, view) for view in plain), (1, ecg)),
        total(*((0.5, view) for view in filtered), (1, ecg)),
        total((1, filtered[0]), (1, ecg)),
        total((1, plain[1]), (1, ecg)),
        total((1, plain[2]), (1, ecg)),
    )
    return dict(zip(OUTER, found, strict=True))


def of_the_grid(made: Material) -> dict[str, Variant]:
    """Return regressions of parts of the heart-sound grid, and of what was done to it."""
    y, grid = made.label, made.grid
    tried = {f"PCG grid C {c:g}": regression(grid, y, c) for c in (0.001, 0.003, 0.01, 0.03)}
    for percentile, name in enumerate(("10th", "50th", "75th")):
        tried[f"PCG grid, {name} percentile only"] = regression(grid[:, percentile], y, 0.03)
    for part in (0.3, 0.6, 1.0):
        tried[f"PCG grid, {part:g} of each band's mean removed"] = regression(shape_of(grid, part), y, 0.01)
    for name, cells in {"S1": (0, 3), "systole": (3, 9), "S2": (9, 12), "diastole": (12, 22)}.items():
        tried[f"PCG grid, {name} only"] = regression(grid[:, :, slice(*cells)], y, 0.02)
    for low, high in ((0, 10), (10, 20), (20, 34)):
        tried[f"PCG grid, bands {low} to {high}"] = regression(grid[..., low:high], y, 0.02)
    for by in (0.1, 0.3, 0.5):
        tried[f"PCG grid coloured {by:g}"] = learned_on_equalized(whole, made, 0.01, by)
    tried["PCG grid coloured and noise floors"] = under_noise(made, 0.01, -0.8)
    return tried


def learned_otherwise(made: Material) -> dict[str, Variant]:
    """Return other ways to learn from the heart-sound grid: weights, targets, kernels, trees, networks."""
    y, grid, shape = made.label, made.grid, shape_of(made.grid)
    tried: dict[str, Variant] = {}
    for power in (0.5, 1.0):
        tried[f"PCG grid, session weights n^-{power:g}"] = weighted_by_session(grid, made, 0.01, power)
    for strength in (5.0, 15.0):
        name = f"PCG grid, session intercepts {strength:g}"
        tried[name] = session_intercepts(grid, made, 0.01, strength)
    tried["PCG grid, five diagnoses"] = multinomial(made, 0.01)
    for c, gamma in ((3.0, 1e-4), (10.0, 3e-5)):
        name = f"PCG grid, RBF support vectors C {c:g} gamma {gamma:g}"
        tried[name] = estimator(grid, y, partial(SVC, C=c, gamma=gamma, class_weight="balanced"))
    trees = partial(ExtraTreesClassifier, 100, min_samples_leaf=3, class_weight="balanced", random_state=0)
    tried["PCG grid, extra trees"] = estimator(grid, y, trees)
    tried["PCG grid, network over phase"] = network(grid, y, over_phase)
    tried["PCG shape, network over phase"] = network(shape, y, over_phase)
    tried["PCG grid, network over phase and frequency"] = network(grid, y, over_phase_and_frequency)
    tried["PCG shape, network over phase and frequency"] = network(shape, y, over_phase_and_frequency)
    return tried


def of_the_ecg(made: Material) -> dict[str, Variant]:
    """Return variants of the ECG alone."""
    y, ecg, cycle = made.label, made.ecg, made.cycle
    tried = {f"ECG bands C {c:g}": regression(ecg, y, c) for c in (0.03, 0.1, 0.3, 1.0, 3.0)}
    tried["ECG bands below 40 Hz"] = regression(ecg[:, :8], y, 0.3)
    tried["ECG bands from 40 Hz"] = regression(ecg[:, 8:], y, 0.3)
    support = partial(SVC, C=3, gamma=0.01, class_weight="balanced")
    tried["ECG bands, RBF support vectors"] = estimator(ecg, y, support)
    tried["ECG cycle grid"] = regression(cycle, y, 0.001)
    tried["ECG cycle grid, shape"] = regression(shape_of(cycle), y, 0.001)
    tried["ECG cycle grid, network over phase"] = network(cycle, y, over_phase)
    half = (0.5, regression(shape_of(cycle), y, 0.001))
    tried["ECG bands C 1 + half of cycle-grid shape"] = total((1, regression(ecg, y, 1.0)), half)
    return tried


def inner_scores(made: Material, variant: Variant, seed: int = 0) -> dict[str, float]:
    """Return the means over the five training parts of out-of-fold scores inside them."""
    rows = []
    for train, _ in outer_folds(made, seed):
        scores = np.full(len(made.metadata), np.nan)
        for kept, left in folds_of(made, train, INNER_SEED + seed):
            scores[left] = variant(kept, left)
        rows.append(figures(made, train, scores[train]))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def outer_folds(made: Material, seed: int) -> list[tuple[Rows, Rows]]:
    """Return the folds of protocol ``session``."""
    return folds_of(made, np.arange(len(made.metadata)), seed)


def folds_of(made: Material, rows: Rows, seed: int) -> list[tuple[Rows, Rows]]:
    """Return five folds of some rows, sessions apart."""
    table = made.metadata.iloc[rows]
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    parts = splitter.split(table, table["label"], table["session"])
    return [(rows[kept], rows[left]) for kept, left in parts]


def figures(made: Material, rows: Rows, scores: Scores) -> dict[str, float]:
    """Return AUROC, ordered pairs within sessions and fifths of the probe, and AUROC of disease."""
    units = made.metadata.iloc[rows].assign(probability=scores)
    ones = np.ones((1, len(units)))
    return {
        "auroc": float(roc_auc_score(units["label"], scores)),
        "within_sessions": float(within_sessions(units, ones)[0]),
        "within_probe": float(within_column("fifth")(units, ones)[0]),
        "disease": float(roc_auc_score(units["diagnosis"].isin(DISEASES), scores)),
    }


def outer_scores(made: Material, variant: Variant) -> dict[str, float]:
    """Return the means over seeds 0 to 4 of the scores on the outer folds."""
    rows = []
    for seed in range(5):
        scores = np.full(len(made.metadata), np.nan)
        for train, test in outer_folds(made, seed):
            scores[test] = variant(train, test)
        rows.append(figures(made, np.arange(len(scores)), scores))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def score_variants(cache: Cache, path: Path) -> pd.DataFrame:
    """Score what is not in the file yet, writing each row as soon as it is there; return all rows."""
    made = read_material(cache)
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {row["variant"] for row in rows}
    for name, variant in tqdm(variants(made).items(), desc="Variants", unit="variant"):
        if name in done:
            continue
        inner = {f"inner_{key}": value for key, value in inner_scores(made, variant).items()}
        outer = outer_scores(made, variant) if name in OUTER else {}
        counted = {"outer_seeds": 5 if outer else 0}
        rows.append({"variant": name} | inner | counted | {f"outer_{key}": v for key, v in outer.items()})
        write_table(path, pd.DataFrame(rows))
    return pd.DataFrame(rows)
