"""Networks and losses: tensors in, tensors out. `MODELS` names every network a user can choose."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from models.pacfnet import PACFNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "pacfnet": PACFNet,
}


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
