"""Masked autoencoding (He et al. 2022): patches, random masks, and an autoencoder over any `TokenEncoder`.

Every sample of a batch has the same number of slots for visible tokens, filled by gathering. A sample with
fewer usable patches fills fewer of them, so that each sample hides the same share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.ecg_cmr.transformer import Patches, TokenEncoder, Transformer, initialize

EPSILON = 1e-6
"""Smallest standard deviation that is divided by."""


def patchify_signal(signal: Tensor, length: int) -> Tensor:
    """Cut (B, leads, T) into (B, leads * T / length, length), lead by lead."""
    return signal.unflatten(-1, (-1, length)).flatten(1, 2)


def unpatchify_signal(patches: Tensor, leads: int) -> Tensor:
    """Put (B, leads * T / length, length) together to (B, leads, T)."""
    return patches.unflatten(1, (leads, -1)).flatten(2)


def patchify_cine(cine: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut (B, frames, H, W) into (B, N, f * h * w) for patches (f, h, w), by time, row, column.

    N = (frames / f) * (H / h) * (W / w).
    """
    frames, height, width = patch
    parts = cine.unflatten(3, (-1, width)).unflatten(2, (-1, height)).unflatten(1, (-1, frames))
    return parts.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


def unpatchify_cine(patches: Tensor, patch: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Put (B, N, f * h * w) together to (B, frames, H, W) on a grid of (times, rows, columns) patches."""
    parts = patches.unflatten(2, tuple(patch)).unflatten(1, tuple(grid))
    return parts.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def check_mask(name: str, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a mask of what is present, refusing one that is not boolean or of another shape."""
    if mask.dtype != torch.bool or mask.shape != tuple(shape):
        raise ValueError(
            f"{name} must be boolean of shape {tuple(shape)}, and is {mask.dtype} of {tuple(mask.shape)}."
        )
    return mask


@dataclass(frozen=True)
class Masking:
    """Which patches of a batch are visible, and how to gather them and put them back.

    Attributes
    ----------
    ids : torch.Tensor of int64, shape (B, K)
        Patch in each of the K slots.
    filled : torch.Tensor of bool, shape (B, K)
        Whether the slot holds a visible patch.
    slot : torch.Tensor of int64, shape (B, N)
        Slot of each patch; meaningful where ``visible``.
    visible, hidden : torch.Tensor of bool, shape (B, N)
        Patches that are shown, and those to reconstruct; unusable ones are neither.
    """

    ids: Tensor
    filled: Tensor
    slot: Tensor
    visible: Tensor
    hidden: Tensor


def random_masking(usable: Tensor, ratio: float, generator: torch.Generator | None = None) -> Masking:
    """Hide a share of each sample's usable patches (B, N), to the nearest whole patch.

    Parameters
    ----------
    usable : torch.Tensor of bool, shape (B, N)
    ratio : float
        Share that is hidden, in (0, 1); one usable patch at least stays visible.
    generator : torch.Generator, optional
        Else torch's own random numbers of the device.
    """
    device = usable.device if generator is None else generator.device
    noise = torch.rand(usable.shape, generator=generator, device=device).to(usable.device)
    ids = noise.masked_fill(~usable, 2.0).argsort(dim=1)
    slot = ids.argsort(dim=1)
    count = usable.sum(dim=1, keepdim=True)
    kept = torch.minimum((count - _round(ratio * count.double())).clamp(min=1), count)
    patches = usable.shape[1]
    slots = max(1, patches - int(_round(torch.tensor(ratio * patches, dtype=torch.float64))))
    visible = slot < kept
    filled = torch.arange(slots, device=usable.device) < kept
    return Masking(ids[:, :slots], filled, slot.clamp(max=slots - 1), visible, usable & ~visible)


def _round(value: Tensor) -> Tensor:
    """Round halves up: unlike rounding to even, the result then never rises by two."""
    return (value + 0.5).floor().long()


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens (B, K, C) out of (B, N, C) by their numbers (B, K)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _encode_part(
    encoder: TokenEncoder, patches: Patches, ratio: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Masking]:
    """Hide a share of the patches; return the encoded visible ones (B, 1 + K, C), class token first."""
    masking = random_masking(patches.usable, ratio, generator)
    visible = gather_tokens(encoder.tokens(patches), masking.ids)
    return encoder.run(visible, masking.filled), masking


def encode_sparsely(
    encoder: TokenEncoder, signal: Tensor, present: Tensor | None = None, dropped: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Encode a batch, leaving a random share of its patches out to save time (0: none).

    Returns
    -------
    encoded : torch.Tensor, shape (B, 1 + N, C)
        Class token first; zero for patches that were left out or are not usable.
    known : torch.Tensor of bool, shape (B, N)
        Patches that are neither.
    """
    if not dropped:
        return encoder.encode_with_mask(signal, present)
    encoded, masking = _encode_part(encoder, encoder.patches(signal, present), dropped)
    found = gather_tokens(encoded[:, 1:], masking.slot) * masking.visible.unsqueeze(-1)
    return torch.cat([encoded[:, :1], found], dim=1), masking.visible


def check_ratio(ratio: float, patches: int) -> float:
    """Return the share to hide, refusing one that leaves no patch visible or none to reconstruct."""
    if not 0 < ratio < 1 or not 1 <= int(ratio * patches + 0.5) < patches:
        raise ValueError(
            f"mask_ratio must be between 0 and 1 and leave some of the {patches} patches visible "
            f"and some hidden; it is {ratio}."
        )
    return ratio


class MaskedAutoencoder(nn.Module):
    """Encode the visible patches, decode all, and compare the hidden ones with the truth.

    Parameters
    ----------
    encoder : TokenEncoder
        The network to pre-train; later stages take it from ``.encoder``.
    mask_ratio : float
        Share of the usable patches that is hidden.
    decoder_width, decoder_depth, decoder_heads : int
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        mask_ratio: float,
        decoder_width: int = 64,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_ratio = check_ratio(mask_ratio, len(encoder.positions()))
        self.bridge = nn.Linear(encoder.token_width, decoder_width)
        self.place = nn.Linear(encoder.token_width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder = Transformer(decoder_width, decoder_depth, decoder_heads)
        self.head = nn.Linear(decoder_width, encoder.patch_values)
        for layer in (self.bridge, self.place, self.head):
            initialize(layer)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, signal: Tensor, present: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Hide, reconstruct, compare.

        Parameters
        ----------
        signal : torch.Tensor
            As the encoder takes it.
        present : torch.Tensor of bool, optional
            Which leads, or samples, there are; as the encoder takes it.
        generator : torch.Generator, optional
            For the mask; give one in evaluation, so that it is the same each time.

        Returns
        -------
        dict of str to torch.Tensor
            ``loss``, mean squared error over the hidden patches, in squared deviations of the signal;
            ``reconstruction`` in the unit and shape of the signal, that is the signal itself where it was
            visible and zero where not usable; ``mask``, boolean and of the signal's shape: what was hidden.
        """
        patches = self.encoder.patches(signal, present)
        encoded, masking = _encode_part(self.encoder, patches, self.mask_ratio, generator)
        predicted = self._decode(encoded, masking, patches.usable).float()
        errors = (predicted - patches.values).square().mean(dim=-1)
        loss = (errors * masking.hidden).sum() / masking.hidden.sum().clamp(min=1)
        hidden = masking.hidden.unsqueeze(-1)
        found = torch.where(hidden, predicted.detach(), patches.values)
        mask = self.encoder.to_signal(hidden.expand_as(found))
        usable = self.encoder.to_signal(patches.usable.unsqueeze(-1).expand_as(found))
        reconstruction = (self.encoder.to_signal(found) * patches.scale + patches.mean) * usable
        return {"loss": loss, "reconstruction": reconstruction, "mask": mask}

    def _decode(self, encoded: Tensor, masking: Masking, usable: Tensor) -> Tensor:
        """Map encoded tokens (B, 1 + K, C) to predicted patches (B, N, P)."""
        tokens = self.bridge(encoded)
        seen = gather_tokens(tokens[:, 1:], masking.slot)
        all_tokens = torch.where(masking.visible.unsqueeze(-1), seen, self.mask_token.to(seen.dtype))
        all_tokens = all_tokens + self.place(self.encoder.positions())
        attendable = torch.cat([torch.ones_like(usable[:, :1]), usable], dim=1)
        decoded = self.decoder(torch.cat([tokens[:, :1], all_tokens], dim=1), attendable)
        return self.head(decoded[:, 1:])
