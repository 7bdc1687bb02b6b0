"""Masked autoencoder of 12-lead ECGs, and its encoder, which later stages keep.

A patch is one stretch of one lead (1 x 100 samples, as Turgut et al., arXiv 2308.05764, and Ding et al.,
arXiv 2411.13602), so a token knows its time and its lead. Leads are standardized one by one; their
deviation is told to the tokens, because voltage means something.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ecg_cmr.masking import EPSILON, MaskedAutoencoder, patchify_signal, unpatchify_signal
from models.ecg_cmr.transformer import Patches, TokenEncoder, initialize, mean_of, sine_positions

FLAT = 1e-5
"""Millivolts between highest and lowest value up to which a lead carries no signal."""


def standardize_leads(ecg: Tensor, lead_present: Tensor | None = None) -> tuple[Tensor, ...]:
    """Bring each lead to mean 0 and deviation 1.

    Parameters
    ----------
    ecg : torch.Tensor, shape (B, leads, T)
        Millivolts.
    lead_present : torch.Tensor of bool, shape (B, leads), optional
        Which leads were recorded; what the others hold is never read.

    Returns
    -------
    values : torch.Tensor, shape (B, leads, T)
        Zero in unusable leads.
    usable : torch.Tensor of bool, shape (B, leads)
        Leads that are present, finite, and not flat.
    mean, deviation : torch.Tensor, shape (B, leads, 1)
        0 and 1 in unusable leads.
    """
    usable = ecg.isfinite().all(dim=-1)
    if lead_present is not None:
        usable = usable & _check_leads(ecg, lead_present)
    ecg = ecg.where(usable.unsqueeze(-1), 0.0)
    usable = usable & (ecg.amax(dim=-1) - ecg.amin(dim=-1) > FLAT)
    known = usable.unsqueeze(-1)
    mean = ecg.mean(dim=-1, keepdim=True).where(known, 0.0)
    variance = ecg.var(dim=-1, keepdim=True, unbiased=False)
    deviation = (variance + EPSILON**2).sqrt().where(known, 1.0)
    return ((ecg - mean) / deviation).where(known, 0.0), usable, mean, deviation


def _check_leads(ecg: Tensor, lead_present: Tensor) -> Tensor:
    """Return the mask of leads, refusing one of another shape or kind."""
    if lead_present.dtype != torch.bool or lead_present.shape != ecg.shape[:2]:
        raise ValueError(
            f"lead_present must be boolean of shape {tuple(ecg.shape[:2])}, "
            f"and is {lead_present.dtype} of {tuple(lead_present.shape)}."
        )
    return lead_present


class ECGEncoder(TokenEncoder):
    """Transformer over the patches of an ECG.

    Parameters
    ----------
    samples : int
        Points of a lead; a multiple of ``patch_length``.
    patch_length : int
        Points of a patch.
    leads : int
    token_width, depth, heads : int
        Channels of a token; blocks; attention heads.
    dropout : float
    """

    def __init__(
        self,
        samples: int = 2500,
        patch_length: int = 100,
        leads: int = 12,
        token_width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        if patch_length < 1 or samples < patch_length or samples % patch_length or leads < 1:
            raise ValueError(
                f"samples must be a multiple of patch_length, and leads at least 1; "
                f"they are {samples}, {patch_length} and {leads}."
            )
        super().__init__(patch_length, token_width, depth, heads, dropout)
        self.samples, self.leads, self.times = samples, leads, samples // patch_length
        self.lead_embedding = nn.Parameter(torch.zeros(leads, token_width))
        self.scale_embedding = nn.Linear(1, token_width)
        self.register_buffer("time", sine_positions((self.times,), token_width), persistent=False)
        # about as large as the sines of time: with a tenth of it, training rests long on the lead's mean
        nn.init.normal_(self.lead_embedding, std=0.5)
        initialize(self.scale_embedding)

    def patches(self, signal: Tensor, present: Tensor | None = None) -> Patches:
        """Cut ECGs (B, leads, samples; mV) of which ``present`` (B, leads) leads exist into patches."""
        if signal.ndim != 3 or signal.shape[1:] != (self.leads, self.samples):
            raise ValueError(
                f"ecg must have shape (batch, {self.leads}, {self.samples}), and has {tuple(signal.shape)}: "
                "resample or cut the recording, or build the encoder for its length."
            )
        values, usable, mean, deviation = standardize_leads(signal.float(), present)
        by_patch = usable.repeat_interleave(self.times, dim=1)
        return Patches(patchify_signal(values, self.patch_values), by_patch, mean, deviation)

    def to_signal(self, values: Tensor) -> Tensor:
        """Put patches (B, leads * times, patch_length) together to (B, leads, samples)."""
        return unpatchify_signal(values, self.leads)

    def positions(self) -> Tensor:
        """Return time and lead of each patch, (leads * times, token_width), lead by lead."""
        return (self.lead_embedding[:, None] + self.get_buffer("time")).flatten(0, 1)

    def tokens(self, patches: Patches) -> Tensor:
        """Return tokens (B, leads * times, token_width) with their positions and their lead's voltage."""
        voltage = self.scale_embedding(patches.scale.log())
        return super().tokens(patches) + voltage.repeat_interleave(self.times, dim=1)

    def regions(self, tokens: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Average patch tokens (B, leads * times, C) over time: one (B, leads, C) for each lead's view."""
        by_lead = usable.unflatten(1, (self.leads, self.times))
        return mean_of(tokens.unflatten(1, (self.leads, self.times)), by_lead, dim=2), by_lead.any(dim=2)


class ECGMaskedAutoencoder(MaskedAutoencoder):
    """Masked autoencoder of ECGs (B, leads, samples) in millivolts.

    ``forward(ecg, lead_present=None, generator=None)``, `encode` and `reconstruct` take ``lead_present``,
    boolean (B, leads). Patches of leads that are absent, flat or not finite are neither shown nor scored.

    Parameters
    ----------
    samples, patch_length, leads, token_width, depth, heads
        As `ECGEncoder`.
    decoder_width, decoder_depth, decoder_heads : int
    mask_ratio : float
    normalize_patches : bool
        See `MaskedAutoencoder`.
    """

    def __init__(
        self,
        samples: int = 2500,
        patch_length: int = 100,
        leads: int = 12,
        token_width: int = 128,
        depth: int = 4,
        heads: int = 4,
        decoder_width: int = 64,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        mask_ratio: float = 0.8,
        *,
        normalize_patches: bool = False,
    ) -> None:
        super().__init__(
            ECGEncoder(samples, patch_length, leads, token_width, depth, heads),
            mask_ratio,
            decoder_width,
            decoder_depth,
            decoder_heads,
            normalize_patches=normalize_patches,
        )
