"""Tasks ``ecg-mae`` and ``cmr-mae``: reconstruct what was hidden of an ECG, or of a cine.

Data     ``ecg`` (B, 12, T) and which leads there are, or ``cmr`` (B, frames, H, W) of an axis
Model    masked autoencoder over patches (`models.ecg_cmr.masking`); later stages keep its encoder
Loss     mean squared error over the hidden patches of the standardized signal
Scores   correlation (NCC) and error over the hidden part, a patient; the error of the mean beside it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.errors import UserError
from datasets.ecg import LEADS
from learning.loop import unwrap
from models.ecg_cmr.masking import MaskedAutoencoder
from models.ecg_cmr.transformer import TokenEncoder
from systems.ecg_cmr.figures import cines_figure, reconstruction_figure
from systems.ecg_cmr.samples import Pairs
from systems.ecg_cmr.settings import CmrMaeSettings, EcgMaeSettings
from systems.ecg_cmr.stage import Stage, cmr_encoder, ecg_encoder

_MASK_SEED = 20_000
"""Seed of the masks in evaluation: the same patients get the same masks from every model."""


_ENCODERS = {"ecg": ecg_encoder, "cmr": cmr_encoder}


class _MaskedStage(Stage):
    """What both masked autoencoders have in common."""

    columns = ("ncc", "error", "error_of_mean")
    modality: str

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for inputs as `inputs` describes them."""
        assert inputs is not None
        size = self.settings.masking
        try:
            encoder = _ENCODERS[self.modality](self.settings, inputs)
            return MaskedAutoencoder(encoder, size.mask_ratio, size.decoder_width, size.decoder_depth)
        except ValueError as error:
            raise UserError(str(error)) from None

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch, and for each patient correlation, error, and error of the mean."""
        signal, present = self.signal(batch)
        generator = None
        if not model.training:
            number = int(batch["row"].sum())  # waits for the device: in validation
            generator = torch.Generator().manual_seed(_MASK_SEED + number)
        found = model(signal, present, generator)
        truth, guess, mask = signal.float(), found["reconstruction"].float(), found["mask"]
        of_mean = masked_error(truth, self.mean_of(truth).expand_as(truth), mask)
        scores = [masked_correlation(truth, guess, mask), masked_error(truth, guess, mask), of_mean]
        return {"loss": found["loss"]}, torch.stack([score.float() for score in scores], dim=1)

    def signal(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return what the model takes of a batch."""
        raise NotImplementedError

    def mean_of(self, truth: Tensor) -> Tensor:
        """Return the simplest guess: the mean of the lead, or of the cine."""
        raise NotImplementedError

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the means over patients, for the curves."""
        ncc, error, of_mean = predictions.nanmean(dim=0).tolist()
        return {"ncc": ncc, "relative_error": error / of_mean if of_mean else float("nan")}

    @torch.no_grad()
    def reconstructed(self, model: nn.Module, samples: Pairs, row: int) -> dict[str, Tensor]:
        """Return ``truth``, ``found`` and ``mask`` (what was hidden) of one sample, in the signal's unit."""
        signal, present = self.signal(samples.batch(torch.tensor([row])))
        model.eval()
        output = unwrap(model)(signal, present, torch.Generator().manual_seed(_MASK_SEED + row))
        found = {"truth": signal, "found": output["reconstruction"], "mask": output["mask"]}
        return {name: values[0].float().cpu() for name, values in found.items()}

    def encoder_of(self, model: nn.Module, modality: str) -> TokenEncoder | None:
        """Return the encoder."""
        network = unwrap(model)
        assert isinstance(network, MaskedAutoencoder)
        return network.encoder if modality == self.modality else None


class EcgMae(_MaskedStage):
    """Masked autoencoder of ECGs."""

    name = "ecg-mae"
    settings_class = EcgMaeSettings
    needs = ("ecg",)
    modality = "ecg"

    def signal(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the ECG and which leads there are."""
        return batch["ecg"], batch["lead_present"]

    def mean_of(self, truth: Tensor) -> Tensor:
        """Return the mean of each lead."""
        return truth.mean(dim=-1, keepdim=True)

    def figures(
        self, model: nn.Module, samples: Pairs, rows: Tensor, probability: Tensor
    ) -> dict[str, Figure]:
        """Return the first ECG of the test part with its hidden stretches reconstructed."""
        parts = self.reconstructed(model, samples, int(rows[0]))
        figure = reconstruction_figure(parts["truth"], parts["found"], parts["mask"], LEADS, samples.ecg_rate)
        return {"test/reconstruction": figure}


class CmrMae(_MaskedStage):
    """Masked autoencoder of cines."""

    name = "cmr-mae"
    settings_class = CmrMaeSettings
    needs = ("cmr",)
    modality = "cmr"

    def signal(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the cine."""
        return batch["cmr"], None

    def mean_of(self, truth: Tensor) -> Tensor:
        """Return the mean of each cine."""
        return truth.mean(dim=(1, 2, 3), keepdim=True)

    def figures(
        self, model: nn.Module, samples: Pairs, rows: Tensor, probability: Tensor
    ) -> dict[str, Figure]:
        """Return the first cine of the test part: as it is, what was not hidden, and reconstructed."""
        parts = self.reconstructed(model, samples, int(rows[0]))
        seen = parts["truth"].where(parts["mask"] == 0, 0.5)
        strips = [("measured", parts["truth"]), ("seen", seen), ("reconstructed", parts["found"])]
        return {"test/reconstruction": cines_figure(strips, title="A cine, reconstructed")}


def masked_correlation(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Correlate truth and reconstruction over the hidden part (normalized cross-correlation).

    Parameters
    ----------
    truth, found : torch.Tensor, shape (B, ...)
    mask : torch.Tensor of bool, shape (B, ...)
        What was hidden, and is compared.

    Returns
    -------
    torch.Tensor, shape (B,)
        -1 to 1; 0 where either is constant, NaN where nothing was hidden.
    """
    count = mask.flatten(1).sum(dim=1)
    one, two = (_centred(values, mask, count) for values in (truth, found))
    together = (one * two).sum(dim=1)
    scale = (one.square().sum(dim=1) * two.square().sum(dim=1)).sqrt()
    value = torch.where(scale > 0, together / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0)
    return torch.where(count > 0, value, torch.nan)


def masked_error(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the hidden part, shape (B,); NaN where nothing was hidden."""
    squared = ((truth - found).square() * mask).flatten(1).sum(dim=1)
    return squared / mask.flatten(1).sum(dim=1)


def _centred(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Return values (B, N) less their mean over the mask, 0 outside of it."""
    flat, known = values.double().flatten(1), mask.flatten(1)
    mean = (flat * known).sum(dim=1) / count.clamp(min=1)
    return (flat - mean.unsqueeze(1)) * known
