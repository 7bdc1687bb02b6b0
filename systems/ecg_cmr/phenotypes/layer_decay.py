"""Parameter groups for fine-tuning: layers near the input learn slower than those near the output.

Layer-wise decay of the learning rate as in BEiT (Bao et al. 2022) and masked autoencoders (He et al. 2022).
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn


def layer_decay_groups(
    model: nn.Module,
    learning_rate: float,
    *,
    decay: float = 0.75,
    weight_decay: float = 0.05,
    encoder: str = "encoder",
) -> list[dict[str, Any]]:
    """Group the trainable parameters by layer, each with its learning rate and weight decay.

    The learning rate of layer l is ``learning_rate * decay ** (depth + 1 - l)``: layer 0 embeds patches,
    layers 1 to depth are the encoder's blocks, and all else (its last normalization, heads) is layer
    depth + 1. Only weights of dense and convolutional layers decay: not norms, biases, tokens,
    embeddings or scalars.

    Parameters
    ----------
    model : torch.nn.Module
        With the encoder as a part, and the encoder's blocks in a module list named ``blocks``.
    learning_rate : float
        Of the heads.
    decay : float
        In (0, 1]; 1: the same rate everywhere.
    weight_decay : float
    encoder : str
        Name of the pre-trained network in the model.

    Returns
    -------
    list of dict
        For ``torch.optim.AdamW``: ``params``, ``lr``, ``weight_decay``, and to read ``layer`` and ``names``.
        A schedule must scale each group's own ``lr`` (``OneCycleLR`` takes a list of ``max_lr``).
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, and is {decay}.")
    depth = _depth(model, encoder)
    decaying = _decaying(model)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decays = _layer(name, encoder, depth), name in decaying
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "names": [],
                "layer": layer,
                "lr": learning_rate * decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def _block(name: str, encoder: str) -> int | None:
    """Return the number, from 0, of the encoder's block that a parameter belongs to, if any."""
    found = re.match(rf"{re.escape(encoder)}\.(?:.*?\.)?blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def _depth(model: nn.Module, encoder: str) -> int:
    """Return how many blocks the encoder has."""
    blocks = {_block(name, encoder) for name, _ in model.named_parameters()} - {None}
    if not blocks:
        raise ValueError(
            f"The model has no blocks under {encoder!r}; its parts are "
            f"{', '.join(name for name, _ in model.named_children())}. Name the part that holds the encoder."
        )
    return len(blocks)


def _layer(name: str, encoder: str, depth: int) -> int:
    """Return the layer of a parameter, 0 (embedding) to depth + 1 (heads)."""
    block = _block(name, encoder)
    if block is not None:
        return block + 1
    # layers after the blocks belong to the heads, others of the encoder to the embedding
    follows = not name.startswith(f"{encoder}.") or re.search(r"(^|\.)norm\.", name) is not None
    return depth + 1 if follows else 0


def _decaying(model: nn.Module) -> set[str]:
    """Return the names of the parameters with weight decay."""
    return {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
