"""Fit `models.phase_fusion.PhaseFusion`: the evidence in closed form, the deep path on its residual.

1. Four logistic regressions, both classes weighted equally (systems/ecg_pcg/linear/fit.py). Those of the
   heart sound are fitted on randomly equalized copies as well: the same recordings as through other
   microphones, rooms and chests, with random gains that are smooth over frequency.
2. The log-odds of the evidence for each training recording, from a fit that shares no session with it. They
   are the offset that a member learns with: the errors of the evidence on unseen people, not its near-perfect
   fit to the training part.
3. The share of the deep path: the one of `_SHARES` with the least log loss out of fold, again with no session
   shared. A share above zero must win by more than the standard error of its gain over sessions.
4. Members on all training recordings, each from a seed of its own. Noise is added to the grids, and of some
   recordings with both signals one is hidden.

Only the training recordings are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from datasets.splits import split_quietly
from systems.ecg_pcg.linear.fit import ITERATIONS, Logistic, fit_logistic

INVERSE_PENALTY: Mapping[str, float] = MappingProxyType(
    {"whole": 0.01, "shape": 0.003, "colour": 0.03, "ecg": 1.0}
)
"""Inverse strength C of the squared penalty of each regression."""
_COPIES = 4
"""Randomly equalized copies of each recording."""
_GAIN_DEVIATION = 0.3
"""Standard deviation of the gain at a knot, log10 of power (3 dB)."""
KNOTS = 6
"""Bands, equally far apart, with a random gain; between them it is linear."""
_SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of the deep path that are tried."""


@dataclass(frozen=True)
class DeepSettings:
    """Training of the deep path."""

    epochs: int = 20
    """Passes over the training recordings."""
    batch_size: int = 64
    """Recordings of one step."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.1
    """Decoupled weight decay."""
    noise: float = 0.3
    """Standard deviation of noise on the standardized grids."""
    hidden: float = 0.3
    """Share of recordings with both signals of which one is hidden, 0 to 1."""
    inner_folds: int = 5
    """Session-level folds for the offset and the share."""


@dataclass(frozen=True)
class Recorded:
    """Features and labels of some recordings; NaN where one lacks a signal."""

    pcg_grid: Tensor
    ecg_bands: Tensor
    ecg_grid: Tensor
    has_pcg: Tensor
    has_ecg: Tensor
    label: NDArray[np.int64]
    session: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self.label)

    def rows(self, rows: NDArray[np.integer]) -> Recorded:
        """Return some of the recordings."""
        here = torch.from_numpy(rows)
        pcg_grid, ecg_bands, ecg_grid, has_pcg, has_ecg = (values[here] for values in self.inputs())
        return Recorded(pcg_grid, ecg_bands, ecg_grid, has_pcg, has_ecg, self.label[rows], self.session[rows])

    def inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs of the network."""
        return self.pcg_grid, self.ecg_bands, self.ecg_grid, self.has_pcg, self.has_ecg


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


def fit_evidence(model: Any, recorded: Recorded, seed: int, copies: int = _COPIES) -> None:
    """Fit the logistic regressions and the standardization of the grids; deep weights are not touched.

    Parameters
    ----------
    model : models.phase_fusion.PhaseFusion
    recorded : Recorded
        The training recordings only.
    seed : int
        Of the equalization.
    copies : int
        Randomly equalized copies of each recording; 0: none, and nothing is random.
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
        grids = equalized_copies(recorded.pcg_grid[recorded.has_pcg], model.shapes["pcg"][2], copies, seed)
        labels = np.tile(recorded.label[has["pcg"]], copies + 1)
        for name, values in model.sound_features(grids).items():
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
    from sklearn.linear_model import LogisticRegression  # half a second, and predictions fit nothing
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values.astype(np.float64))
    ready = scaler.transform(values.astype(np.float64))
    basis = np.linalg.qr(ready[:rows].T)[0]
    regression = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=ITERATIONS)
    regression.fit(ready @ basis, labels)
    weight = basis @ regression.coef_[0]
    return Logistic(scaler.mean_, scaler.scale_, weight, float(regression.intercept_[0]))


def equalized_copies(
    grids: Tensor, bands: int, copies: int, seed: int, deviation: float = _GAIN_DEVIATION, knots: int = KNOTS
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
    knot_gain = deviation * torch.randn(copies * len(grids), 1, knots, generator=generator)
    gain = functional.interpolate(knot_gain, bands, mode="linear", align_corners=True).to(grids.dtype)
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
        values = grid[has].float().reshape(-1, *model.shapes[name])
        shape = values - values.mean(dim=2, keepdim=True)
        getattr(model, f"{name}_mean").copy_(shape.mean(dim=0))
        getattr(model, f"{name}_scale").copy_(shape.std(dim=0) + 1e-6)


def inner_folds(
    label: NDArray[np.integer], session: ArrayLike, count: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]] | None:
    """Return folds of training recordings that keep sessions apart; None where there are too few of them.

    Each class needs at least two sessions, and each training part both classes.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    sessions = np.asarray(session)
    of_class = [len(np.unique(sessions[label == value])) for value in (0, 1)]
    if min(of_class) < 2 or len(np.unique(sessions)) < count:
        return None
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = split_quietly(splitter, label, sessions)
    return (
        folds
        if folds and all(len(np.unique(label[train])) == 2 and len(test) for train, test in folds)
        else None
    )


