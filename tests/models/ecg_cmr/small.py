"""Small encoders, autoencoders and batches that the tests of the ECG-CMR networks share."""

from typing import Any

import torch
from torch import Tensor, nn

from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.masking import MaskedAutoencoder

ECG: dict[str, Any] = {"samples": 80, "patch_length": 10, "leads": 4}
CMR: dict[str, Any] = {"frames": 4, "size": 16, "patch": (4, 4, 4), "token_width": 24}
DECODER: dict[str, Any] = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _autoencoder(encoder: Any, sizes: dict[str, Any], mask_ratio: float, seed: int) -> MaskedAutoencoder:
    decoder = {name: sizes.pop(name) for name in DECODER}
    torch.manual_seed(seed)
    return MaskedAutoencoder(encoder(**sizes), mask_ratio, **decoder)


def ecg_autoencoder(seed: int = 0, mask_ratio: float = 0.8, **sizes: Any) -> MaskedAutoencoder:
    """Return an autoencoder of ECGs with 4 leads of 8 patches."""
    common = {"token_width": 16, "depth": 2, "heads": 2}
    return _autoencoder(ECGEncoder, DECODER | common | ECG | sizes, mask_ratio, seed)


def cmr_autoencoder(seed: int = 0, mask_ratio: float = 0.75, **sizes: Any) -> MaskedAutoencoder:
    """Return an autoencoder of cines with 16 patches over 4 frames."""
    common = {"token_width": 24, "depth": 2, "heads": 2, "decoder_width": 12}
    return _autoencoder(CMREncoder, DECODER | common | CMR | sizes, mask_ratio, seed)


def ecgs(count: int = 5, leads: int = 4, samples: int = 80, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(count, leads, samples, generator=generator(seed)) + 0.1


def cines(count: int = 4, frames: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return 80 * torch.rand(count, frames, size, size, generator=generator(seed)) + 20


def train(
    model: nn.Module, loss_of: Any, steps: int, rate: float, *, decay: float = 0.01, one_cycle: bool = False
) -> None:
    """Minimize the loss that a function returns for the number of a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    cycle: dict[str, Any] = {"max_lr": rate, "total_steps": steps, "pct_start": 0.2}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, **cycle) if one_cycle else None
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
