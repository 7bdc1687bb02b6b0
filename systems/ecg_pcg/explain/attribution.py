"""Explaining what was trained on beats: where in them its networks look, on test parts alone.

Attribution   integrated gradients (Sundararajan et al., ICML 2017) of the log-odds of abnormal, on the way
              from signals of zeros (the mean of a standardized signal) to the beat; taken absolute
Attention     spatial attention, the mean over the levels of a network that has it
Amplitude     of the signals themselves, to read the attribution beside: what is loud gets more of it, since
              the gradient is multiplied by the signal
Coefficients  of the linear model: what its log-odds gain when a feature rises by a standard deviation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from common.errors import UserError
from config import EvaluationSettings
from datasets.cache import Cache
from datasets.splits import ALL, assert_separated, fold_from_parts
from learning.checkpoint import Checkpoint
from models.layers.blocks import MODALITIES
from models.pacfnet import PACFNet
from systems.ecg_pcg.explain.cycle import BeatMaps, beat_onsets
from systems.ecg_pcg.features.spectral import GRID_SHAPE
from systems.ecg_pcg.settings import TrainingSettings
from systems.ecg_pcg.task import Beats, inputs, signals_of

_BEATS_AT_ONCE = 32
"""Beats between two steps of the progress bar."""


def explain_folds(
    checkpoints: Sequence[Checkpoint],
    cache: Cache,
    *,
    beats: int = 4,
    steps: int = 48,
    batch_size: int = 128,
    device: str = "cpu",
) -> BeatMaps:
    """Explain the network of each fold on beats of the fold's own test part.

    Parameters
    ----------
    checkpoints : sequence of dict
        Of folds of one run.
    cache : Cache
        That the run was trained from.
    beats : int
        Beats of a recording at most, evenly spaced among those whose heart states are known.
    steps : int
        Steps of the integral over gradients.
    batch_size : int
        Inputs of one forward pass: beats times steps.
    device : str
        auto, cpu, cuda or cuda:N.

    Returns
    -------
    BeatMaps
        ``attribution`` and ``amplitude`` of the signals that the network reads, ``attention`` where it has
        it. The table has ``fold``, ``change`` (of the log-odds, from zeros to the beat) and
        ``completeness_error`` (the sum of the attributions with their signs, less that change).

    Raises
    ------
    UserError
        If the model has no attributions, a checkpoint no test part in this cache, or no beat can be used.
    """
    from systems.base.evaluation_run import EvaluationRun  # all that draws: predictions need attention alone

    check_checkpoints(checkpoints, cache)
    run = EvaluationRun(list(checkpoints), cache, EvaluationSettings(device=device))
    settings, samples = run.task.settings, run.samples
    assert isinstance(settings, TrainingSettings)  # else the checks above had refused
    read = signals_of(settings.model).modalities
    onsets = beat_onsets(samples.table, cache.table("events"))
    chosen = choose_beats(checkpoints, samples, explainable(samples, onsets, read), beats)
    parts = []
    for content in checkpoints:
        model = run.model(content)
        rows = chosen.loc[chosen["fold"] == content["fold"], "row"].to_numpy(copy=True)
        parts.append(explain_rows(model, samples, rows, read, steps, batch_size, f"fold {content['fold']}"))
    values = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return _as_maps(values, samples, chosen, onsets, read)


def check_checkpoints(checkpoints: Sequence[Checkpoint], cache: Cache) -> None:
    """Refuse checkpoints of no network of beats, of a final fit, or of another cache."""
    for content in checkpoints:
        if content["task"] != "ecg-pcg":
            raise UserError(f"{content['run']} is of task {content['task']}: name a run of task ecg-pcg.")
        if content["settings"]["model"]["model"] == "linear":
            raise UserError(
                f"{content['run']} is a linear model, which its coefficients explain: name it with --linear."
            )
        if content["fold"] == ALL:
            raise UserError(
                f"{content['run']} is a final fit on everything: no beat is left that it was not trained on. "
                "Explain a run with folds, trained without --folds none."
            )
        if content["cache"]["identity"] != cache.identity:
            raise UserError(
                f"{content['run']} was not trained from {cache.path}: name its cache with --cache."
            )


def explainable(samples: Beats, onsets: NDArray[np.float64], read: Sequence[str]) -> NDArray[np.bool_]:
    """Return which beats have known heart states and every signal that the network reads, shape (N,)."""
    has = [getattr(samples, f"has_{name}").cpu().numpy() for name in read]
    return np.isfinite(onsets).all(axis=1) & np.all(has, axis=0)


def choose_beats(
    checkpoints: Sequence[Checkpoint], samples: Beats, usable: NDArray[np.bool_], count: int
) -> pd.DataFrame:
    """Return at most ``count`` evenly spaced test beats of each recording: ``fold`` and ``row`` of each.

    Raises
    ------
    LeakageError
        If a fold breaks its protocol's promise.
    UserError
        If no test beat can be used.
    """
    tested = []
    for content in checkpoints:
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        assert_separated(fold, samples.table, content["protocol"])
        tested.append(pd.DataFrame({"fold": fold.number, "row": fold.test[usable[fold.test]]}))
    table = pd.concat(tested).sort_values("row", ignore_index=True)
    if count < 1 or table.empty:
        raise UserError(
            f"No beat to explain: of each recording {count} were asked for with --beats, and {len(table)} "
            "test beats have annotated heart states and the signals that the network reads."
        )
    recording = samples.table["recording"].to_numpy()[table["row"]]
    places = [evenly_spaced(rows, count) for rows in table.groupby(recording).indices.values()]
    return table.iloc[np.concatenate(places)].sort_values(["fold", "row"], ignore_index=True)


def evenly_spaced(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most ``count`` of some rows: the middle ones of so many equal stretches."""
    kept = min(count, len(rows))
    return rows[((np.arange(kept) + 0.5) * len(rows) / kept).astype(int)]


