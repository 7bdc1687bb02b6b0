"""Every variant that was tried for unseen patients, scored inside training sessions; a few also outside.

A variant maps training and test rows to scores. It is scored on the training part of each outer fold of seed
0 by inner folds that keep sessions apart: AUROC, pairs within a session, pairs within a fifth of the
recording-condition probe, disease against no disease, each the mean of five training parts. Choices were
made on these. The rows in `OUTER` are scored on the outer folds of seeds 0 to 4 as well: to understand
them, not to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from tqdm import tqdm

from common.files import write_table
from datasets.cache import Cache
from systems.ecg_pcg.evaluate import DISEASES, probe_fifths, within_column, within_sessions
from systems.ecg_pcg.features.ecg_cycle_grid import SHAPE as ECG_SHAPE
from systems.ecg_pcg.features.ecg_cycle_grid import cycle_grids
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import GRID_SHAPE
from systems.ecg_pcg.linear.fit import fit_logistic, out_of_fold_log_odds
from systems.ecg_pcg.phase_fusion.fit import KNOTS, equalized_copies, fit_in_span

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Variant = Callable[[Rows, Rows], Scores]


@dataclass(frozen=True)
class Material:
    """What variants read: one row a recording."""

    grid: NDArray[np.float64]
    """Heart sound, (N, 3, 22, 34), loudness removed."""
    ecg: NDArray[np.float64]
    """Band powers, (N, 13)."""
    cycle: NDArray[np.float64]
    """ECG by phase and frequency, (N, 3, 22, 24)."""
    metadata: pd.DataFrame
    """label, session, person, diagnosis, fifth (of the probe)."""

    @property
    def label(self) -> NDArray[np.int64]:
        """Class of each recording."""
        return self.metadata["label"].to_numpy(np.int64)


def read_material(cache: Cache) -> Material:
    """Return the features of all recordings of a cache of training-a."""
    features, metadata = phase_grid(cache), cache.table("recordings")
    labels, sessions = metadata["label"].to_numpy(), metadata["session"].to_numpy()
    probe = out_of_fold_log_odds({"pcg": features.probe_pcg, "ecg": features.probe_ecg}, labels, sessions)
    grid = features.pcg.reshape(-1, *GRID_SHAPE).astype(float)
    return Material(
        grid - grid.mean((1, 2, 3), keepdims=True),
        features.ecg.astype(float),
        cycle_grids(cache).reshape(-1, *ECG_SHAPE).astype(float),
        metadata.assign(fifth=probe_fifths(pd.Series(probe))),
    )


def flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one row of features a recording."""
    return values.reshape(len(values), -1)


def shape_of(grid: NDArray[np.float64], part: float = 1.0) -> NDArray[np.float64]:
    """Return a grid without a part of each band's mean over the cycle."""
    return grid - part * grid.mean(axis=2, keepdims=True)


def regression(values: NDArray[np.float64], labels: Rows, penalty: float) -> Variant:
    """Return a standardized logistic regression, classes balanced."""

    def scored(train: Rows, test: Rows) -> Scores:
        return fit_logistic(flat(values)[train], labels[train], penalty).log_odds(flat(values)[test])

    return scored


def weighted_by_session(values: Scores, made: Material, penalty: float, power: float) -> Variant:
    """Return a regression in which a session of n recordings counts n to the power of 1 - power."""
    sizes = made.metadata.groupby("session")["label"].transform("size").to_numpy(float)

    def scored(train: Rows, test: Rows) -> Scores:
        scaler = StandardScaler().fit(flat(values)[train])
        weight = sizes[train] ** -power
        fitted = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)
        fitted.fit(scaler.transform(flat(values)[train]), made.label[train], weight / weight.mean())
        return fitted.decision_function(scaler.transform(flat(values)[test]))

    return scored


def session_intercepts(values: Scores, made: Material, penalty: float, strength: float) -> Variant:
    """Return a regression with a penalized intercept for each session of train, dropped in use."""
    sessions = made.metadata["session"].to_numpy()

    def scored(train: Rows, test: Rows) -> Scores:
        scaler = StandardScaler().fit(flat(values)[train])
        known = np.unique(sessions[train])
        member = strength * (sessions[train][:, None] == known)
        fitted = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)
        fitted.fit(np.hstack([scaler.transform(flat(values)[train]), member]), made.label[train])
        weight = fitted.coef_[0, : -len(known)]
        return scaler.transform(flat(values)[test]) @ weight + fitted.intercept_[0]

    return scored


def learned_on_equalized(
    view: Callable[[Scores], Scores], made: Material, penalty: float, by: float
) -> Variant:
    """Return a regression of a representation that learns from equalized copies too."""

    def scored(train: Rows, test: Rows) -> Scores:
        copies = equalized_copies(torch.from_numpy(flat(made.grid)[train]), GRID_SHAPE[2], 4, 0, by).numpy()
        grids = copies.reshape(-1, *GRID_SHAPE)
        grids = grids - grids.mean((1, 2, 3), keepdims=True)
        labels = np.tile(made.label[train], 5)
        fitted = fit_in_span(flat(view(grids)), labels, penalty / 5, len(train) + 2 * KNOTS)
        return fitted.log_odds(flat(view(made.grid[test])))

    return scored


