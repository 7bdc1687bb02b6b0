"""Learned stand-ins for modalities that a sample lacks, so that one network takes any subset of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.layers.blocks import MODALITIES, check_pair


class AbsenceTokens(nn.Module):
    """Give a sample's missing modality learned features, the same at all times: one (1, C, 1) a level.

    Parameters
    ----------
    channels : sequence of int
        Channels of the features at each level that is read.

    Notes
    -----
    Encoders see only the rows that have their modality. So what the input holds in the other rows reaches
    nothing, and batch normalization inside an encoder counts present samples alone. Layers after the tokens
    normalize over all samples, tokens included: these are the inputs they get in use as well. A batch that
    lacks a modality altogether runs its encoder on no rows: its statistics rest and its gradients are zero,
    not missing, which distributed training asks for. An exported network runs its encoders on all rows and
    then chooses: its shapes may not depend on values, and out of training no row depends on another.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = len(channels)
        self.tokens = nn.ParameterDict(
            {
                f"{name}_{level}": nn.Parameter(torch.zeros(1, count, 1))
                for name in MODALITIES
                for level, count in enumerate(channels)
            }
        )

    def forward(
        self,
        encode: Callable[[str, Tensor], Sequence[Tensor]],
        signals: Mapping[str, Tensor | None],
        has: Mapping[str, Tensor | None],
    ) -> dict[str, list[Tensor]]:
        """Return the features of each modality at every level, (B, C, T) each.

        Parameters
        ----------
        encode : callable
            Given a modality's name and its signal in the rows that have it (P, 1, points), P possibly 0,
            returns their features at every level.
        signals : mapping of str to torch.Tensor, shape (B, 1, points), or None
            None where the whole batch lacks the modality.
        has : mapping of str to torch.Tensor of bool, shape (B,), or None
            Which rows have the modality; None: all rows of a signal that is given, else none.
        """
        given, present = find_present(signals, has)
        everywhere = torch.compiler.is_exporting() and not self.training
        features = {}
        for name in MODALITIES:
            found = encode(name, given[name] if everywhere else given[name][present[name]])
            tokens = [self.tokens[f"{name}_{level}"] for level in range(self.levels)]
            put = choose if everywhere else place
            features[name] = [
                put(level, token, present[name]) for level, token in zip(found, tokens, strict=True)
            ]
        return features


def find_present(
    signals: Mapping[str, Tensor | None], has: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return both signals (zeros for one not given) and which rows have them, shape (B,) each.

    Raises
    ------
    ValueError
        If a row has no modality, a mask has no fitting shape, or it promises a signal that is not given.
    """
    known = [signal for signal in signals.values() if signal is not None]
    if not known:
        raise ValueError("Give ecg, pcg or both: without any signal there is nothing to judge.")
    empty = torch.zeros_like(known[0])
    ecg, pcg = (empty if signals[name] is None else signals[name] for name in MODALITIES)
    given = dict(zip(MODALITIES, check_pair(ecg, pcg), strict=True))
    present = {name: _mask(name, signals[name], has[name], empty) for name in MODALITIES}
    if not torch.compiler.is_exporting():  # a graph cannot refuse values
        _refuse_rows_without_signal(present["ecg"] | present["pcg"])
    return given, present


def _refuse_rows_without_signal(known: Tensor) -> None:
    lacking = (~known).nonzero().flatten().tolist()
    if lacking:
        raise ValueError(
            f"Rows {lacking[:5]} of the batch have neither ECG nor PCG: leave them out, "
            "or correct has_ecg and has_pcg."
        )


def place(found: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C, T): the features found (P, C, T) in the P present rows, the token (1, C, 1) elsewhere."""
    stand_in = token.to(found.dtype).expand(1, -1, found.shape[-1])
    slots = torch.where(present, present.cumsum(0) - 1, len(found))
    return torch.cat([found, stand_in]).index_select(0, slots)


def choose(found: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C, T): the features found (B, C, T) in the present rows, the token (1, C, 1) elsewhere."""
    return torch.where(present[:, None, None], found, token.to(found.dtype))


def _mask(name: str, signal: Tensor | None, has: Tensor | None, like: Tensor) -> Tensor:
    """Return which rows have a modality, as a checked boolean mask (B,)."""
    if has is None:
        return torch.full((like.shape[0],), signal is not None, device=like.device)
    if has.dtype != torch.bool or has.shape != like.shape[:1]:
        raise ValueError(
            f"has_{name} must be boolean of shape ({len(like)},), and is {has.dtype} of {tuple(has.shape)}."
        )
    if signal is None and bool(has.any()):
        raise ValueError(f"has_{name} says that rows have the {name.upper()}, but {name} is not given.")
    return has
