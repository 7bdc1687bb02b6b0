"""Judging one twelve-lead ECG with a run of ``ecg-phenotypes``: prepared and asked exactly as in training.

Of several models (folds) the mean is given; those that were trained on this very ECG are left out. How far
off that may be was measured on the validation part when they were trained
(`systems.ecg_cmr.phenotypes.conformal`): of several models the mean of their bounds, which the mean of their
predictions seldom needs. Nothing is fitted on what is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.command_line import from_plain
from common.errors import UserError
from datasets.ecg import Ecg, flat_leads, prepare_signal
from datasets.recording_paths import Place
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError
from learning.checkpoint import Checkpoint, file_digest
from learning.devices import choose_device
from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.base.prediction_settings import PredictionSettings
from systems.ecg_cmr.phenotypes.conformal import choice_key
from systems.ecg_cmr.phenotypes.prediction import EcgPhenotypesPrediction, warnings_of_errors
from systems.ecg_cmr.phenotypes.scores import INDICATOR_UNITS
from systems.ecg_cmr.phenotypes.task import EcgPhenotypes
from systems.ecg_cmr.settings import PhenotypeSettings
from systems.ecg_cmr.sources.pair_modalities import ecg_digest
from systems.ecg_cmr.sources.user_ecg import examine_leads, find_ecgs, open_ecg, require_whole
from systems.ecg_cmr.sources.user_person import read_people

Chosen = list[tuple[Checkpoint, PhenotypeModel]]
WITHOUT_MEANING = ("ecg", "ecg_channel", "pcg_channel", "annotations", "prevalence")
"""Options of predict.py that say nothing to these models."""


class Predictor:
    """Trained models of one run, ready for ECGs.

    Parameters
    ----------
    checkpoints : mapping of pathlib.Path to dict
        Folds of one run, or one file.
    settings : PredictionSettings

    Raises
    ------
    UserError
        If the run reads cines, or an option has no meaning for it.
    """

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: PredictionSettings) -> None:
        self.paths, self.checkpoints = list(checkpoints), list(checkpoints.values())
        first = self.checkpoints[0]
        self.trained = from_plain(PhenotypeSettings, first["settings"])
        check_options(settings, self.trained, first["run"])
        self.device = choose_device(settings.device)
        self.models = [self._model(content, settings.device) for content in self.checkpoints]
        self.prepared, self.inputs = first["cache"]["settings"], first["inputs"]
        self.covariates = list(self.inputs["covariates"])[: self.models[0].covariates]
        self.simulated = bool(first["cache"]["simulated"])
        self.rate = settings.ecg_rate or 0.0
        person = settings.person
        self.alone = {name: getattr(person, name) for name in ("age", "sex", "height", "weight")}
        self.people = read_people(self.alone, person.patients)
        self.trained_on = {
            "source": first["cache"]["source"],
            "recordings": len(
                {name for content in self.checkpoints for name in content["trained_on"]["recording"]}
            ),
            "seen": [set(content["trained_on"]["content"]) for content in self.checkpoints],
        }

    def _model(self, content: Checkpoint, device: str) -> PhenotypeModel:
        model = EcgPhenotypes(self.trained).load_model(content, choose_device(device))
        assert isinstance(model, PhenotypeModel)
        return model.eval()

    def metadata(self) -> dict[str, Any]:
        """Return what the models are, for programs."""
        first = self.checkpoints[0]
        return {
            "task": EcgPhenotypes.name,
            "model": EcgPhenotypes.name,
            "run": first["run"],
            "protocol": first["protocol"],
            "simulated": self.simulated,
            "trained_on": {name: self.trained_on[name] for name in ("source", "recordings")},
            "covariates": self.covariates,
            "error_known": all(content.get("validation") for content in self.checkpoints),
            "checkpoints": {path.as_posix(): file_digest(path) for path in self.paths},
        }

    def find(self, given: Iterable[Path]) -> list[Place]:
        """Return the ECGs that paths name."""
        places = find_ecgs(given)
        told = [f"--{name}" for name, value in self.alone.items() if value is not None]
        if told and len(places) > 1:
            raise UserError(
                f"{', '.join(told)} belong to one person, and {len(places)} ECGs were given: list them in a "
                "table, --patients TABLE."
            )
        return places

    def predict(self, place: Place) -> EcgPhenotypesPrediction:
        """Judge one ECG, or say in a DataError why it cannot be judged."""
        ecg = open_ecg(place.path, self.rate)
        require_whole(ecg, self.prepared["seconds"])
        leads, warnings = examine_leads(ecg)
        person, doubts = self.people.of(place)
        known = {name: person[name] for name in self.covariates if name in person}
        chosen = self._unseen(ecg_digest(ecg))
        signal = prepare_signal(
            ecg.samples, ecg.sampling_rate, self.prepared["ecg_rate"], self.prepared["seconds"]
        )
        values = np.mean(
            [self._ask(model, signal, ~flat_leads(ecg.samples), known) for _, model in chosen], axis=0
        )
        if not np.isfinite(values).all():
            raise DataError("The model's answer is not a number: the ECG is unlike any it was made for.")
        found = self._found(values, chosen, choice_key(list(known)))
        seen = len(chosen) == len(self.models) and self._was_seen(ecg_digest(ecg))
        warnings = [
            *warnings,
            *self._warnings(ecg, seen),
            *doubts,
            *self._warnings_of_person(known),
            *warnings_of_errors(found, chosen[0][0]),
        ]
        return EcgPhenotypesPrediction(
            place.name,
            ecg,
            self.prepared["seconds"],
            known,
            *found,
            leads=leads,
            warnings=warnings,
            models=len(chosen),
            left_out=len(self.models) - len(chosen),
            watermark=", ".join(
                filter(None, ["trained on simulated data" * self.simulated, "trained on this ECG" * seen])
            ),
        )

    @torch.no_grad()
    def _ask(
        self,
        model: PhenotypeModel,
        signal: NDArray[Any],
        present: NDArray[np.bool_],
        known: Mapping[str, float],
    ) -> NDArray[np.float64]:
        """Return indicators in their units, then probabilities of diseases."""
        told = torch.tensor([[known.get(name, np.nan) for name in self.covariates]], dtype=torch.float32)
        given = (torch.from_numpy(array)[None].to(self.device) for array in (signal, present))
        outputs = model(*given, told.to(self.device) if model.covariates else None)
        found = [model.in_units(outputs["indicators"])] if "indicators" in outputs else []
        found += [outputs["diseases"].float().sigmoid()] if "diseases" in outputs else []
        return torch.cat(found, dim=1)[0].double().cpu().numpy()

    def _was_seen(self, digest: str) -> bool:
        return any(digest in seen for seen in self.trained_on["seen"])

    def _unseen(self, digest: str) -> Chosen:
        """Return the models that were not trained on this ECG; all, if all were."""
        pairs = list(zip(self.checkpoints, self.models, strict=True))
        seen = self.trained_on["seen"]
        return [pair for pair, known in zip(pairs, seen, strict=True) if digest not in known] or pairs

    def _found(
        self, values: NDArray[np.float64], chosen: Chosen, choice: str
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Return what is said of each indicator and of each disease, with how far off it may be."""
        count = len(self.inputs["indicators"])
        units = INDICATOR_UNITS if self.simulated or self.trained_on["source"] == "acdc" else {}
        indicators = {}
        for place, name in enumerate(self.inputs["indicators"]):
            value, error = float(values[place]), mean_error(chosen, choice, "indicators", name)
            bound = error["bound"]
            indicators[name] = {
                "value": value,
                "unit": units.get(name),
                "low": None if bound is None else value - bound,
                "high": None if bound is None else value + bound,
                "deviation": error["deviation"],
                "r2": error["r2"],
                "better": error["better"],
                "trained_mean": float(np.mean([float(model.indicator_mean[place]) for _, model in chosen])),
                "trained_deviation": float(
                    np.mean([float(model.indicator_deviation[place]) for _, model in chosen])
                ),
            }
        diseases = {}
        for place, name in enumerate(self.inputs["diseases"]):
            error = mean_error(chosen, choice, "diseases", name)
            shares = [
                (content.get("validation") or {}).get("trained_share", {}).get(name) for content, _ in chosen
            ]
            diseases[name] = {
                "probability": float(values[count + place]),
                "trained_share": _mean(shares),
                "auroc": error["auroc"],
                "better": error["better"],
            }
        return indicators, diseases

    def _warnings(self, ecg: Ecg, seen: bool) -> list[SignalWarning]:
        """Return what is doubtful about asking these models about this ECG."""
        warnings, reads = [], self.prepared["seconds"]
        if ecg.duration < reads - 0.05:
            text = (
                f"It lasts {ecg.duration:.1f} s and the model reads {reads:g} s: the end was held constant."
            )
            warnings.append(SignalWarning("short", "ecg", text))
        if ecg.duration > reads + 0.05:
            text = f"Of its {ecg.duration:.1f} s the model read the first {reads:g} s."
            warnings.append(SignalWarning("long", "ecg", text))
        if seen:
            text = "The model was trained on this very ECG: its answer says nothing about new ones."
            warnings.append(SignalWarning("seen", "", text))
        if self.simulated:
            text = "The model knows simulated patients only: what it says of a real ECG cannot be believed."
            warnings.append(SignalWarning("simulated", "", text))
        return warnings

    def _warnings_of_person(self, known: Mapping[str, float]) -> list[SignalWarning]:
        """Return the doubt about what the model was told in training and is not told now."""
        lacking = [name for name in self.covariates if name not in known]
        if not lacking:
            return []
        which = "which" if lacking == self.covariates else f"and {', '.join(lacking)}"
        text = (
            f"The model learned with {', '.join(self.covariates)}, {which} "
            f"{'is' if len(lacking) == 1 else 'are'} not given: it is less exact without."
        )
        return [SignalWarning("person", "", text)]


