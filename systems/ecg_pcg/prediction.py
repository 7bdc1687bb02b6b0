"""What models of task ``ecg-pcg`` say of one recording: metadata for programs, and the figure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from datasets.signal_quality import NAMES, Quality, SignalWarning
from evaluation.figure_text import rounded_probability
from evaluation.prevalence import shift_prior
from systems.base.evaluation_run import Checkpoint
from systems.ecg_pcg.explain.attribution import attention
from systems.ecg_pcg.features.spectral import (
    BAND_EDGES,
    FRAME,
    GRID_SHAPE,
    RATE,
    STATE_PARTS,
)
from systems.ecg_pcg.figure import Contributions, Looked, Trace, recording_figure
from systems.ecg_pcg.inputs import ANNOTATION, AUTOMATIC, PreparedInput
from systems.ecg_pcg.linear.task import Recordings
from systems.ecg_pcg.samples import Beats
from systems.ecg_pcg.sources.user_recording import (
    UserRecording,
)

IDENTITY = (0.0, 1.0)
"""Intercept and slope of log-odds that are left as they are."""


@dataclass(frozen=True)
class EcgPcgPrediction:
    """What the models say of one recording.

    Attributes
    ----------
    own : UserRecording
    ready : PreparedInput
    quality : Quality
    warnings : list of SignalWarning
        All that is doubtful.
    values : numpy.ndarray of float64, shape (beats,) or (1,)
        Probability of abnormal of each sample, mean over the models.
    models : list of (dict, torch.nn.Module)
        Those that were asked, and their checkpoints.
    believed, wanted : float or None
        Share of abnormal that the probabilities assume, and another one to give them for.
    watermark : str
        What has to be printed on every figure.
    left_out : int
        Models that were not asked, as they were trained on this very recording.
    """

    own: UserRecording
    ready: PreparedInput
    quality: Quality
    warnings: list[SignalWarning]
    values: NDArray[np.float64]
    models: list[tuple[Checkpoint, nn.Module]]
    believed: float | None
    wanted: float | None
    watermark: str
    left_out: int

    @property
    def by_beat(self) -> bool:
        """Whether the models judge beats rather than the whole recording."""
        return isinstance(self.ready.samples, Beats)

    @property
    def probability(self) -> float:
        """Probability of abnormal, for the prevalence that the model assumes."""
        return float(self.values.mean())

    def metadata(self) -> dict[str, Any]:
        """Return all of it for programs."""
        ready, by_beat = self.ready, self.by_beat
        low, high = (float(value) for value in np.percentile(self.values, [10, 90]))
        return {
            "probability": self.probability,
            "assumed_prevalence": self.believed,
            "prevalence": self.wanted,
            "probability_at_prevalence": self._shifted(self.probability),
            "spread_over_beats": {"percentile_10": low, "percentile_90": high} if by_beat else None,
            "signals_used": list(ready.used),
            "channels": self.own.channels,
            "duration": self.own.duration,
            "beats": len(ready.spans),
            "beat_source": ready.source,
            "models": len(self.models),
            "models_trained_on_it": self.left_out,
            "log_odds": None if by_beat else self._log_odds(),
            "quality": self.quality.signals,
            "sound_delay": self.quality.sound_delay,
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
            "each_beat": self._each_beat() if by_beat else None,
        }

    def _shifted(self, probability: float) -> float | None:
        """Return a probability at the prevalence that the user wants; None if none was named."""
        wanted, believed = self.wanted, self.believed
        if wanted is None or believed is None:
            return None
        return float(shift_prior(probability, believed, wanted))

    def _each_beat(self) -> list[dict[str, float]]:
        spans = zip(self.ready.spans.tolist(), self.values.tolist(), strict=True)
        return [{"start": start, "end": end, "probability": value} for (start, end), value in spans]

    @torch.no_grad()
    def _log_odds(self) -> dict[str, float]:
        """Return the calibrated log-odds of each signal, and the intercept, mean over the models."""
        samples = self.ready.samples
        assert isinstance(samples, Recordings)
        rows = {"ecg": samples.ecg_bands, "pcg": samples.pcg_grid}
        lines = [calibration_line(content, self.ready) for content, _ in self.models]
        parts = {
            kind: float(
                np.mean(
                    [
                        slope * float(getattr(model, kind)(rows[kind]))
                        for (_, slope), (_, model) in zip(lines, self.models, strict=True)
                    ]
                )
            )
            for kind in self.ready.used
        }
        shift = float(np.mean([intercept for intercept, _ in lines]))
        return parts | ({"calibration": shift} if shift else {})

    def figure(self) -> Figure:
        """Return the figure of the recording."""
        ready, recording, by_beat = self.ready, self.own.recording, self.by_beat
        traces = {
            kind: Trace(signal.samples, signal.sampling_rate)
            for kind in NAMES
            if (signal := getattr(recording, kind)) is not None
        }
        return recording_figure(
            traces,
            ready.spans,
            title=self.own.name,
            subtitle=self._subtitle(),
            watermark=self.watermark,
            beat_label=f"starts of beats, by {ready.source}",
            beat_probability=self.values if by_beat else None,
            probability=self.probability,
            contributions=None if by_beat else self._contributions(),
            looked=self._looked() if by_beat else None,
        )

    def _subtitle(self) -> str:
        believed, wanted = self.believed, self.wanted
        text = f"probability of abnormal {rounded_probability(self.probability)}"
        text += "" if believed is None else f" if a share of {believed:.2g} is abnormal"
        shifted = self._shifted(self.probability)
        return text + ("" if shifted is None else f", {rounded_probability(shifted)} if {wanted:.2g} is")

    @torch.no_grad()
    def _contributions(self) -> Contributions:
        """Return what the log-odds are made of, mean over the models."""
        parts = {NAMES.get(kind, kind): value for kind, value in self._log_odds().items()}
        if "pcg" not in self.ready.used:
            return Contributions(parts)
        samples = self.ready.samples
        assert isinstance(samples, Recordings)
        told = []
        for content, model in self.models:
            part: Any = model.pcg
            slope = calibration_line(content, self.ready)[1]
            told.append(slope * (samples.pcg_grid[0] - part.mean) / part.scale * part.weight)
        grid = torch.stack(told).mean(dim=0).reshape(GRID_SHAPE).sum(dim=0).cpu().numpy()
        return Contributions(parts, grid, STATE_PARTS, np.array(BAND_EDGES) * RATE / FRAME)

    def _looked(self) -> Looked | None:
        """Return where the networks look, mean over beats and models; None for those without attention."""
        samples = self.ready.samples
        assert isinstance(samples, Beats)
        batch = samples.batch(torch.arange(len(samples)))
        maps = [attention(model, batch) for _, model in self.models]
        found = [named["attention"].mean(dim=0).cpu().numpy() for named in maps if named]
        if not found:
            return None
        mean = dict(zip(NAMES, np.mean(found, axis=0), strict=True))
        beats = {kind: batch[kind][:, 0].mean(dim=0).cpu().numpy() for kind in self.ready.used}
        return Looked(beats, {kind: mean[kind] for kind in beats})


def calibration_line(checkpoint: Checkpoint, ready: PreparedInput) -> tuple[float, float]:
    """Return intercept and slope by which a model's log-odds of such an input are made a probability."""
    known = checkpoint.get("calibration") or {}
    states = {ANNOTATION: " annotated", AUTOMATIC: " automatic"}.get(ready.source, "")
    name = "+".join(ready.used) + (states if "pcg" in ready.used else "")
    intercept, slope = known.get(name, IDENTITY)
    return float(intercept), float(slope)
