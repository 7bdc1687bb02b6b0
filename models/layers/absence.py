"""Missing-modality tokens: one network takes any subset of its modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.layers.blocks import MODALITIES, check_pair


class AbsenceTokens(nn.Module):
    """Replace the features of a missing modality by learned ones, the same at all times: (1, C, 1) a level.

    Parameters
    ----------
    channels : sequence of int
        Channels of the features at each level that is read.

    Notes
    -----
    Encoders get only the rows that have their modality. So what the input holds in the other rows has no
    effect, and batch normalization inside an encoder counts present samples alone. Layers after the tokens
    normalize over all samples, tokens included: these are their inputs in use as well. A batch that lacks a
    modality altogether runs its encoder on no rows: its statistics stay and its gradients are zero, not
    missing, as distributed training requires. An exported network runs its encoders on all rows and then
    selects: its shapes may not depend on values, and out of training no row depends on another.
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
        given, present = _find_present(signals, has)
        everywhere = torch.compiler.is_exporting() and not self.training
        features = {}
        for name in MODALITIES:
            encoded = encode(name, given[name] if everywhere else given[name][present[name]])
            tokens = [self.tokens[f"{name}_{level}"] for level in range(self.levels)]
            fill = _select_rows if everywhere else fill_rows
            features[name] = [
                fill(level, token, present[name]) for level, token in zip(encoded, tokens, strict=True)
            ]
        return features


def _find_present(
    signals: Mapping[str, Tensor | None], has: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return both signals (zeros for one not given) and which rows have them, shape (B,) each.

    Raises
    ------
    ValueError
        If a row has no modality, a mask has no fitting shape, or it promises a signal that is not given.
    """
    batches = [signal for signal in signals.values() if signal is not None]
    if not batches:
        raise ValueError("Give ecg, pcg or both: without any signal there is nothing to predict from.")
    empty = torch.zeros_like(batches[0])
    ecg, pcg = (empty if signals[name] is None else signals[name] for name in MODALITIES)
    given = dict(zip(MODALITIES, check_pair(ecg, pcg), strict=True))
    present = {name: modality_mask(name, signals[name], has[name], empty) for name in MODALITIES}
    if not torch.compiler.is_exporting():  # a graph cannot refuse values
        _refuse_rows_without_signal(present["ecg"] | present["pcg"])
    return given, present


def _refuse_rows_without_signal(present: Tensor) -> None:
    lacking = (~present).nonzero().flatten().tolist()
    if lacking:
        raise ValueError(
            f"Rows {lacking[:5]} of the batch have neither ECG nor PCG: leave them out, "
            "or correct has_ecg and has_pcg."
        )


def fill_rows(features: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C, T): the features (P, C, T) in the P present rows, the token (1, C, 1) elsewhere."""
    token = token.to(features.dtype).expand(1, -1, features.shape[-1])
    slots = torch.where(present, present.cumsum(0) - 1, len(features))
    return torch.cat([features, token]).index_select(0, slots)


def _select_rows(features: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C, T): the features (B, C, T) in the present rows, the token (1, C, 1) elsewhere."""
    return torch.where(present[:, None, None], features, token.to(features.dtype))


def modality_mask(name: str, values: Tensor | None, has: Tensor | None, given: Tensor) -> Tensor:
    """Return which rows have a modality, (B,), checked; ``given`` is the batch of any modality."""
    if has is None:
        # not len(): an exported network would hold the number of rows as a constant
        return torch.full((given.shape[0],), values is not None, device=given.device)
    if has.dtype != torch.bool or has.shape != given.shape[:1]:
        raise ValueError(
            f"has_{name} must be boolean of shape ({len(given)},), and is {has.dtype} of {tuple(has.shape)}."
        )
    if values is None and bool(has.any()):
        raise ValueError(f"has_{name} says that rows have the {name} modality, but {name} is not given.")
    return has