def check_options(settings: PredictionSettings, trained: PhenotypeSettings, run: str) -> None:
    """Refuse a run that reads no ECG, and options that have no meaning for one that does."""
    if trained.reads != "ecg":
        raise UserError(
            f"Run {run} reads cines (--reads cmr), and predict.py judges ECGs: name a run of ecg-phenotypes "
            "that reads the ECG; cines are judged together, prepared by load_data.py, with evaluate.py."
        )
    given = [name for name in WITHOUT_MEANING if getattr(settings, name) not in (None, "")]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise UserError(f"{option} has no meaning for a run of ecg-phenotypes: leave it away.")
    asked = [
        name for name in ("age", "sex", "height", "weight") if getattr(settings.person, name) is not None
    ]
    if asked and not trained.covariates:
        raise UserError(
            f"Run {run} was trained without age, sex, height and weight: leave --{asked[0]} away."
        )


def mean_error(chosen: Chosen, choice: str, kind: str, name: str) -> dict[str, Any]:
    """Return the mean over models of what was measured; None where one of them does not know it."""
    known = [(content.get("validation") or {}).get("errors", {}).get(choice) for content, _ in chosen]
    rows = [row[kind][name] if row else {} for row in known]
    numbers = ("deviation", "bound", "r2") if kind == "indicators" else ("auroc",)
    found: dict[str, Any] = {number: _mean([row.get(number) for row in rows]) for number in numbers}
    return found | {"better": all(row.get("better", False) for row in rows)}


def _mean(values: list[float | None]) -> float | None:
    """Return the mean; None if one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if values and len(known) == len(values) else None