def _out_of_fold(
    model: Any,
    recorded: Recorded,
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
    settings: DeepSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return evidence and deep log-odds of each recording, from fits that share no session with it.

    The offset of a deep path is itself out of fold within its training part.
    """
    evidence, deep = np.zeros(len(recorded)), np.zeros(len(recorded))
    for train, test in folds:
        inner = _unfitted(model, members=1)
        within, outside = recorded.rows(train), recorded.rows(test)
        fit_evidence(inner, within, seed)
        evidence[test] = _evidence(inner, outside)
        deeper = inner_folds(within.label, within.session, settings.inner_folds, seed + 1)
        if deeper is None:
            continue
        offset = np.zeros(len(within))
        for kept, left in deeper:
            part = _unfitted(model, members=1)
            fit_evidence(part, within.rows(kept), seed)
            offset[left] = _evidence(part, within.rows(left))
        train_members(inner, within, offset, seed, settings)
        deep[test] = _deep(inner, outside)
    return evidence, deep


def _unfitted(model: Any, members: int) -> Any:
    """Return a network of the same sizes, not fitted."""
    return type(model)(**model.options | {"members": members})


@torch.no_grad()
def _evidence(model: Any, recorded: Recorded) -> NDArray[np.float64]:
    """Return the log-odds of the evidence; zero where a recording has no signal that was fitted."""
    has = recorded.has_pcg & model.fitted[0], recorded.has_ecg & model.fitted[1]
    return model.evidence_of(recorded.pcg_grid, recorded.ecg_bands, *has).numpy()


@torch.no_grad()
def _deep(model: Any, recorded: Recorded) -> NDArray[np.float64]:
    """Return the log-odds of the deep path."""
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
    gains = {share: np.bincount(sessions, alone - loss(share)) for share in _SHARES[1:]}
    best = max(gains, key=lambda share: gains[share].sum())
    error = gains[best].std(ddof=1) * np.sqrt(len(gains[best]))
    return best if gains[best].sum() > error else 0.0


# The deep path


def train_members(
    model: Any,
    recorded: Recorded,
    offset: NDArray[np.float64],
    seed: int,
    settings: DeepSettings,
) -> None:
    """Train every member on the recordings, with the log-odds of the evidence as an offset."""
    model_has = recorded.has_pcg & model.fitted[0], recorded.has_ecg & model.fitted[1]
    grids, has = model.standardized_grids(recorded.pcg_grid, recorded.ecg_grid, *model_has)
    known = (has["pcg"] | has["ecg"]).nonzero().flatten()
    label = torch.tensor(recorded.label, dtype=torch.float32)
    share = label[known].mean().clamp(0.01, 0.99)
    weight = torch.where(label > 0, 0.5 / share, 0.5 / (1 - share))
    batch = {"offset": torch.from_numpy(offset).float(), "label": label, "weight": weight}
    for number, member in enumerate(model.members):
        _train(member, grids, has, batch, known, seed * 1009 + number, settings)
        _center(member, grids, has, known, weight)


def _train(
    member: Any,
    grids: dict[str, Tensor],
    has: dict[str, Tensor],
    batch: dict[str, Tensor],
    known: Tensor,
    seed: int,
    settings: DeepSettings,
) -> None:
    """Train one member; its weights and all that is random come from the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        member.restart()
        size = min(settings.batch_size, len(known))
        steps = len(known) // size
        optimizer = torch.optim.AdamW(
            member.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=max(settings.epochs * steps, 2)
        )
        member.train()
        for _ in range(settings.epochs):
            order = known[torch.randperm(len(known), generator=generator)]
            for rows in order.split(size)[:steps]:
                noisy, present = _augmented(grids, has, rows, generator, settings)
                log_odds = member(noisy, present) + batch["offset"][rows]
                losses = functional.binary_cross_entropy_with_logits(
                    log_odds, batch["label"][rows], reduction="none"
                )
                optimizer.zero_grad(set_to_none=True)
                (losses * batch["weight"][rows]).mean().backward()
                optimizer.step()
                schedule.step()
    member.eval()


@torch.no_grad()
def _center(
    member: Any, grids: dict[str, Tensor], has: dict[str, Tensor], known: Tensor, weight: Tensor
) -> None:
    """Shift a member so that on the training recordings it adds nothing on average, classes balanced.

    A constant is no evidence; without this, a share could be chosen for correcting the intercept.
    """
    log_odds = member(
        {name: values[known] for name, values in grids.items()},
        {name: values[known] for name, values in has.items()},
    )
    member.output.bias -= (log_odds * weight[known]).sum() / weight[known].sum()


def _augmented(
    grids: dict[str, Tensor],
    has: dict[str, Tensor],
    rows: Tensor,
    generator: torch.Generator,
    settings: DeepSettings,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch with noise on its grids, and one signal hidden of some recordings that have both."""
    noisy = {}
    for name, grid in grids.items():
        values = grid[rows]
        noisy[name] = values + settings.noise * torch.randn(values.shape, generator=generator)
    present = {name: values[rows] for name, values in has.items()}
    random = torch.rand(len(rows), generator=generator)
    both = present["pcg"] & present["ecg"]
    present["pcg"] = present["pcg"] & ~(both & (random < settings.hidden / 2))
    present["ecg"] = present["ecg"] & ~(both & (random > 1 - settings.hidden / 2))
    return noisy, present
