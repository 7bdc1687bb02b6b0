"""Predictions for one twelve-lead ECG with a run of ``ecg-phenotypes``, prepared exactly as in training.

How far off a prediction may be was measured on the validation part when the models were trained
(`systems.ecg_cmr.phenotypes.conformal`): of several models the mean of their bounds, which the mean of their
predictions seldom needs. Nothing is fitted on the ECG.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.errors import UserError
from datasets.ecg import LEADS, Ecg, flat_leads, prepare_signal
from datasets.signal_quality import Quality, SignalWarning
from datasets.sources import DataError
from evaluation.figures import save_figure
from learning.checkpoint import Checkpoint
from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.base import predictor as base
from systems.base.predictor import Metadata, RecordingPath, rounded_probability
from systems.ecg_cmr.indicators import unit_of
from systems.ecg_cmr.phenotypes.bulls_eye import predicted_bulls_eyes
from systems.ecg_cmr.phenotypes.conformal import COVERAGE, choice_key
from systems.ecg_cmr.phenotypes.figure import Row, phenotypes_figure
from systems.ecg_cmr.phenotypes.relevance import Relevance, column_of, explain, relevance_text
from systems.ecg_cmr.phenotypes.task import IS
from systems.ecg_cmr.samples import CLASSES
from systems.ecg_cmr.settings import COVARIATES, PhenotypePredictionSettings, PhenotypeSettings
from systems.ecg_cmr.sources.pair_modalities import ecg_digest
from systems.ecg_cmr.sources.pairs import MILLIVOLTS
from systems.ecg_cmr.sources.user_ecg import examine_leads, find_ecgs, open_ecg, require_whole
from systems.ecg_cmr.sources.user_person import read_others, read_people

Rows = dict[str, Metadata]
Models = Sequence[tuple[Checkpoint, PhenotypeModel]]
_ERRORS = {"indicators": ("deviation", "bound", "r2"), "diseases": ("auroc",), CLASSES: ("accuracy",)}
"""What is said of each kind of target."""
_SEXES = ("male", "female")
_UNITS = {"age": " years", "height": " cm", "weight": " kg"}


@dataclass(frozen=True, kw_only=True)
class PhenotypePrediction(base.Prediction):
    """What the models predict from one ECG.

    Attributes
    ----------
    ecg : Ecg
        As recorded.
    seconds : float
        Length that the models read, from the beginning.
    covariates : dict of str to float
        What is known of who was recorded.
    indicators, diseases : dict of str to dict
        By name: what is predicted, and how far off it may be.
    classes : dict of str to dict
        By target: the probability of each class, and how often the most probable one was right.
    leads : dict of str to Quality
    models : int
        Models that were used.
    relevance : Relevance or None
        What counted for one of the targets, where that was asked for.
    """

    ecg: Ecg
    seconds: float
    covariates: dict[str, float]
    indicators: Rows
    diseases: Rows
    classes: Rows
    leads: dict[str, Quality]
    models: int
    relevance: Relevance | None = None

    def metadata(self) -> Metadata:
        """Return all of it in plain types."""
        return {
            "indicators": self.indicators,
            "diseases": self.diseases,
            **({"classes": self.classes} if self.classes else {}),
            "interval_coverage": COVERAGE,
            "covariates": self.covariates,
            "explained": None if self.relevance is None else self.relevance.metadata(),
            "signals_used": ["ecg"],
            "duration": self.ecg.duration,
            "sampling_rate": self.ecg.sampling_rate,
            "models": self.models,
            "models_trained_on_it": self.left_out,
            "quality": {lead: quality.signals["ecg"] for lead, quality in self.leads.items()},
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    def figure(self) -> Figure:
        """Return the figure of the ECG and of all that is predicted."""
        points = round(self.seconds * self.ecg.sampling_rate)
        return phenotypes_figure(
            self.ecg.samples[:, :points],
            self.ecg.sampling_rate,
            LEADS,
            [_indicator_row(name, row) for name, row in self.indicators.items()],
            [_disease_row(name, row) for name, row in [*self.diseases.items(), *_as_diseases(self.classes)]],
            title=self.name,
            watermark=self.watermark,
        )

    def write(self, base: Path, metadata: Metadata) -> list[Path]:
        """Write figure and metadata, the bull's eyes of segments if there are any, and what was explained."""
        written = super().write(base, metadata)
        values = {name: row["value"] for name, row in self.indicators.items()}
        eyes = predicted_bulls_eyes(values, title=self.name, watermark=self.watermark)
        if eyes is not None:
            written.append(base.with_name(f"{base.name}_bulls_eye.png"))
            save_figure(eyes, written[-1])
        if self.relevance is not None:
            written.append(base.with_name(f"{base.name}_relevance.png"))
            title = f"{self.name}: what raised {_plain(self.relevance.target)}"
            save_figure(self.relevance.figure(title, self.watermark), written[-1])
        return written


