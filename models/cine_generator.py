r"""Cines drawn from an ECG: MONAI's `DiffusionModelUNet` over the latents of a cine, as diffusion or flow.

Between data x0 at time t = 0 and noise e at t = 1 lies :math:`x_t = a(t) x_0 + s(t) e`:

============  =====================  =========================================  =======================
objective     path                   the network predicts                       reference
============  =====================  =========================================  =======================
``velocity``  a = cos(pi t / 2),     :math:`v = a e - s x_0`                    Salimans and Ho 2022
              s = sin(pi t / 2)
``noise``     the same               e                                          Ho et al. 2020
``flow``      a = 1 - t, s = t       :math:`v = e - x_0`                        Lipman et al. 2023
============  =====================  =========================================  =======================

Each prediction gives x0 and e, and a step to time u goes to :math:`a(u) x_0 + s(u) e`: that is DDIM (Song
et al. 2021) for the first two and Euler's method for the flow, so one sampler serves all.

The frames of a cine are the channels of a small image: the whole cycle is one point to be drawn, and the
network sees all of it in every layer. Against three-dimensional convolutions over (frames, height, width) a
step costs less at eight times the weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from models.cine_autoencoder import CineAutoencoder
from models.transformer import TokenEncoder

Objective = Literal["velocity", "noise", "flow"]
Tokens = Literal["leads", "all"]
LATEST = {"velocity": 1.0, "noise": 0.98, "flow": 1.0}
"""Time at which sampling begins; where the network predicts the noise, x0 cannot be told from it at 1."""
EARLIEST = 0.001
"""Smallest time that is trained: at 0 there is nothing to predict."""
TIME_SCALE = 1000.0
"""Times are given to the network in thousandths, for which its sine embedding is made."""
SMALLEST_DEVIATION = 1e-4
"""Standard deviation of a latent channel below which it is only centered."""
FASTEST_AVERAGE = 10
"""The average of the weights follows them closely at first: (1 + steps) / (10 + steps) of it stays."""


def path_of(objective: Objective, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return a(t) and s(t) of times (B,), each of shape (B, 1, 1, 1)."""
    time = time.reshape(-1, 1, 1, 1)
    if objective == "flow":
        return 1 - time, time
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def target_of(objective: Objective, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return what the network has to predict at these times, of the shape of ``data`` (B, C, H, W)."""
    if objective == "noise":
        return noise
    if objective == "flow":
        return noise - data
    signal, spread = path_of(objective, time)
    return signal * noise - spread * data


def ends_of(objective: Objective, point: Tensor, found: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return data and noise (B, C, H, W) that a prediction at a point of the path stands for."""
    signal, spread = path_of(objective, time)
    if objective == "noise":
        return (point - spread * found) / signal, found
    if objective == "flow":
        return point - spread * found, point + signal * found
    return signal * point - spread * found, spread * point + signal * found


def noise_for(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers (N, *shape), each sample's from its own seed, whatever the batch."""
    drawn = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)


class CineGenerator(nn.Module):
    """What is learned about cines given ECGs, with the two networks that it stands on.

    Parameters
    ----------
    encoder : TokenEncoder
        Of the ECG, trained before; it stays as it is.
    autoencoder : CineAutoencoder
        Trained before; it stays as it is.
    frames : int
        Of a cine.
    channels : sequence of int
        Of each level of the U-Net, multiples of 32; every level but the first halves height and width.
    blocks : int
        Residual blocks a level.
    objective : {"velocity", "noise", "flow"}
    tokens : {"leads", "all"}
        What the U-Net attends to: the class token and the mean token of each lead, or all tokens.
    condition_dropout : float
        Share of the training samples whose ECG is hidden, so that guidance has something to lead away from.
    average_decay : float
        Of the running average of the weights, which is what samples are drawn with.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        autoencoder: CineAutoencoder,
        frames: int = 16,
        channels: Sequence[int] = (128, 256),
        blocks: int = 1,
        objective: Objective = "flow",
        tokens: Tokens = "leads",
        condition_dropout: float = 0.1,
        average_decay: float = 0.999,
    ) -> None:
        super().__init__()
        self._check(channels, objective, tokens, condition_dropout, average_decay)
        self.encoder = encoder.requires_grad_(False).eval()
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.objective, self.tokens_kind, self.frames = objective, tokens, frames
        self.condition_dropout, self.average_decay = condition_dropout, average_decay
        latent, height, width = autoencoder.latent_shape
        self.shape = (frames * latent, height, width)
        self.judge: TokenEncoder | None = None
        """Of cines: features by which generated ones are told from true ones; no part of what draws."""
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=frames * latent,
            out_channels=frames * latent,
            channels=tuple(channels),
            num_res_blocks=blocks,
            attention_levels=(True,) * len(channels),
            num_head_channels=32,
            with_conditioning=True,
            cross_attention_dim=encoder.token_width,
        )
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.unknown = nn.Parameter(torch.zeros(encoder.token_width))
        self.register_buffer("average_unknown", torch.zeros(encoder.token_width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_deviation", torch.ones(latent))

    @staticmethod
    def _check(
        channels: Sequence[int], objective: str, tokens: str, condition_dropout: float, average_decay: float
    ) -> None:
        """Refuse settings that make no model, saying which would."""
        if not channels or any(count < 32 or count % 32 for count in channels):
            raise ValueError(f"channels must be multiples of 32, and are {tuple(channels)}.")
        if objective not in get_args(Objective) or tokens not in get_args(Tokens):
            known = ", ".join((*get_args(Objective), *get_args(Tokens)))
            raise ValueError(
                f"Of objectives and tokens there are {known}, not {objective!r} with {tokens!r}."
            )
        if not 0 <= condition_dropout < 1 or not 0 <= average_decay < 1:
            raise ValueError(
                "condition_dropout and average_decay must be in [0, 1), "
                f"and are {condition_dropout} and {average_decay}."
            )

    def train(self, mode: bool = True) -> CineGenerator:
        """Set training or evaluation; the parts that are not trained stay in evaluation."""
        super().train(mode)
        for part in (self.encoder, self.autoencoder, self.average, self.judge):
            if part is not None:
                part.eval()
        return self

    # What it stands on --------------------------------------------------------------------------------

    @torch.no_grad()
    def condition(self, ecg: Tensor, lead_present: Tensor | None = None) -> Tensor:
        """Map ECGs (B, leads, T) to the tokens (B, N, token_width) that the U-Net attends to."""
        encoded, usable = self.encoder.encode_with_mask(ecg, lead_present)
        if self.tokens_kind == "all":
            return encoded.float()
        leads, _ = self.encoder.regions(encoded[:, 1:], usable)
        return torch.cat([encoded[:, :1], leads], dim=1).float()

    @torch.no_grad()
    def fit_latents(self, latents: Tensor) -> None:
        """Take mean and deviation of each latent channel from training latents (N, frames, C, h, w)."""
        by_channel = latents.float().movedim(2, 0).flatten(1)
        deviation = by_channel.std(dim=1)
        self.get_buffer("latent_mean").copy_(by_channel.mean(dim=1))
        self.get_buffer("latent_deviation").copy_(deviation.where(deviation > SMALLEST_DEVIATION, 1.0))

    def standardized(self, latents: Tensor) -> Tensor:
        """Map latents (B, frames, C, h, w) to data (B, frames * C, h, w) of mean 0 and deviation 1."""
        mean, deviation = (self.get_buffer(f"latent_{name}")[:, None, None] for name in ("mean", "deviation"))
        return ((latents - mean) / deviation).flatten(1, 2)

    def cines_of(self, data: Tensor) -> Tensor:
        """Map data (B, frames * C, h, w) to cines (B, frames, H, W), brightness 0 to 1."""
        latents = data.unflatten(1, (self.frames, -1))
        mean, deviation = (self.get_buffer(f"latent_{name}")[:, None, None] for name in ("mean", "deviation"))
        return self.autoencoder.decode(latents * deviation + mean)

    # Training -----------------------------------------------------------------------------------------

    def forward(
        self, data: Tensor, condition: Tensor, time: Tensor, noise: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Return the squared error of each sample's prediction, shape (B,).

        In training by the weights that learn, in evaluation by their average.

        Parameters
        ----------
        data, noise : torch.Tensor, shape (B, frames * C, h, w)
            Standardized latents, and standard normal numbers.
        condition : torch.Tensor, shape (B, N, token_width)
        time : torch.Tensor, shape (B,)
            0 to 1.
        hidden : torch.Tensor of bool, shape (B,), optional
            Samples whose ECG is hidden; default: drawn in training, none in evaluation.
        """
        signal, spread = path_of(self.objective, time)
        if hidden is None:
            share = self.condition_dropout if self.training else 0.0
            hidden = torch.rand(len(data), device=data.device) < share
        found = self._predict(signal * data + spread * noise, time, condition, hidden)
        wanted = target_of(self.objective, data, noise, time)
        return (found - wanted).square().flatten(1).mean(dim=1)

    def _predict(self, point: Tensor, time: Tensor, condition: Tensor, hidden: Tensor) -> Tensor:
        """Return what the network predicts at points of the path, in single precision."""
        network = self.network if self.training else self.average
        unknown = self.unknown if self.training else self.get_buffer("average_unknown")
        context = torch.where(hidden[:, None, None], unknown.expand_as(condition), condition)
        return network(point, time * TIME_SCALE, context).float()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average toward the weights: once after each step of the optimizer."""
        self.get_buffer("steps").add_(1)
        steps = int(self.get_buffer("steps"))
        keep = min(self.average_decay, (1 + steps) / (FASTEST_AVERAGE + steps))
        for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)
        self.get_buffer("average_unknown").lerp_(self.unknown, 1 - keep)

    # Use ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, condition: Tensor, seeds: Sequence[int], steps: int = 20, guidance: float = 1.0
    ) -> Tensor:
        """Draw one cine for each condition.

        Parameters
        ----------
        condition : torch.Tensor, shape (B, N, token_width)
            From `condition`.
        seeds : sequence of int
            One a cine: the same seed and condition give the same cine, whatever else is in the batch.
        steps : int
            Predictions a cine (twice as many under guidance).
        guidance : float
            1: as learned. Above 1, away from what is drawn without an ECG (Ho and Salimans 2022); 0: without.

        Returns
        -------
        torch.Tensor, shape (B, frames, H, W)
            Brightness 0 to 1.
        """
        if steps < 1 or len(seeds) != len(condition) or guidance < 0:
            raise ValueError(
                f"{steps} steps, {len(seeds)} seeds for {len(condition)} conditions and guidance {guidance} "
                "draw nothing: at least one step, a seed each and guidance of 0 or more are needed."
            )
        times = torch.linspace(LATEST[self.objective], 0.0, steps + 1).tolist()
        point = noise_for(seeds, self.shape).to(condition.device)
        for now, then in itertools.pairwise(times):
            here, there = (torch.full((len(point),), time, device=point.device) for time in (now, then))
            found = self.guided(point, here, condition, guidance)
            data, noise = ends_of(self.objective, point, found, here)
            signal, spread = path_of(self.objective, there)
            point = signal * data + spread * noise
        return self.cines_of(point)

    def guided(self, point: Tensor, time: Tensor, condition: Tensor, guidance: float) -> Tensor:
        """Return the prediction at a point of the path, led away from the one without an ECG."""
        none = torch.zeros(len(point), dtype=torch.bool, device=point.device)
        if guidance == 1:
            return self._predict(point, time, condition, none)
        without = self._predict(point, time, condition, ~none)
        if guidance == 0:
            return without
        return without + guidance * (self._predict(point, time, condition, none) - without)
