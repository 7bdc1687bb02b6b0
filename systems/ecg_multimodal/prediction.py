"""What models of task ``ecg-multimodal`` say of one patient: metadata for programs, and the figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from datasets.patients import SUPERCLASSES
from datasets.signal_quality import SignalWarning
from evaluation.calibration import log_odds
from evaluation.figure_text import rounded_probability
from evaluation.prevalence import shift_prior
from learning.loop import predict
from models.ecg_multimodal.network import MultimodalNetwork
from systems.base.task import Task
from systems.ecg_multimodal.explain import image_map, signal_map
from systems.ecg_multimodal.prediction_figure import Steps, judged_patient_figure
from systems.ecg_multimodal.samples import Patients
from systems.ecg_multimodal.shapley import coalitions, shapley_values
from systems.ecg_multimodal.sources.user_patients import UserPatient

WEIGHING = ("gate", "late")
"""Fusions in which each view has a weight: chosen for the patient, or the same for all."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What some models say.

    Attributes
    ----------
    each : numpy.ndarray, shape (models, classes)
        Probabilities.
    shares : numpy.ndarray, shape (views of the network,)
        Weights of the views in the fusion, mean over the models.
    """

    each: Array
    shares: Array

    @property
    def probability(self) -> Array:
        """Mean over the models, shape (classes,)."""
        return self.each.mean(axis=0)


def ask(task: Task, networks: Sequence[MultimodalNetwork], samples: Patients, device: torch.device) -> Answer:
    """Return what networks say of the one patient among samples."""
    row = torch.zeros(1, dtype=torch.int64)
    each = [predict(task, network, samples, row, batch_size=1, device=device)[1] for network in networks]
    batch = samples.batch(row)
    return Answer(
        torch.stack([said.reshape(-1) for said in each]).double().numpy(),
        torch.stack([_gates(network, batch) for network in networks]).mean(dim=0).double().cpu().numpy(),
    )


@torch.no_grad()
def _gates(network: MultimodalNetwork, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the weights of the views (views,) of one patient."""
    given = {name: batch[name] for modality in network.modalities for name in (modality, f"has_{modality}")}
    return network(**given, with_branches=True)[2][0]


