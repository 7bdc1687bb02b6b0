"""How similar generated cines are to true ones and to each other, and whether they are copies.

PSNR is MONAI's. Its SSIM computes in single precision (2.7e-6 from this one), and its Frechet distance takes
the root of a product that is singular where features outnumber patients (up to 1e-4 from this one,
relatively).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from monai.metrics.regression import PSNRMetric
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

_SSIM_WIDTH, _SSIM_TRUNCATE = 1.5, 3.5
"""Standard deviation, pixels, of the Gaussian window, and where it is cut off, in deviations: 11 pixels."""
_SSIM_LUMINANCE, _SSIM_CONTRAST = 0.01**2, 0.03**2
"""Constants that keep the two factors from dividing by zero, at a range of 1."""


def structural_similarity(truth: ArrayLike, found: ArrayLike) -> Array:
    """Return the mean SSIM of images of range 0 to 1 (Wang et al., IEEE Trans. Image Process. 13, 2004).

    Parameters
    ----------
    truth, found : array_like, shape (..., H, W)
        At least 11 x 11 pixels; windows that leave the image do not count.

    Returns
    -------
    numpy.ndarray, shape (...)
        1 where both are the same.
    """
    one, two = np.asarray(truth, float), np.asarray(found, float)
    edge = int(_SSIM_TRUNCATE * _SSIM_WIDTH + 0.5)
    if one.shape != two.shape or one.ndim < 2 or min(one.shape[-2:]) < 2 * edge + 1:
        raise ValueError(
            f"Two sets of images of 11 x 11 pixels or more are needed: {one.shape}, {two.shape}."
        )

    def local(values: Array) -> Array:
        sigma = (0.0,) * (values.ndim - 2) + (_SSIM_WIDTH, _SSIM_WIDTH)
        smooth = ndimage.gaussian_filter(values, sigma, truncate=_SSIM_TRUNCATE)
        return np.asarray(smooth[..., edge:-edge, edge:-edge])

    mean_one, mean_two = local(one), local(two)
    variance = local(one**2) - mean_one**2 + local(two**2) - mean_two**2
    covariance = local(one * two) - mean_one * mean_two
    luminance = (2 * mean_one * mean_two + _SSIM_LUMINANCE) / (mean_one**2 + mean_two**2 + _SSIM_LUMINANCE)
    structure = (2 * covariance + _SSIM_CONTRAST) / (variance + _SSIM_CONTRAST)
    return np.asarray((luminance * structure).mean(axis=(-2, -1)))


def peak_ratio(truth: ArrayLike, found: ArrayLike) -> Array:
    """Return the peak signal-to-noise ratio, dB, of images (..., H, W) of range 0 to 1; infinite if equal."""
    one, two = (torch.as_tensor(np.asarray(images, float)) for images in (truth, found))
    ratio = PSNRMetric(max_val=1.0)(one.reshape(-1, 1, *one.shape[-2:]), two.reshape(-1, 1, *two.shape[-2:]))
    assert isinstance(ratio, torch.Tensor)
    return ratio.reshape(one.shape[:-2]).numpy()


def frechet_distance(one: ArrayLike, two: ArrayLike) -> float:
    r"""Return the Frechet distance of two sets of features, taken as normal (Heusel et al. 2017).

    .. math:: |\mu_1 - \mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2})

    It is biased upward when there are few samples: compare only what was computed from as many.

    Parameters
    ----------
    one, two : array_like, shapes (N, features) and (M, features)
        At least two of each.
    """
    first, second = (np.asarray(values, float) for values in (one, two))
    if first.ndim != 2 or second.ndim != 2 or min(len(first), len(second)) < 2:
        raise ValueError(f"Two sets of feature vectors are needed, not {first.shape} and {second.shape}.")
    means = first.mean(axis=0) - second.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(values, rowvar=False)) for values in (first, second)]
    root = _square_root(covariances[0])
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)
    total = sum(float(np.trace(covariance)) for covariance in covariances)
    return float(means @ means + total - 2 * np.sqrt(cross).sum())


def _square_root(covariance: Array) -> Array:
    """Return the symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def image_scores(truth: ArrayLike, found: ArrayLike) -> dict[str, float]:
    """Return SSIM and PSNR of cines (N, frames, H, W) of range 0 to 1, mean over frames and patients."""
    one, two = np.asarray(truth, float), np.asarray(found, float)
    similarity = np.concatenate([structural_similarity(*pair) for pair in zip(one, two, strict=True)])
    return {"ssim": float(similarity.mean()), "psnr": float(peak_ratio(one, two).mean())}


