"""Judging patients of one's own with a run of task ``ecg-multimodal``: prepared and asked as in training.

`systems.ecg_multimodal.sources.user_patients` reads. Medians, scales and names of clinical values are those
of the checkpoint. Of several models (folds) the mean is given; those that were trained on this very patient
are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.command_line import from_plain
from common.errors import UserError
from datasets.patients import SUPERCLASSES, UNLABELLED, VIEWS, PatientIndex
from datasets.recording_paths import Place, distinct, safe_name
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError
from learning.checkpoint import Checkpoint, file_digest
from learning.devices import choose_device
from models.ecg_multimodal.network import MultimodalNetwork
from systems.base.prediction_settings import PersonSettings, PredictionSettings
from systems.base.predictor import assumed_prevalence
from systems.ecg_multimodal.prediction import PatientPrediction, ask
from systems.ecg_multimodal.samples import Patients
from systems.ecg_multimodal.settings import MultimodalTrainingSettings, ViewSettings
from systems.ecg_multimodal.sources.user_patients import (
    UserPatient,
    examine_ecg,
    open_patients,
    read_own_patient,
)
from systems.ecg_multimodal.task import EcgMultimodal, as_network
from systems.ecg_multimodal.warnings import clinical_warnings, modality_warnings

TABLE_RATE = 250.0
"""Sampling rate of ecg_signals.csv where neither the user nor the checkpoint tells one, hertz."""
ELSEWHERE = {"ecg": "--ecg", "annotations": "--annotations", "ecg_channel": "--ecg-channel"}
ELSEWHERE |= {"pcg_channel": "--pcg-channel"}
"""Settings that have no meaning for patients."""
Asked = list[tuple[Checkpoint, MultimodalNetwork]]


@dataclass(frozen=True)
class _Entry:
    """Where a patient is read from; without an index, why there is nothing to read."""

    name: str
    index: PatientIndex | None = None
    reason: str = ""


class Predictor:
    """Trained models of one run, ready for patients.

    Parameters
    ----------
    checkpoints : mapping of pathlib.Path to dict
        Folds of one run, or one file.
    settings : PredictionSettings
    """

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: PredictionSettings) -> None:
        given = [option for name, option in ELSEWHERE.items() if getattr(settings, name)]
        given += ["A person (--age, --patients and the like)"] * (settings.person != PersonSettings())
        if given:
            raise UserError(
                f"{given[0]} is not for a run of ecg-multimodal: what is known of a patient is in the folder."
            )
        self.settings = settings
        self.paths, self.checkpoints = list(checkpoints), list(checkpoints.values())
        first = self.checkpoints[0]
        self.trained = from_plain(MultimodalTrainingSettings, first["settings"])
        self.task = EcgMultimodal(self.trained)
        self.device = choose_device(settings.device)
        made = [self.task.load_model(content, self.device) for content in self.checkpoints]
        self.models = [as_network(model).eval() for model in made]
        self.inputs, self.cache = first["inputs"], first["cache"]
        self.views = from_plain(ViewSettings, self.cache["settings"])
        if list(self.inputs["image_size"]) != [self.views.image_height, self.views.image_width]:
            raise ValueError(
                f"pictures of {self.inputs['image_size']} pixels were not made with its settings"
            )
        self.trained_on = self._trained_on()
        self.believed = self._assumed_prevalence()
        self._check_prevalence()
        self.entries: dict[Place, _Entry] = {}
        self.notes: list[str] = []

    def _check_prevalence(self) -> None:
        """Refuse a prevalence that the probabilities cannot be brought to."""
        if self.settings.prevalence is None or self.believed is not None:
            return
        if self.trained.target != "normal":
            raise UserError("--prevalence is one of abnormal, and this run tells superclasses: omit it.")
        raise UserError("These checkpoints do not tell which prevalence they believe in: omit --prevalence.")

    def _assumed_prevalence(self) -> float | None:
        """Return the share of abnormal that the probabilities assume; None if it cannot be told."""
        if self.trained.target != "normal":
            return None
        return assumed_prevalence(self.checkpoints, balanced=self.trained.optimization.class_weights)

    def _trained_on(self) -> dict[str, Any]:
        """Return how many recordings of which source the models learned from, all of them together."""
        metadata = [content["trained_on"] for content in self.checkpoints]
        shares = [content.get("label_share") for content in self.checkpoints]
        known = [share for share in shares if share is not None and self.trained.target == "normal"]
        return {
            "source": self.cache["source"],
            "recordings": len({name for fact in metadata for name in fact["recording"]}),
            "sessions": len({name for fact in metadata for name in fact["session"]}),
            "abnormal_share": float(np.mean(known)) if known else None,
        }

    @property
    def network(self) -> MultimodalNetwork:
        """The first of the networks, which all read the same."""
        return self.models[0]

    @property
    def watermark(self) -> str:
        """What has to be printed on every figure."""
        return "trained on simulated data" if self.cache["simulated"] else ""

    def metadata(self) -> dict[str, Any]:
        """Return what the model is, for programs."""
        first, views = self.checkpoints[0], list(self.network.modalities)
        fusion = self.trained.model.fusion if len(views) > 1 else None
        return {
            "task": "ecg-multimodal",
            "model": "+".join(views) + (f", {fusion}" if fusion else ""),
            "run": first["run"],
            "protocol": first["protocol"],
            "target": self.trained.target,
            "views": views,
            "fusion": fusion,
            "simulated": bool(self.cache["simulated"]),
            "trained_on": self.trained_on,
            "assumed_prevalence": self.believed,
            "calibrated": False,
            "checkpoints": {path.as_posix(): file_digest(path) for path in self.paths},
            "notes": self.notes,
        }

    # Finding ----------------------------------------------------------------------------------------------

    def find(self, given: Iterable[Path]) -> list[Place]:
        """Return the patients of folders, and what is in them and names no patient that can be read."""
        choices = self.cache.get("choices", {})
        table_rate = self.settings.ecg_rate or float(choices.get("signal_rate", TABLE_RATE))
        found: list[tuple[Place, _Entry]] = []
        for folder in given:
            index = open_patients(folder, table_rate, 500 if choices.get("rate") == "500" else 100)
            named = {entry.name: entry for entry in self._entries(index)}
            found += [(Place(safe_name(name), folder), entry) for name, entry in named.items()]
        places = distinct([place for place, _ in found])
        self.entries = dict(zip(places, (entry for _, entry in found), strict=True))
        return places

    def _entries(self, index: PatientIndex) -> Iterable[_Entry]:
        """Return who is in an index, and what was left out of it; note what holds for a whole table."""
        names = sorted(index.recordings["recording"], key=_natural)
        known = set(names)
        for problem in index.problems:
            if problem.where in known:
                continue
            if problem.left_out:
                yield _Entry(problem.where, reason=problem.what)
            else:
                self.notes.append(f"{problem.where}: {problem.what}")
        unread = [name for name in index.clinical if name not in ("recording", *self.inputs["clinical"])]
        if unread and "clinical" in self.network.modalities:
            self.notes.append(f"The run knows no {', '.join(unread)}: not looked at.")
        yield from (_Entry(name, index) for name in names)

    # Judging ----------------------------------------------------------------------------------------------

    def predict(self, place: Place) -> PatientPrediction:
        """Judge one patient, or say in a DataError why not."""
        entry = self.entries[place]
        if entry.index is None:
            raise DataError(entry.reason)
        patient = read_own_patient(entry.index, entry.name, self.views)
        used, warnings = self._used(patient)
        if "signal" in used and patient.ecg is not None:
            warnings += examine_ecg(patient.ecg, patient.leads, self.views.seconds)
        chosen = self._unseen(patient)
        samples = self._samples(patient, used)
        networks = [network for _, network in chosen]
        if "clinical" in used:
            scalers: list[Any] = [network.branches["clinical"].scaler for network in networks]
            warnings += clinical_warnings(patient.clinical, self.inputs["clinical"], scalers)
        warnings += self._warnings(chosen, patient)
        answer = ask(self.task, networks, samples, self.device)
        if not np.isfinite(answer.probability).all():
            raise DataError("The model's answer is not a number: the patient is unlike any it was made for.")
        return PatientPrediction(
            name=place.name,
            patient=patient,
            used=used,
            answer=answer,
            task=self.task,
            networks=networks,
            samples=samples,
            clinical_names=tuple(self.inputs["clinical"]),
            fusion=self.trained.model.fusion,
            takes_any=self.trained.model.modality_dropout > 0,
            sampling_rate=self.views.signal_rate,
            warnings=warnings,
            believed=self.believed,
            wanted=self.settings.prevalence,
            watermark=", ".join(
                filter(None, [self.watermark, "trained on this patient" * _was_seen(warnings)])
            ),
            left_out=len(self.models) - len(chosen),
        )

    def _used(self, patient: UserPatient) -> tuple[list[str], list[SignalWarning]]:
        """Return the views that are judged, and warnings on the others; refuse whom there is no judging."""
        reads = self.network.modalities
        for view in reads:
            if view in patient.unusable:
                others = (
                    f"; without it {patient.name} is judged by the rest" if len(patient.given) > 1 else ""
                )
                raise DataError(f"{patient.unusable[view]} Mend the {view}, or remove it{others}.")
        warnings = modality_warnings(patient, reads, self.inputs, self.cache["source"])
        ignored = {warning.signal for warning in warnings if warning.code == "ignored"}
        used = [view for view in reads if view in patient.given and view not in ignored]
        if not used:
            there = ", ".join(patient.given) or "nothing"
            why = " ".join(warning.text for warning in warnings if warning.code == "ignored")
            raise DataError(f"The run reads {', '.join(reads)}, and there is {there}. {why}".strip())
        lacking = [view for view in reads if view not in used]
        if lacking and not self.trained.model.modality_dropout:
            raise DataError(
                f"There is no {' and no '.join(lacking)}, and the run cannot do without, as it was "
                "trained with --modality-dropout 0."
            )
        return used, warnings

    def _samples(self, patient: UserPatient, used: list[str]) -> Patients:
        """Return the patient as one sample of the task."""
        height, width = self.inputs["image_size"]
        size = (self.inputs["leads"], self.views.points)
        image, signal = patient.image, patient.signal
        empty = {"image": np.zeros((height, width), np.uint8), "signal": np.zeros(size, np.float32)}
        arrays: dict[str, Any] = {
            "image": (image if image is not None and "image" in used else empty["image"])[None],
            "signal": signal if signal is not None and "signal" in used else empty["signal"],
            "clinical": np.array(
                [patient.clinical.get(name, np.nan) for name in self.inputs["clinical"]], dtype=np.float32
            ),
        }
        label: Tensor = torch.zeros(1, dtype=torch.int64, device=self.device)
        if self.trained.target != "normal":
            label = label.reshape(1, 1).expand(1, len(SUPERCLASSES))
        return Patients(
            table=pd.DataFrame({"recording": [patient.name], "label": [UNLABELLED]}),
            views={name: torch.tensor(array[None]).to(self.device) for name, array in arrays.items()},
            has={name: torch.tensor([name in used], device=self.device) for name in VIEWS},
            clinical_names=tuple(self.inputs["clinical"]),
            label=label,
            weight=torch.ones(1, device=self.device),
        )

    def _unseen(self, patient: UserPatient) -> Asked:
        """Return the models that were not trained on this patient; all, if all were."""
        pairs = list(zip(self.checkpoints, self.models, strict=True))
        return [pair for pair in pairs if not was_trained_on(pair[0], patient)] or pairs

    def _warnings(self, chosen: Asked, patient: UserPatient) -> list[SignalWarning]:
        """Return what is doubtful about asking these models."""
        warnings = []
        if was_trained_on(chosen[0][0], patient):
            text = "The model was trained on this very patient: its answer says nothing about new ones."
            warnings.append(SignalWarning("seen", "", text))
        if self.cache["simulated"]:
            text = "The model was trained on simulated patients: its answer says nothing about real ones."
            warnings.append(SignalWarning("simulated", "", text))
        return warnings


def was_trained_on(checkpoint: Checkpoint, patient: UserPatient) -> bool:
    """Whether this very patient was among those a model was trained on, by the content of the files."""
    return not patient.content.isdisjoint(checkpoint["trained_on"]["content"])


def _was_seen(warnings: Iterable[SignalWarning]) -> bool:
    return any(warning.code == "seen" for warning in warnings)


def _natural(name: str) -> tuple[int, int, str]:
    """Sort 2 before 10, and numbers before words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
