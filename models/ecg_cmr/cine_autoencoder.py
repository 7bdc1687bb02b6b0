"""Autoencoder of single cine frames: MONAI's `AutoencoderKL`, applied to whole cines.

`models.ecg_cmr.cine_generator` learns to generate its latents. Pixels are first folded into channels (2 x 2
to 4), so that no convolution runs at full size: on a CPU a step then costs a fourth, and edges stay sharp, as
folding loses no value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

FRAMES_AT_ONCE = 512
"""Frames of one pass of `CineAutoencoder.encode` and `decode`: memory does not grow with the batch."""
_FULL_RANGE = 2.0
"""Span of a frame as the network takes it: -1 to 1."""


class CineAutoencoder(nn.Module):
    """Frames to small latents and back.

    Parameters
    ----------
    size : int
        Height and width of a frame, pixels.
    channels : sequence of int
        Of each level; every level but the first halves height and width. Multiples of ``groups``.
    latent_channels : int
        Of the latents.
    fold : int
        Pixels along each side that become channels before the first convolution.
    kl_weight : float
        Of the Kullback-Leibler divergence of a latent from the standard normal, beside the squared error.
    groups : int
        Of the group normalization.

    References
    ----------
    Rombach et al., CVPR 2022 (latent diffusion); the network is that of MONAI.
    """

    def __init__(
        self,
        size: int = 64,
        channels: Sequence[int] = (32, 64, 64),
        latent_channels: int = 4,
        fold: int = 2,
        kl_weight: float = 1e-6,
        groups: int = 16,
    ) -> None:
        super().__init__()
        self.factor = fold * 2 ** (len(channels) - 1)
        if fold < 1 or latent_channels < 1 or not channels or size % self.factor:
            raise ValueError(
                f"size must be a multiple of {self.factor} (fold {fold}, {len(channels)} levels) and there "
                f"must be latent channels; they are {size} and {latent_channels}."
            )
        if any(count < 1 or count % groups for count in channels):
            raise ValueError(f"channels must be multiples of {groups}, and are {tuple(channels)}.")
        self.size, self.fold, self.kl_weight = size, fold, kl_weight
        self.latent_shape = (latent_channels, size // self.factor, size // self.factor)
        self.network = AutoencoderKL(
            spatial_dims=2,
            in_channels=fold * fold,
            out_channels=fold * fold,
            channels=tuple(channels),
            num_res_blocks=(1,) * len(channels),
            attention_levels=(False,) * len(channels),
            latent_channels=latent_channels,
            norm_num_groups=groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Reconstruct frames through latents that carry noise in training and none in evaluation.

        Parameters
        ----------
        frames : torch.Tensor, shape (B, H, W)
            Brightness from 0 to 1.

        Returns
        -------
        dict of str to torch.Tensor
            ``loss``; its parts ``error`` (mean squared, brightness from -1 to 1) and ``divergence`` (nats a
            frame); ``error_of_frame``, shape (B,), brightness from 0 to 1.
        """
        folded = self._folded(frames)
        mean, deviation = self.network.encode(folded)
        mean, deviation = mean.float(), deviation.float()
        latents = mean + deviation * torch.randn_like(mean) if self.training else mean
        error = (self.network.decode(latents).float() - folded).square().flatten(1).mean(dim=1)
        parts = mean**2 + deviation**2 - 2 * deviation.log() - 1
        divergence = 0.5 * parts.flatten(1).sum(dim=1).mean()
        return {
            "loss": error.mean() + self.kl_weight * divergence,
            "error": error.mean(),
            "divergence": divergence,
            "error_of_frame": error / _FULL_RANGE**2,
        }

    @torch.no_grad()
    def encode(self, cines: Tensor) -> Tensor:
        """Map cines (B, frames, H, W), brightness 0 to 1, to latents (B, frames, C, h, w): their means."""
        if cines.ndim != 4:
            raise ValueError(
                f"cines must have shape (batch, frames, height, width), not {tuple(cines.shape)}."
            )
        parts = cines.flatten(0, 1).split(FRAMES_AT_ONCE)
        latents = [self.network.encode(self._folded(part))[0].float() for part in parts]
        return torch.cat(latents).unflatten(0, cines.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Map latents (B, frames, C, h, w) to cines (B, frames, H, W), brightness 0 to 1."""
        if latents.ndim != 5 or latents.shape[2:] != self.latent_shape:
            raise ValueError(
                f"latents must have shape (batch, frames, {', '.join(map(str, self.latent_shape))}), "
                f"not {tuple(latents.shape)}."
            )
        parts = latents.flatten(0, 1).split(FRAMES_AT_ONCE)
        frames = [self._unfolded(self.network.decode(part)) for part in parts]
        return torch.cat(frames).unflatten(0, latents.shape[:2])

    def _folded(self, frames: Tensor) -> Tensor:
        """Map frames (N, H, W) from 0..1 to what the network takes, (N, fold * fold, ...) from -1..1."""
        if frames.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"frames must have {self.size} x {self.size} pixels, and have {tuple(frames.shape[-2:])}: "
                "prepare the cines with the same --size."
            )
        return functional.pixel_unshuffle(_FULL_RANGE * frames.float().unsqueeze(1) - 1, self.fold)

    def _unfolded(self, folded: Tensor) -> Tensor:
        """Map the network's output to frames (N, H, W) from 0..1."""
        frames = functional.pixel_shuffle(folded.float(), self.fold).squeeze(1)
        return ((frames + 1) / _FULL_RANGE).clamp(0, 1)