def under_noise(made: Material, penalty: float, loudest: float) -> Variant:
    """Return a regression that learns from equalized copies, half of them with a noise floor added."""

    def scored(train: Rows, test: Rows) -> Scores:
        generator = np.random.default_rng(0)
        copies = equalized_copies(torch.from_numpy(flat(made.grid)[train]), GRID_SHAPE[2], 4, 0).numpy()
        grids = copies.reshape(5, len(train), *GRID_SHAPE)
        power = np.log10((10 ** grids[1::2, :, 1]).mean(axis=(2, 3)))
        floor = power + generator.uniform(-3, loudest, power.shape)
        grids[1::2] = np.log10(10 ** grids[1::2] + 10 ** floor[..., None, None, None])
        grids = grids.reshape(-1, *GRID_SHAPE)
        grids = flat(grids - grids.mean((1, 2, 3), keepdims=True))
        fitted = fit_logistic(grids, np.tile(made.label[train], 5), penalty / 5)
        return fitted.log_odds(flat(made.grid)[test])

    return scored


def estimator(values: Scores, labels: Rows, make: Callable[[], Any]) -> Variant:
    """Return any scikit-learn classifier on standardized features."""

    def scored(train: Rows, test: Rows) -> Scores:
        scaler = StandardScaler().fit(flat(values)[train])
        fitted = make().fit(scaler.transform(flat(values)[train]), labels[train])
        ready = scaler.transform(flat(values)[test])
        if hasattr(fitted, "decision_function"):
            return fitted.decision_function(ready)
        return fitted.predict_proba(ready)[:, 1]

    return scored


def multinomial(made: Material, penalty: float) -> Variant:
    """Return a regression of the five diagnoses; the score is the log-odds of not normal."""
    diagnosis = made.metadata["diagnosis"].to_numpy(str)

    def scored(train: Rows, test: Rows) -> Scores:
        scaler = StandardScaler().fit(flat(made.grid)[train])
        fitted = LogisticRegression(C=penalty, class_weight="balanced", max_iter=300)
        fitted.fit(scaler.transform(flat(made.grid)[train]), diagnosis[train])
        chances = fitted.predict_proba(scaler.transform(flat(made.grid)[test]))
        normal = np.clip(chances[:, list(fitted.classes_).index("Normal")], 1e-9, 1 - 1e-9)
        return np.log1p(-normal) - np.log(normal)

    return scored


def network(values: Scores, labels: Rows, make: Callable[[], nn.Module], epochs: int = 20) -> Variant:
    """Return a small network on standardized grids with noise, AdamW, one cycle."""

    def scored(train: Rows, test: Rows) -> Scores:
        mean, scale = values[train].mean(axis=0), values[train].std(axis=0) + 1e-6
        ready = torch.from_numpy(((values - mean) / scale).astype(np.float32))
        target = torch.from_numpy(labels.astype(np.float32))
        torch.manual_seed(0)
        model = make()
        model(ready[:2])
        weight = torch.tensor(float((labels[train] == 0).mean() / (labels[train] == 1).mean()))
        loss = nn.BCEWithLogitsLoss(pos_weight=weight)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
        steps = epochs * (len(train) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for step in range(steps):
            if step % (len(train) // 64) == 0:
                order = torch.from_numpy(train)[torch.randperm(len(train))].split(64)
            rows = order[step % (len(train) // 64)]
            noisy = ready[rows] + 0.3 * torch.randn(ready[rows].shape)
            optimizer.zero_grad()
            loss(model(noisy).squeeze(1), target[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return model.eval()(ready[torch.from_numpy(test)]).squeeze(1).double().numpy()

    return scored


def over_phase() -> nn.Module:
    """Return a network that reads bands as channels over phase."""
    return nn.Sequential(
        nn.Flatten(1, 2),
        *(nn.LazyConv1d(16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv1d(16, 32, 3, 2, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Flatten(), nn.LazyLinear(1)),
    )


def over_phase_and_frequency() -> nn.Module:
    """Return a network that reads the grid as an image of phase and frequency."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(1)),
    )


def total(*weighted: tuple[float, Variant]) -> Variant:
    """Return the weighted sum of scores."""
    return lambda train, test: np.sum([weight * one(train, test) for weight, one in weighted], axis=0)


def whole(grid: Scores) -> Scores:
    """Return a grid as it is."""
    return grid


def tilt_of(grid: Scores) -> Scores:
    """Return each band's mean over the cycle."""
    return grid.mean(axis=2)


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
    y, grid, shape, tilt = made.label, made.grid, shape_of(made.grid), tilt_of(made.grid)
    ecg = regression(made.ecg, y, 1.0)
    plain = (regression(grid, y, 0.01), regression(shape, y, 0.003), regression(tilt, y, 0.03))
    filtered = (
        learned_on_equalized(whole, made, 0.01, 0.3),
        learned_on_equalized(shape_of, made, 0.003, 0.3),
        learned_on_equalized(tilt_of, made, 0.03, 0.3),
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
