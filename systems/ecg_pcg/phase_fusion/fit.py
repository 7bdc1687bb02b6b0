"""Fit `models.phase_fusion.PhaseFusion`: the evidence in closed form, the deep path on what it leaves open.

1. A logistic regression a view, both classes counted the same (systems/ecg_pcg/linear/fit.py). Those of the
   heart sound learn from coloured copies as well: the same recordings as other microphones, rooms and chests
   might have filtered them, with gains drawn at random that are smooth over frequency.
2. The log-odds of the evidence for each training recording, from a fit that shared no session with it. A
   member learns with these as an offset, so it sees the errors that evidence makes on people it has not met,
   not the near-perfect fit to those it has.
3. The share of the deep path: the one, of `SHARES`, with the least log loss out of fold, sessions kept apart
   once more. A share above zero must win by more than the standard error of its gain over sessions.
4. Members on all training recordings (systems/ecg_pcg/phase_fusion/members.py).

Nothing but the training recordings is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from systems.ecg_pcg.linear.fit import ITERATIONS, Logistic, fit_logistic
from systems.ecg_pcg.phase_fusion.members import DeepSettings, Recorded, train_members

INVERSE_PENALTY: Mapping[str, float] = MappingProxyType(
    {"whole": 0.01, "shape": 0.003, "colour": 0.03, "ecg": 1.0}
)
"""Inverse strength C of the squared penalty of each view."""
COPIES = 4
"""Coloured copies of each recording."""
COLOURING = 0.3
"""Standard deviation of the gain at a knot, log10 of power (3 dB)."""
KNOTS = 6
"""Bands, equally far apart, at which a gain is drawn; between them it is linear."""
SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of the deep path that are tried."""


def fit_phase_fusion(
    model: Any, recorded: Recorded, *, seed: int = 0, settings: DeepSettings | None = None
) -> NDArray[np.float64]:
    """Fit the network in place.

    Parameters
    ----------
    model : models.phase_fusion.PhaseFusion
    recorded : Recorded
        The training recordings only, on the CPU.
    seed : int
        Of inner folds, initial weights and augmentation.
    settings : DeepSettings, optional

    Returns
    -------
    numpy.ndarray, shape (N,)
        Log-odds of the training recordings out of fold, as chosen: for a threshold. NaN where the sessions
        were too few to be split; the share is zero then.

    Raises
    ------
    UserError
        If no signal has both classes.
    """
    chosen = settings or DeepSettings()
    fit_evidence(model, recorded, seed)
    model.share.fill_(0.0)
    folds = inner_folds(recorded.label, recorded.session, chosen.inner_folds, seed)
    if folds is None:
        return np.full(len(recorded), np.nan)
    evidence, deep = _out_of_fold(model, recorded, folds, seed, chosen)
    share = choose_share(evidence, deep, recorded.label, recorded.session)
    if share > 0:
        train_members(model, recorded, evidence, seed, chosen)
    model.share.fill_(share)
    return evidence + share * deep


def fit_evidence(model: Any, recorded: Recorded, seed: int, copies: int = COPIES) -> None:
    """Fit the logistic regressions and the standardization of the grids; deep weights are not touched.

    Parameters
    ----------
    model : models.phase_fusion.PhaseFusion
    recorded : Recorded
        The training recordings only.
    seed : int
        Of the colouring.
    copies : int
        Coloured copies of each recording; 0: none, and nothing is drawn at random.
    """
    has = {"pcg": recorded.has_pcg.numpy(), "ecg": recorded.has_ecg.numpy()}
    usable = {name: len(np.unique(recorded.label[rows])) == 2 for name, rows in has.items()}
    if not any(usable.values()):
        raise UserError(
            f"This model needs recordings of both classes to learn from; there are {len(recorded)}, "
            f"{int(recorded.label.sum())} of them abnormal. Prepare more data, or choose fewer folds."
        )
    if usable["ecg"]:
        rows = has["ecg"]
        fitted = fit_logistic(recorded.ecg_bands.numpy()[rows], recorded.label[rows], INVERSE_PENALTY["ecg"])
        _fill(model.evidence["ecg"], fitted)
    if usable["pcg"]:
        grids = coloured(recorded.pcg_grid[recorded.has_pcg], model.shapes["pcg"][2], copies, seed)
        labels = np.tile(recorded.label[has["pcg"]], copies + 1)
        for name, values in model.views(grids).items():
            penalty = INVERSE_PENALTY[name] / (copies + 1)
            fitted = fit_in_span(values.numpy(), labels, penalty, int(has["pcg"].sum()) + 2 * KNOTS)
            _fill(model.evidence[name], fitted)
    model.fitted.copy_(torch.tensor([usable["pcg"], usable["ecg"]]))
    _standardize(model, recorded)


def fit_in_span(
    values: NDArray[np.floating], labels: NDArray[np.integer], inverse_penalty: float, rows: int
) -> Logistic:
    """Fit as `fit_logistic`, in the span of the first rows, which must hold all others.

    A filtered copy is its original plus a few fixed gains, so the originals and some copies span all copies.
    The weights of a regression with a squared penalty lie in the span of its rows, so the result is the
    same, in a tenth of the time.
    """
    if values.shape[1] <= rows:
        return fit_logistic(values, labels, inverse_penalty)
    scaler = StandardScaler().fit(values.astype(np.float64))
    ready = scaler.transform(values.astype(np.float64))
    basis = np.linalg.qr(ready[:rows].T)[0]
    regression = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=ITERATIONS)
    regression.fit(ready @ basis, labels)
    weight = basis @ regression.coef_[0]
    return Logistic(scaler.mean_, scaler.scale_, weight, float(regression.intercept_[0]))


