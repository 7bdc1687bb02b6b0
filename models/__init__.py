"""Networks and losses: tensors in, tensors out. `MODELS` names every network a user can choose.

A new network of beats is one file and one line in `NETWORKS`. Its constructor takes ``width``,
``kernel_size`` and ``dropout``. Further parameters state what it can do: ``attention``, ``absence_tokens`` (a
sample may lack a modality), and ``modalities``, whose default is what it reads.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from models.cross_attention import CrossAttentionNetwork
from models.early_late_fusion import EarlyFusion, LateFusion
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

FITTED_MODELS: dict[str, Callable[..., nn.Module]] = {"linear": PhaseGridLinear, "phase-fusion": PhaseFusion}
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


def build_model(name: str, **options: object) -> nn.Module:
    """Build a registered network; ``attention`` is for those that have such an option.

    Raises
    ------
    ValueError
        If the name is not registered; the message names the nearest that is.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" Perhaps you meant {near[0]}." if near else ""
        raise ValueError(f"There is no model {name!r}.{hint} Models: {', '.join(MODELS)}.")
    if name in NETWORKS and "attention" not in _PARAMETERS[name]:
        options.pop("attention", None)
    return MODELS[name](**options)