# Copies ---------------------------------------------------------------------------------------------


def nearest_two(queries: ArrayLike, gallery: ArrayLike) -> Array:
    """Return the distances of each query to its nearest and its second nearest in a gallery, (N, 2)."""
    one, two = (
        np.asarray(values, float).reshape(len(np.asarray(values)), -1) for values in (queries, gallery)
    )
    if len(two) < 2:
        raise ValueError(f"A gallery of {len(two)} has no second nearest.")
    return np.asarray(np.sort(cdist(one, two), axis=1)[:, :2] / np.sqrt(one.shape[1]))


def memorization_table(generated: ArrayLike, held_out: ArrayLike, training: ArrayLike) -> pd.DataFrame:
    """Compare the distances of generated and of true unseen cines to the nearest training cines.

    A copy lies nearer to a training cine than any unseen true cine does, and stands out: its nearest is
    nearer than its second nearest by more than for any unseen one.

    Parameters
    ----------
    generated, held_out, training : array_like, shapes (N, ...), (M, ...), (K, ...)
        Cines, or better their latents, in which noise does not count.

    Returns
    -------
    pandas.DataFrame
        A row each for ``generated`` and ``unseen``: count, quantiles of the distance to the nearest
        training cine (root mean square) and of its ratio to the second nearest; ``copies``.
    """
    found = {
        "generated": nearest_two(generated, training),
        "unseen": nearest_two(held_out, training),
    }
    near, ratio = found["unseen"][:, 0].min(), _ratio(found["unseen"]).min()
    rows = []
    for name, pair in found.items():
        distances, ratios = pair[:, 0], _ratio(pair)
        row: dict[str, object] = {"cines": name, "count": len(pair)}
        for share in (0.0, 0.05, 0.5):
            row[f"distance_{share:g}"] = float(np.quantile(distances, share))
            row[f"ratio_{share:g}"] = float(np.quantile(ratios, share))
        rows.append(row | {"copies": int(((distances < near) & (ratios < ratio)).sum())})
    return pd.DataFrame(rows)


def _ratio(pair: Array) -> Array:
    return np.divide(pair[:, 0], pair[:, 1], out=np.ones(len(pair)), where=pair[:, 1] > 0)


def diversity(samples: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Return distances between cines generated from one ECG, beside those between different patients.

    Parameters
    ----------
    samples : array_like, shape (N, samples, ...)
        Cines or latents of N patients, several each.
    truth : array_like, shape (N, ...)
        Of the same patients.

    Returns
    -------
    dict of str to float
        Root mean square distances: ``within`` (samples of one ECG), ``between`` (first samples of different
        patients), ``true`` (true ones of different patients).
    """
    generated, real = np.asarray(samples, float), np.asarray(truth, float)
    flat, true = generated.reshape(*generated.shape[:2], -1), real.reshape(len(real), -1)
    within = float(np.mean([_mean_square(part) for part in flat])) if flat.shape[1] > 1 else np.nan
    found = {"within": within, "between": _mean_square(flat[:, 0]), "true": _mean_square(true)}
    return {name: float(np.sqrt(value)) for name, value in found.items()}


def _mean_square(points: Array) -> float:
    """Return the mean squared distance of two different points (N, D), a coordinate."""
    return float(2 * points.var(axis=0, ddof=1).mean())
