"""Predictions for patients with a run of task ``ecg-multimodal``, prepared exactly as in training.

Medians, scales and names of clinical values are those of the checkpoint: nothing is fitted on the patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from common.command_line import counted, from_plain
from common.errors import UserError
from datasets.cache import source_title
from datasets.patients import MODALITIES, UNLABELLED, PatientIndex
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError
from evaluation.calibration import log_odds
from learning.checkpoint import Checkpoint
from learning.loop import predict
from models.ecg_multimodal.network import MultimodalNetwork
from systems.base import predictor as base
from systems.base.predictor import Metadata, RecordingPath, distinct, rounded_probability, safe_name
from systems.base.task import Task
from systems.ecg_multimodal.explain import image_map, signal_map
from systems.ecg_multimodal.prediction_figure import Steps, patient_prediction_figure
from systems.ecg_multimodal.samples import Patients
from systems.ecg_multimodal.settings import (
    ModalitySettings,
    MultimodalPredictionSettings,
    MultimodalTrainingSettings,
)
from systems.ecg_multimodal.shapley import coalitions, shapley_values
from systems.ecg_multimodal.sources.user_patients import (
    UserPatient,
    clinical_warnings,
    examine_ecg,
    modality_warnings,
    open_patients,
    read_user_patient,
)
from systems.ecg_multimodal.task import class_names

Array = NDArray[np.float64]
_TABLE_RATE = 250.0
"""Sampling rate of ecg_signals.csv where neither the user nor the checkpoint states one, hertz."""
_WEIGHING = ("gate", "late")
"""Fusions in which each modality has a weight: chosen for the patient, or the same for all."""
_NAMES = {"image": "image", "signal": "signal", "clinical": "clinical values"}


@dataclass(frozen=True)
class Outputs:
    """What some networks return for one patient.

    Attributes
    ----------
    each : numpy.ndarray, shape (models, classes)
        Probabilities.
    weights : numpy.ndarray, shape (modalities of the network,)
        Weights of the modalities in the fusion, mean over the models.
    """

    each: Array
    weights: Array

    @property
    def probability(self) -> Array:
        """Mean over the models, shape (classes,)."""
        return self.each.mean(axis=0)


@torch.no_grad()
def _outputs(
    task: Task, networks: Sequence[MultimodalNetwork], samples: Patients, device: torch.device
) -> Outputs:
    """Return what networks return for the one patient among samples."""
    row = torch.zeros(1, dtype=torch.int64)
    each = [predict(task, network, samples, row, batch_size=1, device=device)[1] for network in networks]
    batch = samples.batch(row)
    given = {key: batch[key] for name in networks[0].modalities for key in (name, f"has_{name}")}
    weights = torch.stack([network(**given, with_branches=True)[2][0] for network in networks])
    return Outputs(
        torch.stack([found.reshape(-1) for found in each]).double().numpy(),
        weights.mean(dim=0).double().cpu().numpy(),
    )


@dataclass(frozen=True, kw_only=True)
class PatientPrediction(base.Prediction):
    """What the models predict for one patient.

    Attributes
    ----------
    patient : UserPatient
    used : list of str
        Modalities that were read.
    outputs : Outputs
    predictor : Predictor
    networks : list of MultimodalNetwork
        Those that were used.
    samples : Patients
        The patient as they take it.
    """

    patient: UserPatient
    used: list[str]
    outputs: Outputs
    predictor: Predictor
    networks: list[MultimodalNetwork]
    samples: Patients

    @property
    def probability(self) -> float | None:
        """Probability of abnormal; None of a run that predicts classes."""
        return float(self.outputs.probability[0]) if len(self.outputs.probability) == 1 else None

    @property
    def probabilities(self) -> dict[str, float] | None:
        """Probability of each class; None of a run that predicts abnormal."""
        values = self.outputs.probability.tolist()
        return dict(zip(self.predictor.classes, values, strict=True)) if self.probability is None else None

    @property
    def weights(self) -> dict[str, float] | None:
        """Weight of each modality in the fusion, 0 to 1; None where that has no weights."""
        modalities = self.networks[0].modalities
        if len(modalities) > 1 and self.predictor.trained.model.fusion not in _WEIGHING:
            return None
        found = dict(zip(modalities, self.outputs.weights.tolist(), strict=True))
        return {modality: found[modality] for modality in self.used}

    @property
    def clinical(self) -> dict[str, float | None]:
        """Clinical values that the run reads; None where one is missing."""
        names = self.predictor.inputs["clinical"] if "clinical" in self.used else ()
        return {name: self.patient.clinical.get(name) for name in names}

    def metadata(self) -> Metadata:
        """Return all of it in plain types."""
        several, ecg = len(self.networks) > 1, self.patient.ecg
        low, high = self.outputs.each.min(axis=0), self.outputs.each.max(axis=0)
        return {
            "probability": self.probability,
            "probabilities": self.probabilities,
            "assumed_prevalence": self.assumed_prevalence,
            "prevalence": self.target_prevalence,
            "probability_at_prevalence": self.at_target(self.probability),
            "spread_over_beats": None,
            "spread_over_models": {"lowest": low.tolist(), "highest": high.tolist()} if several else None,
            "signals_used": self.used,
            "views_given": self.patient.given,
            "shares": self.weights,
            "log_odds": self._steps(),
            "clinical": self.clinical,
            "duration": ecg.duration if ecg and "signal" in self.used else None,
            "beats": None,
            "beat_source": None,
            "models": len(self.networks),
            "models_trained_on_it": self.left_out,
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    def _steps(self) -> dict[str, float] | None:
        """Return what each modality adds to the log-odds (Shapley values), and where they start.

        None of classes, of an unknown start, and of networks that cannot do without a modality.
        """
        takes_any = self.predictor.trained.model.modality_dropout > 0 or len(self.used) == 1
        if self.probability is None or self.assumed_prevalence is None or not takes_any:
            return None
        values = {}
        for part in coalitions(self.used):
            hidden = self.samples
            for modality in set(self.used) - part:
                hidden = hidden.without(modality)
            found = _outputs(self.predictor.task, self.networks, hidden, self.predictor.device)
            values[part] = log_odds(found.probability)
        start = float(log_odds(self.assumed_prevalence))
        added = {modality: float(value[0]) for modality, value in shapley_values(values, start).items()}
        return {"start": start} | {modality: added[modality] for modality in self.used}

    def figure(self) -> Figure:
        """Return the figure of the patient."""
        image, modalities, steps = self.patient.image, self.networks[0].modalities, self._steps()
        several = "probability of each class" + ", several at once" * (not self.networks[0].exclusive)
        return patient_prediction_figure(
            image=None if image is None or "image" not in self.used else 1 - image / 255.0,
            image_map=self._map("image"),
            signal=None if "signal" not in self.used else self.patient.signal,
            signal_map=self._map("signal"),
            sampling_rate=self.predictor.prepared.signal_rate,
            leads=self.patient.leads,
            clinical=self.clinical or None,
            weights=self.weights if len(modalities) > 1 else None,
            lacking=[modality for modality in modalities if modality not in self.used],
            steps=None if steps is None else Steps(steps.pop("start"), steps),
            classes=self.probabilities,
            title=self.name,
            subtitle=several if self.probability is None else self.subtitle(self.probability),
            watermark=self.watermark,
        )

    def _map(self, modality: str) -> Array | None:
        """Return the attribution over a modality, mean over the networks; None of classes."""
        if self.probability is None or modality not in self.used:
            return None
        batch = self.samples.batch(torch.zeros(1, dtype=torch.int64))
        given = {name: batch[name].float() for name in self.used}
        given |= {"image": given["image"] / 255} if "image" in given else {}
        found = {"image": image_map, "signal": signal_map}[modality]
        return torch.stack([found(network, given) for network in self.networks]).mean(dim=0).double().numpy()


class Predictor(base.Predictor):
    """Trained models of one run, ready for patients; parameters as of `systems.base.predictor.Predictor`."""

    noun, warning_heading, wraps = "patient", "views, warnings", True
    settings: MultimodalPredictionSettings

    def __init__(
        self, checkpoints: Mapping[Path, Checkpoint], settings: MultimodalPredictionSettings
    ) -> None:
        super().__init__(checkpoints, settings)
        self.trained: MultimodalTrainingSettings = self.task.settings
        self.binary = self.trained.target == "normal"
        self.inputs = self.checkpoints[0]["inputs"]
        self.classes = class_names(self.trained, self.inputs)
        self.prepared = from_plain(ModalitySettings, self.cache["settings"])
        size = [self.prepared.image_height, self.prepared.image_width]
        if list(self.inputs["image_size"]) != size:
            raise ValueError(
                f"pictures of {self.inputs['image_size']} pixels were not made with its settings"
            )
        if self.binary:
            self.assumed_prevalence = base.assumed_prevalence(self.checkpoints)
        elif settings.prevalence is not None:
            target = self.trained.target
            raise UserError(f"--prevalence is one of abnormal, and this run predicts {target}: omit it.")
        else:
            self.trained_on["abnormal_share"] = None
            self.column = " ".join(f"{name:>5}" for name in self.classes)
        self.check_prevalence(settings.prevalence)
        self.modalities: tuple[str, ...] = self.models[0].modalities
        balanced_classes = self.inputs.get("exclusive", False) and self.trained.optimization.class_weights
        self.notes = ["The probabilities hold where all classes are equally frequent."] * balanced_classes

    def model_name(self) -> str:
        """Return the modalities and how they are fused."""
        fusion = f", {self.trained.model.fusion}" if len(self.modalities) > 1 else ""
        return "+".join(self.modalities) + fusion

    def about(self) -> Metadata:
        """Return what is particular to the models of this task."""
        fusion = self.trained.model.fusion if len(self.modalities) > 1 else None
        more = {"target": self.trained.target, "views": list(self.modalities), "fusion": fusion}
        return more | super().about()

    def metadata(self) -> Metadata:
        """Return what the models are, in plain types."""
        return super().metadata() | {"notes": self.notes}

    # Patients ---------------------------------------------------------------------------------------------

    def find(self) -> list[RecordingPath]:
        """Return the patients of folders, and what is in them and names no patient that can be read."""
        choices = self.cache.get("choices", {})
        table_rate = self.settings.ecg_rate or float(choices.get("signal_rate", _TABLE_RATE))
        paths, entries = list[RecordingPath](), list[tuple[str, PatientIndex | None, str]]()
        for folder in self.given():
            try:
                index = open_patients(folder, table_rate, 500 if choices.get("rate") == "500" else 100)
            except DataError as error:
                if len(self.given()) == 1:
                    raise
                paths.append(RecordingPath(safe_name(folder.name), folder))
                entries.append((folder.name, None, str(error)))
                continue
            for name, reason in dict(self._entries(index)).items():
                paths.append(RecordingPath(safe_name(name), folder))
                entries.append((name, None if reason else index, reason))
        self.entries = dict(zip(distinct(paths), entries, strict=True))
        return list(self.entries)

    def _entries(self, index: PatientIndex) -> Iterable[tuple[str, str]]:
        """Return who is in an index, or was left out and why; note what holds for a whole table."""
        names = sorted(index.recordings["recording"], key=_natural)
        known = set(names)
        for problem in index.problems:
            if problem.where in known:
                continue
            if problem.left_out:
                yield problem.where, problem.what
            else:
                self.notes.append(f"{problem.where}: {problem.what}")
        unread = [name for name in index.clinical if name not in ("recording", *self.inputs["clinical"])]
        if unread and "clinical" in self.modalities:
            self.notes.append(f"The run does not read {', '.join(unread)}.")
        yield from ((name, "") for name in names)

    def predict(self, path: RecordingPath) -> PatientPrediction:
        """Return the prediction for one patient, or say in a DataError why there is none."""
        name, index, reason = self.entries[path]
        if index is None:
            raise DataError(reason)
        patient = read_user_patient(index, name, self.prepared)
        used, warnings = self._used(patient)
        if "signal" in used and patient.ecg is not None:
            warnings += examine_ecg(patient.ecg, patient.leads, self.prepared.seconds)
        chosen, seen = self.unseen(patient.content)
        networks = [network for _, network in chosen]
        if "clinical" in used:
            scalers = [network.branches["clinical"].scaler for network in networks]
            warnings += clinical_warnings(patient.clinical, self.inputs["clinical"], scalers)
        samples = self._samples(patient, used)
        outputs = _outputs(self.task, networks, samples, self.device)
        if not np.isfinite(outputs.probability).all():
            raise DataError("The prediction is not a number: the patient is unlike those of training.")
        return PatientPrediction(
            name=path.name,
            patient=patient,
            used=used,
            outputs=outputs,
            predictor=self,
            networks=networks,
            samples=samples,
            warnings=warnings + self.warnings_of_models(seen),
            assumed_prevalence=self.assumed_prevalence,
            target_prevalence=self.settings.prevalence,
            watermark=self.watermark(seen),
            left_out=len(self.models) - len(chosen),
        )

    def _used(self, patient: UserPatient) -> tuple[list[str], list[SignalWarning]]:
        """Return the modalities that are read, and warnings on the others; refuse where none is left."""
        for modality in self.modalities:
            if modality in patient.unusable:
                others = f"; {patient.name} is then predicted from the rest" * (len(patient.given) > 1)
                raise DataError(f"{patient.unusable[modality]} Mend the {modality}, or remove it{others}.")
        warnings = modality_warnings(patient, self.modalities, self.inputs, self.cache["source"])
        ignored = {warning.signal for warning in warnings if warning.code == "ignored"}
        used = [name for name in self.modalities if name in patient.given and name not in ignored]
        if not used:
            there = ", ".join(patient.given) or "nothing"
            why = " ".join(warning.text for warning in warnings if warning.code == "ignored")
            raise DataError(
                f"The run reads {', '.join(self.modalities)}, and there is {there}. {why}".strip()
            )
        lacking = [name for name in self.modalities if name not in used]
        if lacking and not self.trained.model.modality_dropout:
            raise DataError(
                f"There is no {' and no '.join(lacking)}, and the run cannot do without, as it was "
                "trained with --modality-dropout 0."
            )
        return used, warnings

    def _samples(self, patient: UserPatient, used: list[str]) -> Patients:
        """Return the patient as one sample of the task."""
        clinical, image = self.inputs["clinical"], np.zeros(self.inputs["image_size"], np.uint8)
        signal = np.zeros((self.inputs["leads"], self.prepared.points), np.float32)
        if patient.image is not None and "image" in used:
            image = patient.image
        if patient.signal is not None and "signal" in used:
            signal = patient.signal
        values = np.array([patient.clinical.get(name, np.nan) for name in clinical], dtype=np.float32)
        arrays: dict[str, NDArray[Any]] = {"image": image[None], "signal": signal, "clinical": values}
        shape = (1,) if self.binary else (1, len(self.classes))
        label: Tensor = torch.zeros(shape, dtype=torch.int64, device=self.device)
        return Patients(
            table=pd.DataFrame({"recording": [patient.name], "label": [UNLABELLED]}),
            views={name: torch.tensor(array[None]).to(self.device) for name, array in arrays.items()},
            has={name: torch.tensor([name in used], device=self.device) for name in MODALITIES},
            clinical_names=tuple(clinical),
            label=label,
            weight=torch.ones(1, device=self.device),
        )

    # Text -------------------------------------------------------------------------------------------------

    def model_text(self, model: Metadata) -> list[str]:
        """Return what the model is, what it was trained on, and notes on whole tables."""
        first, _ = super().model_text(model)
        data = model["trained_on"]
        share = data["abnormal_share"]
        abnormal = "" if share is None else f", {share:.0%} of them abnormal"
        return [
            first,
            f"Learned from {counted(data['recordings'], 'recording')} of "
            f"{counted(data['sessions'], 'patient')} (source: "
            f"{source_title(data['source'], self.simulated)}){abnormal}.",
            *(f"Note: {note}" for note in model["notes"]),
        ]

    def details(self, row: Metadata) -> list[tuple[str, str]]:
        """Return names and texts of what is predicted for one patient."""
        found = [*self.probability_details(row), ("made from", _modalities_text(row))]
        known = [name for name, value in row["clinical"].items() if value is not None]
        if row["clinical"]:
            missing = [name for name in row["clinical"] if name not in known]
            lacking = f"; missing: {', '.join(missing)}" if missing else ""
            found.append(("clinical values", f"{len(known)} of {len(row['clinical'])}{lacking}"))
        if row["spread_over_models"] is not None and row["probability"] is not None:
            (low,), (high,) = row["spread_over_models"].values()
            spread = f"{low:.2f} to {high:.2f}  (no confidence interval)"
            found.append((f"the {row['models']} models", spread))
        return found + self.model_details(row)

    def probability_details(self, row: Metadata) -> list[tuple[str, str]]:
        """Return the probability of abnormal, or those of all classes."""
        if row["probabilities"] is None:
            return super().probability_details(row)
        values = row["probabilities"].items()
        return [(f"probability of {name}", rounded_probability(value)) for name, value in values]

    def short_text(self, row: Metadata) -> str:
        """Return the probability of abnormal, or those of all classes."""
        if row["probabilities"] is None:
            return super().short_text(row)
        return " ".join(f"{value:5.2f}" for value in row["probabilities"].values())

    def warning_text(self, row: Metadata) -> str:
        """Return the modalities that were read, and which warnings there are."""
        return "; ".join(filter(None, ["+".join(row["signals_used"]), super().warning_text(row)]))


def _modalities_text(row: Metadata) -> str:
    """Return the modalities that a patient is predicted from, and the weight of each."""
    weights = row["shares"]
    if weights is None or len(weights) == 1:
        return " and ".join(_NAMES[modality] for modality in row["signals_used"])
    return (
        ", ".join(f"{_NAMES[name]} {weight:.0%}" for name, weight in weights.items()) + "  (weight of each)"
    )


def _natural(name: str) -> tuple[int, int, str]:
    """Sort 2 before 10, and numbers before words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