def _indicator_row(name: str, row: Metadata) -> Row:
    """Return an indicator as the figure shows it, in deviations of the training patients from their mean."""
    mean, deviation = row["trained_mean"], row["trained_deviation"]
    value, low, high = (
        None if row[key] is None else (row[key] - mean) / deviation for key in ("value", "low", "high")
    )
    assert value is not None
    return Row(_plain(name), _value_text(row), _interval_text(row), value, low, high, row["better"])


def _disease_row(name: str, row: Metadata) -> Row:
    share, value = row["trained_share"], row["probability"]
    usual = "unknown" if share is None else f"{share:.0%}"
    return Row(_plain(name), rounded_probability(value), usual, value, share, None, row["better"])


def _as_diseases(classes: Rows) -> list[tuple[str, Metadata]]:
    """Return each class as a row of the table of diseases."""
    return [
        (f"{name}{IS}{label}", part | {"better": row["better"]})
        for name, row in classes.items()
        for label, part in row["probabilities"].items()
    ]


class Predictor(base.Predictor):
    """Trained models of one run, ready for ECGs; parameters as of `systems.base.predictor.Predictor`.

    Raises
    ------
    UserError
        If the run reads cines, or an option has no meaning for it.
    """

    column = "in short"
    settings: PhenotypePredictionSettings

    def __init__(self, checkpoints: Mapping[Path, Checkpoint], settings: PhenotypePredictionSettings) -> None:
        super().__init__(checkpoints, settings)
        self.trained: PhenotypeSettings = self.task.settings
        given = {name: getattr(settings, name) for name in COVARIATES}
        self.named = [f"--{name}" for name, value in given.items() if value is not None]
        self.named += ["--covariates"] if settings.covariates else []
        self.prepared, self.inputs = self.cache["settings"], self.checkpoints[0]["inputs"]
        self.covariates = list(self.inputs["covariates"])[: self.models[0].covariates]
        self._check_options()
        given |= read_others(settings.covariates, self.covariates)
        self.people = read_people(given, settings.patient_table, self.covariates)

    def _check_options(self) -> None:
        """Refuse a run that reads no ECG, and options that have no meaning for it."""
        settings, run = self.settings, self.checkpoints[0]["run"]
        if self.trained.reads != "ecg":
            raise UserError(
                f"Run {run} reads cines (--reads cmr), and predict.py takes ECGs: name a run of "
                "ecg-phenotypes that reads the ECG. Cines are prepared by load_data.py and evaluated by "
                "evaluate.py."
            )
        unit = self.inputs.get("ecg_unit", MILLIVOLTS)
        if unit != MILLIVOLTS:
            raise UserError(
                f"Run {run} learned from ECGs in {unit}, and nothing brings one in millivolts to that. "
                "evaluate.py takes such a run."
            )
        if settings.ecg is not None and settings.recordings:
            raise UserError("--ecg has no meaning beside other recordings: leave it away.")
        if settings.explain:
            column_of(settings.explain, self.inputs)
        if self.named and not self.covariates:
            raise UserError(
                f"Run {run} was trained without age, sex, height and weight: leave {self.named[0]} away."
            )
        foreign = [option for option in self.named if option[2:] not in ("covariates", *self.covariates)]
        if foreign:
            raise UserError(
                f"Run {run} was trained without {foreign[0][2:]}: leave {foreign[0]} away. Beside the ECG it "
                f"takes {', '.join(self.covariates)}."
            )

    def about(self) -> Metadata:
        """Return what is particular to the models of this task."""
        return {
            "simulated": self.simulated,
            "trained_on": {name: self.trained_on[name] for name in ("source", "recordings")},
            "covariates": self.covariates,
            "error_known": all(content.get("validation") for content in self.checkpoints),
        }

    def given(self) -> tuple[Path, ...]:
        """Return the ECGs and folders that the settings name."""
        return super().given() if self.settings.ecg is None else (self.settings.ecg,)

    def find(self) -> list[RecordingPath]:
        """Return the ECGs that paths name."""
        found = find_ecgs(self.given())
        if self.named and len(found) > 1:
            raise UserError(
                f"{', '.join(self.named)} belong to one person, and {len(found)} ECGs were given: list them "
                "in a table, --patient-table TABLE."
            )
        return found

    def predict(self, path: RecordingPath) -> PhenotypePrediction:
        """Return the prediction from one ECG, or say in a DataError why there is none."""
        ecg = open_ecg(path.path, self.settings.ecg_rate or 0.0)
        require_whole(ecg, self.prepared["seconds"])
        leads, warnings = examine_leads(ecg)
        person, warnings_of_table = self.people.of(path)
        known = {name: person[name] for name in self.covariates if name in person}
        chosen, seen = self.unseen([ecg_digest(ecg)])
        values = np.mean([self._values(model, ecg, known) for _, model in chosen], axis=0)
        if not np.isfinite(values).all():
            raise DataError("The prediction is not a number: the ECG is unlike those of training.")
        choice = choice_key(list(known))
        indicators, diseases, classes = self._found(values, chosen, choice)
        return PhenotypePrediction(
            name=path.name,
            ecg=ecg,
            seconds=self.prepared["seconds"],
            covariates=known,
            indicators=indicators,
            diseases=diseases,
            classes=classes,
            leads=leads,
            warnings=[
                *warnings,
                *self._warnings_of_length(ecg),
                *self.warnings_of_models(seen),
                *warnings_of_table,
                *self._warnings_of_person(known),
                *_warnings_of_errors(indicators, diseases, classes, chosen[0][0], choice),
            ],
            models=len(chosen),
            left_out=len(self.models) - len(chosen),
            watermark=self.watermark(seen),
            relevance=self._relevance([model for _, model in chosen], ecg, known),
        )

    def _relevance(
        self, models: Sequence[PhenotypeModel], ecg: Ecg, known: Mapping[str, float]
    ) -> Relevance | None:
        """Return what counted for the target that is to be explained; None where there is none."""
        settings, rate = self.settings, float(self.prepared["ecg_rate"])
        if not settings.explain:
            return None
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, rate, self.prepared["seconds"])
        covariates = [[known.get(name, np.nan) for name in self.covariates]]
        return explain(
            models,
            signal,
            ~flat_leads(ecg.samples),
            torch.tensor(covariates, dtype=torch.float32) if models[0].covariates else None,
            settings.explain,
            column_of(settings.explain, self.inputs),
            sampling_rate=rate,
            discard_ratio=settings.discard_ratio,
        )

    @torch.no_grad()
    def _values(self, model: PhenotypeModel, ecg: Ecg, known: Mapping[str, float]) -> NDArray[np.float64]:
        """Return indicators in their units, then probabilities of diseases and of classes."""
        rate, seconds = self.prepared["ecg_rate"], self.prepared["seconds"]
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, rate, seconds)
        arrays = (signal, ~flat_leads(ecg.samples))
        given = (torch.from_numpy(array)[None].to(self.device) for array in arrays)
        covariates = torch.tensor(
            [[known.get(name, np.nan) for name in self.covariates]], dtype=torch.float32
        )
        outputs = model(*given, covariates.to(self.device) if model.covariates else None)
        found = [model.in_units(outputs["indicators"])] if "indicators" in outputs else []
        found += model.probabilities(outputs).values()
        return torch.cat(found, dim=1)[0].double().cpu().numpy()

    def _found(self, values: NDArray[np.float64], chosen: Models, choice: str) -> tuple[Rows, Rows, Rows]:
        """Return what is predicted of each target, and how far off it may be, by kind."""
        count = len(self.inputs["indicators"])
        indicators, diseases = {}, {}
        for index, name in enumerate(self.inputs["indicators"]):
            value, error = float(values[index]), _mean_error(chosen, choice, "indicators", name)
            bound = error["bound"]
            indicators[name] = {
                "value": value,
                "unit": unit_of(name),
                "low": None if bound is None else value - bound,
                "high": None if bound is None else value + bound,
                "deviation": error["deviation"],
                "r2": error["r2"],
                "better": error["better"],
                "trained_mean": _mean([float(model.indicator_mean[index]) for _, model in chosen]),
                "trained_deviation": _mean([float(model.indicator_deviation[index]) for _, model in chosen]),
            }
        for index, name in enumerate(self.inputs["diseases"]):
            error = _mean_error(chosen, choice, "diseases", name)
            known = [content.get("validation") or {} for content, _ in chosen]
            diseases[name] = {
                "probability": float(values[count + index]),
                "trained_share": _mean([part.get("trained_share", {}).get(name) for part in known]),
                "auroc": error["auroc"],
                "better": error["better"],
            }
        return indicators, diseases, self._classes(values[count + len(diseases) :], chosen, choice)

    def _classes(self, values: NDArray[np.float64], chosen: Models, choice: str) -> Rows:
        """Return the probability of each class, and how often the most probable one was right."""
        found: Rows = {}
        for name, labels in self.inputs.get(CLASSES, {}).items():
            own, values = values[: len(labels)], values[len(labels) :]
            error = _mean_error(chosen, choice, CLASSES, name)
            shares = [(content.get("validation") or {}).get("trained_share", {}) for content, _ in chosen]
            found[name] = {
                "class": labels[int(own.argmax())],
                "probabilities": {
                    label: {
                        "probability": float(value),
                        "trained_share": _mean([part.get(name, {}).get(label) for part in shares]),
                    }
                    for label, value in zip(labels, own, strict=True)
                },
                "accuracy": error["accuracy"],
                "better": error["better"],
            }
        return found

    def _warnings_of_length(self, ecg: Ecg) -> list[SignalWarning]:
        """Return a warning about an ECG that is shorter or longer than what the model reads."""
        lasts, reads = ecg.duration, self.prepared["seconds"]
        if lasts < reads - 0.05:
            text = f"It lasts {lasts:.1f} s and the model reads {reads:g} s: the end was held constant."
            return [SignalWarning("short", "ecg", text)]
        if lasts > reads + 0.05:
            text = f"Of its {lasts:.1f} s the model read the first {reads:g} s."
            return [SignalWarning("long", "ecg", text)]
        return []

    def _warnings_of_person(self, known: Mapping[str, float]) -> list[SignalWarning]:
        """Return a warning about covariates of the model that are not known."""
        lacking = [name for name in self.covariates if name not in known]
        if not lacking:
            return []
        which = "which" if lacking == self.covariates else f"and {', '.join(lacking)}"
        text = (
            f"The model learned with {', '.join(self.covariates)}, {which} "
            f"{'is' if len(lacking) == 1 else 'are'} not given: it is less exact without."
        )
        return [SignalWarning("person", "", text)]

    # Text -------------------------------------------------------------------------------------------------

    def model_text(self, model: Metadata) -> list[str]:
        """Return what the model is and what it was trained on."""
        count, data = len(model["checkpoints"]), model["trained_on"]
        simulated = "simulated " * model["simulated"]
        return [
            f"Model: {model['model']} of run {model['run']}{f', mean of {count} folds' * (count > 1)}.",
            f"Learned from {data['recordings']} {simulated}patients of {data['source']}.",
        ]

    def recording_text(self, row: Metadata) -> list[str]:
        """Return indicators and diseases as tables, then what they were made from."""
        lines = []
        if row["indicators"]:
            head = ("indicator", "predicted", "90 % interval", "R2 on validation")
            found = [
                (_plain(name), _value_text(part), _interval_text(part), _score_text(part, "r2", "the mean"))
                for name, part in row["indicators"].items()
            ]
            lines += _table([head, *found])
        if row["diseases"]:
            head = ("disease", "probability", "had it in training", "AUROC on validation")
            found = []
            for name, part in row["diseases"].items():
                share = "" if part["trained_share"] is None else f"{part['trained_share']:.0%}"
                probability = rounded_probability(part["probability"])
                found.append((_plain(name), probability, share, _score_text(part, "auroc", "chance")))
            lines += _table([head, *found])
        for name, part in row.get("classes", {}).items():
            head = (_plain(name), "probability", "had it in training", "accuracy on validation")
            score = _score_text(part, "accuracy", "always naming the most frequent")
            found = []
            for label, each in part["probabilities"].items():
                share = "" if each["trained_share"] is None else f"{each['trained_share']:.0%}"
                found.append((label, rounded_probability(each["probability"]), share, score))
            lines += _table([head, *found])
        known = ", ".join(f"{name} {_covariate(name, value)}" for name, value in row["covariates"].items())
        made = f"12-lead ECG, {row['duration']:.1f} s at {row['sampling_rate']:g} Hz"
        details = [("made from", f"{made}; {known}" if known else made), *self.model_details(row)]
        if explained := row["explained"]:
            details.append(("raised", f"{_plain(explained['target'])} by {relevance_text(explained)}"))
        return lines + [f"{name:11}{text}" for name, text in details]

    def short_text(self, row: Metadata) -> str:
        """Return the first indicator, ejection fraction if there is one, and the most probable disease."""
        parts, indicators, diseases = [], row["indicators"], row["diseases"]
        if indicators:
            name = "ejection_fraction" if "ejection_fraction" in indicators else next(iter(indicators))
            parts.append(f"{_plain(name)} {_value_text(indicators[name])}")
        if diseases:
            name = max(diseases, key=lambda name: diseases[name]["probability"])
            parts.append(f"{_plain(name)} {rounded_probability(diseases[name]['probability'])}")
        return ", ".join(parts)


