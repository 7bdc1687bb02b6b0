"""Phase fusion: logistic regressions, and beside them a small PACFNet over the phase of the cardiac cycle.

A recording is represented by the power of each band in each part of the cycle (`features.spectral`,
`features.ecg_cycle_grid` of ecg_pcg), not by waveforms: that is more specific to disease and less to the
person. Two paths lead to the log-odds of abnormal:

evidence  Four logistic regressions. Three of the heart sound: the whole grid; its *shape* (each band's mean
          over the cycle removed, so that a filter of microphone, room or chest has no effect); and its
          spectral tilt, ``colour`` in checkpoints (these means alone). One of the band powers of the ECG.
deep      Two encoders over phase that share no weights, and at each level the attention fusion of PACFNet;
          an ensemble of members. It starts at zero and learns the residual of the evidence. Its weight
          ``share`` is chosen on held-out sessions (systems/ecg_pcg/phase_fusion/fit.py).

A missing modality contributes nothing, so one model takes both signals or either one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.layers.absence import fill_rows
from models.linear import StandardizedLogistic
from models.pacfnet import FusionLevel

EVIDENCE_WEIGHTS: Mapping[str, float] = {"whole": 1 / 3, "shape": 1 / 3, "colour": 1 / 3, "ecg": 2 / 3}
"""Weights of the log-odds: the three of the heart sound together count one and a half times the ECG's."""
STRIDES = (1, 2, 2)
_KERNEL = 3
MODALITIES = ("pcg", "ecg")