def explain_rows(
    model: nn.Module,
    samples: Beats,
    rows: NDArray[np.int64],
    read: Sequence[str],
    steps: int,
    batch_size: int,
    label: str,
) -> dict[str, Tensor]:
    """Return what is to be known of some beats, on the CPU, beats along the first axis of each."""
    model.eval().requires_grad_(False)
    found = []
    bar = tqdm(total=len(rows), desc=f"Explaining {label}", unit="beat", leave=False)
    for part in torch.from_numpy(rows).split(_BEATS_AT_ONCE):
        batch = samples.batch(part)
        made = attributions(model, batch, read, steps, batch_size) | attention(model, batch)
        found.append({name: value.cpu() for name, value in made.items()})
        bar.update(len(part))
    bar.close()
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def attributions(
    model: nn.Module, batch: dict[str, Tensor], read: Sequence[str], steps: int, batch_size: int
) -> dict[str, Tensor]:
    """Return integrated gradients of the log-odds of abnormal for the beats of a batch.

    Returns
    -------
    dict
        ``attribution`` (B, signals read, points), with its sign; ``change`` and ``completeness_error`` (B,).
    """
    from captum.attr import IntegratedGradients  # with what it imports two seconds

    found, error = IntegratedGradients(log_odds(model, read)).attribute(
        tuple(batch[name] for name in read),
        additional_forward_args=tuple(batch[f"has_{name}"] for name in MODALITIES),
        n_steps=steps,
        method="riemann_middle",  # at as many steps more complete here than captum's default
        internal_batch_size=batch_size,
        return_convergence_delta=True,
    )
    attribution = torch.cat(found, dim=1)
    change = attribution.sum(dim=(1, 2)) - error
    return {"attribution": attribution, "change": change, "completeness_error": error}


def log_odds(model: nn.Module, read: Sequence[str]) -> Callable[..., Tensor]:
    """Return the log-odds of abnormal as a function of the signals read, and of which signals beats have."""

    def function(*arguments: Tensor) -> Tensor:
        *signals, has_ecg, has_pcg = arguments
        unread = {name: torch.zeros_like(signals[0]) for name in MODALITIES}
        given = unread | dict(zip(read, signals, strict=True)) | {"has_ecg": has_ecg, "has_pcg": has_pcg}
        logits = model(*inputs(model, given)).float()
        return logits[:, 1] - logits[:, 0]

    return function


@torch.no_grad()
def attention(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``attention`` (B, 2, points), ECG then PCG, the mean over levels; nothing without any."""
    if not isinstance(model, PACFNet):
        return {}
    _, levels = model.forward_with_attention(*inputs(model, batch))
    maps = [
        at_points(level["spatial"].float(), batch["ecg"].shape[-1]) for level in levels if "spatial" in level
    ]
    return {"attention": torch.stack(maps).mean(dim=0)} if maps else {}


def at_points(level: Tensor, points: int) -> Tensor:
    """Interpolate maps (B, C, T) to points (B, C, points).

    A strided convolution centres its output j on point j * stride, so that is where the value stands.
    """
    length = level.shape[-1]
    place = torch.arange(points, device=level.device) * length / points
    left = place.long()
    right, share = (left + 1).clamp(max=length - 1), place - left
    return level[..., left] * (1 - share) + level[..., right] * share


def _as_maps(
    values: dict[str, NDArray[Any]],
    samples: Beats,
    chosen: pd.DataFrame,
    onsets: NDArray[np.float64],
    read: Sequence[str],
) -> BeatMaps:
    """Return what was found on the chosen beats beside the beats themselves."""
    rows = chosen["row"].to_numpy(copy=True)
    metadata = {name: values[name] for name in ("change", "completeness_error")}
    table = samples.table.iloc[rows].reset_index(drop=True)
    signals = {name: getattr(samples, name)[rows, 0].cpu().numpy() for name in MODALITIES}
    looks = {
        "attribution": {name: np.abs(values["attribution"][:, place]) for place, name in enumerate(read)},
        "amplitude": {name: np.abs(signals[name]) for name in read},
    }
    if "attention" in values:
        looks["attention"] = {name: values["attention"][:, place] for place, name in enumerate(MODALITIES)}
    return BeatMaps(table.assign(fold=chosen["fold"].to_numpy(), **metadata), onsets[rows], signals, looks)


def linear_coefficients(checkpoints: Sequence[Checkpoint]) -> dict[str, NDArray[np.float64]]:
    """Return the coefficients of the linear model's standardized features, the mean over folds.

    Returns
    -------
    dict
        ``pcg``, shape `GRID_SHAPE` (percentile, cell, band), and ``ecg``, shape (13,): what the log-odds of
        abnormal gain when a feature rises by one standard deviation of the training part. Only of the
        signals that every fold was fitted on.
    """
    states = [content["model"] for content in checkpoints]
    if not all("pcg.weight" in state and "pcg.fitted" in state for state in states):
        raise UserError(f"{checkpoints[0]['run']} is no linear model: train one with --model linear.")
    means = {
        name: torch.stack([state[f"{name}.weight"] for state in states]).mean(dim=0).numpy()
        for name in MODALITIES
        if all(bool(state[f"{name}.fitted"]) for state in states)
    }
    return {name: mean.reshape(GRID_SHAPE) if name == "pcg" else mean for name, mean in means.items()}