def _mean_error(chosen: Models, choice: str, targets: str, name: str) -> Metadata:
    """Return the mean over models of what was measured; None where one of them does not hold it."""
    known = [(content.get("validation") or {}).get("errors", {}).get(choice) for content, _ in chosen]
    rows = [row[targets][name] if row and name in row.get(targets, {}) else {} for row in known]
    numbers = _ERRORS[targets]
    found: Metadata = {number: _mean([row.get(number) for row in rows]) for number in numbers}
    return found | {"better": all(row.get("better", False) for row in rows)}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if values and len(known) == len(values) else None


def _warnings_of_errors(
    indicators: Rows, diseases: Rows, classes: Rows, checkpoint: Checkpoint, choice: str
) -> list[SignalWarning]:
    """Return what is doubtful about the numbers, as far as it was measured when the model was trained."""
    unproven = "On validation not shown to be better than"
    weak = [name for name, row in indicators.items() if row["r2"] is not None and not row["better"]]
    chance = [name for name, row in diseases.items() if row["auroc"] is not None and not row["better"]]
    usual = [name for name, row in classes.items() if row["accuracy"] is not None and not row["better"]]
    nameless = [name for name, row in indicators.items() if row["unit"] is None]
    found = [
        ("weak", f"{unproven} the mean of all patients", weak),
        ("weak", f"{unproven} chance", chance),
        ("weak", f"{unproven} always naming the most frequent class", usual),
        ("units", "In the unit of the table that the model was trained from", nameless),
    ]
    warnings = [
        SignalWarning(code, "", f"{text}: {', '.join(map(_plain, names))}.")
        for code, text, names in found
        if names
    ]
    if any(row["low"] is None for row in indicators.values()):
        text = f"How far off the indicators may be is unknown: {_why_unknown(checkpoint, choice)}."
        warnings.insert(0, SignalWarning("error-unknown", "", text))
    return warnings


