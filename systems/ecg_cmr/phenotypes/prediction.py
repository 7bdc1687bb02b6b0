"""What models of ``ecg-phenotypes`` say of one ECG: metadata for programs, doubts, and the figure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from datasets.ecg import LEADS, Ecg
from datasets.signal_quality import Quality, SignalWarning
from evaluation.figure_text import rounded_probability
from systems.base.evaluation_run import Checkpoint
from systems.ecg_cmr.phenotypes.figure import Row, phenotypes_figure
from systems.ecg_cmr.phenotypes.prediction_error import COVERAGE
from systems.ecg_cmr.phenotypes.text import interval_text, plain, value_text

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class EcgPhenotypesPrediction:
    """What the models say of one ECG.

    Attributes
    ----------
    name : str
    ecg : Ecg
        As recorded.
    seconds : float
        Length that the models read, from the beginning.
    covariates : dict of str to float
        What they were told of who was recorded.
    indicators, diseases : dict of str to dict
        By name: what is said, and how far off it may be.
    leads : dict of str to Quality
    warnings : list of SignalWarning
        All that is doubtful.
    models, left_out : int
        Models asked; models not asked, as they were trained on this very ECG.
    watermark : str
        What has to be printed on the figure.
    """

    name: str
    ecg: Ecg
    seconds: float
    covariates: dict[str, float]
    indicators: Rows
    diseases: Rows
    leads: dict[str, Quality]
    warnings: list[SignalWarning]
    models: int
    left_out: int
    watermark: str

    def metadata(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {
            "indicators": self.indicators,
            "diseases": self.diseases,
            "interval_coverage": COVERAGE,
            "covariates": self.covariates,
            "signals_used": ["ecg"],
            "duration": self.ecg.duration,
            "sampling_rate": self.ecg.sampling_rate,
            "models": self.models,
            "models_trained_on_it": self.left_out,
            "quality": {lead: quality.signals["ecg"] for lead, quality in self.leads.items()},
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    def figure(self) -> Figure:
        """Return the figure of the ECG and of all that is said of it."""
        points = round(self.seconds * self.ecg.sampling_rate)
        return phenotypes_figure(
            self.ecg.samples[:, :points],
            self.ecg.sampling_rate,
            LEADS,
            [_indicator_row(name, row) for name, row in self.indicators.items()],
            [_disease_row(name, row) for name, row in self.diseases.items()],
            title=self.name,
            watermark=self.watermark,
        )


def _indicator_row(name: str, row: dict[str, Any]) -> Row:
    """Return an indicator as the figure shows it, in deviations of the training patients from their mean."""
    mean, deviation = row["trained_mean"], row["trained_deviation"]
    place = [None if row[key] is None else (row[key] - mean) / deviation for key in ("value", "low", "high")]
    assert place[0] is not None
    return Row(plain(name), value_text(row), interval_text(row), place[0], place[1], place[2], row["better"])


def _disease_row(name: str, row: dict[str, Any]) -> Row:
    share = row["trained_share"]
    usual = "unknown" if share is None else f"{share:.0%}"
    said = rounded_probability(row["probability"])
    return Row(plain(name), said, usual, row["probability"], share, None, row["better"])


def warnings_of_errors(found: tuple[Rows, Rows], checkpoint: Checkpoint) -> list[SignalWarning]:
    """Return what is doubtful about the numbers, as far as it was measured when the model was trained."""
    indicators, diseases = found
    warnings = []
    if any(row["low"] is None for row in indicators.values()):
        text = f"How far off the indicators may be is unknown: {why_unknown(checkpoint)}."
        warnings.append(SignalWarning("error-unknown", "", text))
    weak = [plain(name) for name, row in indicators.items() if row["r2"] is not None and not row["better"]]
    if weak:
        text = f"On validation not shown to be better than the mean of all patients: {', '.join(weak)}."
        warnings.append(SignalWarning("weak", "", text))
    weak = [plain(name) for name, row in diseases.items() if row["auroc"] is not None and not row["better"]]
    if weak:
        text = f"On validation not shown to be better than chance: {', '.join(weak)}."
        warnings.append(SignalWarning("weak", "", text))
    nameless = [plain(name) for name, row in indicators.items() if row["unit"] is None]
    if nameless:
        text = f"In the unit of the table that the model was trained from: {', '.join(nameless)}."
        warnings.append(SignalWarning("units", "", text))
    return warnings


def why_unknown(checkpoint: Checkpoint) -> str:
    """Return why a checkpoint does not tell how far off its model is."""
    if "validation" not in checkpoint:
        return "the run was trained before that was kept; train it again"
    if not checkpoint["validation"]["errors"]:
        return "a final fit on everything keeps no patients apart; name a run with folds"
    return "it was measured on too few patients"
