"""Task ``cine-autoencoder``: single frames of cines to small latents and back.

Data     ``cmr`` (B, frames, H, W), brightness 0 to 1: of the short axis, or with --axis long of the long one
Model    MONAI's AutoencoderKL over frames (`models.ecg_cmr.cine_autoencoder`); its latents are
         what ecg-to-cmr generates
Loss     mean squared error, brightness from -1 to 1, and a small Kullback-Leibler divergence
Scores   PSNR of the reconstruction; the predictions are each patient's mean squared error
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from systems.ecg_cmr.samples import Pairs
from systems.ecg_cmr.settings import AutoencoderSettings, CineAutoencoderSettings
from systems.ecg_cmr.stage import Stage

_VALIDATED_FRAMES = 4
"""Frames of a cine, spread evenly, that validation and test see."""


class CineAutoencoderTask(Stage):
    """What is particular to the autoencoder of frames."""

    name = "cine-autoencoder"
    settings_class = CineAutoencoderSettings
    settings: CineAutoencoderSettings
    needs = ("cmr",)
    columns = ("error",)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for inputs as `inputs` describes them."""
        assert inputs is not None
        return build_autoencoder(self.settings.autoencoder, inputs)

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of some frames of each cine, and each patient's error, brightness 0 to 1."""
        cines = batch["cmr"]
        frames = self._chosen(cines, model.training)
        picked = cines[torch.arange(len(cines), device=cines.device)[:, None], frames]
        found = model(picked.flatten(0, 1))
        error = found["error_of_frame"].unflatten(0, picked.shape[:2]).mean(dim=1)
        return {name: found[name] for name in ("loss", "error", "divergence")}, error

    def _chosen(self, cines: Tensor, training: bool) -> Tensor:
        """Return the frames to take of each cine, shape (B, n): at random, or always the same."""
        count = cines.shape[1]
        if training:
            chosen = min(self.settings.autoencoder.frames_a_step, count)
            return torch.rand(cines.shape[:2], device=cines.device).argsort(dim=1)[:, :chosen]
        spread = torch.linspace(0, count, min(_VALIDATED_FRAMES, count) + 1, device=cines.device)[:-1].long()
        return spread.expand(len(cines), -1)

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the peak signal-to-noise ratio in dB, for the curves."""
        error = float(predictions.mean())
        return {"psnr": -10 * math.log10(error) if error > 0 else math.nan}


def build_autoencoder(size: AutoencoderSettings, inputs: Mapping[str, Any]) -> CineAutoencoder:
    """Return a new autoencoder for cines as `Pairs.describe_inputs` describes them."""
    try:
        return CineAutoencoder(
            inputs["size"], size.channels, size.latent_channels, size.fold, kl_weight=size.kl_weight
        )
    except ValueError as error:
        raise UserError(f"Such an autoencoder cannot be built: {error}") from None
