"""What the cines that a run draws look like: scores of images, copies, diversity, figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.ecg_cmr.transformer import pool_tokens
from systems.ecg_cmr.cine.figures import bland_altman_figure, story_figure
from systems.ecg_cmr.evaluate import Figures, watermark_of
from systems.ecg_cmr.generation.ground_truth import CHOSEN_BY, Court, filled, mean_of_tables
from systems.ecg_cmr.generation.image_quality import frechet_distance, image_scores, memorization_table
from systems.ecg_cmr.generation.sampling import Bytes, nearest_neighbours, regressed_cines, to_bytes
from systems.ecg_cmr.generation.task import judging_encoder

SHOWN = 3
"""Patients of the story figure."""


def images_of(court: Court, first: Bytes) -> pd.DataFrame:
    """Return SSIM and PSNR a frame, and the Frechet distance of features, of each kind of cine."""
    test, train, samples = court.fold.test, court.fold.train, court.samples
    near = nearest_neighbours(samples.condition, torch.from_numpy(train), torch.from_numpy(test)).numpy()
    mean = court.true(train).mean(axis=0, keepdims=True).repeat(len(test), axis=0)
    regressed = regressed_cines(court.network, samples, train, test)
    through = to_bytes(court.network.cines_of(samples.data[torch.from_numpy(test)]))
    others = train[np.linspace(0, len(train) - 1, len(test)).astype(int)]
    kinds: dict[str, NDArray[Any]] = {
        "true cine through the autoencoder": through,
        "generated": first,
        "nearest ECG of training": court.true(near),
        "regression from the ECG": regressed,
        "mean of training": mean,
        "true cines of other patients": court.true(others),
    }
    truth = court.true(test)
    real = features_of(court, truth)
    rows: list[dict[str, Any]] = []
    for name, cines in kinds.items():
        values = np.asarray(cines / (255 if cines.dtype == np.uint8 else 1), np.float32)
        found = features_of(court, values)
        distance = np.nan if real is None or found is None else frechet_distance(real, found)
        rows.append({"cines": name} | image_scores(truth, values) | {"frechet": distance})
    return pd.DataFrame(rows)


@torch.no_grad()
def features_of(court: Court, cines: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return features (N, width) of cines by the CMR encoder of the run; None if it has none."""
    encoder = judging_encoder(court.network)
    if encoder is None:
        return None
    found = []
    for part in torch.from_numpy(cines).to(court.samples.data.device).split(64):
        found.append(pool_tokens(*encoder.encode_with_mask(part)))
    return torch.cat(found).double().cpu().numpy()


def in_latents(court: Court, drawn: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the latents of drawn cines (N, samples, ...) and of the true ones; noise is hardly there."""
    flat = drawn.reshape(-1, *drawn.shape[2:])
    return latents_of(court, flat).reshape(*drawn.shape[:2], -1), true_latents(court, court.fold.test)


def latents_of(court: Court, cines: Bytes) -> NDArray[np.float32]:
    """Return the standardized latents of cines, (N, values)."""
    found = [
        court.network.standardized(
            court.network.autoencoder.encode(part.float().to(court.samples.data.device) / 255)
        )
        for part in torch.from_numpy(cines).split(64)
    ]
    return torch.cat(found).flatten(1).cpu().numpy()


def true_latents(court: Court, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the standardized latents of true cines, (N, values)."""
    return court.samples.data[torch.from_numpy(rows)].flatten(1).cpu().numpy()


def memorization_of(court: Court, first: Bytes) -> pd.DataFrame:
    """Return how near drawn and true unseen cines come to those of the training."""
    unseen, training = (true_latents(court, rows) for rows in (court.fold.test, court.fold.train))
    return memorization_table(latents_of(court, first), unseen, training)


# Figures ---------------------------------------------------------------------------------------------


def figures_of(court: Court, truth: pd.DataFrame, measured: list[pd.DataFrame], drawn: Bytes) -> Figures:
    """Return the Bland-Altman figures and the story of three patients."""
    watermark, count = watermark_of(court.run), len(truth)
    own = court.measure(court.true(court.fold.test))
    subject = f"{count:,} unseen patients · found minus true, 95 % limits"
    return {
        "bland_altman": bland_altman_figure(
            truth,
            filled(mean_of_tables(measured)),
            title="Measured in generated cines",
            subject=subject,
            watermark=watermark,
        ),
        "bland_altman_method": bland_altman_figure(
            truth, filled(own), title="Measured in true cines", subject=subject, watermark=watermark
        ),
        "story": story_of(court, truth, measured, drawn, watermark),
    }


def story_of(
    court: Court, truth: pd.DataFrame, measured: list[pd.DataFrame], drawn: Bytes, watermark: str
) -> Figure:
    """Return the figure of three patients: low, middle and high in what the ECG says of their pump."""
    said = filled(mean_of_tables(measured))[CHOSEN_BY]
    order = np.argsort(said.to_numpy())
    places = order[(np.linspace(0.05, 0.95, SHOWN) * (len(order) - 1)).astype(int)]
    lead = list(court.run.cache.manifest["leads"]).index("II")
    patients: list[dict[str, object]] = []
    for place in places:
        row = court.fold.test[place]
        patients.append(
            {
                "name": str(court.samples.table["recording"].iloc[row]),
                "ecg": court.samples.ecg[row, lead].cpu().numpy(),
                "true": court.true(court.fold.test[[place]])[0],
                "generated": drawn[place, 0] / 255,
                "said": {
                    "true": f"EF {truth[CHOSEN_BY].iloc[place]:.0f} %",
                    "generated": f"EF {measured[0][CHOSEN_BY].iloc[place]:.0f} %",
                },
            }
        )
    return story_figure(patients, court.samples.ecg_rate, watermark=watermark)
