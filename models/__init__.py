"""Networks and losses: tensors in, tensors out. `MODELS` names every network a user can choose.

A new network of beats is one file, one line in `NETWORKS`, and its name in the settings of ecg-pcg. Its
constructor takes ``width``, ``kernel_size`` and ``dropout``. Further parameters state what it can do:
``attention``, ``absence_tokens`` (a sample may lack a modality), and ``modalities``, whose default is what it
reads.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.cross_attention import CrossAttentionNetwork
from models.cycle_shape import CycleShape
from models.early_late_fusion import EarlyFusion, LateFusion
from models.layers.blocks import MODALITIES
from models.linear import PhaseGridLinear
from models.pacfnet import PACFNet
from models.phase_fusion import PhaseFusion

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "pacfnet": PACFNet,
    "ecg-network": partial(PACFNet, modalities=("ecg",)),
    "pcg-network": partial(PACFNet, modalities=("pcg",)),
    "last-fusion": partial(PACFNet, fusion_levels=(4,)),
    "concatenation": partial(PACFNet, spatial=False, channel=False),
    "spatial-attention": partial(PACFNet, channel=False),
    "channel-attention": partial(PACFNet, spatial=False),
    "early-fusion": EarlyFusion,
    "late-fusion": LateFusion,
    "cross-attention": CrossAttentionNetwork,
}
"""Networks of beats."""

FITTED_MODELS: dict[str, Callable[..., nn.Module]] = {
    "linear": PhaseGridLinear,
    "phase-fusion": PhaseFusion,
    "cycle-shape": CycleShape,
}
"""Models of whole recordings, which bring a fit of their own; they have no options to be set."""

MODELS = NETWORKS | FITTED_MODELS

_PARAMETERS = {name: inspect.signature(network).parameters for name, network in NETWORKS.items()}

SINGLE_MODALITY: dict[str, str] = {
    name: parameters["modalities"].default[0]
    for name, parameters in _PARAMETERS.items()
    if "modalities" in parameters and len(parameters["modalities"].default) == 1
}
"""Models that read one modality, and which."""

TAKES_ABSENCE = tuple(
    name
    for name, parameters in _PARAMETERS.items()
    if "absence_tokens" in parameters and name not in SINGLE_MODALITY
)
"""Models that ``absence_tokens=True`` enables to take samples that lack a modality."""


@dataclass(frozen=True)
class Takes:
    """Which signals a model takes.

    Attributes
    ----------
    modalities : tuple of str
        Those that it reads.
    any_subset : bool
        Whether one of them is enough; else it needs all.
    """

    modalities: tuple[str, ...]
    any_subset: bool


def takes(name: str, modality_dropout: float = 0.0, zeroed: str = "none") -> Takes:
    """Return which signals a model takes that was trained with these settings."""
    if name in FITTED_MODELS:
        return Takes(getattr(FITTED_MODELS[name], "modalities", MODALITIES), any_subset=True)
    read = (SINGLE_MODALITY[name],) if name in SINGLE_MODALITY else MODALITIES
    return Takes(tuple(each for each in read if each != zeroed), any_subset=modality_dropout > 0)


def build_model(name: str, **options: object) -> nn.Module:
    """Build a registered network.

    Parameters
    ----------
    name : str
    **options
        Of its constructor. What only some networks have (``attention``, ``levels``, ``fusion_levels``) may be
        None, and is then left to the network.

    Raises
    ------
    ValueError
        If the name is not registered (the message names the nearest that is), or has no such option.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" Perhaps you meant {near[0]}." if near else ""
        raise ValueError(f"There is no model {name!r}.{hint} Models: {', '.join(MODELS)}.")
    chosen = {option: value for option, value in options.items() if value is not None}
    fixed = getattr(MODELS[name], "keywords", {})
    for option in chosen:
        if name in NETWORKS and (option not in _PARAMETERS[name] or option in fixed):
            able = [
                other
                for other, parameters in _PARAMETERS.items()
                if option in parameters and option not in getattr(NETWORKS[other], "keywords", {})
            ]
            words = option.replace("_", "-")
            raise ValueError(f"{name} has no --{words} to choose; these have: {', '.join(able)}.")
    return MODELS[name](**chosen)