class PhaseEncoder(nn.ModuleList):
    """Levels of Conv-BN-ReLU over phase; all bands and percentiles are channels of the input.

    Parameters
    ----------
    inputs : int
        Channels of the input: percentiles times bands.
    channels : sequence of int
        Channels of each level; phase is halved from level to level.
    dropout : float
        Share of channels that are hidden in training.
    """

    def __init__(self, inputs: int, channels: list[int], dropout: float) -> None:
        levels = []
        for count, stride in zip(channels, STRIDES, strict=True):
            kernel = 1 if stride == 1 else _KERNEL  # the first level mixes bands: a few weights a cell
            levels.append(
                nn.Sequential(
                    nn.Conv1d(inputs, count, kernel, stride, padding=kernel // 2),
                    nn.BatchNorm1d(count),
                    nn.ReLU(inplace=True),
                    nn.Dropout1d(dropout),
                )
            )
            inputs = count
        super().__init__(levels)

    def forward(self, grid: Tensor) -> list[Tensor]:
        """Map (B, inputs, cells) to the features of every level, (B, channels, cells at that level) each."""
        features = []
        for level in self:
            grid = level(grid)
            features.append(grid)
        return features


class FusionMember(nn.Module):
    """Two encoders over phase and the progressive attention fusion of PACFNet; its output starts at zero.

    Parameters
    ----------
    pcg_inputs, ecg_inputs : int
        Percentiles times bands of each grid.
    channels : int
        Channels of the first level, a multiple of 8; level k (from 1) has k times as many.
    dropout : float
    """

    def __init__(self, pcg_inputs: int, ecg_inputs: int, channels: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        counts = [channels * (level + 1) for level in range(len(STRIDES))]
        inputs = {"pcg": pcg_inputs, "ecg": ecg_inputs}
        self.encoders = nn.ModuleDict(
            {name: PhaseEncoder(inputs[name], counts, dropout) for name in MODALITIES}
        )
        self.tokens = nn.ParameterDict(
            {
                f"{name}_{level}": torch.zeros(1, count, 1)
                for name in MODALITIES
                for level, count in enumerate(counts)
            }
        )
        previous = [0, *counts[:-1]]
        self.fusions = nn.ModuleList(
            FusionLevel(count, before, _KERNEL, stride)
            for count, before, stride in zip(counts, previous, STRIDES, strict=True)
        )
        self.head = nn.Sequential(nn.BatchNorm1d(counts[-1]), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.output = nn.Linear(counts[-1], 1)
        self._zero_output()

    def _zero_output(self) -> None:
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def restart(self) -> None:
        """Initialize all weights anew from torch's random numbers; the output starts at zero."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        for token in self.tokens.values():
            nn.init.zeros_(token)
        self._zero_output()

    def forward(self, grids: Mapping[str, Tensor], has: Mapping[str, Tensor]) -> Tensor:
        """Return the contribution to the log-odds, shape (B,).

        Parameters
        ----------
        grids : mapping of str to torch.Tensor, shape (B, inputs, cells)
            ``pcg`` and ``ecg``; rows that lack one may hold anything finite.
        has : mapping of str to torch.Tensor of bool, shape (B,)
        """
        features = {name: self._encode(name, grids[name], has[name]) for name in MODALITIES}
        fused: Tensor | None = None
        for level, module in enumerate(self.fusions):
            fused, _ = module(features["ecg"][level], features["pcg"][level], fused)
        assert fused is not None
        return self.output(self.head(fused).mean(dim=-1)).squeeze(1)

    def _encode(self, name: str, grid: Tensor, has: Tensor) -> list[Tensor]:
        """Return features at every level; rows that lack the signal get the learned token."""
        found = self.encoders[name](grid[has])
        return [fill_rows(level, self.tokens[f"{name}_{k}"], has) for k, level in enumerate(found)]


class PhaseFusion(nn.Module):
    """The network: weighted log-odds of the evidence, and the mean of the members times their share.

    Parameters
    ----------
    pcg_shape, ecg_shape : tuple of int
        Percentiles, cells and bands of the two grids; cells must agree.
    ecg_bands : int
        Band powers of the ECG.
    channels, dropout
        As for `FusionMember`.
    members : int
        Networks of the deep path.

    Notes
    -----
    With the defaults 60,806 weights: 4,607 in the evidence, 18,733 in each member. Members take the shape of
    both grids, each feature standardized over the training recordings.
    """

    share: Tensor
    fitted: Tensor

    def __init__(
        self,
        pcg_shape: tuple[int, int, int] = (3, 22, 34),
        ecg_shape: tuple[int, int, int] = (3, 22, 24),
        ecg_bands: int = 13,
        *,
        channels: int = 8,
        dropout: float = 0.3,
        members: int = 3,
    ) -> None:
        super().__init__()
        if pcg_shape[1] != ecg_shape[1]:
            raise ValueError(f"Both grids need the same cells; given {pcg_shape[1]} and {ecg_shape[1]}.")
        if members < 1:
            raise ValueError(f"The deep path needs at least one member; given {members}.")
        self.shapes = {"pcg": tuple(pcg_shape), "ecg": tuple(ecg_shape)}
        self.options: dict[str, Any] = {
            "pcg_shape": pcg_shape,
            "ecg_shape": ecg_shape,
            "ecg_bands": ecg_bands,
            "channels": channels,
            "dropout": dropout,
            "members": members,
        }
        percentiles, cells, bands = pcg_shape
        sizes = {
            "whole": percentiles * cells * bands,
            "shape": percentiles * cells * bands,
            "colour": percentiles * bands,
            "ecg": ecg_bands,
        }
        self.evidence = nn.ModuleDict({name: StandardizedLogistic(sizes[name]) for name in EVIDENCE_WEIGHTS})
        inputs = {name: shape[0] * shape[2] for name, shape in self.shapes.items()}
        self.members = nn.ModuleList(
            FusionMember(inputs["pcg"], inputs["ecg"], channels, dropout) for _ in range(members)
        )
        for name, shape in self.shapes.items():
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_scale", torch.ones(shape))
        self.register_buffer("share", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros(len(MODALITIES), dtype=torch.bool))

    def forward(
        self, pcg_grid: Tensor, ecg_bands: Tensor, ecg_grid: Tensor, has_pcg: Tensor, has_ecg: Tensor
    ) -> Tensor:
        """Return the log-odds of abnormal, shape (N,), float64.

        Parameters
        ----------
        pcg_grid : torch.Tensor, shape (N, percentiles * cells * bands)
            Rows of absent signals may hold anything, NaN as well.
        ecg_bands : torch.Tensor, shape (N, ecg_bands)
        ecg_grid : torch.Tensor, shape (N, percentiles * cells * bands)
            NaN where no beats were found; the band powers then represent the ECG alone.
        has_pcg, has_ecg : torch.Tensor of bool, shape (N,)

        Raises
        ------
        ValueError
            If a recording has no signal that the model was fitted on.
        """
        has = {"pcg": has_pcg & self.fitted[0], "ecg": has_ecg & self.fitted[1]}
        mute = int((~(has["pcg"] | has["ecg"])).sum())  # waits for the device: a row may be refused
        if mute:
            raise ValueError(
                f"{mute} of {len(has_pcg)} recordings have no signal that this model was fitted on: "
                "leave them out."
            )
        evidence = self.evidence_of(pcg_grid, ecg_bands, has["pcg"], has["ecg"])
        if float(self.share) == 0:  # waits for the device: the network may not count
            return evidence
        return evidence + self.share * self.deep(pcg_grid, ecg_grid, has["pcg"], has["ecg"]).double()

    def reads(self, modality: str) -> bool:
        """Whether the model was fitted on a modality, ``ecg`` or ``pcg``."""
        return bool(self.fitted[MODALITIES.index(modality)])

    def standardized(self, modality: str, values: Tensor) -> Tensor:
        """Return features (N, features) in standard deviations from the mean of the training part."""
        name = "ecg" if modality == "ecg" else "whole"
        part: Any = self.evidence[name]
        return ((values if name == "ecg" else self.sound_features(values)[name]) - part.mean) / part.scale

    def parts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what adds up to the log-odds, shape (N,): of each modality, and of the fusion of both."""
        grids, has = (batch["pcg_grid"], batch["ecg_bands"]), (batch["has_pcg"], batch["has_ecg"])
        none = torch.zeros_like(has[0])
        found = {"ecg": self.evidence_of(*grids, none, has[1]), "pcg": self.evidence_of(*grids, has[0], none)}
        if float(self.share) == 0:
            return found
        return found | {"fusion": self.share * self.deep(grids[0], batch["ecg_grid"], *has).double()}

    def evidence_of(self, pcg_grid: Tensor, ecg_bands: Tensor, has_pcg: Tensor, has_ecg: Tensor) -> Tensor:
        """Return the weighted log-odds of the modalities that a recording has, shape (N,)."""
        features = self.sound_features(torch.where(has_pcg[:, None], pcg_grid, 0.0))
        features["ecg"] = torch.where(has_ecg[:, None], ecg_bands, 0.0)
        has = {name: has_ecg if name == "ecg" else has_pcg for name in EVIDENCE_WEIGHTS}
        return sum(
            (
                EVIDENCE_WEIGHTS[name] * self.evidence[name](features[name]) * has[name]
                for name in EVIDENCE_WEIGHTS
            ),
            start=torch.zeros(len(pcg_grid), dtype=torch.float64, device=pcg_grid.device),
        )

    def sound_features(self, pcg_grid: Tensor) -> dict[str, Tensor]:
        """Return the features of the heart sound, (N, features) for each regression; none holds loudness."""
        grid = pcg_grid.reshape(-1, *self.shapes["pcg"])
        tilt = grid.mean(dim=2)
        level = grid.mean(dim=(1, 2, 3))
        return {
            "whole": (grid - level[:, None, None, None]).flatten(1),
            "shape": (grid - tilt[:, :, None]).flatten(1),
            "colour": (tilt - level[:, None, None]).flatten(1),
        }

    def deep(self, pcg_grid: Tensor, ecg_grid: Tensor, has_pcg: Tensor, has_ecg: Tensor) -> Tensor:
        """Return the mean of the members, shape (N,), float32; zero where neither grid is there."""
        grids, has = self.standardized_grids(pcg_grid, ecg_grid, has_pcg, has_ecg)
        known = has["pcg"] | has["ecg"]
        mean = torch.stack([member(grids, has) for member in self.members]).mean(dim=0)
        return torch.where(known, mean, 0.0)

    def standardized_grids(
        self, pcg_grid: Tensor, ecg_grid: Tensor, has_pcg: Tensor, has_ecg: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return standardized shapes (N, percentiles * bands, cells), and which rows have them."""
        has = {"pcg": has_pcg, "ecg": has_ecg & torch.isfinite(ecg_grid).all(dim=1)}
        grids = {}
        for name, values in (("pcg", pcg_grid), ("ecg", ecg_grid)):
            there = torch.where(has[name][:, None], values, 0.0).float().reshape(-1, *self.shapes[name])
            shape = there - there.mean(dim=2, keepdim=True)
            mean, scale = getattr(self, f"{name}_mean"), getattr(self, f"{name}_scale")
            grids[name] = ((shape - mean) / scale).transpose(2, 3).flatten(1, 2)
        return grids, has
