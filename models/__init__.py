"""Networks and losses: tensors in, tensors out. `MODELS` names every network a user can choose."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from models.cross_attention import CrossAttentionNetwork
from models.early_late_fusion import EarlyFusion, LateFusion
from models.linear import PhaseGridLinear
from models.pacfnet import PACFNet
from models.phase_fusion import PhaseFusion


def without_fusion_attention(network: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return the constructor of a network that has no SACMF, and so leaves its ``attention`` option aside."""

    def build(*, attention: str = "cascaded", **options: Any) -> nn.Module:
        return network(**options)

    return build


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "pacfnet": PACFNet,
    "ecg-network": functools.partial(PACFNet, modalities=("ecg",)),
    "pcg-network": functools.partial(PACFNet, modalities=("pcg",)),
    "last-fusion": functools.partial(PACFNet, fusion_levels=(4,)),
    "concatenation": functools.partial(PACFNet, spatial=False, channel=False),
    "spatial-attention": functools.partial(PACFNet, channel=False),
    "channel-attention": functools.partial(PACFNet, spatial=False),
    "early-fusion": without_fusion_attention(EarlyFusion),
    "late-fusion": without_fusion_attention(LateFusion),
    "cross-attention": without_fusion_attention(CrossAttentionNetwork),
}
"""Networks of beats; each constructor takes ``width``, ``kernel_size``, ``dropout``, ``attention``."""

FITTED_MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": PhaseGridLinear,
    "phase-fusion": PhaseFusion,
}
"""Models of whole recordings, which bring a fit of their own; they have no options to be set."""

MODELS = NETWORKS | FITTED_MODELS
"""All models by name."""

SINGLE_MODALITY = {"ecg-network": "ecg", "pcg-network": "pcg"}
"""Models that read one modality, and which."""

TAKES_ABSENCE = (
    "pacfnet",
    "last-fusion",
    "concatenation",
    "spatial-attention",
    "channel-attention",
    "cross-attention",
)
"""Models that ``absence_tokens=True`` enables to take samples that lack a modality."""


def build_model(name: str, **options: object) -> nn.Module:
    """Build a registered network.

    Raises
    ------
    ValueError
        If the name is not registered; the message names the nearest that is.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" Perhaps you meant {near[0]}." if near else ""
        raise ValueError(f"There is no model {name!r}.{hint} Models: {', '.join(MODELS)}.")
    return MODELS[name](**options)
