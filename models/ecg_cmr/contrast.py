"""Contrastive alignment of ECG and cine CMR: encoders, a trained head on each, and InfoNCE.

After Turgut et al. (arXiv 2308.05764) and Ding et al. (arXiv 2411.13602); the loss is that of CLIP
(Radford et al. 2021). Both heads are trained even where an encoder is frozen: a random head would be a target
without meaning. Alignment by parts follows FILIP (Yao et al. 2022): each lead is matched with the part of the
image that fits it best.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from models.ecg_cmr.masking import encode_sparsely
from models.ecg_cmr.phenotypes import CovariateModulation
from models.ecg_cmr.transformer import TokenEncoder, check_pooling, initialize, pool_tokens

_TEMPERATURES = (0.01, 1.0)
"""Bounds of the learned temperature."""


class ProjectionHead(nn.Sequential):
    """Two dense layers from an encoder's channels to the shared space."""

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, dimension))
        self.apply(initialize)

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., channels) to vectors (..., dimension) of length one."""
        return functional.normalize(super().forward(features).float(), dim=-1)


def info_nce(
    similarity: Tensor, scale: Tensor, patient: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    r"""Return the symmetric InfoNCE loss of a batch of pairs.

    .. math:: -\frac{1}{2B} \sum_i \log\frac{e^{s S_{ii}}}{\sum_j e^{s S_{ij}}}
              + \log\frac{e^{s S_{ii}}}{\sum_j e^{s S_{ji}}}

    Parameters
    ----------
    similarity : torch.Tensor, shape (B, B)
        Of each first member (rows) to each second one (columns); pairs on the diagonal.
    scale : torch.Tensor, scalar
        One over the temperature.
    patient : torch.Tensor of int64, shape (B,), optional
        Two pairs of one patient are not each other's negatives.
    valid : torch.Tensor of bool, shape (B,), optional
        Pairs to leave out are False: they are neither scored nor anyone's negatives.
    """
    pairs = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    valid = pairs.any(dim=1) if valid is None else valid
    compared = valid[:, None] & valid[None, :]
    if patient is not None:
        compared = compared & (patient[:, None] != patient[None, :])
    logits = (scale * similarity).masked_fill(~(compared | pairs), float("-inf"))
    losses = (logits.logsumexp(dim=1) + logits.logsumexp(dim=0)) / 2 - logits.diagonal()
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def match_parts(first: Tensor, second: Tensor, known_first: Tensor, known_second: Tensor) -> Tensor:
    """Return the late-interaction similarity (A, B) of samples that consist of parts.

    The mean over parts of the best match in the other sample, averaged over both directions.

    Parameters
    ----------
    first, second : torch.Tensor, shapes (A, R, D) and (B, S, D)
        Vectors of length one.
    known_first, known_second : torch.Tensor of bool, shapes (A, R) and (B, S)
    """
    # least possible cosine, not minus infinity: a sample without parts is left out later, and stays finite
    cosines = torch.einsum("ard,bsd->abrs", first, second)
    cosines = cosines.masked_fill(~known_first[:, None, :, None], -1.0)
    cosines = cosines.masked_fill(~known_second[None, :, None, :], -1.0)
    weight_first, weight_second = known_first[:, None].float(), known_second[None].float()
    forth = (cosines.amax(dim=3) * weight_first).sum(dim=2) / weight_first.sum(dim=2).clamp(min=1)
    back = (cosines.amax(dim=2) * weight_second).sum(dim=2) / weight_second.sum(dim=2).clamp(min=1)
    return (forth + back) / 2


def _gather_rows(values: Tensor) -> Tensor:
    """Return the rows of all processes of the process group, this process's own with their gradient.

    Every process then computes the loss of all rows. As `DistributedDataParallel` averages gradients, the
    own rows' gradient counts once for each process: the sum is the gradient of a single process.
    """
    count = dist.get_world_size()
    fixed = values.detach().contiguous()
    parts = [torch.empty_like(fixed) for _ in range(count)]
    dist.all_gather(parts, fixed)
    if values.requires_grad:
        parts[dist.get_rank()] = fixed + count * (values - fixed)
    return torch.cat(parts)


def _is_distributed() -> bool:
    """Return whether several processes share each step."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class ContrastiveModel(nn.Module):
    """ECG and CMR mapped to one space in which the two of a patient are close.

    Parameters
    ----------
    ecg_encoder, cmr_encoder : TokenEncoder
        Usually pre-trained: ``MaskedAutoencoder.encoder``.
    dimension : int
        Of the shared space.
    temperature : float
        At the start; it is learned, within 0.01 to 1.
    long_axis_encoder : TokenEncoder, optional
        Of long axis cines, with a head of its own; its loss is added.
    local : bool
        Also align each lead with parts of the short axis image.
    pooling : {"mean", "class"}
        What the heads read: the mean of the patch tokens, or the class token.
    token_dropout : float
        Share of the ECG's tokens left out of each training step (Li et al. 2023, FLIP): with half of them
        a step costs less than half. 0: none.
    freeze_ecg, freeze_cmr : bool
        Freeze the encoders (``freeze_cmr``: of both axes). Heads are always trained.
    covariates : int
        Columns that modulate the features of the ECG (`CovariateModulation`); call its ``fit`` before
        training.
    """

    def __init__(
        self,
        ecg_encoder: TokenEncoder,
        cmr_encoder: TokenEncoder,
        dimension: int = 128,
        temperature: float = 0.1,
        *,
        long_axis_encoder: TokenEncoder | None = None,
        local: bool = False,
        pooling: str = "mean",
        token_dropout: float = 0.0,
        freeze_ecg: bool = False,
        freeze_cmr: bool = False,
        covariates: int = 0,
    ) -> None:
        super().__init__()
        _check_arguments(dimension, temperature, token_dropout)
        self.pooling, self.token_dropout = check_pooling(pooling), token_dropout
        self.ecg_encoder, self.cmr_encoder = ecg_encoder, cmr_encoder
        self.long_axis_encoder = long_axis_encoder
        widths = {"ecg": ecg_encoder.token_width, "cmr": cmr_encoder.token_width}
        if long_axis_encoder is not None:
            widths["long_axis"] = long_axis_encoder.token_width
        self.heads = nn.ModuleDict({name: ProjectionHead(width, dimension) for name, width in widths.items()})
        self.local_heads = nn.ModuleDict(
            {name: ProjectionHead(widths[name], dimension) for name in ("ecg", "cmr") if local}
        )
        self.modulation = CovariateModulation(covariates, widths["ecg"]) if covariates else None
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.frozen = tuple(["ecg"] * freeze_ecg + ["cmr", "long_axis"] * freeze_cmr)
        for name in self.frozen:
            if name in widths:
                self._encoder(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> ContrastiveModel:
        """Set training or evaluation; frozen encoders stay in evaluation."""
        super().train(mode)
        for name in self.frozen:
            if name in self.heads:
                self._encoder(name).eval()
        return self

    @property
    def temperature(self) -> Tensor:
        """Return the temperature as it is now, a scalar."""
        return (-self.log_scale).exp()

    def forward(
        self,
        ecg: Tensor,
        cmr: Tensor,
        lead_present: Tensor | None = None,
        long_axis: Tensor | None = None,
        has_long_axis: Tensor | None = None,
        patient: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compare a batch of pairs; in training with several processes, the pairs of all of them.

        Parameters
        ----------
        ecg, cmr : torch.Tensor, shapes (B, leads, T) and (B, frames, H, W)
            Row by row of one patient.
        lead_present : torch.Tensor of bool, shape (B, leads), optional
        long_axis : torch.Tensor, shape (B, frames, H, W)
            Needed where there is an encoder for it.
        has_long_axis : torch.Tensor of bool, shape (B,), optional
            Which rows have one.
        patient : torch.Tensor of int64, shape (B,), optional
            Pairs of one patient are not each other's negatives.
        covariates : torch.Tensor, shape (B, covariates), optional
            In their own units, NaN where not known; needed where the model has any.

        Returns
        -------
        dict of str to torch.Tensor
            ``loss``, the sum of its parts ``short_axis``, ``long_axis`` and ``local`` (those there are);
            ``temperature``; of this process's rows the embeddings ``ecg_embedding``, ``cmr_embedding`` and,
            where there is an encoder for it, ``long_axis_embedding``, (B, dimension).
        """
        if (long_axis is None) != (self.long_axis_encoder is None):
            raise ValueError("long_axis and long_axis_encoder go together: give both, or neither.")
        self._clamp_temperature()
        embedded = {"ecg": self.embed("ecg", ecg, lead_present, covariates), "cmr": self.embed("cmr", cmr)}
        if long_axis is not None:
            embedded["long_axis"] = self.embed("long_axis", long_axis, has_long_axis)
        losses = self._losses(embedded, patient)
        return {
            "loss": torch.stack(list(losses.values())).sum(),
            **losses,
            "temperature": self.temperature.detach(),
            **{f"{name}_embedding": parts["whole"] for name, parts in embedded.items()},
        }

    @staticmethod
    def similarity(first: Tensor, second: Tensor) -> Tensor:
        """Return the cosines (A, B) of embeddings (A, D) and (B, D)."""
        with torch.autocast(first.device.type, enabled=False):
            return first.float() @ second.float().T

    def _encoder(self, name: str) -> TokenEncoder:
        """Return the encoder of a modality."""
        encoder = getattr(self, f"{name}_encoder")
        if not isinstance(encoder, TokenEncoder):
            raise ValueError(f"This model was built without {name}_encoder.")
        return encoder

    def embed(
        self, name: str, signal: Tensor, present: Tensor | None = None, covariates: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Embed the signals of a modality: ``ecg`` (with its covariates), ``cmr`` or ``long_axis``.

        Returns
        -------
        dict of str to torch.Tensor
            ``whole``, the vectors (B, dimension) of length one; ``valid``, boolean (B,): which rows have a
            signal; with a local head also ``parts`` (B, R, dimension) and ``known_parts`` (B, R).
        """
        encoder, frozen = self._encoder(name), name in self.frozen
        drops = name == "ecg" and self.training and not frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            encoded, known = encode_sparsely(encoder, signal, present, self.token_dropout if drops else 0.0)
        pooled = pool_tokens(encoded, known, self.pooling)
        if self.modulation is not None and name == "ecg":
            if covariates is None:
                raise ValueError("This model takes covariates, and none were given.")
            pooled = self.modulation(pooled, covariates)
        embedded = {
            "whole": self.heads[name](pooled),
            "valid": known.any(dim=1),
        }
        if name in self.local_heads:
            parts, embedded["known_parts"] = encoder.regions(encoded[:, 1:], known)
            embedded["parts"] = self.local_heads[name](parts)
        return embedded

    def _losses(self, embedded: dict[str, dict[str, Tensor]], patient: Tensor | None) -> dict[str, Tensor]:
        """Return the parts of the loss by name; in training, over the rows of all processes."""
        if self.training and _is_distributed():
            embedded = {
                name: {key: _gather_rows(rows) for key, rows in parts.items()}
                for name, parts in embedded.items()
            }
            patient = None if patient is None else _gather_rows(patient)
        scale, ecg, losses = self.log_scale.exp(), embedded["ecg"], {}
        with torch.autocast(scale.device.type, enabled=False):
            for name, loss in {"cmr": "short_axis", "long_axis": "long_axis"}.items():
                if name in embedded:
                    image = embedded[name]
                    similarity = self.similarity(ecg["whole"], image["whole"])
                    losses[loss] = info_nce(similarity, scale, patient, ecg["valid"] & image["valid"])
            if self.local_heads:
                cmr = embedded["cmr"]
                similarity = match_parts(ecg["parts"], cmr["parts"], ecg["known_parts"], cmr["known_parts"])
                losses["local"] = info_nce(similarity, scale, patient, ecg["valid"] & cmr["valid"])
        return losses

    @torch.no_grad()
    def _clamp_temperature(self) -> None:
        """Bring the scale back into its bounds; clamping the parameter itself keeps its gradient alive."""
        low, high = _TEMPERATURES
        self.log_scale.clamp_(-math.log(high), -math.log(low))


def _check_arguments(dimension: int, temperature: float, token_dropout: float) -> None:
    """Refuse settings that make no model, saying which would."""
    low, high = _TEMPERATURES
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, and is {dimension}.")
    if not low <= temperature <= high:
        raise ValueError(f"temperature must be from {low} to {high}, and is {temperature}.")
    if not 0 <= token_dropout < 1:
        raise ValueError(f"token_dropout must be in [0, 1), and is {token_dropout}.")
