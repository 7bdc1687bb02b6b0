"""Encoder of 12-lead ECGs, pre-trained by `models.ecg_cmr.masking.MaskedAutoencoder`.

A patch is one stretch of one lead (1 x 100 samples, as Turgut et al., arXiv 2308.05764, and Ding et al.,
arXiv 2411.13602), so each token stands for one time and one lead. Leads are standardized one by one. Their
deviation is added to the tokens, because voltage is informative.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ecg_cmr.masking import EPSILON, check_mask, patchify_signal, unpatchify_signal
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
        Which leads were recorded; the values of the others are ignored.

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
        usable = usable & check_mask("lead_present", lead_present, ecg.shape[:2])
    ecg = ecg.where(usable.unsqueeze(-1), 0.0)
    usable = usable & (ecg.amax(dim=-1) - ecg.amin(dim=-1) > FLAT)
    known = usable.unsqueeze(-1)
    mean = ecg.mean(dim=-1, keepdim=True).where(known, 0.0)
    variance = ecg.var(dim=-1, keepdim=True, unbiased=False)
    deviation = (variance + EPSILON**2).sqrt().where(known, 1.0)
    return ((ecg - mean) / deviation).where(known, 0.0), usable, mean, deviation


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
        # about as large as the sines of time: with a tenth of it, training stays long at the lead's mean
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
        """Average patch tokens (B, leads * times, C) over time: (B, leads, C)."""
        by_lead = usable.unflatten(1, (self.leads, self.times))
        return mean_of(tokens.unflatten(1, (self.leads, self.times)), by_lead, dim=2), by_lead.any(dim=2)