def coloured(
    grids: Tensor, bands: int, copies: int, seed: int, deviation: float = COLOURING, knots: int = KNOTS
) -> Tensor:
    """Return the grids, and below them copies of them all, each row filtered by a gain of its own.

    Parameters
    ----------
    grids : torch.Tensor, shape (N, ... * bands)
        log10 of power, bands running fastest.
    bands, copies, seed : int
    deviation : float
        Of the gain at a knot, log10 of power.
    knots : int
        At least 2.

    Returns
    -------
    torch.Tensor, shape ((copies + 1) * N, ... * bands)
    """
    if not copies:
        return grids
    generator = torch.Generator().manual_seed(seed)
    drawn = deviation * torch.randn(copies * len(grids), 1, knots, generator=generator)
    gain = functional.interpolate(drawn, bands, mode="linear", align_corners=True).to(grids.dtype)
    repeated = grids.repeat(copies, 1).reshape(copies * len(grids), -1, bands)
    return torch.cat([grids, (repeated + gain).flatten(1)])


def _fill(part: nn.Module, fitted: object) -> None:
    """Put a fitted logistic regression into the network."""
    state = {name: torch.as_tensor(getattr(fitted, name)) for name in ("mean", "scale", "weight", "bias")}
    part.load_state_dict(state | {"fitted": torch.tensor(True)})


def _standardize(model: Any, recorded: Recorded) -> None:
    """Set mean and scale of the shapes from the recordings that have them."""
    for name, grid, has in (
        ("pcg", recorded.pcg_grid, recorded.has_pcg),
        ("ecg", recorded.ecg_grid, recorded.has_ecg & torch.isfinite(recorded.ecg_grid).all(dim=1)),
    ):
        if int(has.sum()) < 2:
            continue
        there = grid[has].float().reshape(-1, *model.shapes[name])
        shape = there - there.mean(dim=2, keepdim=True)
        getattr(model, f"{name}_mean").copy_(shape.mean(dim=0))
        getattr(model, f"{name}_scale").copy_(shape.std(dim=0) + 1e-6)


def inner_folds(
    label: NDArray[np.integer], session: ArrayLike, count: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]] | None:
    """Return folds of training recordings that keep sessions apart; None where there are too few of them.

    Each class needs at least two sessions, and each training part both classes.
    """
    sessions = np.asarray(session)
    of_class = [len(np.unique(sessions[label == value])) for value in (0, 1)]
    if min(of_class) < 2 or len(np.unique(sessions)) < count:
        return None
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = list(splitter.split(label, label, sessions))
    return folds if all(len(np.unique(label[train])) == 2 and len(test) for train, test in folds) else None


def _out_of_fold(
    model: Any,
    recorded: Recorded,
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
    settings: DeepSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what evidence and deep path say of each recording, from fits that shared no session with it.

    The offset that a deep path learns with is out of fold inside its own training part.
    """
    evidence, deep = np.zeros(len(recorded)), np.zeros(len(recorded))
    for train, test in folds:
        inner = _like(model, members=1)
        within, outside = recorded.rows(train), recorded.rows(test)
        fit_evidence(inner, within, seed)
        evidence[test] = _evidence(inner, outside)
        deeper = inner_folds(within.label, within.session, settings.inner_folds, seed + 1)
        if deeper is None:
            continue
        offset = np.zeros(len(within))
        for kept, left in deeper:
            part = _like(model, members=1)
            fit_evidence(part, within.rows(kept), seed)
            offset[left] = _evidence(part, within.rows(left))
        train_members(inner, within, offset, seed, settings)
        deep[test] = _deep(inner, outside)
    return evidence, deep


def _like(model: Any, members: int) -> Any:
    """Return a network of the same sizes, not fitted."""
    return type(model)(**model.options | {"members": members})


@torch.no_grad()
def _evidence(model: Any, recorded: Recorded) -> NDArray[np.float64]:
    """Return the log-odds of the evidence; zero where a recording has no signal that was fitted."""
    has = recorded.has_pcg & model.fitted[0], recorded.has_ecg & model.fitted[1]
    return model.evidence_of(recorded.pcg_grid, recorded.ecg_bands, *has).numpy()


@torch.no_grad()
def _deep(model: Any, recorded: Recorded) -> NDArray[np.float64]:
    """Return what the members say."""
    model.eval()
    has = recorded.has_pcg & model.fitted[0], recorded.has_ecg & model.fitted[1]
    return model.deep(recorded.pcg_grid, recorded.ecg_grid, *has).double().numpy()


def choose_share(
    evidence: NDArray[np.floating],
    deep: NDArray[np.floating],
    label: NDArray[np.integer],
    session: ArrayLike,
) -> float:
    """Return the share of the deep path with the least balanced log loss out of fold.

    It must be better than none by more than the standard error of the gain over sessions; else zero.

    Parameters
    ----------
    evidence, deep : numpy.ndarray, shape (N,)
        Log-odds out of fold, and what the deep path adds.
    label : numpy.ndarray of int, shape (N,)
    session : array_like, shape (N,)
    """
    sessions = np.unique(np.asarray(session), return_inverse=True)[1]
    share_of = np.where(label == 1, 0.5 / label.mean(), 0.5 / (1 - label.mean()))

    def loss(share: float) -> NDArray[np.floating]:
        return share_of * np.logaddexp(0.0, np.where(label == 1, -1.0, 1.0) * (evidence + share * deep))

    alone = loss(0.0)
    gains = {share: np.bincount(sessions, alone - loss(share)) for share in SHARES[1:]}
    best = max(gains, key=lambda share: gains[share].sum())
    error = gains[best].std(ddof=1) * np.sqrt(len(gains[best]))
    return best if gains[best].sum() > error else 0.0