@dataclass(frozen=True)
class PatientPrediction:
    """What the models say of one patient.

    Attributes
    ----------
    name : str
    patient : UserPatient
    used : list of str
        Views that were judged.
    answer : Answer
    task, networks, samples
        Who was asked, and what.
    clinical_names : tuple of str
        Clinical values that the run reads.
    fusion : str
    takes_any : bool
        Whether the networks were trained to do without any of their views.
    sampling_rate : float
        Of the prepared signal, hertz.
    warnings : list of SignalWarning
        All that is doubtful.
    believed, wanted : float or None
        Share of abnormal that the probabilities assume, and another one to give them for.
    watermark : str
        What has to be printed on every figure.
    left_out : int
        Models that were not asked, as they were trained on this very patient.
    """

    name: str
    patient: UserPatient
    used: list[str]
    answer: Answer
    task: Task
    networks: list[MultimodalNetwork]
    samples: Patients
    clinical_names: tuple[str, ...]
    fusion: str
    takes_any: bool
    sampling_rate: float
    warnings: list[SignalWarning]
    believed: float | None
    wanted: float | None
    watermark: str
    left_out: int

    @property
    def probability(self) -> float | None:
        """Probability of abnormal; None of a run that tells superclasses."""
        return float(self.answer.probability[0]) if len(self.answer.probability) == 1 else None

    @property
    def shares(self) -> dict[str, float] | None:
        """How much each view counted in the fusion, 0 to 1; None where that has no weights."""
        views = self.networks[0].modalities
        if len(views) > 1 and self.fusion not in WEIGHING:
            return None
        found = dict(zip(views, self.answer.shares.tolist(), strict=True))
        return {view: found[view] for view in self.used}

    def metadata(self) -> dict[str, Any]:
        """Return all of it for programs."""
        several = len(self.networks) > 1
        low, high = self.answer.each.min(axis=0), self.answer.each.max(axis=0)
        clinical = {
            name: self.patient.clinical.get(name) for name in self.clinical_names if "clinical" in self.used
        }
        return {
            "probability": self.probability,
            "probabilities": None if self.probability is not None else _by_class(self.answer.probability),
            "assumed_prevalence": self.believed,
            "prevalence": self.wanted,
            "probability_at_prevalence": self._shifted(),
            "spread_over_beats": None,
            "spread_over_models": {"lowest": low.tolist(), "highest": high.tolist()} if several else None,
            "signals_used": self.used,
            "views_given": self.patient.given,
            "shares": self.shares,
            "log_odds": self._steps(),
            "clinical": clinical,
            "duration": self.patient.ecg.duration if self.patient.ecg and "signal" in self.used else None,
            "beats": None,
            "beat_source": None,
            "models": len(self.networks),
            "models_trained_on_it": self.left_out,
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    def _shifted(self) -> float | None:
        """Return the probability at the prevalence that the user wants; None if none was named."""
        if self.wanted is None or self.believed is None or self.probability is None:
            return None
        return float(shift_prior(self.probability, self.believed, self.wanted))

    def _steps(self) -> dict[str, float] | None:
        """Return what each view adds to the log-odds (Shapley values), and where they start.

        None of superclasses, of an unknown start, and of networks that cannot do without a view.
        """
        if self.probability is None or self.believed is None or not (self.takes_any or len(self.used) == 1):
            return None
        device = self.samples.label.device
        values = {}
        for part in coalitions(self.used):
            hidden = self.samples
            for view in set(self.used) - part:
                hidden = hidden.without(view)
            values[part] = log_odds(ask(self.task, self.networks, hidden, device).probability)
        start = float(log_odds(self.believed))
        added = {view: float(value[0]) for view, value in shapley_values(values, start).items()}
        return {"start": start} | {view: added[view] for view in self.used}

    def figure(self) -> Figure:
        """Return the figure of the patient."""
        image, signal = self.patient.image, self.patient.signal
        steps = self._steps()
        views = self.networks[0].modalities
        clinical = {name: self.patient.clinical.get(name) for name in self.clinical_names}
        return judged_patient_figure(
            image=None if image is None or "image" not in self.used else 1 - image / 255.0,
            image_map=self._map("image"),
            signal=None if "signal" not in self.used else signal,
            signal_map=self._map("signal"),
            sampling_rate=self.sampling_rate,
            leads=self.patient.leads,
            clinical=clinical if "clinical" in self.used else None,
            shares=self.shares if len(views) > 1 else None,
            lacking=[view for view in views if view not in self.used],
            steps=None if steps is None else Steps(steps.pop("start"), steps),
            classes=None if self.probability is not None else _by_class(self.answer.probability),
            title=self.name,
            subtitle=self._subtitle(),
            watermark=self.watermark,
        )

    def _map(self, view: str) -> Array | None:
        """Return where the networks look in a view, mean over them; None of superclasses."""
        if self.probability is None or view not in self.used:
            return None
        batch = self.samples.batch(torch.zeros(1, dtype=torch.int64))
        given = {name: batch[name].float() for name in self.used}
        given |= {"image": given["image"] / 255} if "image" in given else {}
        found = {"image": image_map, "signal": signal_map}[view]
        return torch.stack([found(network, given) for network in self.networks]).mean(dim=0).double().numpy()

    def _subtitle(self) -> str:
        if self.probability is None:
            return "probability of each superclass, several at once"
        text = f"probability of abnormal {rounded_probability(self.probability)}"
        text += "" if self.believed is None else f" if a share of {self.believed:.2g} is abnormal"
        shifted = self._shifted()
        return text + ("" if shifted is None else f", {rounded_probability(shifted)} if {self.wanted:.2g} is")


def _by_class(values: Array) -> dict[str, float]:
    """Return one value a superclass, by name."""
    return dict(zip(SUPERCLASSES, values.tolist(), strict=True))