def _why_unknown(checkpoint: Checkpoint, choice: str) -> str:
    """Return why a checkpoint does not hold how far off its model is."""
    if "validation" not in checkpoint:
        return "the run was trained before that was kept; train it again"
    errors = checkpoint["validation"]["errors"]
    if errors and choice not in errors:
        return "it was measured with all covariates, all but one, or none but age, sex, height and weight"
    if not errors:
        return "a final fit on everything keeps no patients apart; name a run with folds"
    return "it was measured on too few patients"


# Text --------------------------------------------------------------------------------------------------


def _table(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """Return rows of four columns as lines, the first of them the heads."""
    width = max(len(name) for name, *_ in rows)
    return [f"{name:{width}}  {value:>12}  {third:>18}  {last}".rstrip() for name, value, third, last in rows]


def _score_text(row: Metadata, score: str, baseline: str) -> str:
    if row[score] is None:
        return "unknown"
    return f"{row[score]:.2f}{'' if row['better'] else f', not shown to beat {baseline}'}"


def _covariate(name: str, value: float) -> str:
    return _SEXES[round(value)] if name == "sex" else f"{value:g}{_UNITS.get(name, '')}"


def _plain(name: str) -> str:
    """Return the name of an indicator or a disease as it is read."""
    return name.removeprefix("disease_").removeprefix("class_").replace("_", " ").replace(IS, ": ")


def _number_text(row: Metadata, value: float) -> str:
    """Return a number with as many decimals as the spread over patients makes worth giving."""
    digits = 1 - math.floor(math.log10(row["trained_deviation"])) if row["trained_deviation"] > 0 else 2
    return f"{value:.{min(max(digits, 0), 6)}f}"


def _value_text(row: Metadata) -> str:
    return f"{_number_text(row, row['value'])} {row['unit'] or ''}".strip()


def _interval_text(row: Metadata) -> str:
    if row["low"] is None:
        return "unknown"
    return f"{_number_text(row, row['low'])} to {_number_text(row, row['high'])}"
