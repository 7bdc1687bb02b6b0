"""Encoder of cine CMR, pre-trained by `models.ecg_cmr.masking.MaskedAutoencoder`.

A patch is a small square of the image over several frames. The default, all frames, is the frames as channels
of Ding et al. (arXiv 2411.13602) with a plain transformer in place of Swin-B. On a coarse grid global
attention costs no more than windows; hidden patches can be left out of the encoder, unlike with shifted
windows; and a patch hidden in all frames cannot be copied from the frame before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.ecg_cmr.masking import EPSILON, check_mask, patchify_cine, unpatchify_cine
from models.ecg_cmr.transformer import Patches, TokenEncoder, mean_of, sine_positions

FLAT = 1e-5
"""Span of intensities, as a share of the largest, up to which a cine counts as flat."""


def standardize_cines(cmr: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
    """Bring each cine to mean 0 and deviation 1 (intensities of CMR have no unit).

    Parameters
    ----------
    cmr : torch.Tensor, shape (B, frames, H, W)
    present : torch.Tensor of bool, shape (B,), optional
        Which samples have a cine; the values of the others are ignored.

    Returns
    -------
    values : torch.Tensor, shape (B, frames, H, W)
        Zero in unusable cines.
    usable : torch.Tensor of bool, shape (B,)
        Cines that are present, finite, and not flat.
    mean, deviation : torch.Tensor, shape (B, 1, 1, 1)
        0 and 1 in unusable cines.
    """
    usable = cmr.isfinite().flatten(1).all(dim=1)
    if present is not None:
        usable = usable & check_mask("present", present, cmr.shape[:1])
    cmr = cmr.where(usable[:, None, None, None], 0.0)
    highest, lowest = cmr.amax(dim=(1, 2, 3)), cmr.amin(dim=(1, 2, 3))
    usable = usable & (highest - lowest > FLAT * torch.maximum(highest.abs(), lowest.abs()))
    known = usable[:, None, None, None]
    mean = cmr.mean(dim=(1, 2, 3), keepdim=True).where(known, 0.0)
    variance = cmr.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
    deviation = (variance + EPSILON**2).sqrt().where(known, 1.0)
    return ((cmr - mean) / deviation).where(known, 0.0), usable, mean, deviation


class CMREncoder(TokenEncoder):
    """Transformer over the space-time patches of a cine.

    Parameters
    ----------
    frames, size : int
        Frames of a cine, and height and width of its images in pixels.
    patch : sequence of three int
        Frames, rows and columns of a patch.
    token_width, depth, heads : int
        Channels of a token; blocks; attention heads.
    dropout : float
    """

    def __init__(
        self,
        frames: int = 16,
        size: int = 64,
        patch: Sequence[int] = (16, 8, 8),
        token_width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        self.shape, self.patch = (frames, size, size), tuple(patch)
        if len(self.patch) != 3 or any(
            step < 1 or length < step or length % step
            for length, step in zip(self.shape, self.patch, strict=True)
        ):
            raise ValueError(
                f"patch must be (frames, rows, columns) that divide a cine of {self.shape}, "
                f"and is {self.patch}."
            )
        super().__init__(self.patch[0] * self.patch[1] * self.patch[2], token_width, depth, heads, dropout)
        self.grid = tuple(length // step for length, step in zip(self.shape, self.patch, strict=True))
        self.register_buffer("position_table", sine_positions(self.grid, token_width), persistent=False)

    def patches(self, signal: Tensor, present: Tensor | None = None) -> Patches:
        """Cut cines (B, frames, H, W), of which ``present`` (B,) exist, into patches."""
        if signal.ndim != 4 or signal.shape[1:] != self.shape:
            raise ValueError(
                f"cmr must have shape (batch, {', '.join(map(str, self.shape))}), and has "
                f"{tuple(signal.shape)}: resample the cine, or build the encoder for its shape."
            )
        values, usable, mean, deviation = standardize_cines(signal.float(), present)
        cut = patchify_cine(values, self.patch)
        return Patches(cut, usable.unsqueeze(1).expand(-1, cut.shape[1]), mean, deviation)

    def to_signal(self, values: Tensor) -> Tensor:
        """Put patches (B, N, f * h * w) together to (B, frames, H, W)."""
        return unpatchify_cine(values, self.patch, self.grid)

    def positions(self) -> Tensor:
        """Return time, row and column of each patch, (N, token_width)."""
        return self.get_buffer("position_table")

    def regions(self, tokens: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Average patch tokens (B, N, C) over time: (B, rows * columns, C)."""
        times = self.grid[0]
        by_time = usable.unflatten(1, (times, -1))
        return mean_of(tokens.unflatten(1, (times, -1)), by_time), by_time.any(dim=1)
