"""Ways to learn from one row of features a recording, as maps from training and test rows to scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from datasets.cache import Cache
from systems.ecg_pcg.features.ecg_cycle_grid import SHAPE as ECG_SHAPE
from systems.ecg_pcg.features.ecg_cycle_grid import cycle_grids
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import GRID_SHAPE
from systems.ecg_pcg.linear.fit import fit_logistic, out_of_fold_log_odds
from systems.ecg_pcg.phase_fusion.fit import KNOTS, equalized_copies, fit_in_span
from systems.ecg_pcg.subgroups import probe_fifths

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
    """Return a regression of a view that learns from randomly equalized copies too."""

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


def colour_of(grid: Scores) -> Scores:
    """Return each band's mean over the cycle."""
    return grid.mean(axis=2)
