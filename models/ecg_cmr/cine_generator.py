r"""Cines generated from an ECG: MONAI's `DiffusionModelUNet` over the latents of a cine.

The latents of a whole cycle are generated at once, as their mean over the cycle and its first harmonics,
cosine and sine: the channels of one small image. The mean holds nearly all of the power of latents over time,
motion a few percent. Each channel is brought to deviation 1, so that motion counts as much as shape, and the
result moves smoothly and ends where it began. Compared with three-dimensional convolutions over (frames,
height, width) a step costs less at eight times the weights.

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

from models.ecg_cmr.cine_autoencoder import CineAutoencoder
from models.ecg_cmr.transformer import TokenEncoder

Objective = Literal["velocity", "noise", "flow"]
Tokens = Literal["leads", "all"]
LATEST = {"velocity": 1.0, "noise": 0.98, "flow": 1.0}
"""Time at which sampling begins; where the network predicts the noise, x0 cannot be computed from it at 1."""
EARLIEST = 0.001
"""Smallest time that is trained: at 0 there is nothing to predict."""
_TIME_SCALE = 1000.0
"""Times are given to the network in thousandths, which its sine embedding is made for."""
SMALLEST_DEVIATION = 1e-4
"""Standard deviation, of a latent channel or a number of a token, below which it is only centered."""
_GROUPED = 64
"""Channels are multiples of it: a normalized group of one channel, of the 32 groups, loses the time."""
_EMA_WARM_UP = 10
"""The EMA of the weights adapts fast at first: (1 + steps) / (10 + steps) of it stays."""


def alpha_sigma(objective: Objective, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return a(t) and s(t) of times (B,), each of shape (B, 1, 1, 1)."""
    time = time.reshape(-1, 1, 1, 1)
    if objective == "flow":
        return 1 - time, time
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def prediction_target(objective: Objective, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return what the network has to predict at these times, of the shape of ``data`` (B, C, H, W)."""
    if objective == "noise":
        return noise
    if objective == "flow":
        return noise - data
    alpha, sigma = alpha_sigma(objective, time)
    return alpha * noise - sigma * data


def x0_and_noise(
    objective: Objective, noisy: Tensor, predicted: Tensor, time: Tensor
) -> tuple[Tensor, Tensor]:
    """Return data and noise (B, C, H, W) that a prediction from noisy data stands for."""
    alpha, sigma = alpha_sigma(objective, time)
    if objective == "noise":
        return (noisy - sigma * predicted) / alpha, predicted
    if objective == "flow":
        return noisy - sigma * predicted, noisy + alpha * predicted
    return alpha * noisy - sigma * predicted, sigma * noisy + alpha * predicted


def cycle_basis(frames: int, harmonics: int) -> Tensor:
    """Return orthonormal functions of a cycle, (K, frames): its mean, then cosine and sine of each harmonic.

    With half as many harmonics as frames, or more, they are as many as frames and nothing is lost.
    """
    phase = torch.arange(frames, dtype=torch.float64) * (2 * math.pi / frames)
    found = [torch.ones(frames, dtype=torch.float64)]
    for number in range(1, min(harmonics, frames // 2) + 1):
        found.append(torch.cos(number * phase))
        if 2 * number != frames:
            found.append(torch.sin(number * phase))
    basis = torch.stack(found)
    return (basis / basis.norm(dim=1, keepdim=True)).float()


def noise_for(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers (N, *shape), each sample's from its own seed, whatever the batch."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


class CineGenerator(nn.Module):
    """Generative model of cines given ECGs, with the two pre-trained networks that it uses.

    Parameters
    ----------
    encoder : TokenEncoder
        Of the ECG, pre-trained; frozen.
    autoencoder : CineAutoencoder
        Pre-trained; frozen.
    frames : int
        Of a cine.
    harmonics : int
        Of the cycle that are generated; faster motion is left out.
    channels : sequence of int
        Of each level of the U-Net, multiples of 64; every level but the first halves height and width.
    blocks : int
        Residual blocks a level.
    objective : {"velocity", "noise", "flow"}
    tokens : {"leads", "all"}
        What the U-Net attends to: the class token and the mean token of each lead, or all tokens.
    condition_dropout : float
        Share of the training samples whose ECG is replaced by the null token, for classifier-free guidance.
    ema_decay : float
        Of the exponential moving average of the weights, which generates samples.

    Notes
    -----
    Checkpoints name the EMA ``average``, the null token ``unknown``, and the feature encoder ``judge``.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        autoencoder: CineAutoencoder,
        frames: int = 16,
        harmonics: int = 4,
        channels: Sequence[int] = (128, 256),
        blocks: int = 1,
        objective: Objective = "flow",
        tokens: Tokens = "leads",
        condition_dropout: float = 0.1,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        self._check(harmonics, channels, objective, tokens, condition_dropout, ema_decay)
        self.encoder = encoder.requires_grad_(False).eval()
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.objective, self.frames = objective, frames
        self.lead_tokens = tokens == "leads"
        self.condition_dropout, self.ema_decay = condition_dropout, ema_decay
        latent, height, width = autoencoder.latent_shape
        self.register_buffer("basis", cycle_basis(frames, harmonics), persistent=False)
        count = len(self.get_buffer("basis")) * latent
        self.shape = (count, height, width)
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=count,
            out_channels=count,
            channels=tuple(channels),
            num_res_blocks=blocks,
            attention_levels=(True,) * len(channels),
            num_head_channels=32,
            with_conditioning=True,
            cross_attention_dim=encoder.token_width,
            num_class_embeds=1,
        )
        # beside the time, into every block: the whole ECG (MONAI has a table of classes there)
        self.network.add_module("class_embedding", nn.Linear(2 * encoder.token_width, 4 * channels[0]))
        self.add_module("average", copy.deepcopy(self.network).requires_grad_(False))
        self.register_parameter("unknown", nn.Parameter(torch.zeros(encoder.token_width)))
        self.register_buffer("average_unknown", torch.zeros(encoder.token_width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("latent_mean", torch.zeros(self.shape))
        self.register_buffer("latent_deviation", torch.ones(count, 1, 1))
        encoded = torch.zeros(1, 1 + len(encoder.positions()), encoder.token_width)
        count = self._condition_tokens(encoded)[0].shape[1]
        self.register_buffer("token_mean", torch.zeros(count, encoder.token_width))
        self.register_buffer("token_deviation", torch.ones(count, encoder.token_width))

    @staticmethod
    def _check(
        harmonics: int,
        channels: Sequence[int],
        objective: str,
        tokens: str,
        condition_dropout: float,
        ema_decay: float,
    ) -> None:
        """Refuse settings that make no model, saying which would."""
        if harmonics < 1:
            raise ValueError(f"harmonics must be 1 or more, and are {harmonics}.")
        if not channels or any(count < _GROUPED or count % _GROUPED for count in channels):
            raise ValueError(f"channels must be multiples of {_GROUPED}, and are {tuple(channels)}.")
        if objective not in get_args(Objective) or tokens not in get_args(Tokens):
            known = ", ".join((*get_args(Objective), *get_args(Tokens)))
            raise ValueError(
                f"Of objectives and tokens there are {known}, not {objective!r} with {tokens!r}."
            )
        if not 0 <= condition_dropout < 1 or not 0 <= ema_decay < 1:
            raise ValueError(
                "condition_dropout and average_decay must be in [0, 1), "
                f"and are {condition_dropout} and {ema_decay}."
            )

    @property
    def ema(self) -> nn.Module:
        """The U-Net with the exponential moving average of the weights."""
        return self.get_submodule("average")

    @property
    def null_token(self) -> nn.Parameter:
        """Learned token in place of those of an ECG that is hidden, (token_width,)."""
        return self.get_parameter("unknown")

    @property
    def feature_encoder(self) -> nn.Module | None:
        """Encoder of cines, if there is one: its features compare generated cines with true ones."""
        return self._modules.get("judge")

    def add_feature_encoder(self, encoder: TokenEncoder) -> None:
        """Add the encoder of cines, frozen, so that checkpoints hold it."""
        self.add_module("judge", encoder.requires_grad_(False))

    def train(self, mode: bool = True) -> CineGenerator:
        """Set training or evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for part in (self.encoder, self.autoencoder, self.ema, self.feature_encoder):
            if part is not None:
                part.eval()
        return self

    # Condition and latents ----------------------------------------------------------------------------

    @torch.no_grad()
    def condition(self, ecg: Tensor, lead_present: Tensor | None = None) -> Tensor:
        """Map ECGs (B, leads, T) to the standardized tokens (B, N, token_width) that the U-Net attends to.

        The first is the class token; those of leads that are missing are 0, as the mean is.
        """
        tokens, known = self._condition_tokens(*self.encoder.encode_with_mask(ecg, lead_present))
        mean, deviation = (self.get_buffer(f"token_{name}") for name in ("mean", "deviation"))
        return (tokens.float() - mean) / deviation * known.unsqueeze(-1)

    def _condition_tokens(self, encoded: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the attended of encoded patches (B, 1 + P, C), (B, N, C), and which are known."""
        if usable is None:
            usable = encoded.new_ones(encoded.shape[0], encoded.shape[1] - 1, dtype=torch.bool)
        patches = encoded[:, 1:]
        if self.lead_tokens:
            patches, usable = self.encoder.regions(patches, usable)
        known = torch.cat([torch.ones_like(usable[:, :1]), usable], dim=1)
        return torch.cat([encoded[:, :1], patches], dim=1), known

    @torch.no_grad()
    def fit_tokens(self, tokens: Tensor) -> None:
        """Fit the standardization of tokens to the conditions (N, tokens, width) of training ECGs.

        To be called once, while `condition` standardizes nothing yet.
        """
        deviation = tokens.float().std(dim=0)
        self.get_buffer("token_mean").copy_(tokens.float().mean(dim=0))
        self.get_buffer("token_deviation").copy_(deviation.where(deviation > SMALLEST_DEVIATION, 1.0))

    @torch.no_grad()
    def fit_latents(self, latents: Tensor) -> None:
        """Fit the mean cycle and each channel's deviation to training latents (N, frames, C, h, w)."""
        data = self._in_harmonics(latents.float())
        mean = data.mean(dim=0)
        deviation = (data - mean).movedim(1, 0).flatten(1).std(dim=1)
        self.get_buffer("latent_mean").copy_(mean)
        scale = deviation.where(deviation > SMALLEST_DEVIATION, 1.0)
        self.get_buffer("latent_deviation").copy_(scale[:, None, None])

    def _in_harmonics(self, latents: Tensor) -> Tensor:
        """Map latents (B, frames, C, h, w) to their mean and harmonics over the cycle, (B, K * C, h, w)."""
        return torch.einsum("kf,bfchw->bkchw", self.get_buffer("basis"), latents).flatten(1, 2)

    def standardized(self, latents: Tensor) -> Tensor:
        """Map latents (B, frames, C, h, w) to data (B, K * C, h, w) of mean 0 and deviation 1."""
        mean, deviation = (self.get_buffer(f"latent_{name}") for name in ("mean", "deviation"))
        return (self._in_harmonics(latents) - mean) / deviation

    def cines_of(self, data: Tensor) -> Tensor:
        """Map data (B, K * C, h, w) to cines (B, frames, H, W), brightness 0 to 1."""
        mean, deviation = (self.get_buffer(f"latent_{name}") for name in ("mean", "deviation"))
        basis = self.get_buffer("basis")
        by_harmonic = (data * deviation + mean).unflatten(1, (len(basis), -1))
        return self.autoencoder.decode(torch.einsum("kf,bkchw->bfchw", basis, by_harmonic))

    # Training -----------------------------------------------------------------------------------------

    def forward(
        self, data: Tensor, condition: Tensor, time: Tensor, noise: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Return the squared error of each sample's prediction, shape (B,).

        In training by the weights that are optimized, in evaluation by their EMA.

        Parameters
        ----------
        data, noise : torch.Tensor, shape (B, K * C, h, w)
            Standardized latents, and standard normal numbers.
        condition : torch.Tensor, shape (B, N, token_width)
        time : torch.Tensor, shape (B,)
            0 to 1.
        hidden : torch.Tensor of bool, shape (B,), optional
            Samples whose ECG is hidden; default: random in training, none in evaluation.
        """
        alpha, sigma = alpha_sigma(self.objective, time)
        if hidden is None:
            share = self.condition_dropout if self.training else 0.0
            hidden = torch.rand(len(data), device=data.device) < share
        predicted = self._predict(alpha * data + sigma * noise, time, condition, hidden)
        target = prediction_target(self.objective, data, noise, time)
        return (predicted - target).square().flatten(1).mean(dim=1)

    def _predict(self, noisy: Tensor, time: Tensor, condition: Tensor, hidden: Tensor) -> Tensor:
        """Return the network's prediction from noisy data, in single precision."""
        network = self.network if self.training else self.ema
        null_token = self.null_token if self.training else self.get_buffer("average_unknown")
        context = torch.where(hidden[:, None, None], null_token.expand_as(condition), condition)
        whole = torch.cat([context[:, 0], context[:, 1:].mean(dim=1)], dim=1)
        return network(noisy, time * _TIME_SCALE, context, class_labels=whole).float()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the EMA toward the weights: once after each step of the optimizer."""
        steps = self.get_buffer("steps").add_(1).double()
        keep = ((1 + steps) / (_EMA_WARM_UP + steps)).clamp(max=self.ema_decay)
        share = (1 - keep).float()  # a tensor: no step waits for the device
        for mean, weight in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(weight, share)
        self.get_buffer("average_unknown").lerp_(self.null_token, share)

    # Sampling -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        seeds: Sequence[int],
        steps: int = 20,
        guidance: float = 1.0,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Generate one cine for each condition.

        Parameters
        ----------
        condition : torch.Tensor, shape (B, N, token_width)
            From `condition`.
        seeds : sequence of int
            One a cine: the same seed and condition give the same cine, whatever else is in the batch.
        steps : int
            Predictions a cine (twice as many under guidance).
        guidance : float
            1: the conditional prediction; 0: the unconditional one; above 1: away from the latter (Ho and
            Salimans 2022).
        precision : torch.dtype
            Of the U-Net.

        Returns
        -------
        torch.Tensor, shape (B, frames, H, W)
            Brightness 0 to 1.
        """
        if steps < 1 or len(seeds) != len(condition) or guidance < 0:
            raise ValueError(
                f"{steps} steps, {len(seeds)} seeds for {len(condition)} conditions and guidance {guidance} "
                "generate nothing: at least one step, a seed each and guidance of 0 or more are needed."
            )
        times = torch.linspace(LATEST[self.objective], 0.0, steps + 1).tolist()
        sample = noise_for(seeds, self.shape).to(condition.device)
        for pair in itertools.pairwise(times):
            now, then = (torch.full((len(sample),), time, device=sample.device) for time in pair)
            with torch.autocast(sample.device.type, precision, enabled=precision != torch.float32):
                predicted = self.guided(sample, now, condition, guidance)
            data, noise = x0_and_noise(self.objective, sample, predicted, now)
            alpha, sigma = alpha_sigma(self.objective, then)
            sample = alpha * data + sigma * noise
        return self.cines_of(sample)

    def guided(self, noisy: Tensor, time: Tensor, condition: Tensor, guidance: float) -> Tensor:
        """Return the prediction from noisy data under classifier-free guidance."""
        none = torch.zeros(len(noisy), dtype=torch.bool, device=noisy.device)
        if guidance == 1:
            return self._predict(noisy, time, condition, none)
        without = self._predict(noisy, time, condition, ~none)
        if guidance == 0:
            return without
        return without + guidance * (self._predict(noisy, time, condition, none) - without)
